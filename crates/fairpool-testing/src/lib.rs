//! Drivers for tests of code that uses `fairpool`: one that does nothing, one that does
//! what a script says, and one that misbehaves at random.

use std::convert::Infallible;

use fairpool::ManageConnection;

pub mod dice;
pub mod eventful;
pub mod faults;
pub mod hooks;
pub mod hostile;
pub mod stub;

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
