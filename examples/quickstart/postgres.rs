//! The bank in a schema of its own on a PostgreSQL server.

use std::process;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fairpool::Pool;
use fairpool_postgres::postgres::config::Host;
use fairpool_postgres::postgres::error::{Severity, SqlState};
use fairpool_postgres::postgres::types::Type;
use fairpool_postgres::postgres::{Config, Error, IsolationLevel};
use fairpool_postgres::{Client, NoTls, PostgresConnectionManager, advise};

use crate::bank::{ACCOUNTS, Audit, Bank, Failure, OPENING_BALANCE, Transfer, Written};
use crate::problem::{Problem, chain};
use crate::report;

/// How long the server may take to open a socket, unless the URL says otherwise.
const CONNECT_LIMIT: Duration = Duration::from_secs(3);
/// How long it may take to answer at the start and at the end.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// Dropping the value drops the schema.
pub struct PostgresBank {
    config: Config,
    schema: String,
    sql: Sql,
}

/// The statements, with the schema's name in them: a `search_path` would be lost
/// behind a PgBouncer that changes sessions between transactions.
struct Sql {
    balance: String,
    turnover: String,
    add: String,
    enter: String,
    balance_sum: String,
    wrong_accounts: String,
    written: String,
}

impl PostgresBank {
    /// Connects once without the pool: a pool would retry a server that is down, but the user
    /// should see a wrong URL at once.
    pub fn create(
        mut config: Config,
        named_by: &'static str,
        connections: u32,
    ) -> Result<PostgresBank, Problem> {
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(CONNECT_LIMIT);
        }
        if config.get_application_name().is_none() {
            config.application_name("fairpool quickstart");
        }

        let schema = schema_name();
        let accounts = open_accounts(&schema);
        let room = ask(&config, move |client| {
            let room = room_for_sessions(client)?;
            if room >= i64::from(connections) {
                client.batch_execute(&accounts)?;
            }
            Ok(room)
        })
        .map_err(|e| Problem::setting(named_by, format!("cannot use {}: {e}", address(&config))))?;
        if room < i64::from(connections) {
            let why = format!("{connections} do not fit, the server has room for {room}");
            return Err(Problem::setting("--connections", why));
        }

        let sql = Sql::new(&schema);
        Ok(PostgresBank { config, schema, sql })
    }
}

impl Drop for PostgresBank {
    fn drop(&mut self) {
        let schema = &self.schema;
        // With a limit, since another session or an abandoned call may hold a lock in it.
        let sql = format!("SET lock_timeout = '3s'; DROP SCHEMA IF EXISTS {schema} CASCADE");
        if let Err(e) = ask(&self.config, move |client| client.batch_execute(&sql)) {
            report::complain(&format!(
                "error: schema {schema} is left behind, please drop it: {e}"
            ));
        }
    }
}

/// A name that no other run has, on this machine or another.
fn schema_name() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    format!("fairpool_quickstart_{}_{:x}", process::id(), now.as_nanos())
}

/// Sent as one message, which the server runs as one transaction: all or nothing.
fn open_accounts(schema: &str) -> String {
    format!(
        "CREATE SCHEMA {schema};
         COMMENT ON SCHEMA {schema} IS 'Of a run of fairpool''s quickstart; if that has ended, drop it';
         CREATE TABLE {schema}.accounts (id BIGINT PRIMARY KEY, balance BIGINT NOT NULL);
         CREATE TABLE {schema}.ledger (
             worker BIGINT NOT NULL, number BIGINT NOT NULL,
             payer BIGINT NOT NULL, payee BIGINT NOT NULL, amount BIGINT NOT NULL,
             PRIMARY KEY (worker, number));
         INSERT INTO {schema}.accounts
             SELECT id, {OPENING_BALANCE} FROM generate_series(1, {ACCOUNTS}) AS id;"
    )
}

/// How many more sessions the server accepts. This session does not count: it ends now.
fn room_for_sessions(client: &mut Client) -> Result<i64, Error> {
    let row = client.query_typed_one(
        "SELECT current_setting('max_connections')::BIGINT + 1 - count(*)
         FROM pg_stat_activity WHERE datname IS NOT NULL",
        &[],
    )?;
    row.try_get(0)
}

/// Uses a connection without the pool, on a thread of its own, which is abandoned if the server
/// does not answer: the driver's own limit covers only the opening of the socket.
fn ask<T: Send + 'static>(
    config: &Config,
    question: impl FnOnce(&mut Client) -> Result<T, Error> + Send + 'static,
) -> Result<T, String> {
    let config = config.clone();
    let (answer, answered) = mpsc::channel();
    thread::Builder::new()
        .spawn(move || {
            let result = config.connect(NoTls).and_then(|client| question(&mut client.into()));
            // The receiver is gone if this took too long.
            let _ = answer.send(result);
        })
        .map_err(|e| format!("cannot start a thread: {e}"))?;
    match answered.recv_timeout(ANSWER_LIMIT) {
        Ok(result) => result.map_err(|e| chain(&e)),
        Err(_) => Err(format!("no answer within {ANSWER_LIMIT:?}")),
    }
}

/// The server and database by name, without user and password.
fn address(config: &Config) -> String {
    let host = match config.get_hosts().first() {
        Some(Host::Tcp(name)) => name.clone(),
        #[cfg(unix)]
        Some(Host::Unix(path)) => path.display().to_string(),
        // Only an address is configured.
        None => config.get_hostaddrs().first().map(ToString::to_string).unwrap_or_default(),
    };
    let port = config.get_ports().first().copied().unwrap_or(5432);
    match config.get_dbname() {
        Some(database) => format!("PostgreSQL at {host}:{port}/{database}"),
        None => format!("PostgreSQL at {host}:{port}"),
    }
}

