//! r2d2's hooks as fairpool's.

use std::fmt;

/// A customizer whose errors `D` become the manager's.
pub(crate) struct Customizer<C, D>(pub(crate) Box<dyn r2d2::CustomizeConnection<C, D>>);

impl<C, D, E> fairpool::CustomizeConnection<C, E> for Customizer<C, D>
where
    C: 'static,
    D: 'static,
    E: From<D>,
{
    fn on_acquire(&self, conn: &mut C) -> Result<(), E> {
        Ok(self.0.on_acquire(conn)?)
    }

    fn on_release(&self, conn: C) {
        self.0.on_release(conn);
    }
}

impl<C, D> fmt::Debug for Customizer<C, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An error handler. It takes each error, so `inspect_error` stays as it is.
pub(crate) struct ErrorHandler<E>(pub(crate) Box<dyn r2d2::HandleError<E>>);

impl<E: 'static> fairpool::HandleError<E> for ErrorHandler<E> {
    fn handle_error(&self, error: E) {
        self.0.handle_error(error);
    }
}

impl<E> fmt::Debug for ErrorHandler<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
