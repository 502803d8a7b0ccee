//! What happened in one pool or several.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use fairpool::event::{Event, Scene};

use crate::piece::Pieces;
use crate::tracker::{Tracker, nanos};

const DEFAULT_LIMIT: usize = 400_000;

/// What happened in one pool or several, ready to be written to a file.
///
/// A [`Recorder`](crate::Recorder) returns one. To build one event by event, use
/// [`add`](Trace::add) with the events of
/// [`Pool::subscribe`](fairpool::Pool::subscribe).
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
    /// The first time that was seen: other times are relative to it.
    origin: Option<Instant>,
    /// The latest time that was seen.
    pub(crate) end: i64,
    pub(crate) pools: Vec<Tracker>,
    pub(crate) pieces: Pieces,
}

impl Trace {
    /// An empty trace that keeps the last 400,000 slices and marks: at most about 80 MB,
    /// and a file of about 100 MB. A checkout adds three of them, or four if the caller
    /// had to wait.
    pub fn new() -> Trace {
        Trace::with_limit(DEFAULT_LIMIT)
    }

    /// An empty trace that keeps the last `slices` slices and marks, at about 200 bytes
    /// each.
    pub fn with_limit(slices: usize) -> Trace {
        Trace { origin: None, end: 0, pools: Vec::new(), pieces: Pieces::new(slices) }
    }

    /// Adds an event. Add those of one pool in the order in which its subscription
    /// delivers them.
    pub fn add(&mut self, event: &Event) {
        let at = self.time(event.at);
        let pool = self.pool(&event.pool);
        self.pools[pool].add(event, at, &mut self.pieces);
    }

    /// How many slices and marks were dropped because of the limit.
    pub fn forgotten(&self) -> u64 {
        self.pieces.forgotten
    }

    /// Starts a pool with its state right before the first event.
    pub(crate) fn begin(&mut self, scene: Scene) {
        let at = self.time(scene.at);
        let pool = self.pool(&scene.pool);
        self.pools[pool].begin(scene, at);
    }

    /// Extends what has not ended up to this time.
    pub(crate) fn extend_to(&mut self, at: Instant) {
        self.time(at);
    }

    /// Nanoseconds since the origin; negative for earlier times.
    fn time(&mut self, at: Instant) -> i64 {
        let origin = *self.origin.get_or_insert(at);
        let time = match at.checked_duration_since(origin) {
            Some(since) => nanos(since),
            None => -nanos(origin - at),
        };
        self.end = self.end.max(time);
        time
    }

    /// Pools are told apart by the address of their name: two may have equal names.
    fn pool(&mut self, name: &Arc<str>) -> usize {
        let known = self.pools.iter().position(|pool| Arc::ptr_eq(pool.name(), name));
        known.unwrap_or_else(|| {
            self.pools.push(Tracker::new(Arc::clone(name), self.pools.len()));
            self.pools.len() - 1
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
            .field("pools", &self.pools.iter().map(Tracker::name).collect::<Vec<_>>())
            .field("slices", &self.pieces.kept.len())
            .field("forgotten", &self.forgotten())
            .finish_non_exhaustive()
    }
}
