//! The manager by itself and in a pool, on files and in memory.

mod closing;
mod database;
mod database_file;
mod driver;
mod errors;
#[cfg(unix)]
mod leaving;
mod left_behind;
mod locks;
mod names;
mod pool;
mod replaced_file;
mod reset;
mod state;
mod statements;
mod wal;

use tempfile::TempDir;

fn folder() -> TempDir {
    tempfile::tempdir().expect("a temporary folder")
}
