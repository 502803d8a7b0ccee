//! fairpool

mod caller;
mod cancel;
mod config;
mod conn;
mod core;
#[doc(hidden)]
pub mod doc;
mod error;
pub mod event;
mod extensions;
mod manage;
mod pool;
mod pooled;
mod reaper;
mod request;
mod shared;
mod stats;
mod sync;
mod wait;
mod workers;

#[cfg(feature = "postgres")]
pub mod postgres;
#[cfg(feature = "sqlite")]
pub mod sqlite;

pub use crate::caller::Holder;
pub use crate::cancel::CancelToken;
pub use crate::config::{Builder, Fairness};
pub use crate::error::{Error, ErrorKind};
pub use crate::event::{HandleEvent, NopEventHandler};
pub use crate::extensions::Extensions;
pub use crate::manage::{
    CustomizeConnection, HandleError, LoggingErrorHandler, ManageConnection,
    NopConnectionCustomizer, NopErrorHandler,
};
pub use crate::pool::{CloseReport, Pool, State};
pub use crate::pooled::{ConnectionInfo, PooledConnection};
pub use crate::request::Request;
pub use crate::stats::{ClosedBy, Stats};
