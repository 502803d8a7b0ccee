//! What a use of a connection has left in its session, and its removal.
//!
//! SQLite calls an authorizer while it prepares a statement. Ours allows everything, and
//! notes statements that leave something behind. So a use that had none of them is known to
//! be clean at no cost.

mod baseline;
mod hooks;
mod pragmas;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use rusqlite::{Connection, Error, ffi};

use self::baseline::Baseline;
use self::hooks::Hooks;
use crate::watched_file::WatchedFile;

/// A pragma whose value can be set back.
const SETTING: u8 = 1;
const ATTACHED: u8 = 2;
const TEMPORARY: u8 = 4;
/// What cannot be undone.
const OTHER: u8 = 8;
/// Our authorizer was replaced, so anything may be left.
const UNWATCHED: u8 = 16;
/// A pragma whose value went to attached databases too, where it is not compared.
const EVERYWHERE: u8 = 32;

/// What was noted since the last [`Notes::take`].
#[derive(Default)]
struct Notes {
    kinds: AtomicU8,
    texts: Mutex<BTreeSet<String>>,
}

impl Notes {
    #[cold]
    fn add(&self, kind: u8, text: impl Into<String>) {
        self.kinds.fetch_or(kind, Ordering::Relaxed);
        self.texts.lock().insert(text.into());
    }

    fn kinds(&self) -> u8 {
        self.kinds.load(Ordering::Relaxed)
    }

    fn take(&self) -> (u8, Vec<String>) {
        let texts = std::mem::take(&mut *self.texts.lock());
        (self.kinds.swap(0, Ordering::Relaxed), texts.into_iter().collect())
    }
}

#[derive(Default)]
pub(crate) struct Session {
    notes: Arc<Notes>,
    baseline: Option<Baseline>,
    hooks: Hooks,
    /// `&mut rusqlite::Connection` was lent, with which hooks can be set.
    was_lent_mutably: bool,
    watches_sql: bool,
    /// The user's preparation has set an authorizer of its own.
    is_unwatched: bool,
    /// What the last reset found, for the pool to log.
    report: Option<String>,
    /// The file's write-ahead log is to be emptied when the connection is reset.
    pub(crate) must_empty_log: bool,
    /// The log is to be copied into the file when the connection is reset.
    pub(crate) must_checkpoint: bool,
}

impl Session {
    pub(crate) fn note_setting(&self, pragma: &str) {
        self.notes.add(SETTING, format!("PRAGMA {pragma}"));
    }

    pub(crate) fn note_other(&self, text: &str) {
        self.notes.add(OTHER, text);
    }

    #[inline]
    pub(crate) fn lend_mutably(&mut self) {
        self.was_lent_mutably = true;
    }

    /// Begins to watch a new connection, before any code of the user sees it: its hooks,
    /// and with `sql` what its statements leave.
    pub(crate) fn watch(
        &mut self,
        conn: &mut Connection,
        file: Option<&Arc<WatchedFile>>,
        sql: bool,
    ) -> Result<(), Error> {
        self.hooks.set_tripwires(conn, file)?;
        self.watches_sql = sql;
        if !sql {
            return Ok(());
        }
        let watch = Watch { notes: Arc::clone(&self.notes), file: file.cloned() };
        conn.authorizer(Some(move |context: AuthContext<'_>| {
            watch.note(&context);
            Authorization::Allow
        }))
    }

    /// Notes the present state of the connection as the baseline, which a reset restores.
    pub(crate) fn take_baseline(&mut self, conn: &Connection) {
        self.is_unwatched |= self.notes.kinds() & UNWATCHED != 0;
        self.was_lent_mutably = false;
        self.hooks.keep_replaced(conn);
        // The authorizer does not see a cached statement of the preparation when it runs.
        conn.flush_prepared_statement_cache();
        if self.watches_sql {
            self.baseline = Baseline::read(conn).ok();
        }
        self.drop_notes();
    }

    /// The pool's customizer has had its turn too: hooks that are set from now on are a
    /// holder's.
    pub(crate) fn end_preparation(
        &mut self,
        conn: &mut Connection,
        file: Option<&Arc<WatchedFile>>,
    ) {
        self.hooks.clear(conn, file);
    }

    /// Whether something may have changed since the baseline was taken.
    pub(crate) fn is_baseline_outdated(&self) -> bool {
        self.was_lent_mutably || self.notes.kinds() != 0
    }

    /// Whether the last use may have left something behind. Usually two loads.
    #[inline]
    pub(crate) fn is_suspect(
        &mut self,
        conn: &mut Connection,
        file: Option<&Arc<WatchedFile>>,
    ) -> bool {
        if self.was_lent_mutably {
            self.look_for_hooks(conn, file);
        }
        self.notes.kinds() != 0 || self.is_unwatched
    }

    /// Removes hooks, and notes the two hooks that replace a setting: the busy handler
    /// replaces `busy_timeout`, the WAL hook `wal_autocheckpoint`.
    #[cold]
    fn look_for_hooks(&mut self, conn: &mut Connection, file: Option<&Arc<WatchedFile>>) {
        self.was_lent_mutably = false;
        self.hooks.clear(conn, file);
        for pragma in ["busy_timeout", "wal_autocheckpoint"] {
            if !self.baseline.as_ref().is_some_and(|baseline| baseline.holds(conn, pragma)) {
                self.note_setting(pragma);
            }
        }
    }

    /// Undoes what the last use left, apart from a transaction, which is over.
    ///
    /// `Err` describes what cannot be undone.
    pub(crate) fn restore(&mut self, conn: &Connection, wait: Duration) -> Result<(), String> {
        let (mut kinds, texts) = self.notes.take();
        if self.is_unwatched {
            kinds |= SETTING | ATTACHED | TEMPORARY;
        }
        if kinds == 0 {
            return Ok(());
        }
        // The authorizer would not see a cached statement when it runs again.
        conn.flush_prepared_statement_cache();
        let result = if kinds & (OTHER | UNWATCHED) != 0 {
            Err(texts.join(", "))
        } else {
            match &self.baseline {
                Some(baseline) => baseline.restore(conn, kinds, wait),
                None => Err(texts.join(", ")),
            }
        };
        self.drop_notes();
        match result {
            Ok(undone) => {
                undone.iter().for_each(|text| self.report(text));
                Ok(())
            }
            Err(left) => {
                self.report(&left);
                Err(left)
            }
        }
    }

    /// Drops the notes about statements of our own.
    pub(crate) fn drop_notes(&self) {
        self.notes.take();
    }

    /// Adds to what the pool logs as left behind.
    pub(crate) fn report(&mut self, text: &str) {
        match &mut self.report {
            Some(left) => {
                left.push_str(", ");
                left.push_str(text);
            }
            None => self.report = Some(text.to_owned()),
        }
    }

    pub(crate) fn take_report(&mut self) -> Option<String> {
        self.report.take()
    }
}

