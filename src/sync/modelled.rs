//! Locks and a clock for models: each use of one is a point at which the checker
//! may let another thread go on. The checker is `loom` or `shuttle`.
//!
//! Time is a variable that a model advances. A wait with a deadline is a wait
//! whose thread is also woken when that variable reaches the deadline, so that a
//! timeout is a wake-up like any other. (In neither checker does a wait time out
//! by itself.)
//!
//! Not modelled: reference counts, which are those of `std` (the memory model of
//! `Arc` is not ours to check), and `AtomicU64`, which only numbers things.

use std::collections::VecDeque;
use std::io;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::core::Time;

#[cfg(fairpool_model = "loom")]
pub(crate) use loom as checker;
#[cfg(fairpool_model = "shuttle")]
pub(crate) use shuttle as checker;

use checker::sync::atomic::AtomicU64 as ModelledU64;

pub(crate) use checker::sync::atomic::{AtomicBool, AtomicUsize};
pub(crate) use std::sync::atomic::{AtomicU64, Ordering};

/// Jobs stay in the backlog, where a model takes them, and the reaper is not
/// started: `loom` has room for five threads, and channels would block either
/// checker.
pub(crate) const THREADS: bool = false;

/// No thread is ever started.
///
/// # Errors
///
/// Always.
pub(crate) fn spawn<F>(_: String, _: F) -> io::Result<JoinHandle<()>>
where
    F: FnOnce() + Send + 'static,
{
    Err(io::ErrorKind::Unsupported.into())
}

/// Nothing sleeps in a model.
pub(crate) fn sleep(_: Duration) {}

