//! The progress: a bar on a terminal, otherwise a line each second.

use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use fairpool::stats::Stats;
use indicatif::{ProgressBar, ProgressStyle};

use crate::report::{say, thousands};

/// Shows the state of the run.
pub struct Progress {
    started: Instant,
    /// `None` for a file, a pipe, or a terminal that cannot move its cursor.
    bar: Option<ProgressBar>,
    interval: Duration,
    /// When to show the next state, and when the last was shown, from the start.
    due: Duration,
    shown: Duration,
    operations: u64,
}

impl Progress {
    pub fn new(started: Instant, duration: Duration) -> Progress {
        // Both: a bar on stderr would be drawn between the lines of a `2>&1 | tee`.
        let watched = io::stdout().is_terminal() && io::stderr().is_terminal();
        let bar = (watched && !dumb()).then(|| bar(duration));
        let interval = Duration::from_millis(if bar.is_some() { 200 } else { 1000 });
        Progress { started, bar, interval, due: interval, shown: Duration::ZERO, operations: 0 }
    }

    /// Shows a new state if it is time for one.
    pub fn show(&mut self, operations: u64, stats: impl FnOnce() -> Vec<Stats>) {
        let elapsed = self.started.elapsed();
        if elapsed < self.due {
            return;
        }
        let since = elapsed - self.shown;
        let rate = (operations - self.operations) as f64 / since.as_secs_f64();
        let stats = stats();
        let sum = |figure: fn(&Stats) -> u32| stats.iter().map(figure).sum::<u32>();
        let state = format!(
            "{:>8} ops/s  {:>4} waiting  {:>3} of {} in use",
            thousands(rate as u64),
            sum(|stats| stats.waiting),
            sum(|stats| stats.in_use),
            sum(|stats| stats.max_size),
        );
        match &self.bar {
            Some(bar) => {
                bar.set_position(u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX));
                bar.set_message(state);
            }
            None => say(&format!("{:>4.0} s  {state}", elapsed.as_secs_f64())),
        }
        (self.shown, self.operations) = (elapsed, operations);
        while self.due <= elapsed {
            self.due += self.interval;
        }
    }

    pub fn finish(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }
}

fn dumb() -> bool {
    std::env::var_os("TERM").is_none_or(|term| term == "dumb")
}

fn bar(duration: Duration) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:24} {msg}").expect("BUG: bad template");
    ProgressBar::new(duration.as_millis() as u64).with_style(style.progress_chars("=> "))
}
