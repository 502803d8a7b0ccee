//! What a user calls.

pub(crate) mod guard;
pub(crate) mod pool;
pub(crate) mod request;
