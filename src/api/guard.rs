//! The guard of a connection that a caller holds.

use std::borrow::Borrow;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::time::Duration;

use crate::core::{Check, Leased, Reason, Time, Verdict};
use crate::runtime::shared::{FastPath, PoolConn, PoolLease, PoolRef, Shared};
use crate::sync::{Arc, Ordering};
use crate::types::thread::Left;
use crate::types::{Caller, CheckinEvent, CheckoutEvent, Extensions, ManageConnection};

/// A connection that is returned to its pool when it is dropped.
///
/// It dereferences to the driver's connection, and may be moved to other threads. If it
/// is dropped by a panic, the connection is reset and validated before another caller
/// gets it.
///
/// # Blocking
///
/// Dropping it does not wait for the driver: the pool's threads reset and close
/// connections. [`ManageConnection::has_broken`],
/// [`needs_reset`](ManageConnection::needs_reset) and the event handler run on the
/// dropping thread. In a child made by `fork` its drop does nothing.
///
/// # Examples
///
/// ```
/// # use fairpool_testing::StubManager;
/// use fairpool::PooledConnection;
///
/// let pool = fairpool::Pool::builder().max_size(1).build(StubManager)?;
/// let mut conn = pool.get()?;
/// PooledConnection::extensions_mut(&mut conn).insert("prepared");
/// assert_eq!(PooledConnection::info(&conn).times_used, 1);
/// drop(conn);
///
/// let conn = pool.get()?;
/// assert_eq!(PooledConnection::extensions(&conn).get(), Some(&"prepared"));
/// assert_eq!(PooledConnection::info(&conn).times_used, 2);
/// # Ok::<(), fairpool::Error>(())
/// ```
pub struct PooledConnection<M: ManageConnection> {
    /// `None` only after `detach`, and within `drop`.
    lease: Option<PoolLease<M>>,
}

/// A connection's number, age and uses. From [`PooledConnection::info`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConnectionInfo {
    /// The connection's number: unique in the process, and larger for later ones.
    pub id: u64,
    /// The number of its session at the server, if the manager knows it:
    /// [`ManageConnection::backend_id`].
    pub backend_id: Option<u32>,
    /// How long ago it was opened.
    pub age: Duration,
    /// How often it has been handed out, this time included.
    pub times_used: u64,
}

const GONE: &str = "BUG: a guard without its connection";

impl<M: ManageConnection> PooledConnection<M> {
    /// The fast path of a get: takes an idle connection if it needs no check and no waiter
    /// comes first. The caller is made only where it is stored: to make it earlier, and move
    /// it, would cost a tenth of the instructions of a get and its return.
    #[inline]
    pub(super) fn try_fast_path<C: Borrow<Caller>>(
        shared: &Shared<M>,
        caller: impl Fn() -> C,
    ) -> Option<PooledConnection<M>> {
        let now = shared.clock.recently();
        match shared.fast_path(now) {
            FastPath::Open => {
                let lease = shared.try_core(|core| core.acquire_fast(now, caller().borrow()))??;
                Some(PooledConnection::new(shared, lease, now, now))
            }
            FastPath::Observed => PooledConnection::try_observed(shared, caller().borrow()),
            FastPath::Forked => None,
        }
    }

    /// The fast path while a handler or a subscriber wants exact times.
    #[cold]
    fn try_observed(shared: &Shared<M>, caller: &Caller) -> Option<PooledConnection<M>> {
        let now = shared.clock.now();
        let lease = shared.try_core_observed(|core| core.acquire_noted(now, caller))?;
        Some(PooledConnection::new(shared, lease?, now, shared.clock.recently()))
    }

    /// The guard exists before any handler runs, so that a handler that panics does not
    /// lose the connection. The get began at `start`, and this is called in the `tick` of the
    /// coarse clock.
    #[inline]
    pub(super) fn new(
        shared: &Shared<M>,
        lease: PoolLease<M>,
        start: Time,
        tick: Time,
    ) -> PooledConnection<M> {
        let mut guard = PooledConnection { lease: Some(lease) };
        let conn = guard.conn_mut();
        conn.uses += 1;
        conn.user.get_here();
        if conn.sampler.is_due(tick, conn.uses) {
            guard.sample(shared, start, tick);
        }
        guard
    }

