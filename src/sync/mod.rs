//! Locks, condition variables, threads, the clock and the process. No other module names
//! those of the system, so that `runtime` can run under a model checker.
//!
//! A pool runs on `real`. In tests built with `--cfg fairpool_model`, `modelled` replaces
//! it. A second flag, `--cfg fairpool_model="loom"` or `"shuttle"`, names the checker.
//! `scripts/models` sets both.

use std::time::{Duration, Instant};

use crate::core::Time;

#[cfg(all(test, fairpool_model))]
mod modelled;
#[cfg(not(all(test, fairpool_model)))]
mod real;
#[cfg(not(all(test, fairpool_model)))]
mod ticks;

#[cfg(all(test, fairpool_model))]
pub(crate) use modelled::*;
#[cfg(not(all(test, fairpool_model)))]
pub(crate) use real::*;

/// A lock that models do not check. It is held only for a moment, and no thread waits for
/// anything else meanwhile.
pub(crate) use parking_lot::Mutex as PlainMutex;
/// Atomics that models do not check.
pub(crate) use std::sync::atomic::{
    AtomicBool as PlainBool, AtomicU64 as PlainU64, Ordering as PlainOrdering,
};
pub(crate) use std::sync::{Arc, Weak};
pub(crate) use std::thread::JoinHandle;

/// Waits until the value is `ready`, or until the deadline (`None`: without a limit).
pub(crate) fn wait_until<T>(
    condvar: &Condvar,
    guard: &mut MutexGuard<'_, T>,
    deadline: Option<Instant>,
    ready: impl Fn(&T) -> bool,
) {
    while !ready(guard) {
        match deadline {
            None => condvar.wait(guard),
            Some(at) => {
                if condvar.wait_until(guard, at).timed_out() {
                    break;
                }
            }
        }
    }
}

/// The process in which something was made. A child made by `fork` has a copy of its
/// memory, but none of its other threads: nobody answers there, and a lock that another
/// thread held stays locked for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Process(u32);

impl Process {
    pub(crate) fn current() -> Process {
        Process(std::process::id())
    }

    pub(crate) fn id(self) -> u32 {
        self.0
    }

    /// Whether this is called in another process. A system call, of some 100 ns.
    pub(crate) fn is_another(self) -> bool {
        self != Process::current()
    }
}

impl Default for Process {
    fn default() -> Process {
        Process::current()
    }
}

/// The process of a pool, as the pool's fast paths need it: they ask for it only once in
/// each tick of the coarse clock.
pub(crate) struct Home {
    pub(crate) process: Process,
    /// The tick in which the fast paths need not ask; or [`SHUT`](Home::SHUT) and a number.
    open: PlainU64,
    /// How many threads sleep, or are about to sleep, until the pool's lock is free.
    blocked: PlainU64,
    blocks: PlainU64,
}

impl Home {
    /// As a time, 292 years away.
    const SHUT: u64 = 1 << 63;

    /// The coarse clock of Linux ticks no more often than this. Other systems' has no ticks.
    const TICK: u64 = 1_000_000;

    pub(crate) fn new() -> Home {
        Home {
            process: Process::current(),
            open: PlainU64::new(Home::SHUT),
            blocked: PlainU64::new(0),
            blocks: PlainU64::new(0),
        }
    }

    /// Whether this is called in another process.
    pub(crate) fn is_left(&self) -> bool {
        self.process.is_another()
    }

    /// Whether the fast paths need not ask at this time of the coarse clock.
    #[inline]
    pub(crate) fn is_open(&self, recently: Time) -> bool {
        recently.0.wrapping_sub(self.open.load(PlainOrdering::Relaxed)) < Home::TICK
    }

    /// The fast paths need not ask again in this tick, unless a thread is blocked.
    pub(crate) fn open(&self, recently: Time) {
        use PlainOrdering::{Relaxed, SeqCst};
        let before = self.open.load(SeqCst);
        if self.blocked.load(SeqCst) == 0 {
            // Fails if a thread is blocked since: then `open` is another.
            let _ = self.open.compare_exchange(before, recently.0, SeqCst, Relaxed);
        }
    }

    /// The calling thread is about to sleep until the pool's lock is free. Until the return
    /// value is dropped the fast paths ask each time: who unlocks a lock for which others
    /// sleep takes a lock of the whole process, and in a child that one may be locked for
    /// ever.
    pub(crate) fn block(&self) -> Blocked<'_> {
        use PlainOrdering::SeqCst;
        self.blocked.fetch_add(1, SeqCst);
        // A new number each time, so that `open` notices it.
        let number = self.blocks.fetch_add(1, SeqCst) % Home::SHUT;
        self.open.store(Home::SHUT | number, SeqCst);
        Blocked(&self.blocked)
    }
}

/// See [`Home::block`].
#[must_use]
pub(crate) struct Blocked<'a>(&'a PlainU64);

impl Drop for Blocked<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, PlainOrdering::SeqCst);
    }
}

/// The pool's clock. It is monotonic and starts with the pool.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    origin: Instant,
    ticks: Ticks,
}

impl Clock {
    pub(crate) fn start() -> Clock {
        Clock { origin: instant(), ticks: Ticks::start() }
    }

    #[inline]
    pub(crate) fn now(&self) -> Time {
        let span = instant().duration_since(self.origin);
        // Wraps after 584 years.
        Time(
            span.as_secs().wrapping_mul(1_000_000_000).wrapping_add(u64::from(span.subsec_nanos())),
        )
    }

    /// The time of the clock's last tick: mostly one or two ticks (of 1 to 10 ms on
    /// Linux) before now, and never after. For each get and return, where the exact clock
    /// would cost too much.
    #[inline]
    pub(crate) fn recently(&self) -> Time {
        self.ticks.now()
    }

    /// An instant as a time of this clock. One before the pool's start becomes
    /// [`Time::START`], one in the far future [`Time::NEVER`].
    pub(crate) fn time_of(&self, at: Instant) -> Time {
        Time::START.after(at.saturating_duration_since(self.origin))
    }

    /// A time of this clock as an instant. `None`: the system cannot represent it.
    pub(crate) fn instant_of(&self, at: Time) -> Option<Instant> {
        if at == Time::NEVER {
            return None;
        }
        self.origin.checked_add(Duration::from_nanos(at.0))
    }
}
