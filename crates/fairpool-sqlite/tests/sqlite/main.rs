//! The manager by itself and in a pool, on files and in memory.

mod driver;
#[cfg(unix)]
mod leaving;
mod pool;

use tempfile::TempDir;

fn folder() -> TempDir {
    tempfile::tempdir().expect("a temporary folder")
}
