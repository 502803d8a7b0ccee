//! Rounds in which the contestants take turns, so that a noisy machine hurts all
//! alike.

use std::time::Duration;

use crate::cell::{Cell, Hold};
use crate::pass::{self, Pass, Source};
use crate::progress::Progress;
use crate::report::{CellReport, ContestantReport, Figures};
use crate::settings::Settings;
use crate::waits::{self, Waits};

/// Somebody to be measured: a source in this process, or a process of its own.
/// Dispatched once for each pass, never for an operation.
pub trait Contestant {
    fn name(&self) -> String;

    fn pass(&mut self, cell: &Cell, length: Duration, timed: bool) -> Result<Pass, String>;

    /// Before the first round.
    fn warm_up(&mut self, cell: &Cell, length: Duration) -> Result<(), String> {
        self.pass(cell, length / 2, true).map(drop)
    }
}

pub struct Local<S> {
    pub name: String,
    pub source: S,
}

/// A source in this process.
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

/// What one contestant did so far.
struct Record {
    rounds: Vec<Figures>,
    waits: Waits,
    failed: Option<String>,
}

/// With a hold there are fewer operations, so a pass takes longer.
pub fn length_of_pass(cell: &Cell, usual: Duration) -> Duration {
    if cell.hold == Hold::None { usual } else { 3 * usual }
}

/// Measures all contestants in one cell.
pub fn measure(
    name: String,
    cell: &Cell,
    contestants: &mut [Box<dyn Contestant + '_>],
    settings: &Settings,
    progress: &Progress,
) -> CellReport {
    let length = length_of_pass(cell, settings.length);
    progress.begin(&format!("{name}: warming up"));
    let new = |failed| Record { rounds: Vec::new(), waits: waits::histogram(), failed };
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
        ContestantReport::new(one.name(), record.rounds, &record.waits, record.failed)
    });
    CellReport::new(cell, name, reports.collect())
}

impl Record {
    fn add(&mut self, contestant: &mut dyn Contestant, cell: &Cell, length: Duration) {
        match measured(contestant, cell, length) {
            Ok((figures, waits)) => {
                self.rounds.push(figures);
                waits::merge(&mut self.waits, &waits);
            }
            Err(why) => self.failed = Some(why),
        }
    }
}

/// One round of one contestant. Without a hold, reading the clock around each
/// get would be most of what is measured: so throughput has a pass of its own.
fn measured(
    contestant: &mut dyn Contestant,
    cell: &Cell,
    length: Duration,
) -> Result<(Figures, Waits), String> {
    let untimed = match cell.hold {
        Hold::None => Some(contestant.pass(cell, length, false)?),
        _ => None,
    };
    let timed = contestant.pass(cell, length, true)?;
    Ok((Figures::of(untimed.as_ref().unwrap_or(&timed), &timed), timed.waits))
}

/// Who comes when. Each round starts with another contestant and goes round in
/// other steps, so that nobody always comes after the same neighbour.
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
