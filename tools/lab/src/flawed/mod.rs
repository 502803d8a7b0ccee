//! Pools with one flaw each, and honest otherwise: with the flaw mended (a switch), the
//! same scenario passes. None of them is part of the library.

pub mod endless;
pub mod forgetful;
pub mod serialised;
pub mod unsynchronised;
