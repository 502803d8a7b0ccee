//! A server that is there and does not answer.

use std::fs;
use std::process::Command;

use super::Cluster;

impl Cluster {
    /// Suspends all processes of the server by a signal, until the returned value is
    /// dropped: the kernel accepts connections, and nothing answers.
    ///
    /// # Panics
    ///
    /// If the server is stopped.
    pub fn freeze(&self) -> Frozen {
        // The parent first, so that it starts no new process.
        let first = self.pid();
        let mut frozen = Frozen(vec![first]);
        signal("-STOP", &[first]);
        let children = children_of(first);
        // A standby has four at least.
        assert!(children.len() >= 4, "{children:?}");
        signal("-STOP", &children);
        frozen.0.extend(children);
        frozen
    }
}

/// Suspended processes of a [`Cluster`]; dropping it resumes them.
pub struct Frozen(Vec<u32>);

impl Drop for Frozen {
    fn drop(&mut self) {
        signal("-CONT", &self.0);
    }
}

fn signal(name: &str, pids: &[u32]) {
    let pids = pids.iter().map(u32::to_string);
    // Failing is fine: a child may have ended in between.
    let _ = Command::new("kill").arg(name).args(pids).status();
}

fn children_of(parent: u32) -> Vec<u32> {
    let processes = fs::read_dir("/proc").expect("/proc").flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let is_child = |pid: &u32| {
        // After the name in parentheses: the state, then the parent.
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let rest = stat.rsplit(')').next().unwrap_or_default();
        rest.split_whitespace().nth(1) == Some(&parent.to_string())
    };
    pids.filter(is_child).collect()
}
