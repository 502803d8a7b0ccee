//! Who asks for a connection: recorded at every checkout, so it has to be cheap.
//! A caller is three words and a label, copied into its slot; what is known of
//! its thread is in a record that is made once per thread.

use std::cell::Cell;
use std::collections::VecDeque;
use std::fmt;
use std::panic::Location;
use std::str;
use std::thread;
use std::time::Duration;

use crate::core::{Held, NestedWait, ThreadId, Waiting};
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
struct Thread {
    number: u64,
    record: &'static Record,
}

impl Thread {
    #[inline]
    fn current() -> Thread {
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
    fn name(self) -> Name {
        let about = *self.record.about.lock();
        match about.number == self.number {
            true => about.name,
            false => Name::of(&format!("ended-{}", self.number)),
        }
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
        let end = name.floor_char_boundary(NAME_LEN);
        let mut bytes = [0; NAME_LEN];
        bytes[..end].copy_from_slice(&name.as_bytes()[..end]);
        Name { len: end as u8, bytes }
    }

    fn as_str(&self) -> &str {
        let bytes = &self.bytes[..usize::from(self.len)];
        str::from_utf8(bytes).expect("BUG: a name cut inside a character")
    }
}

/// The thread, place and purpose of a checkout.
#[derive(Clone, Copy)]
pub(crate) struct Caller {
    thread: Thread,
    location: &'static Location<'static>,
    label: Option<&'static str>,
    priority: u8,
}

impl Caller {
    #[inline]
    pub(crate) fn here(
        location: &'static Location<'static>,
        label: Option<&'static str>,
        priority: u8,
    ) -> Caller {
        Caller { thread: Thread::current(), location, label, priority }
    }

    pub(crate) fn label(&self) -> Option<&'static str> {
        self.label
    }

    pub(crate) fn priority(&self) -> u8 {
        self.priority
    }
}

impl ThreadId for Caller {
    fn thread_id(&self) -> u64 {
        self.thread.number
    }
}

/// Who asked for a connection, and where.
#[derive(Clone, PartialEq, Eq)]
pub struct CallSite {
    /// Read when the report is made: the thread may end before it is shown.
    thread: Name,
    /// Names need not be unique; this is.
    number: u64,
    location: &'static Location<'static>,
    label: Option<&'static str>,
    priority: u8,
}

impl From<Caller> for CallSite {
    fn from(caller: Caller) -> CallSite {
        let Caller { thread, location, label, priority } = caller;
        CallSite { thread: thread.name(), number: thread.number, location, label, priority }
    }
}

impl CallSite {
    /// The name of the asking thread (its first 23 bytes); threads without a name
    /// are numbered.
    pub fn thread(&self) -> &str {
        self.thread.as_str()
    }

    /// The number of the asking thread: unique in the process, unlike its name.
    pub fn thread_id(&self) -> u64 {
        self.number
    }

    /// Where it asked.
    pub fn location(&self) -> &'static Location<'static> {
        self.location
    }

    /// The label given with [`Request::label`](crate::Request::label).
    pub fn label(&self) -> Option<&'static str> {
        self.label
    }

    /// The priority with which it asked.
    pub fn priority(&self) -> u8 {
        self.priority
    }
}

impl fmt::Display for CallSite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "thread '{}' at {}", self.thread(), self.location())?;
        match self.label() {
            Some(label) => write!(f, " ({label})"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for CallSite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallSite")
            .field("thread", &self.thread())
            .field("location", self.location())
            .field("label", &self.label())
            .field("priority", &self.priority())
            .finish()
    }
}

/// Someone who holds a connection.
#[derive(Clone)]
pub struct Holder {
    connection: u64,
    call_site: CallSite,
    held_for: Duration,
}

impl From<Held<Caller>> for Holder {
    fn from(held: Held<Caller>) -> Holder {
        let Held { connection_id, caller, held_for } = held;
        Holder { connection: connection_id, call_site: caller.into(), held_for }
    }
}

impl Holder {
    /// The number of the connection.
    pub fn connection_id(&self) -> u64 {
        self.connection
    }

    /// Who got it, and where.
    pub fn call_site(&self) -> &CallSite {
        &self.call_site
    }

    /// The name of the thread that got the connection (its first 23 bytes);
    /// threads without a name are numbered. A guard that was moved to another
    /// thread is still listed under the one that got it.
    pub fn thread(&self) -> &str {
        self.call_site.thread()
    }

    /// Where the connection was got.
    pub fn location(&self) -> &'static Location<'static> {
        self.call_site.location()
    }

    /// The label given with [`Request::label`](crate::Request::label).
    pub fn label(&self) -> Option<&'static str> {
        self.call_site.label()
    }

    /// The priority with which it was got.
    pub fn priority(&self) -> u8 {
        self.call_site.priority()
    }

    /// For how long it has been held, to a tick or two of the system's clock:
    /// on Linux mostly up to 8 ms too long.
    pub fn held_for(&self) -> Duration {
        self.held_for
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} for {:.1?}", self.call_site, self.held_for)
    }
}

impl fmt::Debug for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Holder")
            .field("connection_id", &self.connection)
            .field("call_site", &self.call_site)
            .field("held_for", &self.held_for)
            .finish()
    }
}

/// A caller that waits for a connection.
#[derive(Clone, Debug)]
pub struct Waiter {
    id: u64,
    call_site: CallSite,
    waited: Duration,
}

impl From<Waiting<Caller>> for Waiter {
    fn from(waiting: Waiting<Caller>) -> Waiter {
        let Waiting { get_id, caller, waited, .. } = waiting;
        Waiter { id: get_id, call_site: caller.into(), waited }
    }
}

impl Waiter {
    /// The number of its get: unique in the pool, and larger for later ones. Events
    /// of the same get carry the same number.
    pub fn get_id(&self) -> u64 {
        self.id
    }

    /// Who waits, and where.
    pub fn call_site(&self) -> &CallSite {
        &self.call_site
    }

    /// The name of the waiting thread.
    pub fn thread(&self) -> &str {
        self.call_site.thread()
    }

    /// Where it waits.
    pub fn location(&self) -> &'static Location<'static> {
        self.call_site.location()
    }

    /// The label given with [`Request::label`](crate::Request::label).
    pub fn label(&self) -> Option<&'static str> {
        self.call_site.label()
    }

    /// Its priority.
    pub fn priority(&self) -> u8 {
        self.call_site.priority()
    }

    /// How long it has waited.
    pub fn waited(&self) -> Duration {
        self.waited
    }
}

impl fmt::Display for Waiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} for {:.1?}", self.call_site, self.waited)
    }
}

/// A thread that holds a connection and waits for another one of the same pool.
#[derive(Clone)]
pub struct NestedGet {
    holder: Holder,
    waits: Caller,
}

impl From<NestedWait<Caller>> for NestedGet {
    fn from(wait: NestedWait<Caller>) -> NestedGet {
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
        let short = Name::of(name);
        assert!(name.starts_with(short.as_str()));
        assert!((20..=NAME_LEN).contains(&short.as_str().len()), "{}", short.as_str());
        assert_eq!(Name::of(&"ü".repeat(30)).as_str(), "ü".repeat(11));
        assert_eq!(Name::of("").as_str(), "");
    }
}
