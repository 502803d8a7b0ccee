//! Numbers and names of threads. A number is unique in the process, and a name can be read
//! after its thread has ended. Every checkout reads them, so it must be cheap: one
//! thread-local read. Each thread has one record with its number and name.

use std::cell::Cell;
use std::collections::VecDeque;
use std::str;
use std::thread;

use crate::sync::{AtomicU64, Ordering, PlainMutex, PlainMutexGuard, per_thread};

const NAME_LEN: usize = 23;

/// The number of no thread.
pub(crate) const NONE: u64 = 0;

/// How many ended threads keep their records because connections that they gave to other
/// threads may still be out.
const REMEMBERED: usize = 1024;

/// How many records of other ended threads are kept before reuse, so that pending events
/// and notifications can still name these threads.
const RECENT: usize = 256;

per_thread! {
    static CURRENT: Cell<Option<Thread>> = const { Cell::new(None) };
    /// The number of this thread; zero until its first get.
    static NUMBER: Cell<u64> = const { Cell::new(0) };
    /// How many guards this thread got and has not dropped itself.
    static GOT: Cell<u64> = const { Cell::new(0) };
    /// How many of them it has used. Those that other threads used or dropped since still count
    /// here; the thread's record counts them too.
    static USED: Cell<u64> = const { Cell::new(0) };
    /// Releases the thread's record when the thread ends.
    static END: Cell<Option<End>> = const { Cell::new(None) };
}

/// Which thread uses a guard: the number of the thread that got it, and what is known since.
///
/// The pool does not notice when a guard is moved to another thread. So a guard that is not
/// used yet counts for no thread. Its first use tells: on the thread that got it, the guard
/// counts for that thread, until another thread uses or drops it.
///
/// Threads that share a guard may use it at once. A flag that is lost so is set again by the
/// next use.
pub(crate) struct User(AtomicU64);

/// Not used yet on the thread that got it.
const UNUSED: u64 = 1 << 63;
/// Used by another thread.
const MOVED: u64 = 1 << 62;
/// No thread got it. Not zero with flags: a thread has that number until its first get.
const NOBODY: u64 = u64::MAX;

impl User {
    /// No thread got the guard.
    pub(crate) fn none() -> User {
        User(AtomicU64::new(NOBODY))
    }

    /// This thread has got the guard.
    #[inline]
    pub(crate) fn get_here(&self) {
        GOT.with(|got| got.set(got.get() + 1));
        self.0.store(NUMBER.with(Cell::get) | UNUSED, Ordering::Relaxed);
    }

    /// A task has got the guard, while this thread polled it. It counts for no thread.
    pub(crate) fn become_none(&self) {
        self.drop_here();
        self.0.store(NOBODY, Ordering::Relaxed);
    }

    /// Whether this thread got the guard, has used it before, and no other has.
    #[inline]
    pub(crate) fn is_here(&self) -> bool {
        self.0.load(Ordering::Relaxed) == NUMBER.with(Cell::get)
    }

    /// Whether this thread got the guard, and none has used it.
    #[inline]
    pub(crate) fn is_unused_here(&self) -> bool {
        self.0.load(Ordering::Relaxed) == NUMBER.with(Cell::get) | UNUSED
    }

    /// The first use, if it is on the thread that got the guard. Returns whether it is.
    #[inline]
    pub(crate) fn begin_here(&self) -> bool {
        let begins = self.is_unused_here();
        if begins {
            USED.with(|used| used.set(used.get() + 1));
            self.0.store(NUMBER.with(Cell::get), Ordering::Relaxed);
        }
        begins
    }

    pub(crate) fn is_moved(&self) -> bool {
        self.0.load(Ordering::Relaxed) & MOVED != 0
    }

    /// The guard counts for no thread from now on. Returns for which it did so far.
    pub(crate) fn leave(&self) -> Left {
        let before = self.0.fetch_or(MOVED, Ordering::Relaxed);
        if before & MOVED != 0 {
            Left::Before
        } else if before & UNUSED != 0 {
            Left::Unused
        } else {
            Left::Used
        }
    }

    /// This thread drops the guard. Returns whether no other thread need know: it counts for
    /// none other.
    #[inline]
    pub(crate) fn drop_here(&self) -> bool {
        let user = self.0.load(Ordering::Relaxed);
        let here = NUMBER.with(Cell::get);
        if user == here {
            USED.with(|used| used.set(used.get() - 1));
        }
        let got_here = user & !(UNUSED | MOVED) == here;
        if got_here {
            GOT.with(|got| got.set(got.get() - 1));
        }
        got_here || user & (UNUSED | MOVED) != 0
    }
}

/// For which thread a guard counted that another thread uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Left {
    /// For none: another use came before.
    Before,
    /// For none: it was not used.
    Unused,
    /// For the thread that got it.
    Used,
}

/// Whether this thread holds connections, of any pool, that it has used.
pub(crate) fn holds_used() -> bool {
    let used = USED.with(Cell::get);
    used > 0 && CURRENT.with(Cell::get).is_none_or(|thread| used > thread.left())
}

/// The number and the name of a thread. It outlives its thread, and is reused for another
/// thread later.
struct Record {
    about: PlainMutex<About>,
}

#[derive(Clone, Copy)]
struct About {
    number: u64,
    name: Name,
    /// So many guards that the thread has used are used by others now, or were dropped there.
    left: u64,
}

/// The records of threads that have ended.
struct Spare {
    /// For reuse, the oldest first. The last [`RECENT`] are not reused yet.
    free: VecDeque<&'static Record>,
    /// Those whose connections may still be out, the oldest first.
    remembered: VecDeque<&'static Record>,
}

