//! The hooks that users implement, besides those for events.

use std::error;
use std::fmt;

/// A hook for new connections, and for those that leave the pool.
pub trait CustomizeConnection<C, E>: fmt::Debug + Send + Sync + 'static {
    /// Prepares a connection that was just opened, on the thread that opened it. The default
    /// does nothing.
    ///
    /// # Errors
    ///
    /// After an error the connection is dropped, and opening it has failed.
    #[allow(unused_variables)]
    fn on_acquire(&self, conn: &mut C) -> Result<(), E> {
        Ok(())
    }

    /// Takes a connection that leaves the pool, on a thread of fairpool. The default drops it.
    #[allow(unused_variables)]
    fn on_release(&self, conn: C) {}
}

/// A [`CustomizeConnection`] that does nothing: the default.
#[derive(Copy, Clone, Debug)]
pub struct NopConnectionCustomizer;

impl<C, E> CustomizeConnection<C, E> for NopConnectionCustomizer {}

/// A handler of the errors of connects, customizations and checks.
pub trait HandleError<E>: fmt::Debug + Send + Sync + 'static {
    /// Takes the error, on the thread of the call that failed.
    fn handle_error(&self, error: E);
}

/// A [`HandleError`] that does nothing.
#[derive(Copy, Clone, Debug)]
pub struct NopErrorHandler;

impl<E> HandleError<E> for NopErrorHandler {
    fn handle_error(&self, _: E) {}
}

/// A [`HandleError`] that logs at the error level: the default.
#[derive(Copy, Clone, Debug)]
pub struct LoggingErrorHandler;

impl<E: error::Error> HandleError<E> for LoggingErrorHandler {
    fn handle_error(&self, error: E) {
        log::error!("{error}");
    }
}
