//! How long a connection waits for another one's lock.

use std::time::Duration;

use rusqlite::{Connection, Error};

/// Calls `work`, whose waits for a lock take at most `wait`.
///
/// A connection that waits less long by itself stays as it is. That includes one with a busy
/// handler, for which SQLite reports a timeout of zero: a timeout would remove the handler.
pub(crate) fn waiting_at_most<R>(
    conn: &Connection,
    wait: Duration,
    work: impl FnOnce() -> R,
) -> Result<R, Error> {
    let before = busy_timeout(conn)?;
    if before <= wait {
        return Ok(work());
    }
    conn.busy_timeout(whole_milliseconds(wait))?;
    let result = work();
    conn.busy_timeout(before)?;
    Ok(result)
}

pub(crate) fn busy_timeout(conn: &Connection) -> Result<Duration, Error> {
    let millis: i64 = conn.query_row("PRAGMA busy_timeout", [], |row| row.get(0))?;
    Ok(Duration::from_millis(millis.unsigned_abs()))
}

/// Rounds up to SQLite's unit and caps at its `int`, beyond which `rusqlite` panics.
pub(crate) fn whole_milliseconds(limit: Duration) -> Duration {
    let up = limit.as_nanos().div_ceil(1_000_000);
    let capped = up.min(i32::MAX as u128);
    Duration::from_millis(capped as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_duration_is_a_legal_busy_timeout() {
        let millis = |limit| whole_milliseconds(limit).as_millis();
        assert_eq!(millis(Duration::ZERO), 0);
        assert_eq!(millis(Duration::from_nanos(1)), 1);
        assert_eq!(millis(Duration::MAX), i32::MAX as u128);
    }

    #[test]
    fn a_wait_is_shortened_and_never_prolonged() {
        let conn = Connection::open_in_memory().unwrap();
        for (own, seen) in [(5000, 100), (100, 100), (7, 7), (0, 0)] {
            conn.busy_timeout(Duration::from_millis(own)).unwrap();
            let wait = Duration::from_millis(100);
            let during = waiting_at_most(&conn, wait, || busy_timeout(&conn)).unwrap().unwrap();
            assert_eq!(during, Duration::from_millis(seen));
            assert_eq!(busy_timeout(&conn).unwrap(), Duration::from_millis(own));
        }
    }
}
