//! Builds a [`Database`].

use std::fmt;

use fairpool::{Builder, Error, Pool};

use super::Database;
use crate::manager::SqliteConnectionManager as Manager;

/// Builds a [`Database`]: the settings of its two pools.
///
/// # Defaults
///
/// Those of [`Builder`], so 10 readers, but
///
/// | setting | writer | readers |
/// |---|---|---|
/// | `name` | `fairpool-writer` | `fairpool-readers` |
/// | `max_size` | always 1 | 10 |
///
/// # Examples
///
/// ```
/// use fairpool_sqlite::{Database, SqliteConnectionManager};
///
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("shop.db");
/// let db = Database::builder()
///     .both(|pool| pool.max_waiters(Some(200)))
///     .writer(|pool| pool.name("shop writer"))
///     .readers(|pool| pool.name("shop readers").max_size(4))
///     .build(SqliteConnectionManager::file(path))?;
/// assert_eq!((db.writer().max_size(), db.readers().max_size()), (1, 4));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "a builder does nothing until `build`"]
pub struct DatabaseBuilder {
    writer: Builder<Manager>,
    readers: Builder<Manager>,
}

impl Default for DatabaseBuilder {
    fn default() -> DatabaseBuilder {
        DatabaseBuilder {
            writer: Pool::builder().name("fairpool-writer"),
            readers: Pool::builder().name("fairpool-readers"),
        }
    }
}

impl DatabaseBuilder {
    /// Sets up both pools, each by one call of `settings`.
    pub fn both(self, settings: impl Fn(Builder<Manager>) -> Builder<Manager>) -> DatabaseBuilder {
        self.writer(&settings).readers(settings)
    }

    /// Sets up the pool of the writer. A `max_size` is ignored: it is always one.
    pub fn writer(
        mut self,
        settings: impl FnOnce(Builder<Manager>) -> Builder<Manager>,
    ) -> DatabaseBuilder {
        self.writer = settings(self.writer);
        self
    }

    /// Sets up the pool of the readers.
    pub fn readers(
        mut self,
        settings: impl FnOnce(Builder<Manager>) -> Builder<Manager>,
    ) -> DatabaseBuilder {
        self.readers = settings(self.readers);
        self
    }

    /// Builds both pools, the writer's first: it creates the file, recovers it after a crash and
    /// switches it to WAL, before a reader opens it.
    ///
    /// # Errors
    ///
    /// As [`Builder::build`], of either pool. If the manager's database can be none of these
    /// ([what it needs](Database#what-it-needs)), or `with_init` writes on a reader, at once, with
    /// [`ErrorKind::Connect`](fairpool::ErrorKind::Connect).
    ///
    /// # Panics
    ///
    /// As [`Builder::build`]: if `min_idle` is greater than `max_size`.
    ///
    /// # Blocking
    ///
    /// For up to the `connection_timeout` of each pool.
    pub fn build(self, manager: Manager) -> Result<Database, Error> {
        let (writers, readers) = manager.into_pair();
        let writer = self.writer.max_size(1).build(writers)?;
        if writer.min_idle() == Some(0) {
            // The build has not waited for the connection.
            drop(writer.get()?);
        }
        let readers = self.readers.build(readers)?;
        Ok(Database { writer, readers })
    }
}

impl fmt::Debug for DatabaseBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DatabaseBuilder")
            .field("writer", &self.writer)
            .field("readers", &self.readers)
            .finish()
    }
}
