//! Rounds in which the contestants take turns, so that noise on the machine affects all
//! alike.

use std::time::Duration;

use crate::cell::{Cell, Hold};
use crate::pass::{self, Pass, Source};
use crate::progress::Progress;
use crate::report::{CellReport, ContestantReport, Figures};
use crate::settings::Settings;
use crate::waits::{self, Waits};

/// A pool to measure: in this process, or in a process of its own. The dynamic calls
/// are one per pass, never one per operation.
pub trait Contestant {
    /// Its name in tables and charts.
    fn name(&self) -> String;

    /// Runs the cell's threads for `length`; records each wait if `timed`.
    ///
    /// # Errors
    ///
    /// Why it cannot be measured, in a few words. It then leaves the cell.
    fn pass(&mut self, cell: &Cell, length: Duration, timed: bool) -> Result<Pass, String>;

    /// Runs before the first round.
    ///
    /// # Errors
    ///
    /// As [`pass`](Self::pass).
    fn warm_up(&mut self, cell: &Cell, length: Duration) -> Result<(), String> {
        self.pass(cell, length / 2, true).map(drop)
    }
}

struct Local<S> {
    name: String,
    source: S,
}

/// A contestant in this process.
pub fn local<'a, S: Source + 'a>(name: &str, source: S) -> Box<dyn Contestant + 'a> {
    Box::new(Local { name: name.to_string(), source })
}

impl<S: Source> Contestant for Local<S> {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn pass(&mut self, cell: &Cell, length: Duration, timed: bool) -> Result<Pass, String> {
        Ok(pass::run(&self.source, cell, length, timed))
    }
}

/// The results of one contestant in a cell.
struct Record {
    rounds: Vec<Figures>,
    waits: Waits,
    wholes: Waits,
    failed: Option<String>,
}

/// With a hold there are fewer operations, so a pass is longer.
fn length_of_pass(cell: &Cell, usual: Duration) -> Duration {
    if cell.hold == Hold::None { usual } else { 3 * usual }
}

/// Measures all contestants in one cell, and counts each turn as a step of `progress`.
pub fn measure(
    name: String,
    cell: &Cell,
    contestants: &mut [Box<dyn Contestant + '_>],
    settings: &Settings,
    progress: &Progress,
) -> CellReport {
    let length = length_of_pass(cell, settings.length);
    progress.begin(&format!("{name}: warming up"));
    let new = |failed| {
        let (waits, wholes) = (waits::histogram(), waits::histogram());
        Record { rounds: Vec::new(), waits, wholes, failed }
    };
    let warm = contestants.iter_mut().map(|one| one.warm_up(cell, length).err());
    let mut records: Vec<Record> = warm.map(new).collect();
    for round in 0..settings.rounds {
        progress.begin(&format!("{name}: round {} of {}", round + 1, settings.rounds));
        for place in order(contestants.len(), round as usize) {
            let record = &mut records[place];
            if record.failed.is_none() {
                record.add(contestants[place].as_mut(), cell, length);
            }
            progress.step();
        }
    }
    let pairs = contestants.iter().zip(records);
    let reports = pairs.map(|(one, record)| {
        let Record { rounds, waits, wholes, failed } = record;
        ContestantReport::new(one.name(), rounds, &waits, &wholes, failed)
    });
    CellReport::new(cell, name, reports.collect())
}

impl Record {
    fn add(&mut self, contestant: &mut dyn Contestant, cell: &Cell, length: Duration) {
        match measured(contestant, cell, length) {
            Ok((figures, timed)) => {
                self.rounds.push(figures);
                waits::merge(&mut self.waits, &timed.waits);
                waits::merge(&mut self.wholes, &timed.wholes);
            }
            Err(why) => self.failed = Some(why),
        }
    }
}

/// One round of one contestant, with its timed pass. Without a hold, reading the clock around each get costs
/// more than the get, so throughput has a pass of its own.
fn measured(
    contestant: &mut dyn Contestant,
    cell: &Cell,
    length: Duration,
) -> Result<(Figures, Pass), String> {
    let untimed = match cell.hold {
        Hold::None => Some(contestant.pass(cell, length, false)?),
        _ => None,
    };
    let timed = contestant.pass(cell, length, true)?;
    Ok((Figures::of(untimed.as_ref().unwrap_or(&timed), &timed), timed))
}

/// The order of a round. Each round starts with another contestant and has another step,
/// so that no contestant always follows the same one.
fn order(count: usize, round: usize) -> impl Iterator<Item = usize> {
    let steps: Vec<usize> = (1..=count).filter(|&step| coprime(step, count)).collect();
    let step = steps[round % steps.len()];
    (0..count).map(move |turn| (round + turn * step) % count)
}

fn coprime(mut a: usize, mut b: usize) -> bool {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a == 1
}
