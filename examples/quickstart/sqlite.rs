//! The bank in an SQLite file.

use std::path::PathBuf;
use std::time::Duration;

use fairpool::stats::Stats;
use fairpool::{Error, PooledConnection};
use fairpool_sqlite::rusqlite::{self, ErrorCode, params};
use fairpool_sqlite::{Connection, Database, SqliteConnectionManager};
use tempfile::TempDir;

use crate::bank::{ACCOUNTS, Audit, Bank, Failure, OPENING_BALANCE, Pools, Transfer, Written};
use crate::problem::{Problem, chain};

const BALANCE: &str = "SELECT balance FROM accounts WHERE id = ?1";
const TURNOVER: &str =
    "SELECT coalesce(sum(amount), 0) FROM ledger WHERE worker = ?1 AND number >= ?2";
const ADD: &str = "UPDATE accounts SET balance = balance + ?1 WHERE id = ?2";
const ENTER: &str = "INSERT INTO ledger (worker, number, payer, payee, amount)
    VALUES (?1, ?2, ?3, ?4, ?5)";
const BALANCE_SUM: &str = "SELECT sum(balance) FROM accounts";
const WRONG_ACCOUNTS: &str = "SELECT count(*) FROM accounts LEFT JOIN (
        SELECT id AS moved, sum(amount) AS change FROM (
            SELECT payee AS id, amount FROM ledger
            UNION ALL SELECT payer, -amount FROM ledger) GROUP BY id)
    ON moved = id WHERE balance <> ?1 + coalesce(change, 0)";
const WRITTEN: &str = "SELECT worker, count(*), sum(amount) FROM ledger GROUP BY worker";

/// Dropping the value removes the directory with the database.
pub struct SqliteBank {
    directory: TempDir,
}

impl SqliteBank {
    pub fn create() -> Result<SqliteBank, Problem> {
        let directory = tempfile::Builder::new()
            .prefix("fairpool-quickstart-")
            .tempdir()
            .map_err(|e| Problem::Start(format!("cannot create a temporary directory: {e}")))?;
        let bank = SqliteBank { directory };
        rusqlite::Connection::open(bank.file()).and_then(|conn| open_accounts(&conn)).map_err(
            |e| Problem::Start(format!("cannot create {}: {}", bank.file().display(), chain(&e))),
        )?;
        Ok(bank)
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join("bank.db")
    }
}

fn open_accounts(conn: &rusqlite::Connection) -> rusqlite::Result<()> {
    conn.execute_batch(&format!(
        "CREATE TABLE accounts (id INTEGER PRIMARY KEY, balance INTEGER NOT NULL);
         CREATE TABLE ledger (
             worker INTEGER NOT NULL, number INTEGER NOT NULL,
             payer INTEGER NOT NULL, payee INTEGER NOT NULL, amount INTEGER NOT NULL,
             PRIMARY KEY (worker, number)) WITHOUT ROWID;
         WITH RECURSIVE ids(id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM ids WHERE id < {ACCOUNTS})
         INSERT INTO accounts SELECT id, {OPENING_BALANCE} FROM ids;"
    ))
}

/// One writer and many readers.
impl Pools for Database {
    type Manager = SqliteConnectionManager;

    fn read(&self, timeout: Duration) -> Result<PooledConnection<Self::Manager>, Error> {
        self.read_timeout(timeout)
    }

    fn write(&self, timeout: Duration) -> Result<PooledConnection<Self::Manager>, Error> {
        self.write_timeout(timeout)
    }

    fn stats(&self) -> Vec<Stats> {
        vec![self.writer().stats(), self.readers().stats()]
    }
}

impl Bank for SqliteBank {
    type Pools = Database;

    fn name(&self) -> String {
        format!("SQLite, {}; with one more connection, to write", self.file().display())
    }

    fn open(&self, connections: u32, limit: Duration) -> Result<Database, Error> {
        // A bank that lives for seconds need not survive a power failure.
        let manager = SqliteConnectionManager::file(self.file())
            .with_init(|conn| conn.execute_batch("PRAGMA synchronous = NORMAL"));
        Database::builder()
            .both(|pool| pool.connection_timeout(limit))
            .readers(|pool| pool.max_size(connections))
            .build(manager)
    }

    fn balance(&self, conn: &mut Connection, account: i64) -> Result<i64, Failure> {
        Ok(conn.prepare_cached(BALANCE)?.query_row([account], |row| row.get(0))?)
    }

    fn turnover(&self, conn: &mut Connection, worker: u32, from: i64) -> Result<i64, Failure> {
        Ok(conn.prepare_cached(TURNOVER)?.query_row(params![worker, from], |row| row.get(0))?)
    }

    fn transfer(&self, conn: &mut Connection, transfer: &Transfer) -> Result<(), Failure> {
        let Transfer { worker, number, payer, payee, amount } = *transfer;
        // The writer's begin as writers: nobody else can come between.
        let transaction = conn.transaction()?;
        transaction.prepare_cached(ADD)?.execute([-amount, payer])?;
        transaction.prepare_cached(ADD)?.execute([amount, payee])?;
        transaction
            .prepare_cached(ENTER)?
            .execute(params![worker, number, payer, payee, amount])?;
        // Never in doubt: the file is ours, and a COMMIT that fails is rolled back.
        Ok(transaction.commit()?)
    }

    fn audit(&self, conn: &mut Connection) -> Result<Audit, Failure> {
        // One transaction, so that the three answers are of one moment.
        let snapshot = conn.transaction()?;
        let workers = snapshot
            .prepare(WRITTEN)?
            .query_map([], |row| {
                Ok(Written { worker: row.get(0)?, transfers: row.get(1)?, amount: row.get(2)? })
            })?
            .collect::<rusqlite::Result<_>>()?;
        Ok(Audit {
            balance_sum: snapshot.query_row(BALANCE_SUM, [], |row| row.get(0))?,
            wrong_accounts: snapshot
                .query_row(WRONG_ACCOUNTS, [OPENING_BALANCE], |row| row.get(0))?,
            workers,
        })
    }
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Failure {
        match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Failure::Contention,
            _ => Failure::Driver(chain(&error)),
        }
    }
}
