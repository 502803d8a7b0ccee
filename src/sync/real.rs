//! Locks, threads and the clock of the machine.

use std::io;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

pub(crate) use parking_lot::{Condvar, Mutex, MutexGuard};
/// The cheapest clock that the platform has.
pub(crate) use platform::Ticks;
pub(crate) use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
pub(crate) use std::thread_local as per_thread;

/// Whether the pool may spawn threads. A model runs their work itself.
pub(crate) const THREADS: bool = true;

/// The time.
#[inline]
pub(crate) fn instant() -> Instant {
    Instant::now()
}

/// Sleeps. Only for retries and for the span of a diagnosis.
pub(crate) fn sleep(span: Duration) {
    thread::sleep(span);
}

/// Spawns a thread.
///
/// # Errors
///
/// The operating system's, when it has no more threads to give.
pub(crate) fn spawn<F>(name: String, body: F) -> io::Result<JoinHandle<()>>
where
    F: FnOnce() + Send + 'static,
{
    thread::Builder::new().name(name).spawn(body)
}

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
    }
}