    /// The guard of a get that took the slow path.
    pub(super) fn after_wait(
        shared: &Shared<M>,
        lease: PoolLease<M>,
        start: Time,
    ) -> PooledConnection<M> {
        PooledConnection::new(shared, lease, start, shared.clock.recently())
    }

    /// The guard of a task, which counts for no thread.
    pub(super) fn of_task(mut self) -> PooledConnection<M> {
        self.conn_mut().user.become_none();
        self
    }

    /// Times this use if it is to be timed, and notifies the handler of it.
    #[cold]
    fn sample(&mut self, shared: &Shared<M>, start: Time, tick: Time) {
        let conn = self.conn_mut();
        let has_handler = shared.config.event_handler.is_some();
        let exact = || shared.clock.now();
        let earlier = conn.sampler.begin(tick, conn.uses, has_handler, exact);
        shared.record_uses(earlier);
        if has_handler {
            let duration = conn.sampler.last_read().since(start);
            let event = CheckoutEvent { id: conn.id, duration };
            shared.notify("handle_checkout", |handler| handler.handle_checkout(event));
        }
    }

    fn conn(&self) -> &PoolConn<M> {
        &self.lease.as_ref().expect(GONE).conn
    }

    fn conn_mut(&mut self) -> &mut PoolConn<M> {
        &mut self.lease.as_mut().expect(GONE).conn
    }

    /// Self-deadlocks are found by the connections that waiting threads hold. So the pool
    /// must know which thread uses a connection.
    #[inline]
    fn note_use(&self) {
        let user = &self.conn().user;
        if !user.is_here() && !user.begin_here() {
            PooledConnection::unbind(self);
        }
    }

    /// A call that does not need the connection itself, and so is no use of it; but it shows
    /// on which thread the guard is.
    fn note_place(&self) {
        let user = &self.conn().user;
        if !user.is_here() && !user.is_unused_here() {
            PooledConnection::unbind(self);
        }
    }

    /// Marks the connection as given to another thread, before that thread first uses it.
    ///
    /// The pool notices the first use on another thread by itself, and a connection that has
    /// not been used counts for no thread. Call this only if the thread that got the connection
    /// has used it, and may wait for another connection before the other thread uses it:
    /// otherwise the pool may report a [`SelfDeadlock`](crate::SelfDeadlock) by mistake.
    ///
    /// # Blocking
    ///
    /// Only for the pool's lock.
    #[cold]
    pub fn unbind(this: &Self) {
        let lease = this.lease.as_ref().expect(GONE);
        if !lease.conn.user.is_moved() {
            PooledConnection::leave(lease);
        }
    }

    /// Notes that the connection counts for no thread any more.
    #[cold]
    fn leave(lease: &PoolLease<M>) {
        let left = lease.conn.user.leave();
        let shared = &lease.conn.pool.shared;
        if left == Left::Before || shared.process.is_forked() {
            return;
        }
        let holder = shared.try_core(|core| {
            core.guard_moved(&lease.permit);
            core.last_caller(&lease.permit)
        });
        if left == Left::Used
            && let Some(holder) = holder.flatten()
        {
            holder.thread().guard_left();
        }
    }

    /// The user's own data that is kept with the connection.
    pub fn extensions(this: &Self) -> &Extensions {
        this.note_place();
        &this.conn().extensions
    }

    /// The user's own data that is kept with the connection, to change it.
    pub fn extensions_mut(this: &mut Self) -> &mut Extensions {
        this.note_place();
        &mut this.conn_mut().extensions
    }

    /// The connection's number, age and uses.
    pub fn info(this: &Self) -> ConnectionInfo {
        this.note_place();
        let conn = this.conn();
        ConnectionInfo {
            id: conn.id,
            backend_id: conn.backend_id,
            age: conn.pool.shared.ago(conn.opened_at),
            times_used: conn.uses,
        }
    }

