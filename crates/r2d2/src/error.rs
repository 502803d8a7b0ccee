//! The one error.

use std::error;
use std::fmt;

const TEXT: &str = "timed out waiting for connection";

/// No connection became available in time. Its text has the last error of the driver, if there
/// was one since the last connection was opened.
///
/// If the pool was closed through [`Pool::fairpool`](crate::Pool::fairpool), or the process has
/// forked, the text says that.
#[derive(Debug)]
pub struct Error(pub(crate) Option<String>);

impl Error {
    /// For the user, every error is a timeout. `last` is the driver's last error.
    pub(crate) fn of(error: &fairpool::Error, last: Option<String>) -> Error {
        if error.is_timeout() { Error(last) } else { Error(Some(error.to_string())) }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(TEXT)?;
        match &self.0 {
            Some(cause) => write!(f, ": {cause}"),
            None => Ok(()),
        }
    }
}

impl error::Error for Error {
    fn description(&self) -> &str {
        TEXT
    }
}
