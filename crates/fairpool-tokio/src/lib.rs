#![doc = include_str!("../README.md")]

mod error;
mod interact;
mod interaction;
mod slot;

pub use self::error::Error;
pub use self::interact::Interact;
pub use self::interaction::Interaction;
