//! Who asks for a connection: recorded at every checkout, so it has to be cheap.
//! A caller is copied into its slot, name and all: no reference count, and the
//! name is still there when the thread is not.

use std::cell::Cell;
use std::fmt;
use std::panic::Location;
use std::str;
use std::thread;
use std::time::Duration;

use crate::core::{Held, SelfWait, Who};
use crate::sync::{AtomicU64, Ordering, per_thread};

const NAME_LEN: usize = 23;

per_thread! {
    static CURRENT: Cell<Option<Thread>> = const { Cell::new(None) };
    /// The number of this thread; zero until it first asks for a connection.
    static NUMBER: Cell<u64> = const { Cell::new(0) };
    /// How many guards this thread got and has not dropped itself.
    static GUARDS: Cell<u32> = const { Cell::new(0) };
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

/// A thread, by a number of its own, and by its name as far as that fits.
#[derive(Clone, Copy)]
struct Thread {
    number: u64,
    len: u8,
    name: [u8; NAME_LEN],
}

impl Thread {
    fn current() -> Thread {
        CURRENT.with(Cell::get).unwrap_or_else(|| {
            let thread = Thread::identify();
            CURRENT.with(|current| current.set(Some(thread)));
            NUMBER.with(|number| number.set(thread.number));
            thread
        })
    }

    #[cold]
    fn identify() -> Thread {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        match thread::current().name() {
            Some(name) => Thread::named(number, name),
            None => Thread::named(number, &format!("unnamed-{number}")),
        }
    }

    fn named(number: u64, name: &str) -> Thread {
        let end = name.floor_char_boundary(NAME_LEN);
        let mut bytes = [0; NAME_LEN];
        bytes[..end].copy_from_slice(&name.as_bytes()[..end]);
        Thread { number, len: end as u8, name: bytes }
    }

    fn name(&self) -> &str {
        let bytes = &self.name[..usize::from(self.len)];
        str::from_utf8(bytes).expect("BUG: a name cut inside a character")
    }
}

/// The thread, place and purpose of a checkout.
#[derive(Clone, Copy)]
pub(crate) struct Caller {
    thread: Thread,
    location: &'static Location<'static>,
    label: Option<&'static str>,
}

impl Caller {
    #[inline]
    pub(crate) fn here(
        location: &'static Location<'static>,
        label: Option<&'static str>,
    ) -> Caller {
        Caller { thread: Thread::current(), location, label }
    }

    pub(crate) fn label(&self) -> Option<&'static str> {
        self.label
    }
}

impl Who for Caller {
    fn thread(&self) -> u64 {
        self.thread.number
    }
}

/// Someone who holds a connection.
#[derive(Clone)]
pub struct Holder {
    caller: Caller,
    held_for: Duration,
}

impl From<Held<Caller>> for Holder {
    fn from(held: Held<Caller>) -> Holder {
        Holder { caller: held.caller, held_for: held.held_for }
    }
}

impl Holder {
    /// The name of the thread that got the connection (its first 23 bytes);
    /// threads without a name are numbered. A guard that was moved to another
    /// thread is still listed under the one that got it.
    pub fn thread(&self) -> &str {
        self.caller.thread.name()
    }

    /// Where the connection was got.
    pub fn location(&self) -> &'static Location<'static> {
        self.caller.location
    }

    /// The label given with [`Request::label`](crate::Request::label).
    pub fn label(&self) -> Option<&'static str> {
        self.caller.label
    }

    /// For how long it has been held.
    pub fn held_for(&self) -> Duration {
        self.held_for
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "thread '{}' at {}", self.thread(), self.location())?;
        if let Some(label) = self.label() {
            write!(f, " ({label})")?;
        }
        write!(f, " for {:.1?}", self.held_for)
    }
}

impl fmt::Debug for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Holder")
            .field("thread", &self.thread())
            .field("location", self.location())
            .field("label", &self.label())
            .field("held_for", &self.held_for)
            .finish()
    }
}

/// A thread that holds a connection and waits for another one of the same pool.
#[derive(Clone)]
pub struct NestedGet {
    holder: Holder,
    waits: Caller,
}

impl From<SelfWait<Caller>> for NestedGet {
    fn from(wait: SelfWait<Caller>) -> NestedGet {
        NestedGet { holder: wait.held.into(), waits: wait.waits }
    }
}

impl NestedGet {
    /// The thread, and where it got the connection that it holds.
    pub fn holder(&self) -> &Holder {
        &self.holder
    }

    /// Where it waits for another.
    pub fn waits_at(&self) -> &'static Location<'static> {
        self.waits.location
    }
}

impl fmt::Display for NestedGet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} waits for another at {}", self.holder, self.waits.location)
    }
}

impl fmt::Debug for NestedGet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NestedGet")
            .field("holder", &self.holder)
            .field("waits_at", self.waits.location)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_names_are_cut_between_characters() {
        let name = "a-thread-with-a-näme-ünd-more";
        let thread = Thread::named(1, name);
        assert!(name.starts_with(thread.name()));
        assert!((20..=NAME_LEN).contains(&thread.name().len()), "{}", thread.name());
        assert_eq!(Thread::named(1, &"ü".repeat(30)).name(), "ü".repeat(11));
        assert_eq!(Thread::named(1, "").name(), "");
    }
}