/// `std`'s, for threads of the checker: those share one of the system's. `loom`'s
/// own macro knows no `const` blocks.
macro_rules! per_thread {
    ($($(#[$about:meta])* static $name:ident: $Type:ty = const { $value:expr };)*) => {
        crate::sync::checker::thread_local! { $($(#[$about])* static $name: $Type = $value;)* }
    };
}
pub(crate) use per_thread;

// ---- time ----

struct World {
    origin: Instant,
    /// Nanoseconds since the origin.
    now: ModelledU64,
    /// Those who wait with a deadline; some of them may have been woken since.
    timed: checker::sync::Mutex<Vec<(Instant, Arc<Sleeper>)>>,
    asleep: std::sync::atomic::AtomicUsize,
}

checker::lazy_static! {
    /// Made anew for each execution.
    static ref WORLD: World = World {
        origin: Instant::now(),
        now: ModelledU64::new(0),
        timed: checker::sync::Mutex::new(Vec::new()),
        asleep: std::sync::atomic::AtomicUsize::new(0),
    };
}

/// The time. It may be an earlier one than another thread has set, as it may
/// be for a thread that is held up between looking at the clock and acting.
pub(crate) fn instant() -> Instant {
    WORLD.origin + Duration::from_nanos(WORLD.now.load(Ordering::Acquire))
}

/// Here a clock that ticks is as exact as any.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ticks {
    origin: Instant,
}

impl Ticks {
    pub(crate) fn start() -> Ticks {
        Ticks { origin: instant() }
    }

    pub(crate) fn now(&self) -> Time {
        Time::START.after(instant().duration_since(self.origin))
    }
}

/// Lets time pass, and wakes those whose deadline has come.
pub(crate) fn advance(span: Duration) {
    let due: Vec<Arc<Sleeper>> = {
        let mut timed = WORLD.timed.lock().expect(POISONED);
        WORLD.now.fetch_add(span.as_nanos() as u64, Ordering::AcqRel);
        let now = instant();
        let (due, later) = timed.drain(..).partition(|(deadline, _)| *deadline <= now);
        *timed = later;
        due.into_iter().map(|(_, sleeper): (Instant, _)| sleeper).collect()
    };
    for sleeper in due {
        let mut queue = sleeper.queue.lock().expect(POISONED);
        sleeper.timed_out.store(true, Ordering::Relaxed);
        if let Some(at) = queue.iter().position(|other| Arc::ptr_eq(other, &sleeper)) {
            queue.remove(at);
            sleeper.bed.wake();
        }
    }
}

/// How many threads wait for a condition, those included who were woken and have
/// not noticed.
pub(crate) fn asleep() -> usize {
    WORLD.asleep.load(Ordering::Relaxed)
}

// ---- locks ----

const POISONED: &str = "a model has panicked";

/// With the face of `parking_lot`'s.
#[derive(Default)]
pub(crate) struct Mutex<T>(checker::sync::Mutex<T>);

/// `None` only inside a wait.
pub(crate) struct MutexGuard<'a, T>(&'a Mutex<T>, Option<checker::sync::MutexGuard<'a, T>>);

impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Mutex<T> {
        Mutex(checker::sync::Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        MutexGuard(self, Some(self.0.lock().expect(POISONED)))
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.1.as_ref().expect("BUG: used inside a wait")
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.1.as_mut().expect("BUG: used inside a wait")
    }
}

type SleeperQueue = Arc<checker::sync::Mutex<VecDeque<Arc<Sleeper>>>>;
type LockedQueue<'a> = checker::sync::MutexGuard<'a, VecDeque<Arc<Sleeper>>>;

/// One wait of one thread.
struct Sleeper {
    bed: Bed,
    /// Where it queues. Its lock also covers what follows.
    queue: SleeperQueue,
    timed_out: std::sync::atomic::AtomicBool,
}

/// Where a thread sleeps until somebody who took it out of its queue wakes it.
#[cfg(fairpool_model = "loom")]
struct Bed(checker::thread::Thread);

#[cfg(fairpool_model = "loom")]
impl Bed {
    fn new() -> Bed {
        Bed(checker::thread::current())
    }

    /// One step for `loom`, which switches threads at a lock, but not where one
    /// is given back.
    fn lie_down(&self, queue: LockedQueue<'_>, unlock: impl FnOnce()) {
        drop(queue);
        unlock();
        checker::thread::park();
    }

    fn wake(&self) {
        self.0.unpark();
    }
}

/// `shuttle` lets a thread that is parked wake up without a reason, and tries
/// that all the time; and it also switches threads where a lock is given back.
#[cfg(fairpool_model = "shuttle")]
struct Bed(checker::sync::Condvar);

#[cfg(fairpool_model = "shuttle")]
impl Bed {
    fn new() -> Bed {
        Bed(checker::sync::Condvar::new())
    }

    /// Whoever is to wake it needs the queue's lock first.
    fn lie_down(&self, queue: LockedQueue<'_>, unlock: impl FnOnce()) {
        unlock();
        drop(self.0.wait(queue).expect(POISONED));
    }

    fn wake(&self) {
        self.0.notify_one();
    }
}

/// With the face of `parking_lot`'s: wakes in the order of arrival, and nobody
/// without a reason.
pub(crate) struct Condvar {
    sleepers: SleeperQueue,
}

impl Condvar {
    pub(crate) fn new() -> Condvar {
        Condvar { sleepers: SleeperQueue::default() }
    }

    pub(crate) fn notify_one(&self) {
        if let Some(sleeper) = self.sleepers.lock().expect(POISONED).pop_front() {
            sleeper.bed.wake();
        }
    }

    pub(crate) fn notify_all(&self) {
        let mut sleepers = self.sleepers.lock().expect(POISONED);
        sleepers.drain(..).for_each(|sleeper| sleeper.bed.wake());
    }

    pub(crate) fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
        self.sleep(guard, self.sleeper());
    }

    pub(crate) fn wait_until<T>(
        &self,
        guard: &mut MutexGuard<'_, T>,
        deadline: Instant,
    ) -> WaitTimeoutResult {
        let sleeper = self.sleeper();
        {
            // Also under the lock of `advance`, so the deadline is not missed.
            let mut timed = WORLD.timed.lock().expect(POISONED);
            if deadline <= instant() {
                return WaitTimeoutResult(true);
            }
            timed.push((deadline, Arc::clone(&sleeper)));
        }
        WaitTimeoutResult(self.sleep(guard, sleeper))
    }

    fn sleeper(&self) -> Arc<Sleeper> {
        Arc::new(Sleeper {
            bed: Bed::new(),
            queue: Arc::clone(&self.sleepers),
            timed_out: std::sync::atomic::AtomicBool::new(false),
        })
    }

    /// Whether time ended the sleep.
    fn sleep<T>(&self, guard: &mut MutexGuard<'_, T>, sleeper: Arc<Sleeper>) -> bool {
        let mut queue = self.sleepers.lock().expect(POISONED);
        if !sleeper.timed_out.load(Ordering::Relaxed) {
            queue.push_back(Arc::clone(&sleeper));
            WORLD.asleep.fetch_add(1, Ordering::Relaxed);
            sleeper.bed.lie_down(queue, || drop(guard.1.take()));
            WORLD.asleep.fetch_sub(1, Ordering::Relaxed);
            guard.1 = Some(guard.0.0.lock().expect(POISONED));
        }
        sleeper.timed_out.load(Ordering::Relaxed)
    }
}

pub(crate) struct WaitTimeoutResult(bool);

impl WaitTimeoutResult {
    pub(crate) fn timed_out(&self) -> bool {
        self.0
    }
}
