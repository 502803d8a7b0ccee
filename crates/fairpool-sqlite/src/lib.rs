//! SQLite for [`fairpool`]: a manager for [`rusqlite`], versions 0.38 to 0.43.
//!
//! [`Database`] is one writer and many readers of a file: what most programs want. For a
//! [`Pool`](fairpool::Pool) of connections that all read and write, and for databases in memory,
//! there is [`SqliteConnectionManager`], which has the names of `r2d2_sqlite`. It adds a busy
//! timeout, WAL, a shared memory database whose connections wait for each other, a reset of what a
//! holder leaves, closes that leave all rows in the file, a watch on the file, and a classification
//! of errors.
//!
//! ```
//! use fairpool_sqlite::{Database, SqliteConnectionManager};
//!
//! # let folder = tempfile::tempdir()?;
//! # let path = folder.path().join("shop.db");
//! let db = Database::new(SqliteConnectionManager::file(path))?;
//! db.write()?.execute_batch("CREATE TABLE fruit (name TEXT); INSERT INTO fruit VALUES ('fig')")?;
//! let name: String = db.read()?.query_row("SELECT name FROM fruit", [], |row| row.get(0))?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! ```
//! use std::time::Duration;
//!
//! use fairpool::Pool;
//! use fairpool_sqlite::SqliteConnectionManager;
//!
//! let pool = Pool::builder().max_size(4).build(SqliteConnectionManager::memory())?;
//! let conn = pool.get_timeout(Duration::from_secs(1))?;
//! conn.execute_batch("CREATE TABLE fruit (name TEXT)")?;
//! conn.execute("INSERT INTO fruit VALUES (?1)", ["fig"])?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Which rusqlite, which SQLite
//!
//! A program links one SQLite, so Cargo allows one version of `libsqlite3-sys`, which is what
//! rusqlite and diesel share. This crate takes any rusqlite from 0.38 to 0.43, and Cargo finds one
//! that the rest of the program allows:
//!
//! | beside | Cargo takes |
//! |---|---|
//! | nothing else that links SQLite | the newest that your Rust allows: 0.41 and later need Rust 1.89 |
//! | diesel 2.3 with `sqlite` (`libsqlite3-sys` below 0.39) | 0.40 |
//! | your own `rusqlite = "0.39"` | 0.39 |
//!
//! - **Name its types by `fairpool_sqlite::rusqlite`**, which is always the one that the pool uses.
//!   If you depend on rusqlite yourself (for more of its features, which then hold here too), and
//!   it is another version, Cargo says so (`links to the native library sqlite3`); or, for two
//!   versions with one `libsqlite3-sys`, as 0.42 and 0.43, the compiler does ("multiple different
//!   versions of crate `rusqlite`"). `cargo tree -d` shows both. Then give yours the version that
//!   `cargo tree -i rusqlite` shows for this crate, or set this crate's: `cargo update -p
//!   rusqlite@0.43.0 --precise 0.42.0`.
//! - **SQLite is compiled in** by default (feature `bundled`), so that nothing need be installed,
//!   and it is a SQLite that rusqlite fits and our tests ran with. With `default-features = false`
//!   the library of the system is linked (its development files must be there), or what a feature
//!   of rusqlite names: `rusqlite = { version = "0.43", features = ["bundled-sqlcipher"] }`. Cargo
//!   adds features up: whoever in your program asks for `bundled` gets it for all, diesel's
//!   connections too.
//! - **SQLCipher's key** comes before anything that reads the file: in the name
//!   (`file:shop.db?key=…`, which no error or log record shows), or with `wal(false)` as the first
//!   statement of `with_init`, which may switch to WAL after it.
//! - **A library of the system may be old**: from version 0.41 on, rusqlite's hooks need SQLite
//!   3.44. With an older one (Debian 12 has 3.40) the program does not link: "undefined symbol:
//!   `sqlite3_set_clientdata`". Then use rusqlite 0.40: `cargo update -p rusqlite --precise
//!   0.40.2`. It may have other defaults: the SQLite of `bundled` checks foreign keys, most
//!   systems' does not unless `with_init` says `PRAGMA foreign_keys = ON`.
//! - **Before version 0.41** rusqlite has no `file_control` and says less about hooks: [`Reset`]
//!   has what is not noticed then.
//!
//! # What to know about SQLite
//!
//! - **There is one writer at a time**, whatever the size of the pool. The others wait in
//!   `busy_timeout`, in no order: SQLite sleeps and tries again. Beside writers that never
//!   pause, one may wait for its whole timeout and fail. A [`Database`] has one connection that
//!   writes, and a queue before it that is FIFO.
//! - **A transaction that reads before it writes can fail at once** with `SQLITE_BUSY`,
//!   because waiting could not help. In a pool, set
//!   [`transaction_behavior`](SqliteConnectionManager::transaction_behavior), or start a
//!   transaction that will write with
//!   [`TransactionBehavior::Immediate`](rusqlite::TransactionBehavior). The writer of a
//!   [`Database`] does so by itself.
//! - **What a holder changes in its connection is undone** before the next one gets it:
//!   pragmas, attached databases, temporary tables, hooks. [`Reset`] has the table. To set
//!   something for all connections, use [`with_init`](SqliteConnectionManager::with_init).
//! - **A close copies the write-ahead log into the file**, which can take a while. The pool
//!   closes on its closer threads. Connections to one file close in turn, each waits for its
//!   turn for at most 2 s and half of `close_timeout`, and the last one of a manager makes a
//!   checkpoint that waits for nobody. So after a complete
//!   [`Pool::close`](fairpool::Pool::close) all rows are in the file, and the `-wal` file is
//!   gone, unless another process or pool still uses the file: then the log stays, with
//!   what that reader still needs of it.
//! - **The path must go on to mean the same file.** A commit is refused with
//!   `SQLITE_CONSTRAINT_COMMITHOOK` once the file was moved, deleted or replaced, or its
//!   `-wal` or `-shm` file, or a symbolic link on the way. The connection is closed when it
//!   returns. Commits and returns look for such a change at most once per tick of the clock
//!   (10 ms at most on Linux), so commits within one tick of the change can be lost. A
//!   connection that was idle then reads the old file in its next use. A close copies no
//!   log that has lost its name. Only on Unix: other systems keep the name of an open file.
//!   Hard links to one database are not noticed: SQLite keeps a log for each name, which
//!   damages the file.
//! - **Open the file only with SQLite** while a pool uses it. When a process closes any
//!   descriptor of a file (after `std::fs::read` or `copy`, for example), POSIX takes all
//!   its locks from that file, those of SQLite too; other processes then write over it or
//!   delete its log. `VACUUM INTO` makes a copy.
//! - **A relative path** is taken from the folder that the process had when the manager was
//!   made.
//!
//! # Statements that stay prepared
//!
//! `execute` and `query_row` of a connection prepare their statement each time. `prepare_cached`
//! finds it prepared, also by the last holder: a row by its key then takes 1.7 µs instead of 2.7,
//! an `UPDATE` by key within a transaction 0.3 µs instead of 2. Each connection keeps [16 of
//! them](SqliteConnectionManager::statement_cache).
//!
//! # A write-ahead log that grows
//!
//! SQLite can begin the log anew only when no connection reads from it. A reader that never
//! ends, or readers of which one always begins before the other ends, make it grow: we saw
//! 690 MB beside a database of 1 MB after ten seconds. A reader is a transaction that has read,
//! or rows that were not read to the end.
//!
//! When a connection (of a [`Database`], that of the writer) returns and the log has more than 64
//! MiB, a worker of the pool tries to empty it, at most every 10 s. It makes five attempts, each of
//! which waits for readers for 100 ms at most, and never longer than `busy_timeout`; writers wait
//! meanwhile. That ends the growth beside overlapping readers that are shorter than that. Copying
//! takes the time that the disk needs: if `reset_timeout` (2 s) is too short for it, the pool
//! abandons the call and replaces the connection, and the copying ends on its own. If the log
//! cannot be emptied, a warning gives its size. Find the reader with
//! [`Pool::holders`](fairpool::Pool::holders) then.
//!
//! # Errors
//!
//! What [`is_permanent`](fairpool::ManageConnection::is_permanent) and
//! [`is_fatal`](fairpool::ManageConnection::is_fatal) make of SQLite's codes. In doubt an
//! error is not permanent, since that ends every wait at once.
//!
//! | code | when | permanent | fatal |
//! |---|---|---|---|
//! | a path with a zero byte | always | yes | |
//! | `MISUSE` from `connect` | a name gives each connection a database of its own; a [`Database`] cannot be made of it | yes | |
//! | `CANTOPEN` | a folder or mount is missing, or descriptors are short; `ATTACH` | no | no |
//! | `NOTADB`, `CORRUPT` | the file is being copied, or is damaged | no | yes |
//! | `IOERR`, `INTERNAL` | | no | yes |
//! | `IOERR_NOMEM`, `NOMEM`, `FULL` | memory or disk is short | no | no |
//! | `READONLY_DBMOVED`, `CONSTRAINT_COMMITHOOK` | the file is another one | no | yes |
//! | `READONLY` and its other kinds, `PERM`, `AUTH` | rights can change | no | no |
//! | `BUSY`, `LOCKED`, `PROTOCOL`, `INTERRUPT`, `SCHEMA` | another connection is in the way | no | no |
//! | errors of statements | | no | no |
//!
//! A file in WAL mode in a folder that cannot be written is not readable for SQLite, which
//! has to create files beside it. `connect` says so. If nobody writes the database, open it
//! as `file:PATH?immutable=1`.

mod busy;
mod connection;
mod database;
mod manager;
mod reset;
mod session;
mod watched_file;

pub use rusqlite;

pub use crate::connection::{Connection, InterruptHandle};
pub use crate::database::{CloseReports, Database, DatabaseBuilder};
pub use crate::manager::SqliteConnectionManager;
pub use crate::reset::Reset;

/// Compiles the examples of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
