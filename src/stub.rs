//! A manager for unit tests, whose connections do nothing.

use std::convert::Infallible;

use crate::types::ManageConnection;

#[derive(Debug)]
pub(crate) struct StubManager;

#[derive(Debug)]
pub(crate) struct StubConnection;

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