/// The error of a connection that is closed because of what its holder left.
pub(crate) fn not_undone(left: &str) -> Error {
    let text = format!("its last holder left {left}, which cannot be undone");
    Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_MISUSE), Some(text))
}

/// Belongs to our authorizer: SQLite drops it when another authorizer takes its place.
struct Watch {
    notes: Arc<Notes>,
    file: Option<Arc<WatchedFile>>,
}

impl Watch {
    fn note(&self, context: &AuthContext<'_>) {
        match context.action {
            AuthAction::Pragma { pragma_name, pragma_value: Some(_) } => {
                self.pragma(pragma_name, context.database_name);
            }
            AuthAction::Attach { .. } | AuthAction::Detach { .. } => {
                self.notes.add(ATTACHED, "an attached database");
            }
            AuthAction::CreateTempIndex { .. }
            | AuthAction::CreateTempTable { .. }
            | AuthAction::CreateTempTrigger { .. }
            | AuthAction::CreateTempView { .. }
            | AuthAction::DropTempIndex { .. }
            | AuthAction::DropTempTable { .. }
            | AuthAction::DropTempTrigger { .. }
            | AuthAction::DropTempView { .. }
            | AuthAction::AlterTable { database_name: "temp", .. } => self.temporary(),
            // `CREATE TABLE temp.t` goes without the word TEMP.
            AuthAction::CreateTable { .. }
            | AuthAction::CreateTrigger { .. }
            | AuthAction::CreateView { .. }
            | AuthAction::CreateVtable { .. }
            | AuthAction::DropVtable { .. }
                if context.database_name == Some("temp") =>
            {
                self.temporary();
            }
            _ => {}
        }
    }

    #[cold]
    fn pragma(&self, name: &str, database: Option<&str>) {
        let name = name.to_ascii_lowercase();
        // The baseline has the values of `main`.
        let other = database.filter(|database| *database != "main");
        if let Some(file) = &self.file
            && name == "journal_mode"
            && other.is_none()
        {
            file.watch_beside(false);
        }
        let text = match other {
            Some(database) => format!("PRAGMA {database}.{name}"),
            None => format!("PRAGMA {name}"),
        };
        match pragmas::kind(&name) {
            pragmas::Kind::Harmless => {}
            pragmas::Kind::Setting if other.is_none() => {
                let reaches_all = database.is_none() && pragmas::reaches_attached(&name);
                let everywhere = if reaches_all { EVERYWHERE } else { 0 };
                self.notes.add(SETTING | everywhere, text);
            }
            pragmas::Kind::Setting | pragmas::Kind::Other => self.notes.add(OTHER, text),
        }
    }

    #[cold]
    fn temporary(&self) {
        self.notes.add(TEMPORARY, "temporary tables, views, triggers or indexes");
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.notes.add(UNWATCHED, "an authorizer");
    }
}
