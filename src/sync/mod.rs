//! Locks, condition variables, threads, the clock and the process. No other module names
//! those of the system, so that `runtime` can run under a model checker.
//!
//! A pool runs on `real`. In tests built with `--cfg fairpool_model`, `modelled` replaces
//! it. A second flag, `--cfg fairpool_model="loom"` or `"shuttle"`, names the checker.
//! `scripts/models` sets both.

use std::task::Waker;
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
pub(crate) use parking_lot::{Mutex as PlainMutex, MutexGuard as PlainMutexGuard};
/// Atomics that models do not check.
pub(crate) use std::sync::atomic::{
    AtomicBool as PlainBool, AtomicU64 as PlainU64, Ordering as PlainOrdering,
};
pub(crate) use std::sync::{Arc, Weak};

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

/// Where one waiter finds its answer, and an idle worker its command.
///
/// A waiter's cell is filled under the pool's lock, together with the decision. So a waiter that
/// gives up under the pool's lock knows for certain whether it was answered before. Reading the
/// answer needs only the cell's own lock.
pub(crate) struct WaitCell<A> {
    answer: Mutex<Option<A>>,
    sleeper: Sleeper,
}

/// Who waits for an answer.
enum Sleeper {
    Thread(Condvar),
    Task(Mutex<Option<Waker>>),
}

impl<A> WaitCell<A> {
    /// For a thread.
    pub(crate) fn new() -> WaitCell<A> {
        WaitCell { answer: Mutex::new(None), sleeper: Sleeper::Thread(Condvar::new()) }
    }

    pub(crate) fn of_task() -> WaitCell<A> {
        WaitCell { answer: Mutex::new(None), sleeper: Sleeper::Task(Mutex::new(None)) }
    }

    pub(crate) fn is_of_task(&self) -> bool {
        matches!(self.sleeper, Sleeper::Task(_))
    }

    /// Puts an answer in; a waiter's, under the pool's lock. Returns the answer that was not taken
    /// yet, if there is one.
    pub(crate) fn fill(&self, answer: A) -> Option<A> {
        self.answer.lock().replace(answer)
    }

    /// Wakes the waiter, after the pool's lock was released. The wake-up cannot be
    /// lost: the waiter checks the cell under the cell's lock before it sleeps, and the
    /// cell was filled before this call. Returns the waker of a task, which is foreign code.
    #[must_use = "a waker that is not called is a lost wake-up"]
    pub(crate) fn wake(&self) -> Option<Waker> {
        match &self.sleeper {
            Sleeper::Thread(filled) => {
                filled.notify_one();
                None
            }
            // A task leaves its waker before it looks for an answer.
            Sleeper::Task(waker) => waker.lock().take(),
        }
    }

    /// Waits for an answer, on a thread. `None`: the deadline came first.
    pub(crate) fn wait_until(&self, deadline: Option<Instant>) -> Option<A> {
        let Sleeper::Thread(filled) = &self.sleeper else {
            unreachable!("BUG: a task sleeps like a thread")
        };
        let mut answer = self.answer.lock();
        wait_until(filled, &mut answer, deadline, Option::is_some);
        answer.take()
    }

    /// Takes the answer for a task, or leaves its waker to be called when there is one.
    pub(crate) fn poll(&self, waker: &Waker) -> Option<A> {
        if let Sleeper::Task(of_task) = &self.sleeper {
            let waker = waker.clone();
            // Dropped outside the lock: it is foreign code.
            let before = of_task.lock().replace(waker);
            drop(before);
        }
        self.answer.lock().take()
    }

    /// Whether there is an answer.
    pub(crate) fn is_filled(&self) -> bool {
        self.answer.lock().is_some()
    }
}

/// The process in which something was made. A child made by `fork` has a copy of its
/// memory, but none of its other threads. So nothing answers there, and a lock that another
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

/// The process of a pool. The fast paths check it only once in each tick of the coarse
/// clock.
pub(crate) struct PoolProcess {
    /// The process that built the pool.
    pub(crate) built_in: Process,
    /// The last tick in which a fast path has checked the process.
    checked: PlainU64,
}

impl PoolProcess {
    pub(crate) fn new() -> PoolProcess {
        PoolProcess { built_in: Process::current(), checked: PlainU64::new(Time::NEVER.0) }
    }

    /// Whether this process is a child, made by `fork`, of the one that built the pool.
    pub(crate) fn is_forked(&self) -> bool {
        self.built_in.is_another()
    }

    /// Whether a fast path has checked the process in this tick.
    #[inline]
    pub(crate) fn is_checked(&self, tick: Time) -> bool {
        tick.0 == self.checked.load(PlainOrdering::Relaxed)
    }

    /// The fast paths need not check again in this tick.
    pub(crate) fn set_checked(&self, tick: Time) {
        self.checked.store(tick.0, PlainOrdering::Relaxed);
    }
}

/// Tries a few times, for some microseconds at most if there is a processor for each thread.
pub(crate) fn spin<T>(mut attempt: impl FnMut() -> Option<T>) -> Option<T> {
    const SPINS: u32 = 3;
    const YIELDS: u32 = 7;
    (1..=SPINS + YIELDS).find_map(|round| {
        if round <= SPINS {
            (0..1 << round).for_each(|_| std::hint::spin_loop());
        } else {
            std::thread::yield_now();
        }
        attempt()
    })
}

/// The pool's clock. It is monotonic and starts with the pool.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    origin: Instant,
    ticks: Ticks,
    lag: Duration,
}

impl Clock {
    pub(crate) fn start() -> Clock {
        let (origin, ticks) = (instant(), Ticks::start());
        // The ticks count from a little later.
        let lag = Ticks::lag().saturating_add(instant().duration_since(origin));
        Clock { origin, ticks, lag }
    }

    /// How far [`recently`](Clock::recently) is behind at most, unless the kernel's own clock
    /// is late by more than a tick.
    pub(crate) fn lag(&self) -> Duration {
        self.lag
    }

    #[inline]
    pub(crate) fn now(&self) -> Time {
        let span = instant().duration_since(self.origin);
        // Wraps after 584 years.
        Time(
            span.as_secs().wrapping_mul(1_000_000_000).wrapping_add(u64::from(span.subsec_nanos())),
        )
    }

    /// The time of the clock's last tick (every 1 to 10 ms on Linux): before now by at most
    /// [`lag`](Clock::lag), and never after. For each get and return, where the exact clock
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
