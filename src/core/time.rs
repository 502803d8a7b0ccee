//! Points in time. The core never reads a clock: time is an argument.
//!
//! Two clocks tell the time of a step. The exact one is right. The coarse one, of the fast
//! paths, is behind by up to [`Policy::clock_lag`](super::Policy::clock_lag).
//!
//! **The rule: nothing is early, and what is late is late by a bounded time.** No time limit
//! ends and no threshold is reached before its time, and no span is reported longer than it
//! was. Therefore:
//!
//! - A time that is kept, from which something is counted later (when a connection was lent,
//!   or became idle), is at or after the true one. The fast paths add the lag to what they
//!   read.
//! - A time at which something is compared is at or before the true one. So the fast paths
//!   compare what they read.
//!
//! What counts from a step of a fast path is late by up to the lag, and if a fast path looks
//! at it, by up to twice the lag. The reaper's thread may be late too: it is not scheduled at
//! once, and sleeps for a millisecond at least.

use std::time::Duration;

/// Nanoseconds since the pool's clock was started.
///
/// Eight bytes that compare in one instruction; 584 years until they wrap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Time(pub(crate) u64);

impl Time {
    pub(crate) const START: Time = Time(0);
    /// Later than everything; stands for "at no time".
    pub(crate) const NEVER: Time = Time(u64::MAX);

    /// This long after; `NEVER` if that overflows.
    pub(crate) fn after(self, span: Duration) -> Time {
        match u64::try_from(span.as_nanos()) {
            Ok(nanos) => Time(self.0.saturating_add(nanos)),
            Err(_) => Time::NEVER,
        }
    }

    /// [`after`](Time::after) for a limit that may be unset.
    pub(crate) fn after_opt(self, span: Option<Duration>) -> Time {
        span.map_or(Time::NEVER, |span| self.after(span))
    }

    /// [`after`](Time::after) for a span in nanoseconds.
    #[inline]
    pub(super) fn after_nanos(self, nanos: u64) -> Time {
        Time(self.0.saturating_add(nanos))
    }

    /// How long ago `earlier` was; zero if it is later.
    pub(crate) fn since(self, earlier: Time) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_saturate_instead_of_wrapping() {
        assert_eq!(Time(5).after(Duration::MAX), Time::NEVER);
        assert_eq!(Time(5).after(Duration::from_nanos(u64::MAX)), Time::NEVER);
        assert_eq!(Time::NEVER.after(Duration::from_secs(1)), Time::NEVER);
        assert_eq!(Time(5).since(Time(9)), Duration::ZERO);
        assert_eq!(Time(9).since(Time(5)), Duration::from_nanos(4));
    }
}
