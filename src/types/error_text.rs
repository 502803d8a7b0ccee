//! The texts of the driver's errors. Printing them runs the driver's code, which may fail
//! or panic.

use std::any::Any;
use std::error;
use std::fmt::{self, Write as _};
use std::panic::{self, AssertUnwindSafe};

use super::text::{LONGEST, Plain, PlainWriter};

/// Prints an error with its sources, which in many drivers have the server's message. A
/// source is left out if the error before it contains its text already. The texts are
/// printed as [`Plain`].
pub(crate) struct Chain<'a>(pub(crate) &'a (dyn error::Error + 'a));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = text_of(self.0);
        let mut previous = text.clone();
        let mut next = source_of(self.0);
        for _ in 0..LONGEST_CHAIN {
            let Some(source) = next else { break };
            let own = text_of(source);
            if !previous.contains(&own) {
                text.push_str(": ");
                text.push_str(&own);
            }
            previous = own;
            next = source_of(source);
        }
        Plain(&text).fmt(f)
    }
}

/// More sources than this are considered a circle.
const LONGEST_CHAIN: usize = 32;

/// The source of an error. `source` is the driver's code and may panic.
fn source_of<'a>(error: &'a (dyn error::Error + 'a)) -> Option<&'a (dyn error::Error + 'static)> {
    panic::catch_unwind(AssertUnwindSafe(|| error.source())).unwrap_or_else(|payload| {
        text_of_panic(payload);
        None
    })
}

/// The text of an error, without its sources.
fn text_of(error: &dyn error::Error) -> String {
    print(format_args!("{error}"))
}

/// Prints a driver's error as [`Plain`], even if that fails or panics.
fn print(error: fmt::Arguments<'_>) -> String {
    let mut text = String::new();
    let write = || {
        let mut to = PlainWriter::new(&mut text, LONGEST);
        to.write_fmt(error).is_ok() || to.is_full()
    };
    match panic::catch_unwind(AssertUnwindSafe(write)) {
        Ok(true) => text,
        Ok(false) => "(an error without a text)".to_string(),
        Err(payload) => {
            text_of_panic(payload);
            "(an error whose text panics)".to_string()
        }
    }
}

/// The message of a panic, as [`Plain`]. A payload that is not a text is leaked, because its
/// destructor is user code and might panic again.
pub(crate) fn text_of_panic(payload: Box<dyn Any + Send>) -> String {
    let payload = match payload.downcast::<&str>() {
        Ok(text) => return Plain(*text).to_string(),
        Err(payload) => payload,
    };
    match payload.downcast::<String>() {
        Ok(text) => Plain(&text).to_string(),
        Err(payload) => {
            std::mem::forget(payload);
            "(not a text)".to_string()
        }
    }
}

/// The text of an error that a handler has taken.
pub(crate) struct ErrorText {
    display: String,
    debug: String,
}

impl ErrorText {
    pub(crate) fn new(text: &str) -> ErrorText {
        ErrorText { display: text.to_string(), debug: text.to_string() }
    }

    pub(crate) fn of(error: &dyn error::Error) -> ErrorText {
        let debug = print(format_args!("{error:?}"));
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
