//! Who asks for a connection: recorded at every checkout, so it has to be cheap.
//! A caller is copied into its slot, name and all: no reference count, and the
//! name is still there when the thread is not.

use std::cell::Cell;
use std::fmt;
use std::panic::Location;
use std::str;
use std::thread;
use std::time::Duration;

use crate::sync::{AtomicU64, Ordering};

const NAME_LEN: usize = 23;

/// A thread, by its name as far as that fits.
#[derive(Clone, Copy)]
struct Thread {
    len: u8,
    name: [u8; NAME_LEN],
}

impl Thread {
    fn current() -> Thread {
        thread_local! {
            static CURRENT: Cell<Option<Thread>> = const { Cell::new(None) };
        }
        CURRENT.get().unwrap_or_else(|| {
            let thread = Thread::identify();
            CURRENT.set(Some(thread));
            thread
        })
    }

    #[cold]
    fn identify() -> Thread {
        static UNNAMED: AtomicU64 = AtomicU64::new(1);
        match thread::current().name() {
            Some(name) => Thread::named(name),
            None => Thread::named(&format!("unnamed-{}", UNNAMED.fetch_add(1, Ordering::Relaxed))),
        }
    }

    fn named(name: &str) -> Thread {
        let end = name.floor_char_boundary(NAME_LEN);
        let mut bytes = [0; NAME_LEN];
        bytes[..end].copy_from_slice(&name.as_bytes()[..end]);
        Thread { len: end as u8, name: bytes }
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

    pub(crate) fn into_holder(self, held_for: Duration) -> Holder {
        Holder { caller: self, held_for }
    }
}

/// Someone who holds a connection.
#[derive(Clone)]
pub struct Holder {
    caller: Caller,
    held_for: Duration,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_names_are_cut_between_characters() {
        let name = "a-thread-with-a-näme-ünd-more";
        let thread = Thread::named(name);
        assert!(name.starts_with(thread.name()));
        assert!((20..=NAME_LEN).contains(&thread.name().len()), "{}", thread.name());
        assert_eq!(Thread::named(&"ü".repeat(30)).name(), "ü".repeat(11));
        assert_eq!(Thread::named("").name(), "");
    }
}
