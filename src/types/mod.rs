//! What users and the pool exchange: traits, settings, errors, events and figures.

pub(crate) mod caller;
pub(crate) mod cancel;
pub(crate) mod config;
pub(crate) mod error;
pub(crate) mod error_text;
pub(crate) mod event;
pub(crate) mod extensions;
pub(crate) mod handler;
pub(crate) mod health;
pub(crate) mod holder;
#[cfg(feature = "serde")]
pub(crate) mod json;
pub(crate) mod manage;
pub(crate) mod stats;
pub(crate) mod subscription;
pub mod text;
pub(crate) mod thread;
pub(crate) mod times;