static SPARE: PlainMutex<Spare> =
    PlainMutex::new(Spare { free: VecDeque::new(), remembered: VecDeque::new() });

/// Locks what is held for a few instructions at most. `None`: that takes far too long, for
/// example in a child made by `fork` while another thread held the lock.
fn lock_soon<T>(lock: &PlainMutex<T>) -> Option<PlainMutexGuard<'_, T>> {
    for _ in 0..1000 {
        if let Some(guard) = lock.try_lock() {
            return Some(guard);
        }
        thread::yield_now();
    }
    None
}

/// Tasks are no threads: they move from one to another.
static TASK: Record = Record {
    about: PlainMutex::new(About {
        number: NONE,
        left: 0,
        name: Name { len: 4, bytes: *b"task\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0" },
    }),
};

impl Record {
    /// Reuses a record, or makes a new one.
    fn acquire(about: About) -> &'static Record {
        let free = lock_soon(&SPARE).and_then(|mut spare| {
            if spare.free.len() > RECENT { spare.free.pop_front() } else { None }
        });
        if let Some(record) = free
            && let Some(mut of_another) = lock_soon(&record.about)
        {
            *of_another = about;
            return record;
        }
        Box::leak(Box::new(Record { about: PlainMutex::new(about) }))
    }

    /// Makes the record of an ended thread available for reuse. `may_hold`: connections
    /// that the thread got may still be out.
    fn release(&'static self, may_hold: bool) {
        let Some(mut spare) = lock_soon(&SPARE) else { return };
        if !may_hold {
            return spare.free.push_back(self);
        }
        spare.remembered.push_back(self);
        if spare.remembered.len() > REMEMBERED {
            let oldest = spare.remembered.pop_front();
            spare.free.extend(oldest);
        }
    }
}

struct End(&'static Record);

impl Drop for End {
    fn drop(&mut self) {
        // In a model, the other thread-local values may be gone already.
        let _ = CURRENT.try_with(|current| current.set(None));
        let may_hold = GOT.try_with(|got| got.get() > 0);
        self.0.release(may_hold.unwrap_or(true));
    }
}

/// A thread: its unique number, and the record with its name.
#[derive(Clone, Copy)]
pub(crate) struct Thread {
    pub(super) number: u64,
    record: &'static Record,
}

impl Thread {
    #[inline]
    pub(crate) fn current() -> Thread {
        CURRENT.with(Cell::get).unwrap_or_else(Thread::identify)
    }

    pub(super) fn of_task() -> Thread {
        Thread { number: NONE, record: &TASK }
    }

    #[cold]
    fn identify() -> Thread {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let number = match NUMBER.with(Cell::get) {
            0 => NEXT.fetch_add(1, Ordering::Relaxed),
            // A destructor of a thread-local value runs after the record was released.
            number => number,
        };
        let name = match thread::current().name() {
            Some(name) => Name::of(name),
            None => Name::of(&format!("unnamed-{number}")),
        };
        let record = Record::acquire(About { number, name, left: 0 });
        let thread = Thread { number, record };
        CURRENT.with(|current| current.set(Some(thread)));
        NUMBER.with(|own| own.set(number));
        if END.try_with(|end| end.set(Some(End(record)))).is_err() {
            record.release(true);
        }
        thread
    }

    /// A guard that this thread has used counts for it no more.
    pub(crate) fn guard_left(self) {
        let mut about = self.record.about.lock();
        if about.number == self.number {
            about.left += 1;
        }
    }

    fn left(self) -> u64 {
        let about = self.record.about.lock();
        if about.number == self.number { about.left } else { 0 }
    }

    /// The thread's name, or `ended-` and its number if its record was reused.
    pub(super) fn name(self) -> Name {
        let about = *self.record.about.lock();
        let is_alive = about.number == self.number;
        if is_alive { about.name } else { Name::of(&format!("ended-{}", self.number)) }
    }
}

/// The first bytes of a thread's name.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Name {
    len: u8,
    bytes: [u8; NAME_LEN],
}

impl Name {
    fn of(name: &str) -> Name {
        let fits = |&end: &usize| name.is_char_boundary(end);
        let end = (0..=NAME_LEN.min(name.len())).rev().find(fits).unwrap_or(0);
        let mut bytes = [0; NAME_LEN];
        bytes[..end].copy_from_slice(&name.as_bytes()[..end]);
        Name { len: end as u8, bytes }
    }

    pub(super) fn as_str(&self) -> &str {
        let bytes = &self.bytes[..usize::from(self.len)];
        str::from_utf8(bytes).expect("BUG: a name cut inside a character")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// This thread has no number yet, and may never get one if it only polls tasks.
    #[test]
    fn p9_a_guard_of_a_task_counts_for_no_thread() {
        let on_a_new_thread = || {
            let user = User::none();
            user.get_here();
            user.become_none();
            let counted = GOT.with(Cell::get);
            assert!(user.drop_here(), "nobody need know");
            (counted, GOT.with(Cell::get), USED.with(Cell::get))
        };
        let counted = thread::spawn(on_a_new_thread).join().expect("no count falls below zero");
        assert_eq!(counted, (0, 0, 0));
    }

    #[test]
    fn long_names_are_cut_between_characters() {
        let name = "a-thread-with-a-näme-ünd-more";
        let short = Name::of(name);
        assert!(name.starts_with(short.as_str()));
        assert!((20..=NAME_LEN).contains(&short.as_str().len()), "{}", short.as_str());
        assert_eq!(Name::of(&"ü".repeat(30)).as_str(), "ü".repeat(11));
        assert_eq!(Name::of("").as_str(), "");
    }
}
