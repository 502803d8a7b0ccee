//! What a pool says of itself.

use std::time::Duration;

use super::pool::Pool;
use super::weak::WeakPool;
use crate::observe::diagnosis::{self, Diagnosis};
use crate::observe::reading::{self, Reading};
use crate::observe::snapshot::{self, Snapshot};
use crate::types::{Error, Health, Holder, ManageConnection, Scene, Stats, Subscription, Waiter};

impl<M: ManageConnection> Pool<M> {
    /// Numbers of connections.
    pub fn state(&self) -> State {
        let gauges = self.shared.gauges();
        State {
            connections: gauges.idle + gauges.busy + gauges.checking,
            idle_connections: gauges.idle,
        }
    }

    /// Everything that the pool counts, as of one instant.
    pub fn stats(&self) -> Stats {
        self.shared.stats()
    }

    /// Everything that the pool knows about itself, as of one instant: its numbers,
    /// who holds connections and who waits, what the driver is busy with, its health.
    ///
    /// # Blocking
    ///
    /// Holds the pool's lock for as long as it takes to copy the lists: some 100 ns
    /// for each holder and waiter.
    pub fn snapshot(&self) -> Snapshot {
        snapshot::take(&self.shared)
    }

    /// Who holds connections, longest first; part of [`snapshot`](Pool::snapshot).
    ///
    /// # Examples
    ///
    /// ```
    /// # use fairpool_testing::StubManager;
    /// let pool = fairpool::Pool::new(StubManager)?;
    /// let (conn, line) = (pool.request().label("report").get()?, line!());
    /// let holders = pool.holders();
    /// assert_eq!(holders[0].location().line(), line);
    /// assert_eq!(holders[0].label(), Some("report"));
    /// # drop(conn);
    /// # Ok::<(), fairpool::Error>(())
    /// ```
    pub fn holders(&self) -> Vec<Holder> {
        self.shared.holders()
    }

    /// Who waits for a connection, in the order in which they will be served; part of
    /// [`snapshot`](Pool::snapshot).
    pub fn waiters(&self) -> Vec<Waiter> {
        snapshot::waiters(&self.shared)
    }

    /// How the pool is: healthy, or not and by which figures.
    ///
    /// While callers wait, the pool's resident thread looks ten times a second; this
    /// looks now. Either tells of a change of level: the log, the
    /// [`HandleEvent`](crate::HandleEvent) and subscribers.
    ///
    /// # Examples
    ///
    /// ```
    /// # use fairpool_testing::StubManager;
    /// let pool = fairpool::Pool::new(StubManager)?;
    /// assert_eq!(pool.health().to_string(), "healthy: 0 waiting");
    /// # Ok::<(), fairpool::Error>(())
    /// ```
    pub fn health(&self) -> Health {
        self.shared.health()
    }

    /// A view of the pool that does not keep it alive.
    pub fn downgrade(&self) -> WeakPool {
        WeakPool::new(&self.shared)
    }

    /// Everything that happens from now on, in the order in which it happens.
    ///
    /// Events come up to some milliseconds late. Leaks, deadlocks, outages, abandoned calls
    /// and changes of health come when the [`HandleEvent`](crate::HandleEvent) is told of
    /// them, one after the other; [`Event::at`](crate::types::event::Event::at) says when they happened.
    ///
    /// There is room for `capacity` events, from the start (some 400 bytes for each). A
    /// subscriber that does not read them in time loses the newest, which
    /// [`Event::lost_before`](crate::types::event::Event::lost_before) and [`Stats::events_lost`] count, and never slows the
    /// pool down. The channel ends when the pool has, and the subscription when the
    /// receiver is dropped.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`](crate::ErrorKind::Config) if `capacity` is zero or more than four million.
    ///
    /// # Examples
    ///
    /// ```
    /// # use fairpool_testing::StubManager;
    /// use fairpool::event::EventKind;
    ///
    /// let pool = fairpool::Pool::builder().max_size(1).build(StubManager)?;
    /// let events = pool.subscribe(1000)?;
    /// drop(pool.get()?);
    /// let first = events.recv().unwrap();
    /// assert!(matches!(first.kind, EventKind::CheckedOut { .. }), "{first:?}");
    /// # Ok::<(), fairpool::Error>(())
    /// ```
    pub fn subscribe(&self, capacity: usize) -> Result<Subscription, Error> {
        self.shared.subscribe(capacity)
    }

    /// As [`subscribe`](Pool::subscribe), with where everything was right before the
    /// first event: for those who draw a picture of what happens.
    ///
    /// # Errors
    ///
    /// As [`subscribe`](Pool::subscribe).
    ///
    /// # Examples
    ///
    /// ```
    /// # use fairpool_testing::StubManager;
    /// let pool = fairpool::Pool::builder().max_size(2).build(StubManager)?;
    /// let (scene, events) = pool.follow(1000)?;
    /// assert_eq!((scene.connections.len(), scene.waiters.len()), (2, 0));
    /// # drop(events);
    /// # Ok::<(), fairpool::Error>(())
    /// ```
    pub fn follow(&self, capacity: usize) -> Result<(Scene, Subscription), Error> {
        self.shared.follow(capacity)
    }

    /// All figures as of one instant, without the lists of a
    /// [`snapshot`](Pool::snapshot): for exporters of metrics.
    pub fn reading(&self) -> Reading {
        reading::take(&self.shared)
    }

    /// The manager that the pool was built with.
    pub fn manager(&self) -> &M {
        &self.shared.manager
    }

    /// What is wrong with the pool, from two snapshots that are a second apart;
    /// [`Diagnosis`] has an example.
    ///
    /// # Blocking
    ///
    /// For a second. Nobody else waits for it: the pool's lock is held as for two
    /// [`snapshot`](Pool::snapshot)s.
    pub fn diagnose(&self) -> Diagnosis {
        self.diagnose_over(diagnosis::SPAN).expect("BUG: a second is a legal span")
    }

    /// As [`diagnose`](Pool::diagnose), with snapshots that are `span` apart. The longer
    /// the span, the better it distinguishes long work from a leak.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`](crate::ErrorKind::Config) if the span is shorter than 50 ms or longer than an hour.
    ///
    /// # Blocking
    ///
    /// For that span.
    pub fn diagnose_over(&self, span: Duration) -> Result<Diagnosis, Error> {
        let diagnosis = diagnosis::over(span, || Some(self.snapshot()))?;
        Ok(diagnosis.expect("BUG: a pool is there as long as its handle"))
    }
}

/// Numbers of connections, as `r2d2` has them; [`Stats`] has more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct State {
    /// Connections that exist and are not being closed.
    pub connections: u32,
    /// Connections that wait for a caller.
    pub idle_connections: u32,
}
