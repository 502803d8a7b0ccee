//! Threads as the pool knows them: by a number that no two share, and by name also after
//! they have ended. Read at every checkout, so it has to be cheap: one thread-local
//! read. What is known of a thread is in a record that is made once per thread.

use std::cell::Cell;
use std::collections::VecDeque;
use std::str;
use std::thread;

use crate::sync::{AtomicU64, Ordering, PlainMutex, per_thread};

const NAME_LEN: usize = 23;

/// So many threads are still known by name after they have ended with
/// connections that they had passed on to others.
const REMEMBERED: usize = 1024;

/// And so many others: events and notices of what they did may still be on their way
/// to whoever listens.
const LATELY: usize = 256;

per_thread! {
    static CURRENT: Cell<Option<Thread>> = const { Cell::new(None) };
    /// The number of this thread; zero until it first asks for a connection.
    static NUMBER: Cell<u64> = const { Cell::new(0) };
    /// How many guards this thread got and has not dropped itself.
    static GUARDS: Cell<u32> = const { Cell::new(0) };
    /// Gives the thread's record back when the thread ends.
    static END: Cell<Option<End>> = const { Cell::new(None) };
}

/// A guard was given to this thread. Returns the thread's number.
#[inline]
pub(crate) fn guard_taken() -> u64 {
    GUARDS.with(|guards| guards.set(guards.get().saturating_add(1)));
    NUMBER.with(Cell::get)
}

/// This thread drops a guard that thread `home` got.
#[inline]
pub(crate) fn guard_dropped(home: u64) {
    if is_current(home) {
        GUARDS.with(|guards| guards.set(guards.get().saturating_sub(1)));
    }
}

/// Whether this is the thread of that number.
#[inline]
pub(crate) fn is_current(thread: u64) -> bool {
    NUMBER.with(Cell::get) == thread
}

/// Whether this thread may hold connections, of whatever pool. It does not if
/// it has dropped all that it got; those that others dropped are not known here.
pub(crate) fn may_hold() -> bool {
    GUARDS.with(Cell::get) > 0
}

/// What is known of a thread. It outlives the thread, to be read whenever
/// somebody wants to; then it serves another thread.
struct Record {
    about: PlainMutex<About>,
}

#[derive(Clone, Copy)]
struct About {
    number: u64,
    name: Name,
}

/// Records without a thread.
struct Spare {
    /// The oldest first; the last of them are not used again yet.
    free: VecDeque<&'static Record>,
    /// Of threads that have ended, the oldest first; connections that they got
    /// may still be out.
    remembered: VecDeque<&'static Record>,
}

static SPARE: PlainMutex<Spare> =
    PlainMutex::new(Spare { free: VecDeque::new(), remembered: VecDeque::new() });

impl Record {
    fn taken(about: About) -> &'static Record {
        let free = {
            let mut spare = SPARE.lock();
            if spare.free.len() > LATELY { spare.free.pop_front() } else { None }
        };
        match free {
            Some(record) => {
                *record.about.lock() = about;
                record
            }
            None => Box::leak(Box::new(Record { about: PlainMutex::new(about) })),
        }
    }

    /// Its thread has ended.
    fn give_back(&'static self, holds: bool) {
        let mut spare = SPARE.lock();
        if !holds {
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
        // Under a model the others may have gone before this one.
        let _ = CURRENT.try_with(|current| current.set(None));
        let holds = GUARDS.try_with(|guards| guards.get() > 0);
        self.0.give_back(holds.unwrap_or(true));
    }
}

/// A thread, by a number of its own and by where its name is.
#[derive(Clone, Copy)]
pub(super) struct Thread {
    pub(super) number: u64,
    record: &'static Record,
}

impl Thread {
    #[inline]
    pub(super) fn current() -> Thread {
        CURRENT.with(Cell::get).unwrap_or_else(Thread::identify)
    }

    #[cold]
    fn identify() -> Thread {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let number = match NUMBER.with(Cell::get) {
            0 => NEXT.fetch_add(1, Ordering::Relaxed),
            // In the last destructors of a thread that had given its record back.
            number => number,
        };
        let name = match thread::current().name() {
            Some(name) => Name::of(name),
            None => Name::of(&format!("unnamed-{number}")),
        };
        let record = Record::taken(About { number, name });
        let thread = Thread { number, record };
        CURRENT.with(|current| current.set(Some(thread)));
        NUMBER.with(|own| own.set(number));
        if END.try_with(|end| end.set(Some(End(record)))).is_err() {
            record.give_back(true);
        }
        thread
    }

    /// Its name, unless it has ended so long ago that its record serves another.
    pub(super) fn name(self) -> Name {
        let about = *self.record.about.lock();
        let is_alive = about.number == self.number;
        if is_alive { about.name } else { Name::of(&format!("ended-{}", self.number)) }
    }
}

/// A thread's name as far as it fits.
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
