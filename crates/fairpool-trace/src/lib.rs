#![doc = include_str!("../README.md")]

mod file;
mod piece;
mod recorder;
mod trace;
mod tracker;

pub use self::recorder::{Recorder, StartError, record};
pub use self::trace::Trace;
