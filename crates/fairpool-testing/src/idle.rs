//! The driver that does nothing.

use std::convert::Infallible;

use fairpool::ManageConnection;

/// A manager whose connections do nothing and never fail.
///
/// # Examples
///
/// ```
/// let pool = fairpool::Pool::builder().max_size(2).build(fairpool_testing::StubManager)?;
/// assert!(pool.get().is_ok());
/// # Ok::<(), fairpool::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct StubManager;

/// A connection of a [`StubManager`].
#[derive(Debug)]
pub struct StubConnection;

impl ManageConnection for StubManager {
    type Connection = StubConnection;
    type Error = Infallible;

    fn connect(&self) -> Result<StubConnection, Infallible> {
        Ok(StubConnection)
    }

    fn is_valid(&self, _: &mut StubConnection) -> Result<(), Infallible> {
        Ok(())
    }

    fn has_broken(&self, _: &mut StubConnection) -> bool {
        false
    }
}
