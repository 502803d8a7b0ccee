//! What is printed. A reader that has gone away (`| head`) is no error: the
//! cleaning up still has to happen.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::time::Duration;

use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{Cell, CellAlignment, Table};
use fairpool::stats::Stats;
use hdrhistogram::Histogram;

use crate::bank::Bank;
use crate::crew::Outcome;
use crate::options::Options;
use crate::verdict::{Check, Verdict};
use crate::worker::{Tally, wait_histogram};

pub fn say(line: &str) {
    let _ = writeln!(io::stdout(), "{line}");
}

pub fn complain(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

pub fn opening<B: Bank>(bank: &B, options: &Options) {
    let Options { threads, connections, duration, timeout, .. } = options;
    say(&bank.name());
    say(&format!(
        "{threads} threads share {connections} connections for {duration:?}, \
         each get waits at most {timeout:?}"
    ));
}

pub fn closing(outcome: &Outcome, stats: &[Stats], advice: Option<&str>, verdict: &Verdict) {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED);
    work(&mut table, outcome);
    waits(&mut table, "wait to read", &outcome.tallies, |tally| &tally.read_wait);
    waits(&mut table, "wait to write", &outcome.tallies, |tally| &tally.write_wait);
    fairness(&mut table, &outcome.tallies);
    pools(&mut table, stats);
    if let Verdict::Complete { checks } | Verdict::Wrong { checks } = verdict {
        checks.iter().for_each(|check| row(&mut table, check.what, compared(check)));
    }
    say(&table.to_string());
    troubles(&outcome.tallies);
    if let Some(advice) = advice {
        say(advice.trim_end());
    }
    say(&sentence(verdict));
}

fn row(table: &mut Table, what: &str, value: impl ToString) {
    table.add_row([Cell::new(what), Cell::new(value).set_alignment(CellAlignment::Right)]);
}

fn work(table: &mut Table, outcome: &Outcome) {
    let seconds = outcome.elapsed.as_secs_f64();
    let reads: u64 = sum(&outcome.tallies, |tally| tally.reads);
    let writes: u64 = sum(&outcome.tallies, |tally| tally.transfers.unsigned_abs());
    let rate = |count: u64| thousands((count as f64 / seconds) as u64);
    row(table, "operations per second", rate(reads + writes));
    row(table, "reads", format!("{} ({} per second)", thousands(reads), rate(reads)));
    row(table, "writes", format!("{} ({} per second)", thousands(writes), rate(writes)));
    row(table, "time", format!("{seconds:.2} s"));
}

fn waits(table: &mut Table, what: &str, tallies: &[Tally], of: fn(&Tally) -> &Histogram<u64>) {
    let mut wait = wait_histogram();
    for tally in tallies {
        wait.add(of(tally)).expect("BUG: histograms of different bounds");
    }
    let at = |nanoseconds| format!("{:.2?}", Duration::from_nanos(nanoseconds));
    row(table, &format!("{what}: p50"), at(wait.value_at_quantile(0.5)));
    row(table, "  p99", at(wait.value_at_quantile(0.99)));
    row(table, "  max", at(wait.max()));
}

fn fairness(table: &mut Table, tallies: &[Tally]) {
    let operations: Vec<u64> = tallies.iter().map(Tally::operations).collect();
    row(table, "fairness over threads (Jain's index)", format!("{:.4}", jain(&operations)));
    let least = operations.iter().min().copied().unwrap_or_default();
    let most = operations.iter().max().copied().unwrap_or_default();
    row(table, "operations per thread", format!("{} to {}", thousands(least), thousands(most)));
}

/// 1 if all have the same share, 1/n if one of n has everything.
fn jain(shares: &[u64]) -> f64 {
    let sum: f64 = shares.iter().map(|&share| share as f64).sum();
    let squares: f64 = shares.iter().map(|&share| (share as f64).powi(2)).sum();
    if squares == 0.0 { 1.0 } else { sum * sum / (squares * shares.len() as f64) }
}

fn pools(table: &mut Table, stats: &[Stats]) {
    type Figure = fn(&Stats) -> u64;
    let figures: [(&str, Figure); 6] = [
        ("connections opened", |stats| stats.opened),
        ("  closed", |stats| stats.closed.total()),
        ("  failed to open", |stats| stats.open_failures),
        ("gets", |stats| stats.gets),
        ("  that had to wait", |stats| stats.gets_waited),
        ("  that timed out", |stats| stats.timeouts),
    ];
    for (what, figure) in figures {
        row(table, what, thousands(stats.iter().map(figure).sum::<u64>()));
    }
}

fn compared(check: &Check) -> String {
    let found = thousands(check.found);
    let (least, most) = (thousands(check.expected.start()), thousands(check.expected.end()));
    match (check.holds(), least == most) {
        (true, true) => format!("{found}, as it must be"),
        (true, false) => format!("{found}, of {least} to {most}"),
        (false, true) => format!("{found} INSTEAD OF {least}"),
        (false, false) => format!("{found} INSTEAD OF {least} to {most}"),
    }
}

/// Below the table: their text may be long.
fn troubles(tallies: &[Tally]) {
    let retries = sum(tallies, |tally| tally.retries);
    if retries > 0 {
        say(&format!("{} attempts met contention and were made again", thousands(retries)));
    }
    let in_doubt = sum(tallies, |tally| tally.in_doubt.unsigned_abs());
    if in_doubt > 0 {
        say(&format!(
            "{} transfers lost their connection between COMMIT and its answer: \
             each may be in the ledger or not",
            thousands(in_doubt)
        ));
    }
    let mut errors = BTreeMap::<&str, u64>::new();
    for (text, count) in tallies.iter().flat_map(|tally| &tally.errors) {
        *errors.entry(text).or_default() += count;
    }
    for (text, count) in errors {
        say(&format!("{} errors: {text}", thousands(count)));
    }
}

fn sentence(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Complete { .. } => {
            "verdict: ok, the database holds every confirmed write and nothing else".into()
        }
        Verdict::Wrong { .. } => {
            "verdict: WRONG, the database does not hold what was written".into()
        }
        Verdict::Idle => "verdict: FAILED, not one operation was completed".into(),
        Verdict::Unknown(why) => format!("verdict: UNKNOWN, the data could not be checked: {why}"),
    }
}

fn sum(tallies: &[Tally], count: impl Fn(&Tally) -> u64) -> u64 {
    tallies.iter().map(count).sum()
}

/// `1234567` as `1,234,567`.
pub fn thousands(number: impl ToString) -> String {
    let number = number.to_string();
    let digits = number.trim_start_matches('-');
    let mut text = number[..number.len() - digits.len()].to_owned();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