    /// Marks the connection as broken: when it is dropped, it is closed instead of
    /// returned to the pool. For use after an error that leaves its state unknown, or
    /// after a query on it was cancelled.
    ///
    /// From now on the pool's other connections are [in
    /// doubt](crate::Builder::skip_check_within): each is checked before its next use.
    ///
    /// # Blocking
    ///
    /// Only for the pool's lock.
    pub fn mark_broken(this: &mut Self) {
        this.note_place();
        let lease = this.lease.as_mut().expect(GONE);
        if std::mem::replace(&mut lease.conn.marked_broken, true) {
            return;
        }
        // Now, not when the guard is dropped: other callers may come before that.
        let shared = Arc::clone(&lease.conn.pool.shared);
        shared.give_back(|core, fx| core.proved_dead(&lease.permit, Reason::Broken, fx));
    }

    /// Closes the connection instead of returning it to the pool, in the background. The
    /// same as [`mark_broken`](PooledConnection::mark_broken) and a drop, so it casts doubt too.
    pub fn discard(mut this: Self) {
        PooledConnection::mark_broken(&mut this);
    }

    /// Takes the connection out of the pool for good. The pool may open another in its
    /// place. Neither the [`HandleEvent`](crate::HandleEvent) nor `on_release` is called
    /// for it.
    pub fn detach(mut this: Self) -> M::Connection {
        let lease = this.lease.take().expect(GONE);
        PooledConnection::note_drop(&lease);
        let Leased { permit, mut conn, .. } = *lease;
        let value = conn.take().expect("BUG: a held connection was closed");
        let shared = Arc::clone(&conn.pool.shared);
        let now = shared.clock.recently();
        if conn.sampler.is_recorded(now) {
            let (_, record) = conn.sampler.end(now, conn.uses, shared.clock.now());
            shared.record_uses(record);
        }
        shared.record_uses(conn.sampler.flush(conn.uses));
        shared.give_back(|core, fx| core.detach(permit, fx));
        shared.drop_extensions(&mut conn);
        value
    }

    /// Calls `use_it` with the connection, and marks the connection as broken if that
    /// fails with an error for which [`ManageConnection::is_fatal`] returns `true`. So the first
    /// user of a dead connection spares the others an error: see
    /// [`mark_broken`](PooledConnection::mark_broken).
    ///
    /// # Errors
    ///
    /// The error that `use_it` returns.
    ///
    /// # Blocking
    ///
    /// As `use_it` does.
    pub fn run<R>(
        this: &mut Self,
        use_it: impl FnOnce(&mut M::Connection) -> Result<R, M::Error>,
    ) -> Result<R, M::Error> {
        let unfinished = std::mem::replace(&mut this.conn_mut().unfinished, true);
        let result = use_it(this);
        // If an earlier use was left unfinished, the connection stays unfinished.
        this.conn_mut().unfinished = unfinished;
        if let Err(error) = &result {
            let shared = &this.conn().pool.shared;
            let fatal = shared.logger.catch_panic("is_fatal", || shared.manager.is_fatal(error));
            if fatal.unwrap_or(true) {
                PooledConnection::mark_broken(this);
            }
        }
        result
    }

    /// Records the end of a use, and notifies the handler of it. Returns the exact time.
    #[cold]
    fn record_use(shared: &Shared<M>, conn: &mut PoolConn<M>, tick: Time) -> Time {
        let now = shared.clock.now();
        let (nanos, record) = conn.sampler.end(tick, conn.uses, now);
        shared.record_uses(record);
        shared.notify("handle_checkin", |handler| {
            handler.handle_checkin(CheckinEvent {
                id: conn.id,
                duration: Duration::from_nanos(nanos),
            });
        });
        now
    }

    /// Returns a connection that the fast path did not take.
    #[cold]
    fn give_back_fit(shared: &Arc<Shared<M>>, mut lease: PoolLease<M>) {
        if shared.observed.load(Ordering::Relaxed) {
            // Subscribers shut the fast path. This one notes the step for them.
            let now = shared.clock.now();
            match shared.try_core_observed(|core| core.checkin_noted(now, lease)) {
                Some(Err(back)) => lease = back,
                _ => return,
            }
        }
        shared.give_back(|core, fx| core.checkin(lease, Verdict::Keep, fx));
    }

