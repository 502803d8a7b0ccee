//! The event handler and its events; the use handler and its context.

use std::any::Any;
use std::fmt;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::time::Duration;

use super::{CallSite, Caller, Health, HealthLevel, Holder, NestedGet};
use crate::sync::Arc;

/// A handler that is notified of what happens to a pool's connections and callers. Set by
/// [`Builder::event_handler`](crate::Builder::event_handler).
///
/// Every method is called outside the pool's locks, so it may use the pool. It must be
/// quick, because the thread that calls it waits for it. A panic in it is caught and
/// logged. The default methods do nothing.
///
/// | event | runs on |
/// |---|---|
/// | [`handle_checkout`](HandleEvent::handle_checkout), [`handle_timeout`](HandleEvent::handle_timeout) | the caller's thread |
/// | [`handle_checkin`](HandleEvent::handle_checkin) | the thread that drops the guard |
/// | [`handle_release`](HandleEvent::handle_release) | the thread that drops the guard, if its holder broke or discarded the connection; else a worker |
/// | [`handle_acquire`](HandleEvent::handle_acquire) and the others | a worker |
pub trait HandleEvent: fmt::Debug + Send + Sync {
    /// A connection was opened. Runs on the worker that opened it.
    fn handle_acquire(&self, event: AcquireEvent) {
        let _ = event;
    }

    /// A connection leaves the pool to be closed. Called once for each.
    ///
    /// If its holder broke or discarded it, this runs on the thread that drops the guard,
    /// before that drop returns, and after the pool has taken the connection back: it may get
    /// another one. A worker closes the connection, perhaps at the same time. Otherwise (the
    /// connection is too old, or failed its check, or the pool closes) it runs on the worker,
    /// right before the close.
    fn handle_release(&self, event: ReleaseEvent) {
        let _ = event;
    }

    /// A caller got a connection. Runs on the caller's thread.
    fn handle_checkout(&self, event: CheckoutEvent) {
        let _ = event;
    }

    /// A caller left at its deadline without a connection. Runs on the caller's thread.
    fn handle_timeout(&self, event: TimeoutEvent) {
        let _ = event;
    }

    /// A connection was returned. Runs on the returning thread.
    fn handle_checkin(&self, event: CheckinEvent) {
        let _ = event;
    }

    /// A connection has been held for longer than
    /// [`leak_threshold`](crate::Builder::leak_threshold). Called once for each checkout.
    ///
    /// This method and the three below run on a worker thread of the pool. They are called
    /// one at a time, in the order in which their events happened.
    fn handle_leak(&self, event: LeakEvent) {
        let _ = event;
    }

    /// A connection for which `handle_leak` was called has been returned.
    fn handle_leak_end(&self, event: LeakEvent) {
        let _ = event;
    }

    /// Every connection is held by a thread that itself waits for another (see
    /// [`SelfDeadlock`](crate::SelfDeadlock)).
    fn handle_self_deadlock(&self, event: SelfDeadlockEvent) {
        let _ = event;
    }

    /// The pool's health has changed its level (see
    /// [`Builder::health_thresholds`](crate::Builder::health_thresholds)).
    fn handle_health(&self, event: HealthEvent) {
        let _ = event;
    }
}

/// A [`HandleEvent`] that does nothing.
#[derive(Copy, Clone, Debug)]
pub struct NopEventHandler;

impl HandleEvent for NopEventHandler {}

