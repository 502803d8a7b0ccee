//! draft
mod core;
mod manage;
mod stats;
