//! What a returned connection is reset to.

/// What the pool undoes on a connection that its holder has returned.
///
/// Set by [`reset_on_return`](crate::SqliteConnectionManager::reset_on_return). The default
/// is [`Session`](Reset::Session): a use that left nothing costs nothing more, so there is
/// no reason for less.
///
/// # What can be left, and what `Session` does about it
///
/// "Undone" and "closed" happen on the pool's threads. A closed connection is replaced; to
/// open a SQLite file takes some ten microseconds. The pool logs what it found, with the
/// holder's thread and line, at most once per second. What
/// [`with_init`](crate::SqliteConnectionManager::with_init) or the pool's customizer have
/// set is never reset: it is what a clean connection has.
///
/// | left behind | noticed | then |
/// |---|---|---|
/// | a transaction, a savepoint | always | rolled back (`Rollback` does this too) |
/// | an interrupt handle | [always](crate::InterruptHandle) | does nothing any more |
/// | `PRAGMA foreign_keys`, `synchronous`, `query_only`, `recursive_triggers`, `cache_size`, `busy_timeout` and others that say their value | always | compared and undone |
/// | these of an attached database or of `temp` (`PRAGMA other.synchronous = 0`); `secure_delete` and `mmap_size` without a name, if `with_init` has attached a database | always | closed |
/// | other pragmas: `journal_mode`, `locking_mode`, `temp_store`, `case_sensitive_like`, … | always | closed |
/// | `ATTACH`, `DETACH`; tables, views, triggers in `temp` | always | closed, unless everything is as before |
/// | an update, commit, rollback, progress or trace hook | always | removed |
/// | a busy handler or WAL hook | unless `busy_timeout` or `wal_autocheckpoint` of a clean connection is 0 | removed |
/// | an authorizer | always | closed |
/// | a function, a collation or the callback for missing ones, a limit, a `db_config` flag, a `file_control` operation, a capacity of the statement cache, a transaction behavior | if set by a method of [`Connection`](crate::Connection) | closed |
/// | the same by a function that was given `&rusqlite::Connection`; a window function, a module, an extension, a pre-update hook, client data, `deserialize`; rows in temporary tables of `with_init` | no | set them in `with_init` |
/// | with rusqlite 0.40 or before: a WAL hook; any other hook by a function that was given `&rusqlite::Connection` | no | set them in `with_init` |
/// | the driver's own interrupt handle, taken from a `&rusqlite::Connection` or a transaction | no | take it from the guard |
/// | a statement that was not read to its end | impossible: it borrows the connection | |
/// | cached statements, `last_insert_rowid()`, `changes()` | not looked for | stay |
///
/// A hook of `with_init` or the customizer that a holder has replaced stays replaced, and so
/// does one that they had only removed. An authorizer of
/// `with_init` takes the place of the one that notices SQL; each return then compares
/// `main`'s pragmas, databases and temporary objects on a worker thread.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reset {
    /// Nothing, unless the holder panicked: then as [`Rollback`](Reset::Rollback). An
    /// open transaction is then the next holder's, who may lose it, and it locks the
    /// database meanwhile.
    Off,
    /// An open transaction is rolled back. Costs a load from memory.
    Rollback,
    /// As `Rollback`, and everything in the table above. The default.
    ///
    /// A use that left nothing pays some 20 ns at its return. Each `prepare` that is not
    /// cached pays for the authorizer that notices, some 30 ns for each column that it
    /// reads: 2 to 5 % of the shortest query. Cached statements pay nothing. See
    /// `docs/decisions/0023-state-left-in-sqlite.md`.
    #[default]
    Session,
}