    /// Returns a connection that is broken or due for a check. If it is broken, the handler is
    /// notified after that, so that it may get another connection.
    #[cold]
    fn give_back(shared: &Arc<Shared<M>>, mut lease: PoolLease<M>, verdict: Verdict) {
        let notifies_now = verdict == Verdict::Broken && shared.config.event_handler.is_some();
        let release = notifies_now.then(|| shared.release_event(&lease.conn));
        lease.conn.release_notified = notifies_now;
        shared.give_back(|core, fx| core.checkin(lease, verdict, fx));
        if let Some(event) = release {
            shared.notify_release(event);
        }
    }

    /// In a child a guard's drop does nothing: the connection is the parent's.
    #[cold]
    fn forget(lease: PoolLease<M>, pool: Arc<PoolRef<M>>) {
        lease.conn.user.drop_here();
        std::mem::forget((lease, pool));
    }

    /// The guard no longer counts for the thread that got it.
    #[inline]
    fn note_drop(lease: &PoolLease<M>) {
        if !lease.conn.user.drop_here() {
            PooledConnection::leave(lease);
        }
    }

    /// Decides, before the lock is taken, what happens to the returned connection.
    fn verdict(shared: &Shared<M>, conn: &mut PoolConn<M>) -> Verdict {
        let manager = &shared.manager;
        if conn.marked_broken {
            return Verdict::Broken;
        }
        let value = conn.value_mut();
        if shared.logger.catch_panic("has_broken", || manager.has_broken(value)).unwrap_or(true) {
            return Verdict::Broken;
        }
        let Ok(reset) = shared.logger.catch_panic("needs_reset", || manager.needs_reset(value))
        else {
            return Verdict::Broken;
        };
        // A holder that panics leaves its work on the connection unfinished.
        let unfinished = std::mem::take(&mut conn.unfinished) || std::thread::panicking();
        let reset = reset || unfinished;
        let check = Check { reset, validate: unfinished, ..Check::NONE };
        if check.reset || check.validate { Verdict::Check(check) } else { Verdict::Keep }
    }
}

impl<M: ManageConnection> Drop for PooledConnection<M> {
    fn drop(&mut self) {
        let Some(mut lease) = self.lease.take() else { return };
        let pool = Arc::clone(&lease.conn.pool);
        let shared = &pool.shared;
        let mut now = shared.clock.recently();
        if shared.fast_path(now) == FastPath::Forked {
            return PooledConnection::forget(lease, pool);
        }
        if lease.conn.sampler.is_recorded(now) {
            now = PooledConnection::record_use(shared, &mut lease.conn, now);
        }
        let verdict = PooledConnection::verdict(shared, &mut lease.conn);
        // Only now: the user code above may get another connection while this thread
        // still holds this one.
        PooledConnection::note_drop(&lease);
        if verdict != Verdict::Keep {
            return PooledConnection::give_back(shared, lease, verdict);
        }
        if let Some(Err(lease)) = shared.try_core(|core| core.checkin_fast(now, lease)) {
            PooledConnection::give_back_fit(shared, lease);
        }
    }
}

impl<M: ManageConnection> Deref for PooledConnection<M> {
    type Target = M::Connection;

    #[inline]
    fn deref(&self) -> &M::Connection {
        self.note_use();
        self.conn().value()
    }
}

impl<M: ManageConnection> DerefMut for PooledConnection<M> {
    #[inline]
    fn deref_mut(&mut self) -> &mut M::Connection {
        self.note_use();
        self.conn_mut().value_mut()
    }
}

/// Does not print the driver's connection, which need not be `Debug`. So
/// `pool.get().unwrap_err()` compiles for every driver.
impl<M: ManageConnection> fmt::Debug for PooledConnection<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let info = PooledConnection::info(self);
        f.debug_struct("PooledConnection")
            .field("id", &info.id)
            .field("age", &info.age)
            .field("times_used", &info.times_used)
            .finish_non_exhaustive()
    }
}
