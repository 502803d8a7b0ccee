//! The hooks of a connection. SQLite does not list them. So the crate sets hooks of its own
//! first, and notices when another hook replaces one of them.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use rusqlite::hooks::Action;
use rusqlite::trace::{TraceEvent, TraceEventCodes};
use rusqlite::{Connection, Error};

use crate::watched_file::WatchedFile;

const UPDATE: u8 = 1;
const COMMIT: u8 = 2;
const ROLLBACK: u8 = 4;
const PROGRESS: u8 = 8;
const TRACE: u8 = 16;

thread_local! {
    /// A statement ran under our trace hook. Before version 0.41 rusqlite takes no trace hook that
    /// owns something, and so none that owns a tripwire.
    static IS_TRACED: Cell<bool> = const { Cell::new(false) };
}

fn note_trace(_: TraceEvent<'_>) {
    IS_TRACED.set(true);
}

#[derive(Default)]
pub(super) struct Hooks {
    replaced: Arc<AtomicU8>,
    /// Hooks that the user's preparation has set or removed. The others are ours.
    of_user: u8,
}

/// A value that a hook of ours owns. SQLite drops both when another hook takes their place.
struct Tripwire {
    hook: u8,
    replaced: Arc<AtomicU8>,
}

impl Tripwire {
    /// Does nothing; but a closure that calls it owns the tripwire.
    fn hold(&self) {}
}

impl Drop for Tripwire {
    fn drop(&mut self) {
        self.replaced.fetch_or(self.hook, Ordering::Relaxed);
    }
}

impl Hooks {
    /// Sets hooks that do nothing of their own, before the connection is prepared. They stay
    /// until [`clear`](Self::clear).
    pub(super) fn set_tripwires(
        &mut self,
        conn: &mut Connection,
        file: Option<&Arc<WatchedFile>>,
    ) -> Result<(), Error> {
        let wire = |hook| Tripwire { hook, replaced: Arc::clone(&self.replaced) };
        let (update, commit, rollback) = (wire(UPDATE), wire(COMMIT), wire(ROLLBACK));
        let progress = wire(PROGRESS);
        conn.update_hook(Some(move |_: Action, _: &str, _: &str, _: i64| update.hold()))?;
        let file = file.map(Arc::clone);
        conn.commit_hook(Some(move || {
            commit.hold();
            file.as_ref().is_some_and(|file| file.refuses_commit())
        }))?;
        conn.rollback_hook(Some(move || rollback.hold()))?;
        conn.progress_handler(
            i32::MAX,
            Some(move || {
                progress.hold();
                false
            }),
        )?;
        let _ = conn
            .trace_v2(TraceEventCodes::SQLITE_TRACE_STMT, Some(note_trace as fn(TraceEvent<'_>)));
        Ok(())
    }

    /// Hooks that were replaced so far belong to the preparation.
    pub(super) fn keep_replaced(&mut self, conn: &Connection) {
        self.of_user |= self.replaced.load(Ordering::Relaxed);
        IS_TRACED.set(false);
        let has_run = conn.query_row("PRAGMA busy_timeout", [], |_| Ok(())).is_ok();
        if has_run && !IS_TRACED.get() {
            self.of_user |= TRACE;
        }
    }

    /// Removes hooks that do not belong to the preparation. None of these calls fails
    /// unless memory is short, and then the next use clears again.
    pub(super) fn clear(&self, conn: &mut Connection, file: Option<&Arc<WatchedFile>>) {
        let is_ours = |hook| self.of_user & hook == 0;
        if is_ours(UPDATE) {
            let _ = conn.update_hook(None::<fn(Action, &str, &str, i64)>);
        }
        if is_ours(COMMIT) {
            let file = file.map(Arc::clone);
            let _ = conn.commit_hook(file.map(|file| move || file.refuses_commit()));
        }
        if is_ours(ROLLBACK) {
            let _ = conn.rollback_hook(None::<fn()>);
        }
        if is_ours(PROGRESS) {
            let _ = conn.progress_handler(0, None::<fn() -> bool>);
        }
        if is_ours(TRACE) {
            let _ = conn.trace_v2(TraceEventCodes::empty(), None::<fn(TraceEvent<'_>)>);
        }
    }
}
