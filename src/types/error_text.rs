//! The texts of errors that are not ours: printing them runs the driver's code, which may
//! fail or panic.

use std::any::Any;
use std::error;
use std::fmt::{self, Write as _};
use std::panic::{self, AssertUnwindSafe};

/// An error with its sources: drivers like to leave what the server said to
/// those. What an error says itself is not said again.
pub(crate) struct Chain<'a>(pub(crate) &'a (dyn error::Error + 'a));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut said = text_of(self.0);
        f.write_str(&said)?;
        let mut next = source_of(self.0);
        for _ in 0..LONGEST_CHAIN {
            let Some(source) = next else { break };
            let text = text_of(source);
            if !said.contains(&text) {
                write!(f, ": {text}")?;
            }
            said = text;
            next = source_of(source);
        }
        Ok(())
    }
}

/// More sources than this are taken for a circle.
const LONGEST_CHAIN: usize = 32;

/// What an error came from. The driver's code, like its text.
fn source_of<'a>(error: &'a (dyn error::Error + 'a)) -> Option<&'a (dyn error::Error + 'static)> {
    panic::catch_unwind(AssertUnwindSafe(|| error.source())).unwrap_or_else(|payload| {
        text_of_panic(payload);
        None
    })
}

/// What an error says of itself.
fn text_of(error: &dyn error::Error) -> String {
    printed(format_args!("{error}"))
}

/// Printing a driver's error is the driver's code: it may fail or panic. To print
/// one of ours does neither.
fn printed(what: fmt::Arguments<'_>) -> String {
    let mut text = String::new();
    let print = || text.write_fmt(what).is_ok();
    match panic::catch_unwind(AssertUnwindSafe(print)) {
        Ok(true) => text,
        Ok(false) => "(an error without a text)".to_string(),
        Err(payload) => {
            text_of_panic(payload);
            "(an error whose text panics)".to_string()
        }
    }
}

/// What a panic said. What is not a text is leaked: its destructor is not ours,
/// and might panic again.
pub(crate) fn text_of_panic(payload: Box<dyn Any + Send>) -> String {
    let payload = match payload.downcast::<&str>() {
        Ok(said) => return (*said).to_string(),
        Err(payload) => payload,
    };
    match payload.downcast::<String>() {
        Ok(said) => *said,
        Err(payload) => {
            std::mem::forget(payload);
            "(not a text)".to_string()
        }
    }
}

/// What is left of an error that a handler has taken: its text.
pub(crate) struct ErrorText {
    display: String,
    debug: String,
}

impl ErrorText {
    pub(crate) fn new(text: &str) -> ErrorText {
        ErrorText { display: text.to_string(), debug: text.to_string() }
    }

    pub(crate) fn of(error: &dyn error::Error) -> ErrorText {
        let debug = printed(format_args!("{error:?}"));
        ErrorText { display: Chain(error).to_string(), debug }
    }
}

impl fmt::Display for ErrorText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.display)
    }
}

impl fmt::Debug for ErrorText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.debug)
    }
}

impl error::Error for ErrorText {}
