//! A limit of time for calls of the driver, by its socket.

use std::error::Error as _;
use std::io;
use std::time::{Duration, Instant};

use mysql::{Conn, Error};

/// The kernel takes zero for no limit.
const SHORTEST: Duration = Duration::from_millis(1);

/// A time by which some calls of the driver together must have ended.
///
/// The driver waits in reads and writes of its socket, each of which the kernel limits. So a server
/// that falls silent is noticed at the deadline. One that sends its answer in pieces, with a pause
/// before each, could take longer: that is left to the pool's own limit.
pub(crate) struct Deadline {
    begun: Instant,
    limit: Duration,
}

impl Deadline {
    pub(crate) fn after(limit: Duration) -> Deadline {
        Deadline { begun: Instant::now(), limit }
    }

    /// Makes calls of the driver by the deadline.
    ///
    /// # Errors
    ///
    /// Those of the calls. If the server did not answer in time, one that says so; what it answers
    /// later is then unread, so that the connection must be closed.
    pub(crate) fn run<T>(
        &self,
        conn: &mut Conn,
        own: Timeouts,
        calls: impl FnOnce(&mut Conn) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let left = self.limit.saturating_sub(self.begun.elapsed()).max(SHORTEST);
        Timeouts { read: Some(left), write: Some(left) }.no_longer_than(own).apply(conn)?;
        let result = calls(conn).map_err(|error| self.in_words(error));
        let restored = own.apply(conn);
        result.and_then(|value| restored.map(|()| value).map_err(Error::IoError))
    }

    fn in_words(&self, error: Error) -> Error {
        if is_timeout(&error) { self.silent() } else { error }
    }

    fn silent(&self) -> Error {
        let text = format!("the server did not answer within {:?}", self.limit);
        Error::IoError(io::Error::new(io::ErrorKind::TimedOut, text))
    }

    /// The same words for the driver's own connect.
    pub(crate) fn explain<T>(&self, result: Result<T, Error>) -> Result<T, Error> {
        result.map_err(|error| self.in_words(error))
    }
}

/// A read that ran out of time is an error of the driver's codec, which hides its cause from
/// `Error::source`.
fn is_timeout(error: &Error) -> bool {
    let error = match error {
        Error::IoError(error) => Some(error),
        Error::CodecError(error) => error.source().and_then(|cause| cause.downcast_ref()),
        _ => None,
    };
    let is_timeout = |error: &io::Error| {
        matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
    };
    error.is_some_and(is_timeout)
}

/// How long one read or write of a socket may take.
#[derive(Copy, Clone, Debug, Default)]
pub(crate) struct Timeouts {
    pub(crate) read: Option<Duration>,
    pub(crate) write: Option<Duration>,
}

impl Timeouts {
    pub(crate) fn no_longer_than(self, other: Timeouts) -> Timeouts {
        let shorter = |one: Option<Duration>, other: Option<Duration>| match (one, other) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        };
        Timeouts { read: shorter(self.read, other.read), write: shorter(self.write, other.write) }
    }

    #[cfg(unix)]
    pub(crate) fn apply(self, conn: &Conn) -> io::Result<()> {
        let socket = socket2::SockRef::from(conn);
        socket.set_read_timeout(self.read)?;
        socket.set_write_timeout(self.write)
    }

    /// Here the driver does not give its socket: the pool's own limits remain.
    #[cfg(not(unix))]
    pub(crate) fn apply(self, _: &Conn) -> io::Result<()> {
        Ok(())
    }
}
