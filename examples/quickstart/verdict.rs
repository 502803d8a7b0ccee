//! Compares the database with what the workers have written.

use std::ops::RangeInclusive;
use std::time::Duration;

use crate::bank::{ACCOUNTS, Audit, Bank, Failure, OPENING_BALANCE, Pools, Written};
use crate::crew::Outcome;
use crate::problem::chain;
use crate::worker::Tally;

/// How long the audit waits for a connection, and how often it tries: the server may have been
/// restarted during the last operation.
const AUDIT_TIMEOUT: Duration = Duration::from_secs(5);
const AUDIT_ATTEMPTS: u32 = 3;

/// The result of the comparison.
pub enum Verdict {
    /// Every confirmed transfer is there, and nothing else.
    Complete { checks: Vec<Check> },
    /// Something is missing, or something is there that no worker has written.
    Wrong { checks: Vec<Check> },
    /// The workers completed no operation, so there is nothing to compare.
    Idle,
    /// The database could not be queried.
    Unknown(String),
}

/// One comparison.
pub struct Check {
    pub what: &'static str,
    /// One number, unless some transfers are in doubt.
    pub expected: RangeInclusive<i64>,
    pub found: i64,
}

impl Verdict {
    pub fn reach<B: Bank>(pools: &B::Pools, bank: &B, outcome: &Outcome) -> Verdict {
        if outcome.tallies.iter().all(|tally| tally.operations() == 0) {
            return Verdict::Idle;
        }
        match audit(pools, bank) {
            Ok(audit) => Verdict::compare(&audit, &outcome.tallies),
            Err(why) => Verdict::Unknown(why),
        }
    }

    fn compare(audit: &Audit, tallies: &[Tally]) -> Verdict {
        let checks = vec![
            ledger(audit, tallies),
            unfaithful(audit, tallies),
            Check::equal("sum of all balances", ACCOUNTS * OPENING_BALANCE, audit.balance_sum),
            Check::equal("balances that contradict the ledger", 0, audit.wrong_accounts),
        ];
        if checks.iter().all(Check::holds) {
            Verdict::Complete { checks }
        } else {
            Verdict::Wrong { checks }
        }
    }
}

impl Check {
    fn equal(what: &'static str, expected: i64, found: i64) -> Check {
        Check { what, expected: expected..=expected, found }
    }

    pub fn holds(&self) -> bool {
        self.expected.contains(&self.found)
    }
}

fn audit<B: Bank>(pools: &B::Pools, bank: &B) -> Result<Audit, String> {
    let mut why = String::new();
    for _ in 0..AUDIT_ATTEMPTS {
        let mut conn = pools.read(AUDIT_TIMEOUT).map_err(|e| chain(&e))?;
        match bank.audit(&mut conn) {
            Ok(audit) => return Ok(audit),
            Err(Failure::Contention) => why = "the database stays busy".into(),
            Err(Failure::Driver(text) | Failure::InDoubt(text)) => why = text,
        }
    }
    Err(why)
}

fn ledger(audit: &Audit, tallies: &[Tally]) -> Check {
    let confirmed: i64 = tallies.iter().map(|tally| tally.transfers).sum();
    let in_doubt: i64 = tallies.iter().map(|tally| tally.in_doubt).sum();
    Check {
        what: "transfers in the ledger",
        expected: confirmed..=confirmed + in_doubt,
        found: audit.workers.iter().map(|written| written.transfers).sum(),
    }
}

/// How many workers do not find their own count and sum in the ledger. In a total, the loss of
/// one worker could be hidden by a surplus of another.
fn unfaithful(audit: &Audit, tallies: &[Tally]) -> Check {
    let wrong = tallies.iter().filter(|tally| !agrees(&written_by(audit, tally.worker), tally));
    Check::equal("workers that miss a transfer of theirs", 0, wrong.count() as i64)
}

fn written_by(audit: &Audit, worker: u32) -> Written {
    let found = audit.workers.iter().find(|written| written.worker == worker);
    found.copied().unwrap_or(Written { worker, ..Written::default() })
}

fn agrees(written: &Written, tally: &Tally) -> bool {
    let surplus = written.transfers - tally.transfers;
    // Without a doubt both are exact. A transfer in doubt may add a line, and with
    // it any amount.
    (0..=tally.in_doubt).contains(&surplus) && (surplus > 0 || written.amount == tally.amount)
}
