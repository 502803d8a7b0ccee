//! Which uses of a connection are timed.
//!
//! Reading the exact clock costs as much as a get and a return. So of the uses that
//! begin within [`SAMPLE_EVERY`] only the first is timed, and it stands for those that
//! follow (`docs/decisions/0010-times.md`).

use std::time::Duration;

use crate::core::Time;

/// At most one use per connection and interval is timed.
const SAMPLE_EVERY: Duration = Duration::from_millis(4);

/// A use that is still not over this long after the interval is always recorded.
const LONG_USE: Duration = Duration::from_millis(10);

/// The sampling state of one connection.
#[derive(Default)]
pub(crate) struct UseSampler {
    /// When the last timed use began.
    began: Time,
    /// A use that begins at or after this instant is timed.
    sample_from: Time,
    /// A return at or after this instant is recorded; `START` while the use is timed.
    record_from: Time,
    /// How many uses are recorded.
    recorded: u64,
}

impl UseSampler {
    /// Whether a use that begins now is to be timed.
    #[inline]
    pub(crate) fn is_due(&self, start: Time) -> bool {
        start >= self.sample_from
    }

    /// A timed use begins. `every_use`: the next one is timed too.
    pub(crate) fn begin(&mut self, start: Time, exact: Time, every_use: bool) {
        self.began = exact;
        self.record_from = Time::START;
        self.sample_from = if every_use { Time::START } else { start.after(SAMPLE_EVERY) };
    }

    /// Whether the return at this instant is to be recorded.
    #[inline]
    pub(crate) fn records(&self, now: Time) -> bool {
        now >= self.record_from
    }

    /// A recorded use ends, the `uses`-th of this connection. Returns how long it took,
    /// and for how many uses it stands.
    pub(crate) fn end(
        &mut self,
        recently: Time,
        exact: impl FnOnce() -> Time,
        uses: u64,
    ) -> (Duration, u64) {
        let timed = self.record_from == Time::START;
        let now = if timed { exact() } else { recently };
        // A use that was not timed began within `SAMPLE_EVERY` of the last timed one.
        let began = if timed { self.began } else { self.began.after(SAMPLE_EVERY / 2) };
        self.record_from = self.sample_from.after(LONG_USE);
        let duration = now.since(began);
        // A short use stands for the untimed ones before it. A long one is always
        // recorded, and stands for itself.
        let times = if duration < LONG_USE { uses - self.recorded } else { 1 };
        self.recorded += times;
        (duration, times)
    }
}
