use std::thread;
use std::time::Duration;

use crate::cell::{Cell, Hold};
use crate::goals;
use crate::machine::Machine;
use crate::pass::{self, Source};
use crate::progress::Progress;
use crate::report::{CellReport, Report};
use crate::rounds::{self, local};
use crate::settings::Settings;
use crate::table;

const GET: Duration = Duration::from_millis(2);
const WORK: Duration = Duration::from_millis(3);
const RETURN: Duration = Duration::from_millis(4);

/// Each step takes at least its time.
struct Slow;

struct SlowReturn;

impl Drop for SlowReturn {
    fn drop(&mut self) {
        thread::sleep(RETURN);
    }
}

impl Source for Slow {
    type Conn<'a> = SlowReturn;

    fn get(&self) -> SlowReturn {
        thread::sleep(GET);
        SlowReturn
    }

    fn work(&self, _: &mut SlowReturn, _: Hold) {
        thread::sleep(WORK);
    }
}

fn cell(hold: Hold) -> Cell {
    Cell { threads: 2, connections: 2, hold }
}

fn report(hold: Hold) -> Report {
    let settings = Settings::short(std::env::temp_dir());
    let contestants = || vec![local("fairpool", Slow), local("r2d2", Slow)];
    let progress = Progress::new(2);
    let name = "32 / 8 / by key".to_string();
    let cell = rounds::measure(name, &cell(hold), &mut contestants(), &settings, &progress);
    Report::new("postgres", Machine::inspect(), &settings, Vec::new(), vec![cell])
}

fn header(cell: &CellReport) -> Vec<String> {
    table::of_cell(cell, &[]).header
}

/// The goals for whole operations that can be checked.
fn goals_for_wholes(report: &Report) -> usize {
    let outcomes = goals::check(report);
    outcomes.iter().filter(|outcome| outcome.goal.starts_with("p99 of the whole")).count()
}

#[test]
fn with_a_driver_the_get_the_work_and_the_return_are_timed_together() {
    let pass = pass::run(&Slow, &cell(Hold::Driver), Duration::from_millis(20), true);
    assert!(pass.total() > 0);
    assert_eq!((pass.waits.len(), pass.wholes.len()), (pass.total(), pass.total()));
    // Histograms have three digits.
    assert!(pass.waits.min() >= GET.as_nanos() as u64 / 1000 * 999);
    assert!(pass.wholes.min() >= (GET + WORK + RETURN).as_nanos() as u64 / 1000 * 999);
}

#[test]
fn without_a_driver_only_waits_are_timed() {
    let pass = pass::run(&Slow, &cell(Hold::Sleeping(WORK)), Duration::from_millis(20), true);
    assert_eq!((pass.waits.len(), pass.wholes.len()), (pass.total(), 0));
}

#[test]
fn whole_operations_are_in_the_table_the_json_and_the_goals() {
    let report = report(Hold::Driver);
    let text = serde_json::to_string(&report).unwrap();
    assert!(text.contains("whole_p50") && text.contains("longest_whole"));
    assert!(header(&report.cells[0]).contains(&"whole p99".to_string()));
    assert_eq!(goals_for_wholes(&report), 1);
    let again: Report = serde_json::from_str(&text).unwrap();
    let whole = |report: &Report| report.cells[0].contestants[0].medians.whole_p99;
    assert!(whole(&again) > 0.0);
    assert_eq!(whole(&again), whole(&report));
}

#[test]
fn results_without_times_of_whole_operations_are_read_and_shown() {
    let report = report(Hold::Sleeping(WORK));
    let text = serde_json::to_string(&report).unwrap();
    assert!(!text.contains("whole"), "{text}");
    let again: Report = serde_json::from_str(&text).unwrap();
    assert!(!header(&again.cells[0]).iter().any(|column| column.starts_with("whole")));
    assert_eq!(goals_for_wholes(&again), 0);
    assert!(!goals::check(&again).is_empty());
}
