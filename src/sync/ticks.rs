//! The cheapest clock that the platform has.

pub(crate) use platform::Ticks;

/// `CLOCK_MONOTONIC_COARSE` is the time of the kernel's last tick. Reading it takes two
/// loads from memory, whereas the exact clock also reads the processor's counter.
#[cfg(any(target_os = "linux", target_os = "android"))]
mod platform {
    use std::time::Duration;

    use rustix::time::{ClockId, clock_getres, clock_gettime};

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

        /// How far this clock is behind at most: one tick, and another if the kernel is late.
        pub(crate) fn lag() -> Duration {
            let tick = clock_getres(ClockId::MonotonicCoarse);
            2 * Duration::new(tick.tv_sec as u64, tick.tv_nsec as u32)
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

/// Other systems have only the exact clock. It is cut to ticks, so that every pool behaves
/// alike.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
mod platform {
    use std::time::{Duration, Instant};

    use crate::core::Time;

    /// A tick, in nanoseconds.
    const TICK: u64 = 4_000_000;

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
            let Time(now) = Time::START.after(self.origin.elapsed());
            Time(now - now % TICK)
        }

        /// How far this clock is behind at most.
        pub(crate) fn lag() -> Duration {
            Duration::from_nanos(TICK)
        }
    }
}
