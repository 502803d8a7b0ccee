//! Which failure gets which answer.

use std::fmt;
use std::time::Duration;

use fairpool_postgres::postgres;
use fairpool_postgres::postgres::error::{DbError, Severity};

/// Why a request is not answered as asked.
#[derive(Debug)]
pub enum Failure {
    NotFound,
    Get(fairpool::Error),
    /// The runtime gave no thread to use a connection on. It is ending, or the system has none.
    NoThread,
    Statement(postgres::Error),
}

/// For a wait that ended without a connection. Nobody knows when there will be one; but in a
/// second hundreds of requests are served, and one is the least that the header can say.
const RETRY_AFTER: Duration = Duration::from_secs(1);

impl Failure {
    /// The status, and for 503 the seconds of `Retry-After`.
    pub fn status(&self) -> (u16, Option<u64>) {
        let retry_after = match self {
            Failure::NotFound => return (404, None),
            // While it fails fast, the pool knows when it tries to connect again.
            Failure::Get(error) => error.retry_after(),
            Failure::Statement(error) if is_refusal(error) => return (500, None),
            // With `Statement`: the connection was lost.
            Failure::NoThread | Failure::Statement(_) => None,
        };
        (503, Some(retry_after.unwrap_or(RETRY_AFTER).as_secs_f64().ceil() as u64))
    }
}

/// Whether the server refused the statement and the connection lives on.
fn is_refusal(error: &postgres::Error) -> bool {
    error.as_db_error().and_then(DbError::parsed_severity) == Some(Severity::Error)
}

/// For the client, without the cause: that is for the log.
impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.status() {
            (404, _) => "there is no such order",
            (503, _) => "not possible now: try again later",
            _ => "an error of the service",
        })
    }
}

impl From<fairpool::Error> for Failure {
    fn from(error: fairpool::Error) -> Failure {
        Failure::Get(error)
    }
}

impl From<fairpool_tokio::Error> for Failure {
    fn from(error: fairpool_tokio::Error) -> Failure {
        match error {
            fairpool_tokio::Error::Get(error) => Failure::Get(error),
            _ => Failure::NoThread,
        }
    }
}

impl From<postgres::Error> for Failure {
    fn from(error: postgres::Error) -> Failure {
        Failure::Statement(error)
    }
}