/// A hook around each use of a connection: it sets the connection to what its caller may do, before
/// the caller has it. Set by [`Builder::use_handler`](crate::Builder::use_handler).
///
/// It is made for tenants: [`begin`](HandleUse::begin) sets the tenant that the caller names with
/// [`Request::context`](crate::Request::context). No get is without it, whatever way it takes: an
/// idle connection or a new one, at once or after a wait, [`try_get`](crate::Pool::try_get),
/// [`get_async`](crate::Pool::get_async). A plain [`Pool::get`](crate::Pool::get) has an empty
/// context; the handler decides whether that is an error, or a use without a tenant. It must not
/// leave the connection as it is then: another tenant may have had it before.
///
/// # What it costs
///
/// Both methods run on a worker thread, each for at most
/// [`validation_timeout`](crate::Builder::validation_timeout). So a handler that hangs keeps no
/// caller past its deadline, and no returning thread at all. A call that overruns the limit is
/// abandoned, as any driver call (see [`Builder::max_abandoned`](crate::Builder::max_abandoned)).
///
/// - Each get takes a hand-over to a worker and back, and what `begin` takes. That belongs to the
///   get: it is in the distribution of waits (`Times::wait`), and all gets
///   count as having waited. The calls alone are in that of checks (`validate`).
/// - There is no fast path for gets. No newcomer overtakes: callers are served in their order.
/// - A get without time (a timeout of zero) always times out. `try_get` waits for `begin`, as it
///   waits for a check.
/// - While a use begins, its connection counts as being checked.
///
/// # What a failure costs
///
/// | | the connection | the caller |
/// |---|---|---|
/// | `begin` fails with an error that [is fatal](crate::ManageConnection::is_fatal) | is closed as broken | waits on for another, at its old place and until its deadline |
/// | `begin` overruns its limit | is abandoned, and closed when the call ends | the same |
/// | `begin` fails with another error, or panics | is closed | gets [`ErrorKind::UseHandler`](crate::ErrorKind::UseHandler), whose source is the error |
/// | the caller leaves while `begin` runs | the use is ended as if it had returned it; it goes to the next | |
/// | `end` fails, panics or overruns its limit | is closed, or abandoned | has left long ago |
///
/// Only fatal errors, and calls that overrun their limit, put the other connections [in
/// doubt](crate::Builder::skip_check_within). All count in
/// [`Stats::check_failures`](crate::stats::Stats) or `abandoned_calls`.
///
/// # The next caller
///
/// Whatever happens between `begin` and the next one, no caller gets a connection for which `begin`
/// has not returned `Ok` with that caller's own context. So if `begin` always sets, or clears, all
/// that depends on a context, no use finds what the last one had set. What a *holder* has set goes
/// with the driver's [`reset`](crate::ManageConnection::reset).
///
/// # Examples
///
/// ```
/// # use fairpool_testing::stub::{Conn as Connection, Server, StubError as Error};
/// # let manager = Server::new().manager();
/// use fairpool::{HandleUse, Pool, UseContext};
///
/// struct Tenant(u64);
///
/// #[derive(Debug)]
/// struct SetTenant;
///
/// # fn no_tenant() -> Error { Error::Query }
/// # fn set_tenant(_: &mut Connection, _: u64) -> Result<(), Error> { Ok(()) }
/// impl HandleUse<Connection, Error> for SetTenant {
///     fn begin(&self, conn: &mut Connection, context: &UseContext) -> Result<(), Error> {
///         let Some(Tenant(id)) = context.get() else {
///             return Err(no_tenant());
///         };
///         set_tenant(conn, *id)
///     }
///
///     fn has_end(&self) -> bool {
///         false // the next `begin` sets it anew
///     }
/// }
///
/// let pool = Pool::builder().max_size(4).use_handler(Box::new(SetTenant)).build(manager)?;
/// let conn = pool.request().context(Tenant(7)).get()?;
/// # drop(conn);
/// let error = pool.get().unwrap_err(); // names no tenant
/// assert_eq!(error.kind(), fairpool::ErrorKind::UseHandler);
/// # Ok::<(), fairpool::Error>(())
/// ```
pub trait HandleUse<C, E>: fmt::Debug + Send + Sync + 'static {
    /// Prepares a connection for this caller.
    ///
    /// # Errors
    ///
    /// See above. After any error the connection is closed, since nobody knows how far this came.
    fn begin(&self, conn: &mut C, context: &UseContext) -> Result<(), E>;

    /// Ends a use after its connection has returned, before the driver's
    /// [`reset`](crate::ManageConnection::reset). So it may find what its holder has left: an open or
    /// failed transaction, for example. The default does nothing.
    ///
    /// Not called for a connection that is closed anyway (broken, too old), nor after
    /// [`detach`](crate::PooledConnection::detach).
    ///
    /// # Errors
    ///
    /// The connection is closed.
    fn end(&self, conn: &mut C, context: &UseContext) -> Result<(), E> {
        let _ = (conn, context);
        Ok(())
    }

    /// Whether `end` is to be called. Asked once, when the handler is set. If not, a return is as
    /// fast as without a handler. The default is `true`.
    fn has_end(&self) -> bool {
        true
    }
}

/// Who is to use a connection, for a [`HandleUse`].
pub struct UseContext {
    call_site: CallSite,
    value: ContextValue,
}

impl UseContext {
    pub(crate) fn new(caller: &Caller, value: ContextValue) -> UseContext {
        UseContext { call_site: CallSite::from(caller), value }
    }

