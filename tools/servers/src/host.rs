//! What the servers need of the machine: a user, a folder, a port, a program.

use std::env;
use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{self, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// The user that a server runs as.
#[derive(Copy, Clone)]
pub(crate) enum Owner {
    /// The user of the test.
    SameUser,
    /// The user `postgres`: PostgreSQL and PgBouncer refuse to run as root.
    InsteadOfRoot { uid: u32, gid: u32 },
}

impl Owner {
    pub(crate) fn choose() -> Result<Owner, String> {
        if !is_root() {
            return Ok(Owner::SameUser);
        }
        let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
        let (uid, gid) = users.lines().find_map(postgres_ids).ok_or(
            "the test runs as root, the server refuses to, and /etc/passwd has no user \
             `postgres` to run it as; `apt-get install postgresql` creates it",
        )?;
        Ok(Owner::InsteadOfRoot { uid, gid })
    }

    /// `sh` as this user, in a network namespace if one is given. Only root may enter a
    /// namespace, so the user changes afterwards.
    pub(crate) fn shell(self, namespace: Option<&str>) -> Command {
        let (Some(namespace), Owner::InsteadOfRoot { uid, gid }) = (namespace, self) else {
            let mut command = Command::new("sh");
            self.apply_to(&mut command);
            return command;
        };
        let mut command = Command::new("ip");
        command.args(["netns", "exec", namespace, "setpriv", "--clear-groups"]);
        command.arg(format!("--reuid={uid}")).arg(format!("--regid={gid}")).arg("sh");
        command
    }

    pub(crate) fn apply_to(self, command: &mut Command) -> &mut Command {
        match self {
            Owner::SameUser => command,
            Owner::InsteadOfRoot { uid, gid } => command.uid(uid).gid(gid),
        }
    }
}

pub(crate) fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

fn postgres_ids(line: &str) -> Option<(u32, u32)> {
    let fields: Vec<&str> = line.split(':').collect();
    match fields[..] {
        ["postgres", _, uid, gid, ..] => Some((uid.parse().ok()?, gid.parse().ok()?)),
        _ => None,
    }
}

/// Makes a private folder for `owner`. Its path is short, because the path of a Unix
/// socket has at most 107 bytes.
pub(crate) fn make_folder(name: &str, owner: Owner) -> Result<PathBuf, String> {
    let folder = env::temp_dir().join(format!("fairpool-{name}-{}", unique()));
    // A leftover can only be from a process with the same id before a power failure.
    let _ = fs::remove_dir_all(&folder);
    let made = fs::create_dir(&folder)
        .and_then(|()| fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)))
        .and_then(|()| match owner {
            Owner::InsteadOfRoot { uid, gid } => chown(&folder, Some(uid), Some(gid)),
            Owner::SameUser => Ok(()),
        });
    made.map_err(|error| format!("cannot make {}: {error}", folder.display()))?;
    Ok(folder)
}

/// Distinguishes processes, and calls within one.
fn unique() -> String {
    format!("{}-{}", process::id(), next_number())
}

fn next_number() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Binds a free port of a range. The ranges lie below those from which the kernel takes
/// the ports of outgoing connections: a server that was stopped finds its port free.
pub(crate) fn listen(ports: Range<u16>) -> TcpListener {
    let size = u32::from(ports.end - ports.start);
    loop {
        let mixed = process::id().wrapping_mul(7919).wrapping_add(next_number() * 101);
        let port = ports.start + (mixed % size) as u16;
        if let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            return listener;
        }
    }
}

/// As [`listen`], for a server that binds the port itself.
pub(crate) fn free_port(ports: Range<u16>) -> u16 {
    listen(ports).local_addr().expect("the listener's address").port()
}

/// The first of these programs that is in PATH or in one of these folders.
pub(crate) fn find_program(names: &[&str], folders: &[&str]) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let mut all: Vec<PathBuf> = env::split_paths(&path).collect();
    all.extend(folders.iter().map(PathBuf::from));
    let programs = names.iter().flat_map(|name| all.iter().map(move |folder| folder.join(name)));
    programs.into_iter().find(|program| program.is_file())
}

/// Runs a command to its end and returns its output.
pub(crate) fn run(mut command: Command, what: &str) -> Result<String, String> {
    let output =
        command.stdin(Stdio::null()).output().map_err(|error| format!("{what}: {error}"))?;
    if !output.status.success() {
        return Err(format!("{what} failed: {}", String::from_utf8_lossy(&output.stderr)));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
