//! `file_control`, which rusqlite has since version 0.41.
//!
//! The names of this module stand in for rusqlite's where it has none: the names that a block
//! imports, even by a glob, hide those around it, and a type's own method hides a trait's.

#![allow(dead_code)]

use rusqlite::Result;

/// Nobody can make one.
pub enum FileControl<'a> {
    DataVersion(&'a mut u32),
    HasMoved(&'a mut bool),
}

trait Without {
    fn file_control<N>(&self, database: Option<N>, operation: FileControl<'_>) -> Result<()>;
}

impl Without for rusqlite::Connection {
    fn file_control<N>(&self, _: Option<N>, _: FileControl<'_>) -> Result<()> {
        Err(rusqlite::Error::InvalidQuery)
    }
}

const _: () = {
    use rusqlite::*;

    impl crate::Connection {
        /// `rusqlite::Connection::file_control`, with rusqlite 0.41 or later. The connection is
        /// closed when it returns, unless this only asked for a state (`DataVersion`, `HasMoved`).
        ///
        /// # Errors
        ///
        /// As there.
        pub fn file_control<N: Name>(
            &self,
            database: Option<N>,
            operation: FileControl<'_>,
        ) -> Result<()> {
            let only_asks = match &operation {
                FileControl::DataVersion(_) => true,
                #[cfg(unix)]
                FileControl::HasMoved(_) => true,
                #[allow(unreachable_patterns)]
                _ => false,
            };
            if !only_asks {
                self.session().note_other("a file_control operation");
            }
            self.driver().file_control(database, operation)
        }
    }
};
