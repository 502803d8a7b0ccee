//! `r2d2_sqlite` on fairpool, by the adapter: the example of its documentation.
#![cfg(doctest)]
#![doc = include_str!("../../../crates/fairpool-r2d2/src/guides/sqlite.md")]
