//! Output while a scenario runs: one changing line on a terminal, a line each second
//! elsewhere.

use std::cell::RefCell;
use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

pub struct Console {
    /// `None` for a file, a pipe, or a terminal that cannot move its cursor.
    spinner: Option<ProgressBar>,
    shown: RefCell<Option<Instant>>,
}

impl Console {
    pub fn new() -> Console {
        let is_terminal = io::stdout().is_terminal() && io::stderr().is_terminal();
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        let spinner = (is_terminal && !dumb).then(|| {
            let style = ProgressStyle::with_template("{spinner} {elapsed:>4} {msg}");
            ProgressBar::new_spinner().with_style(style.expect("BUG: bad template"))
        });
        Console { spinner, shown: RefCell::new(None) }
    }

    pub fn headline(&self, name: &str, about: &str) {
        self.say(&format!("\n== {name}: {about}"));
    }

    /// Prints a line that stays.
    pub fn say(&self, line: &str) {
        match &self.spinner {
            Some(spinner) => spinner.suspend(|| println!("{line}")),
            None => println!("{line}"),
        }
        *self.shown.borrow_mut() = Some(Instant::now());
    }

    /// Shows the state, if the last one was shown long enough ago.
    pub fn state(&self, text: impl FnOnce() -> String) {
        let every = Duration::from_millis(if self.spinner.is_some() { 100 } else { 1000 });
        let due = self.shown.borrow().is_none_or(|shown| shown.elapsed() >= every);
        if !due {
            return;
        }
        *self.shown.borrow_mut() = Some(Instant::now());
        match &self.spinner {
            Some(spinner) => {
                spinner.set_message(text());
                spinner.tick();
            }
            None => println!("   {}", text()),
        }
    }

    /// Removes the changing line.
    pub fn clear(&self) {
        if let Some(spinner) = &self.spinner {
            spinner.set_message("");
            spinner.finish_and_clear();
        }
    }
}
