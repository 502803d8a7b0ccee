//! Why a caller got no connection.

use std::error;
use std::fmt;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::time::Duration;

use super::text::Plain;
use super::{Chain, ErrorText, Holder, NestedGet};
pub use crate::core::ErrorKind;
use crate::core::{CallKind, Gauges};
use crate::sync::{Arc, Process};

/// The error of a driver, shared by all callers that waited for the failed call.
pub(crate) type Cause = Arc<dyn error::Error + Send + Sync>;

/// Why a caller got no connection, or a setting was refused.
///
/// The text has what is needed to find the cause from a log alone: how long the caller
/// waited, where all connections are, and the holder that has held one longest. `{}` leaves
/// out the driver's error, which is the [`source`](error::Error::source), so that a
/// program that prints the whole chain prints it once. `{:#}` has it too, for a program that
/// prints only this error.
///
/// `source()` is the driver's own error, in its own type, if connecting or a check failed
/// *during this wait* and no connection has been opened since. An earlier error that may
/// still be the reason is part of the text, with its age. It is the source of an
/// [`ErrorKind::Connect`].
///
/// # Examples
///
/// ```
/// # use fairpool_testing::StubManager;
/// use std::time::Duration;
///
/// let pool = fairpool::Pool::builder().max_size(1).build(StubManager)?;
/// let (held, line) = (pool.get()?, line!());
/// let error = pool.get_timeout(Duration::from_millis(10)).unwrap_err();
/// assert!(error.is_timeout());
/// assert!(error.to_string().contains("0 idle, 1 in use"));
/// assert_eq!(error.longest_holder().unwrap().location().line(), line);
/// # drop(held);
/// # Ok::<(), fairpool::Error>(())
/// ```
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    message: String,
    report: Option<Report>,
    cause: Option<Cause>,
}

/// The state of the pool when a caller gave up, read under the same lock.
pub(crate) struct Report {
    pub(crate) pool: Arc<str>,
    pub(crate) waited: Duration,
    pub(crate) gauges: Gauges,
    pub(crate) longest: Option<Holder>,
    /// Empty unless there is a self-deadlock.
    pub(crate) nested: Vec<NestedGet>,
    /// The slowest open or check, and its time so far.
    pub(crate) slowest: Option<(CallKind, Duration)>,
    pub(crate) paused: bool,
    /// The last error from before this wait, and how long before. No connection has been
    /// opened since.
    pub(crate) earlier: Option<(Duration, Cause)>,
    /// When the pool tries again, if the caller did not wait for that.
    pub(crate) retry_after: Option<Duration>,
}

impl Error {
    pub(crate) fn config(message: String) -> Error {
        Error(Box::new(Inner { kind: ErrorKind::Config, message, report: None, cause: None }))
    }

    pub(crate) fn forked(pool: &str, built_in: Process) -> Error {
        let message = format!(
            "pool '{}' was built in process {}, and this is its child {}: build the pool \
             after the fork",
            Plain(pool),
            built_in.id(),
            Process::current().id(),
        );
        Error(Box::new(Inner { kind: ErrorKind::Forked, message, report: None, cause: None }))
    }

    pub(crate) fn gone(pool: &str) -> Error {
        let message = format!("pool '{}' is gone", Plain(pool));
        Error(Box::new(Inner { kind: ErrorKind::Closed, message, report: None, cause: None }))
    }

    pub(crate) fn new(
        kind: ErrorKind,
        message: String,
        report: Report,
        cause: Option<Cause>,
    ) -> Error {
        Error(Box::new(Inner { kind, message, report: Some(report), cause }))
    }

    /// What kind of failure this is.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Whether no connection became available in time.
    pub fn is_timeout(&self) -> bool {
        self.kind() == ErrorKind::Timeout
    }

    /// Whether the pool was closed.
    pub fn is_closed(&self) -> bool {
        self.kind() == ErrorKind::Closed
    }

    /// Whether too many callers were waiting.
    pub fn is_queue_full(&self) -> bool {
        self.kind() == ErrorKind::QueueFull
    }

    /// Whether connecting fails and the caller therefore did not wait: see
    /// [`ErrorKind::Connect`].
    pub fn is_connect(&self) -> bool {
        self.kind() == ErrorKind::Connect
    }

