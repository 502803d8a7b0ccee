//! The machine and the versions of a run.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use serde::{Deserialize, Serialize};

use crate::settings::workspace;

/// The libraries whose versions affect the results.
const LIBRARIES: [&str; 11] = [
    "bb8",
    "bb8-postgres",
    "crossbeam-queue",
    "deadpool",
    "deadpool-postgres",
    "mysql",
    "parking_lot",
    "postgres",
    "r2d2",
    "r2d2_postgres",
    "tokio",
];

#[derive(Clone, Serialize, Deserialize)]
/// The machine, the commit and the versions of a run.
pub struct Machine {
    pub(crate) cpu: String,
    pub(crate) cores: usize,
    pub(crate) kernel: String,
    pub(crate) rustc: String,
    pub(crate) date: String,
    pub(crate) commit: String,
    /// Whether a file other than results differed from the commit.
    pub(crate) changed_since_commit: bool,
    /// Of peers with their runtimes, and of the libraries measured.
    pub versions: BTreeMap<String, String>,
}

impl Machine {
    /// Asks the system, git and rustc. What cannot be found stays empty.
    pub fn inspect() -> Machine {
        let git = |arguments: &[&str]| output("git", arguments);
        let changes = git(&["status", "--porcelain", "--", ".", ":!docs/benchmarks"]);
        Machine {
            cpu: cpu(),
            cores: std::thread::available_parallelism().map_or(0, |cores| cores.get()),
            kernel: output("uname", &["-sr"]).unwrap_or_default(),
            rustc: output("rustc", &["--version"]).unwrap_or_default(),
            date: output("date", &["-u", "+%Y-%m-%d %H:%M UTC"]).unwrap_or_default(),
            commit: git(&["rev-parse", "--short=10", "HEAD"]).unwrap_or_default(),
            changed_since_commit: changes.is_none_or(|changes| !changes.is_empty()),
            versions: libraries(),
        }
    }
}

/// The name of the processors, and whether they are virtual.
fn cpu() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name))?;
        Some(line.split_once(':')?.1.trim().to_string())
    };
    let model = field("model name").unwrap_or_else(|| "unknown".to_string());
    let flags = field("flags").unwrap_or_default();
    match flags.split(' ').any(|flag| flag == "hypervisor") {
        true => format!("{model} (virtual)"),
        false => model,
    }
}

fn libraries() -> BTreeMap<String, String> {
    let lock = fs::read_to_string(workspace().join("Cargo.lock")).unwrap_or_default();
    // A library may be there twice: r2d2 uses an older parking_lot.
    let versions = |name: &str| {
        let before = format!("name = \"{name}\"\nversion = \"");
        let parts = lock.split(&before).skip(1);
        let versions = parts.filter_map(|part| Some(part.split_once('"')?.0));
        let mut versions: Vec<&str> = versions.collect();
        versions.dedup(); // the drop-in for r2d2 has its version
        versions.join(" and ")
    };
    LIBRARIES.iter().map(|&name| (name.to_string(), versions(name))).collect()
}

/// The output of a program in the workspace's folder; `None` if it fails.
fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).current_dir(workspace()).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_string();
    output.status.success().then_some(text)
}
