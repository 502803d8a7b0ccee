//! Numbers and names of threads. A number is unique in the process, and a name can be read
//! after its thread has ended. Every checkout reads them, so it must be cheap: one
//! thread-local read. Each thread has one record with its number and name.

use std::cell::Cell;
use std::collections::VecDeque;
use std::str;
use std::thread;

use crate::sync::{AtomicU64, Ordering, PlainMutex, PlainMutexGuard, per_thread};

const NAME_LEN: usize = 23;

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
    static GUARDS: Cell<u32> = const { Cell::new(0) };
    /// Releases the thread's record when the thread ends.
    static END: Cell<Option<End>> = const { Cell::new(None) };
}

/// Counts a guard that this thread got. Returns the thread's number.
#[inline]
pub(crate) fn guard_taken() -> u64 {
    GUARDS.with(|guards| guards.set(guards.get().saturating_add(1)));
    NUMBER.with(Cell::get)
}

/// Counts a guard that this thread drops and thread `holder` got.
#[inline]
pub(crate) fn guard_dropped(holder: u64) {
    if is_current(holder) {
        GUARDS.with(|guards| guards.set(guards.get().saturating_sub(1)));
    }
}

/// Whether the calling thread has this number.
#[inline]
pub(crate) fn is_current(thread: u64) -> bool {
    NUMBER.with(Cell::get) == thread
}

/// Whether this thread may hold connections of any pool. `false`: it has dropped all that
/// it got. `true` may be wrong, because guards that other threads dropped still count.
pub(crate) fn may_hold() -> bool {
    GUARDS.with(Cell::get) > 0
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
        let may_hold = GUARDS.try_with(|guards| guards.get() > 0);
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
        let record = Record::acquire(About { number, name });
        let thread = Thread { number, record };
        CURRENT.with(|current| current.set(Some(thread)));
        NUMBER.with(|own| own.set(number));
        if END.try_with(|end| end.set(Some(End(record)))).is_err() {
            record.release(true);
        }
        thread
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
