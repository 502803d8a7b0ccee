//! The cheapest clock that the platform has.

pub(crate) use platform::Ticks;

/// `CLOCK_MONOTONIC_COARSE` is the time of the kernel's last tick. Reading it takes two
/// loads from memory, whereas the exact clock also reads the processor's counter.
#[cfg(any(target_os = "linux", target_os = "android"))]
mod platform {
    use rustix::time::{ClockId, clock_gettime};

    use crate::core::Time;

    #[derive(Clone, Copy, Debug)]
    pub(crate) struct Ticks {
        origin: u64,
    }

    impl Ticks {
        pub(crate) fn start() -> Ticks {
            Ticks { origin: read(ClockId::Monotonic) }
        }

        #[inline]
        pub(crate) fn now(&self) -> Time {
            Time(read(ClockId::MonotonicCoarse).saturating_sub(self.origin))
        }

        /// Whether both times, of which the first is now, belong to one tick.
        #[inline]
        pub(crate) fn are_same(now: u64, earlier: u64) -> bool {
            now == earlier
        }
    }

    /// Nanoseconds of a clock. Both clocks count from the same start as `Instant`, so that
    /// times of all three can be compared.
    #[inline]
    fn read(clock: ClockId) -> u64 {
        let now = clock_gettime(clock);
        // Neither part is negative. The sum wraps after 584 years.
        (now.tv_sec as u64).wrapping_mul(1_000_000_000).wrapping_add(now.tv_nsec as u64)
    }
}

/// Other systems use the exact clock.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
mod platform {
    use std::time::Instant;

    use crate::core::Time;

    #[derive(Clone, Copy, Debug)]
    pub(crate) struct Ticks {
        origin: Instant,
    }

    impl Ticks {
        pub(crate) fn start() -> Ticks {
            Ticks { origin: Instant::now() }
        }

        #[inline]
        pub(crate) fn now(&self) -> Time {
            Time::START.after(self.origin.elapsed())
        }

        /// Whether both times, of which the first is now, belong to one tick. This clock has
        /// none, so a millisecond counts as one.
        #[inline]
        pub(crate) fn are_same(now: u64, earlier: u64) -> bool {
            now.wrapping_sub(earlier) < 1_000_000
        }
    }
}