    /// Whether the request was cancelled.
    pub fn is_cancelled(&self) -> bool {
        self.kind() == ErrorKind::Cancelled
    }

    /// Whether every connection is held by a thread that itself waits for another.
    pub fn is_self_deadlock(&self) -> bool {
        self.kind() == ErrorKind::SelfDeadlock
    }

    /// Whether the value of a setting is not allowed.
    pub fn is_config(&self) -> bool {
        self.kind() == ErrorKind::Config
    }

    /// Whether the pool was built in another process, and this one is its child.
    pub fn is_forked(&self) -> bool {
        self.kind() == ErrorKind::Forked
    }

    /// How long the caller had waited; zero for an [`ErrorKind::Config`] or
    /// [`ErrorKind::Forked`].
    pub fn waited(&self) -> Duration {
        self.0.report.as_ref().map_or(Duration::ZERO, |report| report.waited)
    }

    /// When to try again, for an [`ErrorKind::Connect`]: how long after this error the next
    /// attempt to connect is due, but at least the first delay of
    /// [`connect_backoff`](crate::Builder::connect_backoff). While an attempt is under way,
    /// it is that delay. So a caller may sleep for this time and try again, over and over.
    ///
    /// `None` for the other kinds, and for an error of [`build`](crate::Builder::build).
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.report.as_ref()?.retry_after
    }

    /// The holder that had held a connection longest when the caller gave up.
    pub fn longest_holder(&self) -> Option<&Holder> {
        self.0.report.as_ref()?.longest.as_ref()
    }

    /// The threads of a self-deadlock when the caller gave up, 32 of them at most: they
    /// held all connections, and each waited for another. Empty if there was none, and
    /// with [`SelfDeadlock::Ignore`](crate::SelfDeadlock::Ignore).
    pub fn nested_gets(&self) -> &[NestedGet] {
        self.0.report.as_ref().map_or(&[], |report| &report.nested)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)?;
        if let Some(report) = &self.0.report {
            write!(f, "; {report}")?;
        }
        match &self.0.cause {
            Some(cause) if f.alternate() => write!(f, "; last error: {}", Chain(&**cause)),
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let gauges = &self.gauges;
        write!(
            f,
            "pool '{}' of at most {}: {} idle, {} in use, {} opening, {} closing",
            Plain(&self.pool),
            gauges.max_size,
            gauges.idle,
            gauges.busy + gauges.checking,
            gauges.opening,
            gauges.closing,
        )?;
        if gauges.abandoned > 0 {
            write!(f, ", {} hung driver calls", gauges.abandoned)?;
        }
        match &self.slowest {
            Some((CallKind::Connect, time)) => write!(f, ", connecting for {time:.1?} so far")?,
            Some((CallKind::Check, time)) => write!(f, ", a check runs for {time:.1?} so far")?,
            _ => {}
        }
        if self.paused {
            f.write_str(", paused")?;
        }
        let others = if gauges.waiting == 1 { "caller waits" } else { "callers wait" };
        write!(f, "; {} other {others}", gauges.waiting)?;
        if let Some(holder) = &self.longest {
            write!(f, "; held longest by {holder}")?;
        }
        if !self.nested.is_empty() {
            write!(f, "; {}", NestedList(&self.nested))?;
        }
        if let Some((age, cause)) = &self.earlier {
            write!(f, "; last error, {age:.1?} before this wait: {}", Chain(&**cause))?;
        }
        Ok(())
    }
}

/// Prints the threads of a self-deadlock.
pub(crate) struct NestedList<'a>(pub(crate) &'a [NestedGet]);

impl fmt::Display for NestedList<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("every connection is held by a thread that itself waits for one")?;
        for (index, nested) in self.0.iter().enumerate() {
            write!(f, "{} {nested}", if index == 0 { ":" } else { "," })?;
        }
        Ok(())
    }
}

// Nobody can change an error, so a panic cannot leave one half changed. (A driver's error may
// have a state of its own; the pool prints such errors with their panics caught.)
impl UnwindSafe for Error {}
impl RefUnwindSafe for Error {}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("kind", &self.kind())
            .field("message", &self.to_string())
            .field("cause", &self.0.cause.as_deref().map(|cause| ErrorText::of(cause)))
            .finish()
    }
}

impl error::Error for Error {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        self.0.cause.as_deref().map(|cause| cause as &(dyn error::Error + 'static))
    }
}
