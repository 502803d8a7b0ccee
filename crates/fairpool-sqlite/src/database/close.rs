//! Closes a [`Database`].

use std::fmt;
use std::time::Instant;

use fairpool::CloseReport;

use super::Database;

/// What was left of the two pools when [`Database::close`] returned.
#[derive(Debug, Clone, Default)]
#[must_use = "a close may be incomplete"]
#[non_exhaustive]
pub struct CloseReports {
    /// Of the writer.
    pub writer: CloseReport,
    /// Of the readers.
    pub readers: CloseReport,
}

impl CloseReports {
    /// Whether both are complete. Then all rows are in the file, and there is no `-wal` beside it
    /// unless another process or pool uses the file.
    pub fn is_complete(&self) -> bool {
        self.writer.is_complete() && self.readers.is_complete()
    }
}

impl fmt::Display for CloseReports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "writer: {}; readers: {}", self.writer, self.readers)
    }
}

impl Database {
    /// Closes both pools for all handles, and waits until they have ended.
    ///
    /// As [`Pool::close`](fairpool::Pool::close): both refuse callers from now on, and connections
    /// in use are closed when they are returned. The last one copies the log into the file.
    ///
    /// # Blocking
    ///
    /// Until the deadline at most.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::{Duration, Instant};
    ///
    /// use fairpool_sqlite::{Database, SqliteConnectionManager};
    ///
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("shop.db");
    /// let db = Database::new(SqliteConnectionManager::file(path))?;
    /// let reports = db.close(Instant::now() + Duration::from_secs(5));
    /// assert!(reports.is_complete(), "{reports}");
    /// assert!(db.read().unwrap_err().is_closed());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn close(&self, deadline: Instant) -> CloseReports {
        // Does not wait, so that neither accepts callers while the other waits for its holders.
        let _ = self.writer.close(Instant::now());
        let readers = self.readers.close(deadline);
        CloseReports { writer: self.writer.close(deadline), readers }
    }
}
