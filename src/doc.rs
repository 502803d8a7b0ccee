//! A stub for the examples of this documentation.

use std::convert::Infallible;

use crate::manage::ManageConnection;

/// A manager whose connections do nothing.
#[derive(Debug)]
pub struct StubManager;

/// A connection that does nothing.
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
