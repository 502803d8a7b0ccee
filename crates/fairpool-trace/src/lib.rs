//! What happened in pools, as a picture: a file for <https://ui.perfetto.dev> and
//! `chrome://tracing`. (Feature `trace`.)
//!
//! Each pool is a process in it, with these lanes:
//!
//! - One for each thread: when it waited for a connection, and when it held one, with
//!   the place where it asked. A thread whose holds overlap without one lying inside
//!   the other has a second lane.
//! - One for each place of a connection in the pool: opening, idle, busy, checking and
//!   so on, with the reason where there is one.
//! - One, named "pool", for what concerns all: health, outages, events that were lost.
//! - Curves of how many callers wait, and how many connections are held.
//!
//! An arrow leads from the return of a connection to the caller that waited for it.
//!
//! ```
//! # use fairpool_testing::StubManager;
//! use std::time::Duration;
//!
//! use fairpool::{Pool, trace};
//!
//! let pool = Pool::builder().name("orders").max_size(1).build(StubManager)?;
//! let recorder = trace::Recorder::start(&[pool.downgrade()])?;
//! std::thread::scope(|scope| {
//!     for _ in 0..4 {
//!         scope.spawn(|| drop(pool.get()));
//!     }
//! });
//! let trace = recorder.stop();
//! let mut file = Vec::new(); // or a `File`
//! trace.write(&mut file)?;
//! # let text = String::from_utf8(file)?;
//! # for part in ["orders", "hold connection", ".rs:"] {
//! #     assert!(text.contains(part), "{text}");
//! # }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What it costs
//!
//! A trace keeps a bounded number of slices (see [`Trace::new`]), and forgets the
//! oldest when there are more; what has not ended is never forgotten. While somebody
//! records, a checkout costs the pool about three notes under its lock.

use std::collections::VecDeque;
use std::fmt;
use std::time::{Duration, Instant};

use crate::caller::CallSite;
use crate::event::{ConnectionState, Event, Reason};
use crate::sync::Arc;

mod book;
mod file;
mod recorder;

use book::Book;
pub(crate) use book::Scene;
pub use recorder::{Recorder, record};

/// A trace keeps this many slices unless told otherwise.
const USUAL_LIMIT: usize = 400_000;

/// What happened in one pool or several, ready to be written.
///
/// [`Recorder`] makes one of what happens; [`add`](Trace::add) takes events one by one,
/// from [`Pool::subscribe`](crate::Pool::subscribe).
///
/// # Examples
///
/// ```
/// # use fairpool_testing::StubManager;
/// use fairpool_trace::Trace;
///
/// let pool = fairpool::Pool::builder().max_size(1).build(StubManager)?;
/// let events = pool.subscribe(1000)?;
/// drop(pool.get()?);
///
/// let mut trace = Trace::new();
/// trace.add(&events.recv()?);
/// trace.write(std::io::sink())?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Trace {
    /// Times are counted from here: the first that was seen.
    origin: Option<Instant>,
    /// The latest time of all.
    end: i64,
    books: Vec<Book>,
    pieces: Pieces,
}

impl Trace {
    /// An empty trace that keeps the last 400 000 slices and marks: some 80 MB at the
    /// most, and a file of about 100 MB. A checkout leaves three of them, or four if
    /// it had to wait.
    pub fn new() -> Trace {
        Trace::with_limit(USUAL_LIMIT)
    }

    /// An empty trace that keeps so many slices and marks, at some 200 bytes each.
    pub fn with_limit(slices: usize) -> Trace {
        Trace { origin: None, end: 0, books: Vec::new(), pieces: Pieces::new(slices) }
    }

    /// Adds an event. Those of one pool must come in the order in which its
    /// subscription delivers them.
    pub fn add(&mut self, event: &Event) {
        let at = self.time(event.at);
        let pool = self.pool(&event.pool);
        self.books[pool].add(event, at, &mut self.pieces);
    }

    /// How many slices and marks were forgotten, because there were more than it keeps.
    pub fn forgotten(&self) -> u64 {
        self.pieces.forgotten
    }

    /// Begins with how things are.
    fn begin(&mut self, scene: Scene) {
        let at = self.time(scene.at);
        let pool = self.pool(&scene.pool);
        self.books[pool].begin(scene, at);
    }

    /// What has not ended lasts until here.
    fn extend_to(&mut self, at: Instant) {
        self.time(at);
    }

    /// Nanoseconds since the origin; there may be earlier times than that.
    fn time(&mut self, at: Instant) -> i64 {
        let origin = *self.origin.get_or_insert(at);
        let time = match at.checked_duration_since(origin) {
            Some(since) => nanos(since),
            None => -nanos(origin - at),
        };
        self.end = self.end.max(time);
        time
    }

    /// Two pools may have one name, but never the same one.
    fn pool(&mut self, name: &Arc<str>) -> usize {
        let known = self.books.iter().position(|book| Arc::ptr_eq(book.name(), name));
        known.unwrap_or_else(|| {
            self.books.push(Book::new(Arc::clone(name), self.books.len()));
            self.books.len() - 1
        })
    }
}

impl Default for Trace {
    fn default() -> Trace {
        Trace::new()
    }
}

impl fmt::Debug for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trace")
            .field("pools", &self.books.iter().map(Book::name).collect::<Vec<_>>())
            .field("slices", &self.pieces.kept.len())
            .field("forgotten", &self.forgotten())
            .finish_non_exhaustive()
    }
}

fn nanos(span: Duration) -> i64 {
    i64::try_from(span.as_nanos()).unwrap_or(i64::MAX)
}

/// Where something is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Lane {
    Pool,
    Thread(u64),
    Place(u32),
}

/// A slice, or a mark if it begins and ends at once and is one.
#[derive(Clone, Debug)]
struct Piece {
    pool: usize,
    lane: Lane,
    begin: i64,
    end: i64,
    /// For so long it had lasted before the trace began.
    before: Duration,
    how: How,
    what: What,
}

/// What is known of a slice's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    Ended,
    /// It lasts longer than the trace.
    Open,
    /// Its end was among the events that were lost.
    Unseen,
}

#[derive(Clone, Debug)]
enum What {
    Wait { get: u64, origin: CallSite, result: &'static str },
    Hold { connection: u64, origin: CallSite, waited: Duration, woken_by: Option<u64> },
    State { state: ConnectionState, connection: Option<u64>, reason: Option<Reason> },
    Mark(Box<Mark>),
}

#[derive(Clone, Debug)]
struct Mark {
    name: String,
    /// Whose thread it is about.
    origin: Option<CallSite>,
    args: serde_json::Value,
}

/// What has ended, in the order in which it did. Numbers stay what they are when the
/// oldest are forgotten.
struct Pieces {
    kept: VecDeque<Piece>,
    limit: usize,
    forgotten: u64,
    /// The end of the last one that was forgotten.
    whole_from: i64,
}

impl Pieces {
    fn new(limit: usize) -> Pieces {
        Pieces { kept: VecDeque::new(), limit, forgotten: 0, whole_from: i64::MIN }
    }

    /// Returns its number.
    fn push(&mut self, piece: Piece) -> u64 {
        self.kept.push_back(piece);
        while self.kept.len() > self.limit {
            let oldest = self.kept.pop_front();
            self.whole_from = oldest.map_or(self.whole_from, |oldest| oldest.end);
            self.forgotten += 1;
        }
        self.forgotten + self.kept.len() as u64 - 1
    }
}
