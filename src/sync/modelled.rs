//! Locks and a clock for models. At each use of one, the checker may switch to another
//! thread. The checker is `loom` or `shuttle`.
//!
//! Time is a variable that the model advances. When it reaches a deadline, threads that
//! wait until that deadline are woken, so a timeout is a wake-up like any other. (In
//! neither checker does a wait time out by itself.)
//!
//! Not modelled: reference counts, which are those of `std`, because the memory model of
//! `Arc` is not ours to check; and `AtomicU64`, which is used only for numbers and counts.

use std::collections::VecDeque;
use std::io;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::core::Time;

#[cfg(fairpool_model = "loom")]
pub(crate) use loom as checker;
#[cfg(fairpool_model = "shuttle")]
pub(crate) use shuttle as checker;

use checker::sync::atomic::AtomicU64 as ModelledU64;

pub(crate) use checker::sync::atomic::AtomicBool;
pub(crate) use checker::thread::{JoinHandle, ThreadId};
pub(crate) use std::sync::atomic::{AtomicU64, Ordering};

/// The executor spawns no reaper and no workers: `loom` allows only five threads. Jobs stay in the
/// queues, where the model takes them.
pub(crate) const THREADS: bool = false;

/// Spawns a thread of the model: only a joiner, for a thread that a model gave the executor.
///
/// # Errors
///
/// None.
pub(crate) fn spawn<F>(_: String, body: F) -> io::Result<JoinHandle<()>>
where
    F: FnOnce() + Send + 'static,
{
    Ok(checker::thread::spawn(body))
}

/// The calling thread.
pub(crate) fn this_thread() -> ThreadId {
    checker::thread::current().id()
}

/// Nobody finds a thread that has ended: a model joins its threads itself.
pub(crate) fn is_finished(_: &JoinHandle<()>) -> bool {
    false
}

/// Does nothing: a model has no real time.
pub(crate) fn sleep(_: Duration) {}

/// `std::thread_local` for the checker's threads, which share one thread of the system.
/// `loom`'s own macro does not accept `const` blocks.
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
    /// Sleepers with a deadline. Some may have been woken since.
    timed: checker::sync::Mutex<Vec<(Instant, Arc<Sleeper>)>>,
    asleep: std::sync::atomic::AtomicUsize,
}

checker::lazy_static! {
    /// A new one for each execution of a model.
    static ref WORLD: World = World {
        origin: Instant::now(),
        now: ModelledU64::new(0),
        timed: checker::sync::Mutex::new(Vec::new()),
        asleep: std::sync::atomic::AtomicUsize::new(0),
    };
}

/// The time. It may be earlier than the time that another thread has set, just as in
/// reality a thread may be delayed after it has read the clock.
pub(crate) fn instant() -> Instant {
    WORLD.origin + Duration::from_nanos(WORLD.now.load(Ordering::Acquire))
}

/// The clock that ticks. In a model it is exact.
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

    pub(crate) fn lag() -> Duration {
        Duration::ZERO
    }
}

/// Advances the time, and wakes sleepers whose deadline has come.
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
            sleeper.parker.wake();
        }
    }
}

/// How many threads wait for a condition. A thread that was woken counts until it runs.
pub(crate) fn asleep() -> usize {
    WORLD.asleep.load(Ordering::Relaxed)
}

// ---- locks ----

const POISONED: &str = "a model has panicked";

/// A mutex with the interface of `parking_lot`'s.
#[derive(Default)]
pub(crate) struct Mutex<T>(checker::sync::Mutex<T>);

/// Its guard. The checker's guard is `None` only inside a wait.
pub(crate) struct MutexGuard<'a, T>(&'a Mutex<T>, Option<checker::sync::MutexGuard<'a, T>>);

impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Mutex<T> {
        Mutex(checker::sync::Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        MutexGuard(self, Some(self.0.lock().expect(POISONED)))
    }

    /// Never fails: who finds a lock taken waits for it, and that is what a model is about.
    pub(crate) fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        Some(self.lock())
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
    parker: Parker,
    /// The queue that it waits in. The queue's lock also protects `timed_out`.
    queue: SleeperQueue,
    timed_out: std::sync::atomic::AtomicBool,
}

/// Parks a thread until the thread that removes it from its queue wakes it.
#[cfg(fairpool_model = "loom")]
struct Parker(checker::thread::Thread);

#[cfg(fairpool_model = "loom")]
impl Parker {
    fn new() -> Parker {
        Parker(checker::thread::current())
    }

    /// Unlocks and parks. That is one step for `loom`, which switches threads when a lock
    /// is taken, but not when it is released.
    fn park(&self, queue: LockedQueue<'_>, unlock: impl FnOnce()) {
        drop(queue);
        unlock();
        checker::thread::park();
    }

    fn wake(&self) {
        self.0.unpark();
    }
}

/// The same for `shuttle`. It has to be a condition variable, because `shuttle` often
/// wakes parked threads without a reason, and also switches threads when a lock is
/// released.
#[cfg(fairpool_model = "shuttle")]
struct Parker(checker::sync::Condvar);

#[cfg(fairpool_model = "shuttle")]
impl Parker {
    fn new() -> Parker {
        Parker(checker::sync::Condvar::new())
    }

    /// Unlocks and parks. No wake-up is lost in between, because a thread that wakes this
    /// one needs the queue's lock first.
    fn park(&self, queue: LockedQueue<'_>, unlock: impl FnOnce()) {
        unlock();
        drop(self.0.wait(queue).expect(POISONED));
    }

    fn wake(&self) {
        self.0.notify_one();
    }
}

/// A condition variable with the interface of `parking_lot`'s. It wakes threads in the
/// order in which they came, and never without a reason.
pub(crate) struct Condvar {
    sleepers: SleeperQueue,
}

impl Condvar {
    pub(crate) fn new() -> Condvar {
        Condvar { sleepers: SleeperQueue::default() }
    }

    pub(crate) fn notify_one(&self) {
        if let Some(sleeper) = self.sleepers.lock().expect(POISONED).pop_front() {
            sleeper.parker.wake();
        }
    }

    pub(crate) fn notify_all(&self) {
        let mut sleepers = self.sleepers.lock().expect(POISONED);
        sleepers.drain(..).for_each(|sleeper| sleeper.parker.wake());
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
            // Under the lock that `advance` takes, so that the deadline is not missed.
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
            parker: Parker::new(),
            queue: Arc::clone(&self.sleepers),
            timed_out: std::sync::atomic::AtomicBool::new(false),
        })
    }

    /// Sleeps until woken. Returns whether the deadline ended the sleep.
    fn sleep<T>(&self, guard: &mut MutexGuard<'_, T>, sleeper: Arc<Sleeper>) -> bool {
        let mut queue = self.sleepers.lock().expect(POISONED);
        if !sleeper.timed_out.load(Ordering::Relaxed) {
            queue.push_back(Arc::clone(&sleeper));
            WORLD.asleep.fetch_add(1, Ordering::Relaxed);
            sleeper.parker.park(queue, || drop(guard.1.take()));
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
