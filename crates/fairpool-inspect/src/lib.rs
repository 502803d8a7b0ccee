#![doc = include_str!("../README.md")]

mod access;
mod clients;
mod error;
mod http;
mod inspector;
mod page;
mod question;
mod recording;
mod response;
mod routes;
mod stream;
mod view;

pub use self::error::ServeError;
pub use self::inspector::{Inspector, Server, serve};

/// The examples of the guide, compiled as tests.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/looking-inside.md")]
struct Guide;
