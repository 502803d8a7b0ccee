#![doc = include_str!("../README.md")]

mod error;
mod http;
mod inspector;
mod page;
mod routes;
mod view;

pub use self::error::ServeError;
pub use self::inspector::{Inspector, Server, serve};
