//! The reason why there is no plan, in one line.

use std::fmt;
use std::path::Path;

use fairpool::text::Plain;

/// An error that ends the program.
#[derive(Debug)]
pub struct Problem(pub String);

impl Problem {
    pub fn file(file: &Path, why: impl fmt::Display) -> Problem {
        Problem(format!("cannot write {}: {why}", file.display()))
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The message of a server may have several lines.
        Plain(&self.0.split_whitespace().collect::<Vec<_>>().join(" ")).fmt(f)
    }
}

impl From<fairpool::Error> for Problem {
    fn from(error: fairpool::Error) -> Problem {
        let cause = std::error::Error::source(&error);
        Problem(match cause {
            Some(cause) => format!("{error}: {cause}"),
            None => error.to_string(),
        })
    }
}
