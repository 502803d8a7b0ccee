//! Writes log records, and catches panics of user code.

use std::borrow::Cow;
use std::fmt::{self, Write as _};
use std::panic::{self, AssertUnwindSafe};
use std::time::Duration;

use log::kv::{self, Key, Source, Value, VisitSource};
use log::{Level, Record};

use crate::core::Time;
use crate::sync::PlainMutex;
use crate::types::text::{LONGEST, PlainWriter, plain};
use crate::types::text_of_panic;

/// Writes log records of one pool, and calls user code so that its panics are logged
/// instead of spreading. Never used under the pool's lock.
pub(crate) struct Logger {
    /// The pool's name as it is printed.
    pool: String,
}

impl Logger {
    pub(crate) fn new(pool: &str) -> Logger {
        Logger { pool: plain(pool).into_owned() }
    }

    /// Writes a record with key-values, to which the pool's name is added. It stays on one
    /// line and has a limited length, whatever is in it. A logger is user code: if it
    /// panics, the record is lost and nothing else.
    pub(crate) fn log(
        &self,
        level: Level,
        key_values: &[(&str, Value<'_>)],
        message: fmt::Arguments<'_>,
    ) {
        if level > log::STATIC_MAX_LEVEL || level > log::max_level() {
            return;
        }
        let pool = self.pool.as_str();
        let texts: Vec<_> =
            key_values.iter().map(|(_, value)| value.to_borrowed_str().map(plain)).collect();
        let key_values = KeyValues { pool, rest: key_values, texts: &texts };
        let write = || {
            let mut record = Record::builder();
            record.target("fairpool").module_path_static(Some("fairpool"));
            record.level(level).key_values(&key_values);
            let line = Line { pool, message };
            log::logger().log(&record.args(format_args!("{line}")).build());
        };
        let _ = panic::catch_unwind(AssertUnwindSafe(write)).map_err(text_of_panic);
    }

    /// Calls user code and catches its panic. `Err` is the panic's message, which has
    /// been logged.
    pub(crate) fn catch_panic<R>(&self, what: &str, call: impl FnOnce() -> R) -> Result<R, String> {
        panic::catch_unwind(AssertUnwindSafe(call)).map_err(|payload| {
            let message = text_of_panic(payload);
            self.log(Level::Error, &[], format_args!("{what} panicked: {message}"));
            message
        })
    }
}

/// A log record's text.
struct Line<'a> {
    pool: &'a str,
    message: fmt::Arguments<'a>,
}

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Room for a few texts from outside, each of which may be as long as allowed.
        let mut to = PlainWriter::new(f, 4 * LONGEST);
        match write!(to, "pool '{}': {}", self.pool, self.message) {
            Err(_) if to.is_full() => Ok(()),
            result => result,
        }
    }
}

struct KeyValues<'a> {
    pool: &'a str,
    rest: &'a [(&'a str, Value<'a>)],
    /// The values of `rest` that are texts, as they are printed.
    texts: &'a [Option<Cow<'a, str>>],
}

impl Source for KeyValues<'_> {
    fn visit<'kvs>(&'kvs self, visitor: &mut dyn VisitSource<'kvs>) -> Result<(), kv::Error> {
        visitor.visit_pair(Key::from_str("pool"), Value::from(self.pool))?;
        for ((key, value), text) in self.rest.iter().zip(self.texts) {
            let value = text.as_deref().map_or_else(|| value.clone(), Value::from);
            visitor.visit_pair(Key::from_str(key), value)?;
        }
        Ok(())
    }
}

/// For log records: whole milliseconds.
pub(crate) fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// Limits a kind of log record to one per second.
#[derive(Default)]
pub(crate) struct RateLimit(PlainMutex<(Option<Time>, u64)>);

impl RateLimit {
    /// `None`: suppress this record. `Some`: write it, with the number of records
    /// suppressed since the last one.
    pub(crate) fn admit(&self, now: Time) -> Option<u64> {
        let (admitted_at, suppressed) = &mut *self.0.lock();
        if admitted_at.is_some_and(|at| now.since(at) < Duration::from_secs(1)) {
            *suppressed += 1;
            return None;
        }
        *admitted_at = Some(now);
        Some(std::mem::take(suppressed))
    }
}
