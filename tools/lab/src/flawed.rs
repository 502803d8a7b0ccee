//! Small pools with one flaw each. A switch fixes the flaw; then the same scenario passes.

pub mod endless;
pub mod forgetful;
pub mod serialised;
pub mod unsynchronised;
