//! What a run was made on, and with which versions.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde::{Deserialize, Serialize};

/// The libraries whose versions matter to what is measured.
const LIBRARIES: [&str; 5] =
    ["r2d2", "parking_lot", "crossbeam-queue", "postgres", "r2d2_postgres"];

#[derive(Clone, Serialize, Deserialize)]
pub struct Machine {
    pub cpu: String,
    pub cores: usize,
    pub kernel: String,
    pub rustc: String,
    pub date: String,
    pub commit: String,
    /// Whether anything but results differed from that commit.
    pub changed_since_commit: bool,
    /// Of peers, their runtimes and the libraries measured.
    pub versions: BTreeMap<String, String>,
}

impl Machine {
    pub fn inspect() -> Machine {
        let git = |arguments: &[&str]| {
            let folder = ["-C", env!("CARGO_MANIFEST_DIR")];
            said("git", &[&folder[..], arguments].concat())
        };
        let changes = git(&["status", "--porcelain", "--", ".", ":!docs/benchmarks"]);
        Machine {
            cpu: cpu(),
            cores: std::thread::available_parallelism().map_or(0, |cores| cores.get()),
            kernel: said("uname", &["-sr"]).unwrap_or_default(),
            rustc: said("rustc", &["--version"]).unwrap_or_default(),
            date: said("date", &["-u", "+%Y-%m-%d %H:%M UTC"]).unwrap_or_default(),
            commit: git(&["rev-parse", "--short=10", "HEAD"]).unwrap_or_default(),
            changed_since_commit: changes.is_none_or(|changes| !changes.is_empty()),
            versions: libraries(),
        }
    }
}

/// The processors' name, and whether they are virtual: that matters more.
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
    let lock = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.lock");
    let lock = fs::read_to_string(lock).unwrap_or_default();
    // A library may be there twice: r2d2 is built on an older parking_lot.
    let versions = |name: &str| {
        let before = format!("name = \"{name}\"\nversion = \"");
        let parts = lock.split(&before).skip(1);
        let versions: Vec<&str> = parts.filter_map(|part| Some(part.split_once('"')?.0)).collect();
        versions.join(" and ")
    };
    LIBRARIES.iter().map(|&name| (name.to_string(), versions(name))).collect()
}

/// The one line that a program says.
fn said(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_string();
    output.status.success().then_some(text)
}
