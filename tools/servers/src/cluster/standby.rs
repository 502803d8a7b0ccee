//! A cluster that follows another one by streaming replication, and changes of role.

use std::fs;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use super::{Cluster, host};

/// How long a standby may take to do what it is asked for.
const LIMIT: Duration = Duration::from_secs(60);

impl Cluster {
    /// Starts a standby of another cluster: a copy that follows it. It has the roles, data and
    /// settings of the other, and accepts only what reads.
    ///
    /// # Panics
    ///
    /// If the other one is stopped, is itself a standby, or does not listen on loopback, or if the
    /// standby does not start.
    pub fn start_standby_of(primary: &Cluster) -> Cluster {
        let mut standby = Self::without_data(None).unwrap_or_else(|why| panic!("{why}"));
        standby.copy(primary).unwrap_or_else(|why| panic!("{why}"));
        standby.start_on_a_free_port().unwrap_or_else(|why| panic!("{why}"));
        standby
    }

    /// Makes this standby a primary. Returns when it accepts writes. Sessions on it live on.
    ///
    /// It does not follow anybody from now on. Stop the old primary before, or both accept
    /// writes.
    ///
    /// # Panics
    ///
    /// If it is no standby, or does not get there within a minute.
    pub fn promote(&self) {
        let limit = LIMIT.as_secs();
        assert_eq!(self.psql(&format!("SELECT pg_promote(true, {limit})")), "t", "not promoted");
    }

    /// Demotes this stopped cluster: starts it as a standby of another one, on the same port.
    /// Returns when it accepts connections.
    ///
    /// Its own data are thrown away, and copied from the other.
    ///
    /// # Panics
    ///
    /// If it is running, the other one is stopped, or it does not start.
    pub fn follow(&self, primary: &Cluster) {
        assert!(self.keeper().server().is_none(), "the server is running");
        let data = self.folder.join("data");
        fs::remove_dir_all(data).expect("the old data can be removed");
        self.copy(primary).unwrap_or_else(|why| panic!("{why}"));
        self.start_again();
    }

    /// Returns whether it is a standby.
    ///
    /// # Panics
    ///
    /// If the server is stopped.
    pub fn is_standby(&self) -> bool {
        self.psql("SELECT pg_is_in_recovery()") == "t"
    }

    /// Waits until this standby shows what its primary has committed so far.
    ///
    /// # Panics
    ///
    /// If it does not get there within a minute, or one of them is stopped.
    pub fn catch_up_with(&self, primary: &Cluster) {
        // Commits are not flushed at once (`synchronous_commit`), and only what is flushed is
        // sent. This one is, and with it everything before.
        let target = primary.psql(
            "SET synchronous_commit = on; BEGIN; \
             SELECT pg_logical_emit_message(true, 'catch up', '') IS NULL; COMMIT; \
             SELECT pg_current_wal_flush_lsn()",
        );
        let target = target.lines().last().expect("a position");
        let has_replayed = format!("SELECT pg_last_wal_replay_lsn() >= '{target}'");
        let deadline = Instant::now() + LIMIT;
        while self.psql(&has_replayed) != "t" {
            assert!(Instant::now() < deadline, "not within {LIMIT:?}: {target}:\n{}", self.log());
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Copies the data of another cluster, so that the next start follows it.
    fn copy(&self, primary: &Cluster) -> Result<(), String> {
        let mut command = Command::new(self.bin.join("pg_basebackup"));
        command
            .args(["--checkpoint=fast", "--no-sync", "--write-recovery-conf"])
            .args(["--host", &primary.host, "--port", &primary.port.to_string()])
            .arg("--username=postgres")
            .arg("--pgdata")
            .arg(self.folder.join("data"));
        self.owner.apply_to(&mut command).current_dir(&self.folder);
        host::run(command, "pg_basebackup")?;
        // Later lines win over those of the primary.
        self.append("postgresql.conf", &self.socket_setting())
    }
}
