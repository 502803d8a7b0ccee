//! What users call: the pool, its builder, a request, the guard of a connection.

pub(crate) mod build;
pub(crate) mod builder;
pub(crate) mod control;
pub(crate) mod get_async;
pub(crate) mod guard;
pub(crate) mod limits;
pub(crate) mod observe;
pub(crate) mod pool;
pub(crate) mod request;
pub(crate) mod weak;
