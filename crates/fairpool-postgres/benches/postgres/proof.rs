//! Proof that contestants do what they say, by the server's own counts. Under `cargo test` only:
//! counting would slow a measurement.

use std::time::Duration;

use fairpool_bench::cell::Cell;
use fairpool_bench::pass::Pass;
use fairpool_bench::rounds::Contestant;
use fairpool_servers::cluster::Cluster;

use crate::work::{ADD, ITEM, QUERIES, READ, WRITE, Work};

/// The server's module that counts statements; it must be loaded when the server starts. It is
/// one of PostgreSQL's contributed modules, which Debian has in the server's package.
pub const MODULE: &str = "pg_stat_statements";

/// The server shows constants as parameters.
const UPDATED: &str = "UPDATE counter SET value = value + $1 WHERE id = $2";

/// A contestant of whose passes each is compared with the server's counts.
pub struct Proved<'a> {
    pub contestant: Box<dyn Contestant + 'a>,
    pub cluster: &'a Cluster,
    pub work: Work,
}

impl Work {
    /// The statements of one operation, as the server shows them, and how often it has them.
    fn statements(self) -> Vec<(&'static str, usize)> {
        match self {
            Work::ByKey => vec![(ITEM, 1)],
            Work::Transaction => vec![(READ, 1), (WRITE, 1), ("COMMIT", 1)],
            Work::Request => vec![(ITEM, QUERIES), (ADD, 1), ("COMMIT", 1)],
            Work::Select => vec![("SELECT $1", 1)],
            Work::Text => vec![(UPDATED, 1), ("COMMIT", 1)],
        }
    }

    /// How often one operation adds 1 to a counter.
    fn updates(self) -> u64 {
        u64::from(matches!(self, Work::Transaction | Work::Request | Work::Text))
    }
}

impl Proved<'_> {
    fn calls(&self, statement: &str) -> u64 {
        let sum =
            format!("SELECT coalesce(sum(calls), 0) FROM {MODULE} WHERE query = '{statement}'");
        self.cluster.psql(&sum).parse().expect("a number")
    }

    fn counters(&self) -> u64 {
        self.cluster.psql("SELECT sum(value) FROM counter").parse().expect("a number")
    }

    fn prove(&self, pass: &Pass, counted: u64) {
        let (name, work, total) = (self.name(), self.work, pass.total());
        assert!(total > 0, "{name}, {work:?}: nothing was done");
        for (statement, times) in work.statements() {
            let expected = total * times as u64;
            assert_eq!(self.calls(statement), expected, "{name}, {work:?}: {statement}");
        }
        let added = self.counters() - counted;
        assert_eq!(added, total * work.updates(), "{name}, {work:?}: rows changed");
    }
}

impl Contestant for Proved<'_> {
    fn name(&self) -> String {
        self.contestant.name()
    }

    fn pass(&mut self, cell: &Cell, length: Duration, timed: bool) -> Result<Pass, String> {
        let counted = self.counters();
        self.cluster.psql(&format!("SELECT {MODULE}_reset()"));
        let pass = self.contestant.pass(cell, length, timed)?;
        self.prove(&pass, counted);
        Ok(pass)
    }
}
