//! Observes a pool: figures, lists, health, events, diagnosis.

use std::time::Duration;

use super::pool::Pool;
use super::weak::WeakPool;
use crate::observe::diagnosis::{self, Diagnosis};
use crate::observe::reading::{self, Reading};
use crate::observe::snapshot::{self, Snapshot};
use crate::types::{
    Error, Health, Holder, ManageConnection, Readiness, Scene, Stats, Subscription, Waiter,
};

impl<M: ManageConnection> Pool<M> {
    /// The number of connections, as in `r2d2`; [`stats`](Pool::stats) has more.
    pub fn state(&self) -> State {
        let gauges = self.shared.gauges();
        State {
            connections: gauges.idle + gauges.busy + gauges.checking,
            idle_connections: gauges.idle,
        }
    }

    /// All gauges and counters at one instant.
    pub fn stats(&self) -> Stats {
        self.shared.stats()
    }

    /// The whole state of the pool at one instant: figures, health, holders, waiters, and
    /// the driver calls under way.
    ///
    /// # Blocking
    ///
    /// Holds the pool's lock while it copies the lists: some 100 ns for each holder and
    /// waiter.
    pub fn snapshot(&self) -> Snapshot {
        snapshot::take(&self.shared)
    }

    /// The holders of connections, longest first. They are also part of a
    /// [`snapshot`](Pool::snapshot).
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

    /// The waiters, in the order in which they will be served. They are also part of a
    /// [`snapshot`](Pool::snapshot).
    pub fn waiters(&self) -> Vec<Waiter> {
        snapshot::waiters(&self.shared)
    }

    /// The pool's health now, with the figures that it is judged by.
    ///
    /// A pool without a connection that cannot open one is not healthy, whether callers wait
    /// or not. While callers wait or connecting fails, the reaper judges the health ten times a
    /// second. If the level changes there or here, the change goes to the log, to the
    /// [`HandleEvent`](crate::HandleEvent) and to subscribers.
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

    /// Whether the pool can be expected to serve its next caller, or why not: what a readiness
    /// probe needs.
    ///
    /// An idle server and a dead one look alike, so a question makes the pool find out, in the
    /// background: if no connection was opened, returned or checked in the last 5 seconds, it
    /// checks an idle one, or opens one if none is open. The answer is what is known so far,
    /// and the next one knows more. So a probe that asks every few seconds sees an outage
    /// without callers as soon as the check has failed (it may take
    /// [`validation_timeout`](crate::Builder::validation_timeout)) and a connect has (it may
    /// take [`open_timeout`](crate::Builder::open_timeout)). Nobody waits for it.
    ///
    /// # Examples
    ///
    /// ```
    /// # use fairpool_testing::StubManager;
    /// use fairpool::health::Readiness;
    ///
    /// let pool = fairpool::Pool::builder().max_size(2).build(StubManager)?;
    /// assert!(pool.readiness().is_ready());
    /// pool.pause();
    /// assert_eq!(pool.readiness(), Readiness::Paused);
    /// # Ok::<(), fairpool::Error>(())
    /// ```
    pub fn readiness(&self) -> Readiness {
        self.shared.readiness()
    }

    /// A handle that observes the pool without keeping it alive.
    pub fn downgrade(&self) -> WeakPool {
        WeakPool::new(&self.shared)
    }

    /// Subscribes to everything that happens in the pool from now on.
    ///
    /// Events arrive in the order in which they happened, a few milliseconds late. Only
    /// leaks, self-deadlocks, outages, abandoned calls and changes of health arrive when
    /// they are announced: a worker announces them one at a time, first in the log, then
    /// to the subscribers, and last to the [`HandleEvent`](crate::HandleEvent), which has
    /// no methods for outages and abandoned calls.
    /// [`Event::at`](crate::event::Event::at) is the time at which an event happened.
    ///
    /// The subscription has room for `capacity` events, and takes memory only for those that
    /// are not read yet, some 300 bytes for each. It never slows the pool down: if it is full,
    /// new events are lost, and counted by
    /// [`Event::lost_before`](crate::event::Event::lost_before) and
    /// [`Stats::events_lost`]. It ends when the pool has ended, or when it is dropped.
    /// While there is a subscriber, each get and each return takes a slower path.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`](crate::ErrorKind::Config) if `capacity` is zero or more than
    /// 4,194,304; [`ErrorKind::Forked`](crate::ErrorKind::Forked) in a child made by `fork`.
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

    /// As [`subscribe`](Pool::subscribe), with the state of the pool right before the
    /// first event. With both, a recorder knows the state at every later instant.
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

    /// All figures at one instant, for exporters of metrics. It has no lists, unlike a
    /// [`snapshot`](Pool::snapshot).
    pub fn reading(&self) -> Reading {
        reading::take(&self.shared)
    }

    /// The manager that the pool was built with.
    pub fn manager(&self) -> &M {
        &self.shared.manager
    }

    /// Finds what is wrong with the pool, from two snapshots taken one second apart.
    /// [`Diagnosis`] has an example.
    ///
    /// # Blocking
    ///
    /// For one second. It holds the pool's lock only for its two
    /// [`snapshot`](Pool::snapshot)s.
    pub fn diagnose(&self) -> Diagnosis {
        self.diagnose_over(diagnosis::SPAN).expect("BUG: a second is a legal span")
    }

    /// As [`diagnose`](Pool::diagnose), with snapshots taken `span` apart. The longer the
    /// span, the better it distinguishes long work from a leak.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`](crate::ErrorKind::Config) if the span is shorter than 50 ms
    /// or longer than one hour.
    ///
    /// # Blocking
    ///
    /// For `span`.
    pub fn diagnose_over(&self, span: Duration) -> Result<Diagnosis, Error> {
        let diagnosis = diagnosis::over(span, || Some(self.snapshot()))?;
        Ok(diagnosis.expect("BUG: a pool is there as long as its handle"))
    }
}

/// The number of connections, as in `r2d2`; [`Stats`] has more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct State {
    /// Connections that exist and are not being closed.
    pub connections: u32,
    /// Connections that are idle.
    pub idle_connections: u32,
}
