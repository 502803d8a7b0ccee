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

use parking_lot::Mutex;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use rusqlite::{Connection, Error, ffi};

use self::baseline::Baseline;
use self::hooks::Hooks;
use crate::place::Place;

/// A pragma that has a value to go back to.
const SETTING: u8 = 1;
const ATTACHED: u8 = 2;
const TEMPORARY: u8 = 4;
/// What cannot be undone.
const OTHER: u8 = 8;
/// Our authorizer was replaced, so there may be anything.
const UNWATCHED: u8 = 16;

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
    /// The authorizer belongs to the user, since the connection was prepared.
    is_unwatched: bool,
    left: Option<String>,
    /// The file's write-ahead log is to be emptied when the connection is reset.
    pub(crate) log_is_large: bool,
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
        place: Option<&Arc<Place>>,
        sql: bool,
    ) -> Result<(), Error> {
        self.hooks.arm(conn)?;
        self.watches_sql = sql;
        if !sql {
            return Ok(());
        }
        let watch = Watch { notes: Arc::clone(&self.notes), place: place.cloned() };
        conn.authorizer(Some(move |context: AuthContext<'_>| {
            watch.note(&context);
            Authorization::Allow
        }))
    }

    /// Takes the connection as it is for what its holders shall find.
    pub(crate) fn settle(&mut self, conn: &mut Connection, place: Option<&Arc<Place>>) {
        let kinds = self.notes.kinds();
        self.is_unwatched |= kinds & UNWATCHED != 0;
        if std::mem::take(&mut self.was_lent_mutably) {
            self.hooks.belong_to_user();
        }
        self.hooks.disarm(conn, place);
        // Statements that the preparation cached would run unseen.
        conn.flush_prepared_statement_cache();
        if self.watches_sql {
            self.baseline = Baseline::read(conn).ok();
        }
        self.forget();
    }

    /// True if `settle` has something to take over since it last ran.
    pub(crate) fn is_unsettled(&self) -> bool {
        self.was_lent_mutably || self.notes.kinds() != 0
    }

    /// Whether the last use may have left something behind. Usually two loads.
    #[inline]
    pub(crate) fn is_suspect(&mut self, conn: &mut Connection, place: Option<&Arc<Place>>) -> bool {
        if self.was_lent_mutably {
            self.look_for_hooks(conn, place);
        }
        self.notes.kinds() != 0 || self.is_unwatched
    }

    /// Removes hooks, and notes the two that stand in place of a setting.
    #[cold]
    fn look_for_hooks(&mut self, conn: &mut Connection, place: Option<&Arc<Place>>) {
        self.was_lent_mutably = false;
        self.hooks.clear(conn, place);
        for pragma in ["busy_timeout", "wal_autocheckpoint"] {
            if !self.baseline.as_ref().is_some_and(|baseline| baseline.holds(conn, pragma)) {
                self.note_setting(pragma);
            }
        }
    }

    /// Undoes what the last use left, apart from a transaction, which is over.
    ///
    /// `Err` describes what cannot be undone.
    pub(crate) fn restore(&mut self, conn: &Connection) -> Result<(), String> {
        let (mut kinds, texts) = self.notes.take();
        if self.is_unwatched {
            kinds |= SETTING | ATTACHED | TEMPORARY;
        }
        if kinds == 0 {
            return Ok(());
        }
        // A statement in the cache would run unseen the next time.
        conn.flush_prepared_statement_cache();
        let result = if kinds & (OTHER | UNWATCHED) != 0 {
            Err(texts.join(", "))
        } else {
            match &self.baseline {
                Some(baseline) => baseline.restore(conn, kinds),
                None => Err(texts.join(", ")),
            }
        };
        self.forget();
        match result {
            Ok(undone) => {
                undone.iter().for_each(|text| self.leave(text));
                Ok(())
            }
            Err(left) => {
                self.leave(&left);
                Err(left)
            }
        }
    }

    /// Drops the notes about statements of our own.
    pub(crate) fn forget(&self) {
        self.notes.take();
    }

    /// Adds to what the pool reports.
    pub(crate) fn leave(&mut self, text: &str) {
        match &mut self.left {
            Some(left) => {
                left.push_str(", ");
                left.push_str(text);
            }
            None => self.left = Some(text.to_owned()),
        }
    }

    pub(crate) fn take_left(&mut self) -> Option<String> {
        self.left.take()
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
    place: Option<Arc<Place>>,
}

impl Watch {
    fn note(&self, context: &AuthContext<'_>) {
        match context.action {
            AuthAction::Pragma { pragma_name, pragma_value: Some(_) } => self.pragma(pragma_name),
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
    fn pragma(&self, name: &str) {
        let name = name.to_ascii_lowercase();
        if let Some(place) = &self.place
            && name == "journal_mode"
        {
            place.watch_beside(false);
        }
        match pragmas::kind(&name) {
            pragmas::Kind::Harmless => {}
            pragmas::Kind::Setting => self.notes.add(SETTING, format!("PRAGMA {name}")),
            pragmas::Kind::Other => self.notes.add(OTHER, format!("PRAGMA {name}")),
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