    /// The value that was given with [`Request::context`](crate::Request::context), if it has this
    /// type.
    pub fn get<V: Any>(&self) -> Option<&V> {
        self.value.0.as_deref()?.0.downcast_ref()
    }

    /// The thread, line, label and priority of the get.
    pub fn call_site(&self) -> &CallSite {
        &self.call_site
    }
}

/// Does not print the value, which may be a secret.
impl fmt::Debug for UseContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.value.0.as_ref().map(|_| "given");
        f.debug_struct("UseContext")
            .field("call_site", &self.call_site)
            .field("value", &value)
            .finish()
    }
}

/// The value of a [`Request::context`](crate::Request::context). A thin pointer, since each waiter
/// moves one.
#[derive(Clone, Default)]
pub(crate) struct ContextValue(Option<Arc<Value>>);

struct Value(Box<dyn Any + Send + Sync>);

impl ContextValue {
    pub(crate) fn new<V: Any + Send + Sync>(value: V) -> ContextValue {
        ContextValue(Some(Arc::new(Value(Box::new(value)))))
    }
}

// The pool only passes it on.
impl UnwindSafe for ContextValue {}
impl RefUnwindSafe for ContextValue {}

/// A connection was opened.
#[derive(Clone, Debug)]
pub struct AcquireEvent {
    pub(crate) id: u64,
    pub(crate) backend_id: Option<u32>,
}

impl AcquireEvent {
    /// The connection's number: unique in the process, larger for later ones.
    pub fn connection_id(&self) -> u64 {
        self.id
    }

    /// The number of its session at the server, if the manager knows it
    /// ([`ManageConnection::backend_id`](crate::ManageConnection::backend_id)).
    pub fn backend_id(&self) -> Option<u32> {
        self.backend_id
    }
}

/// A connection is about to be closed.
#[derive(Clone, Debug)]
pub struct ReleaseEvent {
    pub(crate) id: u64,
    pub(crate) age: Duration,
}

impl ReleaseEvent {
    /// The connection's number.
    pub fn connection_id(&self) -> u64 {
        self.id
    }

    /// How long ago it was opened.
    pub fn age(&self) -> Duration {
        self.age
    }
}

/// A caller got a connection.
#[derive(Clone, Debug)]
pub struct CheckoutEvent {
    pub(crate) id: u64,
    pub(crate) duration: Duration,
}

impl CheckoutEvent {
    /// The connection's number.
    pub fn connection_id(&self) -> u64 {
        self.id
    }

    /// How long the caller waited for it.
    pub fn duration(&self) -> Duration {
        self.duration
    }
}

/// A caller left at its deadline without a connection.
#[derive(Clone, Debug)]
pub struct TimeoutEvent {
    pub(crate) timeout: Duration,
}

impl TimeoutEvent {
    /// The caller's timeout.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }
}

/// A connection was returned.
#[derive(Clone, Debug)]
pub struct CheckinEvent {
    pub(crate) id: u64,
    pub(crate) duration: Duration,
}

impl CheckinEvent {
    /// The connection's number.
    pub fn connection_id(&self) -> u64 {
        self.id
    }

    /// How long it was held.
    pub fn duration(&self) -> Duration {
        self.duration
    }
}

/// A connection is, or was, held for longer than `leak_threshold`.
#[derive(Clone, Debug)]
pub struct LeakEvent {
    pub(crate) holder: Holder,
}

impl LeakEvent {
    /// The holder: its thread, its line, and how long it has held the connection.
    pub fn holder(&self) -> &Holder {
        &self.holder
    }
}

/// Every connection is held by a thread that itself waits for another.
#[derive(Clone, Debug)]
pub struct SelfDeadlockEvent {
    pub(crate) nested: Vec<NestedGet>,
}

impl SelfDeadlockEvent {
    /// The threads, 32 of them at most.
    pub fn nested_gets(&self) -> &[NestedGet] {
        &self.nested
    }
}

/// The pool's health has changed its level.
#[derive(Clone, Debug)]
pub struct HealthEvent {
    pub(crate) from: HealthLevel,
    pub(crate) health: Health,
}

impl HealthEvent {
    /// The level before.
    pub fn from(&self) -> HealthLevel {
        self.from
    }

    /// The new level, with the figures that it is judged by.
    pub fn health(&self) -> Health {
        self.health
    }
}
