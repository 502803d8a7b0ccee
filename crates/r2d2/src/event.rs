//! Events of a pool, and the handler of them.

use std::fmt;
use std::time::Duration;

/// A handler that is told what happens in a pool. The default methods do nothing.
pub trait HandleEvent: fmt::Debug + Sync + Send {
    /// A connection was opened. On the thread that opened it.
    #[allow(unused_variables)]
    fn handle_acquire(&self, event: AcquireEvent) {}

    /// A connection leaves the pool. If it came back broken, on the thread that drops its guard.
    #[allow(unused_variables)]
    fn handle_release(&self, event: ReleaseEvent) {}

    /// A caller got a connection. On the caller's thread.
    #[allow(unused_variables)]
    fn handle_checkout(&self, event: CheckoutEvent) {}

    /// A caller got none in time. On the caller's thread.
    #[allow(unused_variables)]
    fn handle_timeout(&self, event: TimeoutEvent) {}

    /// A connection came back. On the thread that drops its guard.
    #[allow(unused_variables)]
    fn handle_checkin(&self, event: CheckinEvent) {}
}

/// A [`HandleEvent`] that does nothing: the default.
#[derive(Copy, Clone, Debug)]
pub struct NopEventHandler;

impl HandleEvent for NopEventHandler {}

/// A connection was opened.
#[derive(Debug)]
pub struct AcquireEvent {
    pub(crate) id: u64,
}

impl AcquireEvent {
    /// The connection's number.
    pub fn connection_id(&self) -> u64 {
        self.id
    }
}

/// A connection leaves the pool.
#[derive(Debug)]
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
#[derive(Debug)]
pub struct CheckoutEvent {
    pub(crate) id: u64,
    pub(crate) duration: Duration,
}

impl CheckoutEvent {
    /// The connection's number.
    pub fn connection_id(&self) -> u64 {
        self.id
    }

    /// How long that took.
    pub fn duration(&self) -> Duration {
        self.duration
    }
}

/// A caller got no connection in time.
#[derive(Debug)]
pub struct TimeoutEvent {
    pub(crate) timeout: Duration,
}

impl TimeoutEvent {
    /// How long the caller would wait.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }
}

/// A connection came back.
#[derive(Debug)]
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