impl Sql {
    fn new(schema: &str) -> Sql {
        Sql {
            balance: format!("SELECT balance FROM {schema}.accounts WHERE id = $1"),
            turnover: format!(
                "SELECT coalesce(sum(amount), 0)::BIGINT FROM {schema}.ledger
                 WHERE worker = $1 AND number >= $2"
            ),
            add: format!("UPDATE {schema}.accounts SET balance = balance + $1 WHERE id = $2"),
            enter: format!(
                "INSERT INTO {schema}.ledger (worker, number, payer, payee, amount)
                 VALUES ($1, $2, $3, $4, $5)"
            ),
            balance_sum: format!("SELECT sum(balance)::BIGINT FROM {schema}.accounts"),
            wrong_accounts: format!(
                "SELECT count(*) FROM {schema}.accounts LEFT JOIN (
                     SELECT id AS moved, sum(amount) AS change FROM (
                         SELECT payee AS id, amount FROM {schema}.ledger
                         UNION ALL SELECT payer, -amount FROM {schema}.ledger) AS lines
                     GROUP BY id) AS changes
                 ON moved = id WHERE balance <> $1 + coalesce(change, 0)"
            ),
            written: format!(
                "SELECT worker, count(*), sum(amount)::BIGINT FROM {schema}.ledger GROUP BY worker"
            ),
        }
    }
}

// `…_typed` sends statement and values in one round trip and leaves no prepared
// statement behind; the parameters are all BIGINT.
impl Bank for PostgresBank {
    type Pools = Pool<PostgresConnectionManager<NoTls>>;

    fn name(&self) -> String {
        format!("{}, schema {}", address(&self.config), self.schema)
    }

    fn open(&self, connections: u32, limit: Duration) -> Result<Self::Pools, fairpool::Error> {
        Pool::builder()
            .max_size(connections)
            .connection_timeout(limit)
            .build(PostgresConnectionManager::new(self.config.clone(), NoTls))
    }

    fn balance(&self, client: &mut Client, account: i64) -> Result<i64, Failure> {
        let row = client.query_typed_one(&self.sql.balance, &[(&account, Type::INT8)])?;
        Ok(row.try_get(0)?)
    }

    fn turnover(&self, client: &mut Client, worker: u32, from: i64) -> Result<i64, Failure> {
        let row = client.query_typed_one(
            &self.sql.turnover,
            &[(&i64::from(worker), Type::INT8), (&from, Type::INT8)],
        )?;
        Ok(row.try_get(0)?)
    }

    fn transfer(&self, client: &mut Client, transfer: &Transfer) -> Result<(), Failure> {
        let Transfer { worker, number, payer, payee, amount } = *transfer;
        // The smaller id first, in every transaction: two that meet wait for each
        // other in one direction only and cannot deadlock.
        let mut changes = [(payer, -amount), (payee, amount)];
        changes.sort_unstable();

        let mut transaction = client.transaction()?;
        for (account, change) in changes {
            transaction
                .execute_typed(&self.sql.add, &[(&change, Type::INT8), (&account, Type::INT8)])?;
        }
        transaction.execute_typed(
            &self.sql.enter,
            &[
                (&i64::from(worker), Type::INT8),
                (&number, Type::INT8),
                (&payer, Type::INT8),
                (&payee, Type::INT8),
                (&amount, Type::INT8),
            ],
        )?;
        transaction.commit().map_err(commit_failure)
    }

    fn advice(&self, pool: &Self::Pools) -> Option<String> {
        // One process.
        let advice = advise(pool, 1)
            .map_or_else(|e| format!("no advice: {}", chain(&e)), |advice| advice.to_string());
        Some(advice)
    }

    fn audit(&self, client: &mut Client) -> Result<Audit, Failure> {
        // One snapshot, so that the three answers are of one moment.
        let mut snapshot = client
            .build_transaction()
            .isolation_level(IsolationLevel::RepeatableRead)
            .read_only(true)
            .start()?;
        let mut workers = Vec::new();
        for row in snapshot.query_typed(&self.sql.written, &[])? {
            let worker = u32::try_from(row.try_get::<_, i64>(0)?).unwrap_or(u32::MAX);
            workers.push(Written { worker, transfers: row.try_get(1)?, amount: row.try_get(2)? });
        }
        let balances = snapshot.query_typed_one(&self.sql.balance_sum, &[])?;
        let wrong = snapshot
            .query_typed_one(&self.sql.wrong_accounts, &[(&OPENING_BALANCE, Type::INT8)])?;
        Ok(Audit { balance_sum: balances.try_get(0)?, wrong_accounts: wrong.try_get(0)?, workers })
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        match error.code() {
            Some(&SqlState::T_R_SERIALIZATION_FAILURE | &SqlState::T_R_DEADLOCK_DETECTED) => {
                Failure::Contention
            }
            _ => Failure::Driver(chain(&error)),
        }
    }
}

/// Only an ERROR is an answer to the COMMIT. After a FATAL one, or none, the
/// server may have committed before it went away.
fn commit_failure(error: Error) -> Failure {
    let severity = error.as_db_error().and_then(|answer| answer.parsed_severity());
    match severity {
        Some(Severity::Error) => error.into(),
        _ => Failure::InDoubt(chain(&error)),
    }
}
