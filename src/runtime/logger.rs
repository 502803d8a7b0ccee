//! Writes log records, and catches panics of user code.

use std::fmt;
use std::panic::{self, AssertUnwindSafe};
use std::time::Duration;

use log::kv::{self, Key, Source, Value, VisitSource};
use log::{Level, Record};

use crate::core::Time;
use crate::sync::{Arc, PlainMutex};
use crate::types::text_of_panic;

/// Writes log records of one pool, and calls user code so that its panics are logged
/// instead of spreading. Never used under the pool's lock.
pub(crate) struct Logger {
    pool: Arc<str>,
}

impl Logger {
    pub(crate) fn new(pool: Arc<str>) -> Logger {
        Logger { pool }
    }

    /// Writes a record with key-values, to which the pool's name is added. A logger is
    /// user code: if it panics, the record is lost and nothing else.
    pub(crate) fn log(
        &self,
        level: Level,
        key_values: &[(&str, Value<'_>)],
        message: fmt::Arguments<'_>,
    ) {
        if level > log::STATIC_MAX_LEVEL || level > log::max_level() {
            return;
        }
        let pool = &*self.pool;
        let key_values = KeyValues { pool, rest: key_values };
        let write = || {
            let mut record = Record::builder();
            record.target("fairpool").module_path_static(Some("fairpool"));
            record.level(level).key_values(&key_values);
            log::logger().log(&record.args(format_args!("pool '{pool}': {message}")).build());
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

struct KeyValues<'a> {
    pool: &'a str,
    rest: &'a [(&'a str, Value<'a>)],
}

impl Source for KeyValues<'_> {
    fn visit<'kvs>(&'kvs self, visitor: &mut dyn VisitSource<'kvs>) -> Result<(), kv::Error> {
        visitor.visit_pair(Key::from_str("pool"), Value::from(self.pool))?;
        self.rest.visit(visitor)
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
