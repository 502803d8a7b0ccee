//! r2d2's manager, and what makes it fairpool's.

use std::error;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError};

use crate::builder::Config;
use crate::ending::{Ending, Turns};
use crate::event;

/// Opens and checks the connections of one driver.
pub trait ManageConnection: Send + Sync + 'static {
    /// The driver's connection.
    type Connection: Send + 'static;

    /// The driver's error.
    type Error: error::Error + 'static;

    /// Opens a connection, on a thread of fairpool.
    ///
    /// # Errors
    ///
    /// After an error the pool tries again, with growing delays.
    fn connect(&self) -> Result<Self::Connection, Self::Error>;

    /// Asks the server whether a connection still works, on a thread of fairpool.
    ///
    /// # Errors
    ///
    /// On any error the connection is closed and replaced.
    fn is_valid(&self, conn: &mut Self::Connection) -> Result<(), Self::Error>;

    /// Whether a connection is known to be unusable. Called with each connection that comes
    /// back, on the thread that drops its guard, so it must not block.
    fn has_broken(&self, conn: &mut Self::Connection) -> bool;
}

/// What a pool's handles and its hooks share.
pub(crate) struct Parts<M: ManageConnection> {
    pub(crate) manager: M,
    pub(crate) config: Config<M::Connection, M::Error>,
    /// The text of the last error since a connection was opened, for the next caller that gets
    /// none.
    last_error: Mutex<Option<String>>,
    turns: Turns,
}

impl<M: ManageConnection> Parts<M> {
    pub(crate) fn new(manager: M, config: Config<M::Connection, M::Error>) -> Arc<Parts<M>> {
        Arc::new(Parts { manager, config, last_error: Mutex::new(None), turns: Turns::default() })
    }

    pub(crate) fn take_last_error(&self) -> Option<String> {
        self.last_error.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn set_last_error(&self, text: Option<String>) {
        *self.last_error.lock().unwrap_or_else(PoisonError::into_inner) = text;
    }

    /// The error goes to the handler in its own type, which need not be `Send`; its text to the
    /// callers that wait.
    fn failed(&self, error: M::Error) -> Failed {
        let text = error.to_string();
        self.set_last_error(Some(text.clone()));
        self.config.error_handler.handle_error(error);
        Failed(text)
    }
}

/// A driver's connection, and its end.
pub(crate) struct Conn<C> {
    value: C,
    pub(crate) ending: Arc<Ending>,
}

impl<C> Deref for Conn<C> {
    type Target = C;

    fn deref(&self) -> &C {
        &self.value
    }
}

impl<C> DerefMut for Conn<C> {
    fn deref_mut(&mut self) -> &mut C {
        &mut self.value
    }
}

/// The text of a driver's error.
#[derive(Debug)]
pub(crate) struct Failed(String);

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl error::Error for Failed {}

/// Makes r2d2's manager and hooks fairpool's.
pub(crate) struct Adapter<M: ManageConnection>(pub(crate) Arc<Parts<M>>);

impl<M: ManageConnection> fmt::Debug for Adapter<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0.config, f)
    }
}

impl<M: ManageConnection> fairpool::ManageConnection for Adapter<M> {
    type Connection = Conn<M::Connection>;
    type Error = Failed;

    fn connect(&self) -> Result<Conn<M::Connection>, Failed> {
        let value = self.0.manager.connect().map_err(|error| self.0.failed(error))?;
        Ok(Conn { value, ending: Arc::new(Ending::new()) })
    }

    fn is_valid(&self, conn: &mut Conn<M::Connection>) -> Result<(), Failed> {
        self.0.manager.is_valid(conn).map_err(|error| self.0.failed(error))
    }

    fn has_broken(&self, conn: &mut Conn<M::Connection>) -> bool {
        // First, so that it does not outlive a panic of the driver.
        let awaited = conn.ending.take_announcement();
        let broken = self.0.manager.has_broken(conn);
        if broken && awaited {
            conn.ending.begin();
        }
        broken
    }
}

impl<M: ManageConnection> fairpool::CustomizeConnection<Conn<M::Connection>, Failed>
    for Adapter<M>
{
    fn on_acquire(&self, conn: &mut Conn<M::Connection>) -> Result<(), Failed> {
        let acquired = self.0.config.connection_customizer.on_acquire(conn);
        acquired.map_err(|error| self.0.failed(error))?;
        self.0.set_last_error(None);
        Ok(())
    }

    fn on_release(&self, conn: Conn<M::Connection>) {
        let Conn { value, ending } = conn;
        ending.wait_for_release();
        let _finish = FinishOnDrop(ending); // also after a panic
        let _turn = self.0.turns.take();
        self.0.config.connection_customizer.on_release(value);
    }
}

struct FinishOnDrop(Arc<Ending>);

impl Drop for FinishOnDrop {
    fn drop(&mut self) {
        self.0.finish();
    }
}

impl<M: ManageConnection> fairpool::HandleEvent for Adapter<M> {
    fn handle_acquire(&self, event: fairpool::event::AcquireEvent) {
        let event = event::AcquireEvent { id: event.connection_id() };
        self.0.config.events().handle_acquire(event);
    }

    fn handle_release(&self, event: fairpool::event::ReleaseEvent) {
        let event = event::ReleaseEvent { id: event.connection_id(), age: event.age() };
        self.0.config.events().handle_release(event);
    }

    fn handle_checkout(&self, event: fairpool::event::CheckoutEvent) {
        let (id, duration) = (event.connection_id(), event.duration());
        self.0.config.events().handle_checkout(event::CheckoutEvent { id, duration });
    }

    fn handle_timeout(&self, event: fairpool::event::TimeoutEvent) {
        let event = event::TimeoutEvent { timeout: event.timeout() };
        self.0.config.events().handle_timeout(event);
    }

    fn handle_checkin(&self, event: fairpool::event::CheckinEvent) {
        let (id, duration) = (event.connection_id(), event.duration());
        self.0.config.events().handle_checkin(event::CheckinEvent { id, duration });
    }
}
