//! Why the quickstart cannot run, in one line.

use std::error::Error;
use std::fmt;

/// What ends the quickstart before it has a result.
#[derive(Debug)]
pub enum Problem {
    /// A setting is wrong.
    Setting {
        /// As the user wrote it: `--threads`, `DATABASE_URL`.
        name: &'static str,
        /// What is wrong with it. Never holds a password.
        why: String,
    },
    /// clap's message, which names the setting.
    Usage(String),
    /// The machine prevents the start.
    Start(String),
}

impl Problem {
    pub fn setting(name: &'static str, why: impl Into<String>) -> Problem {
        Problem::Setting { name, why: why.into() }
    }

    /// Two, as is usual for bad input; one means "the data is wrong".
    pub fn exit_code(&self) -> u8 {
        2
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Problem::Setting { name, why } => format!("{name}: {why}"),
            Problem::Usage(text) | Problem::Start(text) => text.clone(),
        };
        f.write_str(&one_line(&text))
    }
}

/// An error and its causes on one line: drivers often put the important part into the cause.
pub fn chain(error: &dyn Error) -> String {
    let mut line = String::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let text = one_line(&error.to_string());
        // Some errors repeat their cause in their own text, and `postgres`
        // introduces each of the server's messages with these two words.
        if text != "db error" && !line.contains(&text) {
            if !line.is_empty() {
                line.push_str(": ");
            }
            line.push_str(&text);
        }
        next = error.source();
    }
    line
}

/// Servers answer in several lines, with DETAIL and HINT.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
