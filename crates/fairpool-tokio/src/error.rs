//! Why a closure was not run.

use std::error;
use std::fmt;
use std::io;

/// Why [`interact`](crate::Interact::interact) did not run its closure.
///
/// The closure's own result is inside `Ok`: if it is a `Result` too, `interact(…).await??` passes
/// both errors on.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The pool gave no connection. Text and [`source`](error::Error::source) are those of the
    /// pool's error.
    Get(fairpool::Error),
    /// It was first polled outside of a tokio runtime, and did not wait.
    NoRuntime,
    /// The runtime was shut down before the closure began. The connection is back in the pool.
    ShutDown,
    /// The system had no thread for the closure. The connection is back in the pool.
    NoThread(io::Error),
}

impl Error {
    /// The pool's error, if it gave no connection: for example to answer "503 Service
    /// Unavailable" to a [timeout](fairpool::Error::is_timeout).
    pub fn get_error(&self) -> Option<&fairpool::Error> {
        match self {
            Error::Get(error) => Some(error),
            _ => None,
        }
    }

    /// Whether no connection became available in time.
    pub fn is_timeout(&self) -> bool {
        self.get_error().is_some_and(fairpool::Error::is_timeout)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Get(error) => error.fmt(f),
            Error::NoRuntime => f.write_str(
                "there is no tokio runtime here: poll `interact` in a task of a runtime, in \
                 `block_on`, or within `Handle::enter`",
            ),
            Error::ShutDown => f.write_str(
                "the tokio runtime was shut down before it ran the closure; the connection is \
                 back in the pool",
            ),
            Error::NoThread(error) => {
                f.write_str(
                    "tokio could not start a thread for the closure; the connection is back in \
                     the pool",
                )?;
                if f.alternate() { write!(f, ": {error}") } else { Ok(()) }
            }
        }
    }
}

impl error::Error for Error {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match self {
            Error::Get(error) => error.source(),
            Error::NoThread(error) => Some(error),
            Error::NoRuntime | Error::ShutDown => None,
        }
    }
}

impl From<fairpool::Error> for Error {
    fn from(error: fairpool::Error) -> Error {
        Error::Get(error)
    }
}
