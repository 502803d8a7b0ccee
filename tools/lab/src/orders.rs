//! The table of the long transaction, in a schema of its own on the server. The schema is
//! removed at the end, also after an error, a panic or Ctrl-C.

use std::process;
use std::sync::{Mutex, Once, PoisonError};
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use fairpool_postgres::postgres::{Config, Error};
use fairpool_postgres::{Client, NoTls};
use signal_hook::consts::{SIGHUP, TERM_SIGNALS};
use signal_hook::iterator::Signals;

use crate::scenario::Problem;
use crate::server::chain;

/// The exit code of a program that Ctrl-C ended.
const INTERRUPTED: i32 = 130;

pub struct Orders {
    config: Config,
    schema: String,
}

/// The schema that is on the server. The thread that takes it out removes it.
static CREATED: Mutex<Option<(Config, String)>> = Mutex::new(None);

impl Orders {
    pub fn create(mut config: Config) -> Result<Orders, Problem> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let schema = format!("fairpool_lab_{}_{:x}", process::id(), now.as_nanos());
        // `remove` finds the sessions by this name.
        config.application_name(&schema);
        remove_when_interrupted()?;
        let mut created = CREATED.lock().unwrap_or_else(PoisonError::into_inner);
        *created = Some((config.clone(), schema.clone()));
        let orders = Orders { config, schema };
        drop(created);
        orders
            .connect()
            .and_then(|mut client| client.batch_execute(&orders.create_sql()))
            .map_err(|error| Problem(format!("cannot create a table: {}", chain(&error))))?;
        Ok(orders)
    }

    fn create_sql(&self) -> String {
        let schema = &self.schema;
        format!(
            "CREATE SCHEMA {schema};
             COMMENT ON SCHEMA {schema} IS 'Created by fairpool-lab. Drop it if no lab runs.';
             CREATE TABLE {schema}.orders (id BIGINT PRIMARY KEY, status TEXT NOT NULL);
             INSERT INTO {schema}.orders SELECT id, 'new' FROM generate_series(12300, 12399) AS id;"
        )
    }

    /// The settings of its sessions.
    pub fn config(&self) -> Config {
        self.config.clone()
    }

    pub fn connect(&self) -> Result<Client, Error> {
        self.config.connect(NoTls).map(Client::from)
    }

    /// Changes the row and leaves the transaction open.
    pub fn begin_sql(&self) -> String {
        format!("BEGIN; UPDATE {}.orders SET status = 'paid' WHERE id = 12345", self.schema)
    }

    /// Locks the row.
    pub fn lock_sql(&self) -> String {
        format!("SELECT status FROM {}.orders WHERE id = 12345 FOR UPDATE", self.schema)
    }
}

impl Drop for Orders {
    fn drop(&mut self) {
        remove();
    }
}

fn remove() {
    // Stays locked until the end, so that an interrupted program does not exit earlier.
    let mut created = CREATED.lock().unwrap_or_else(PoisonError::into_inner);
    let Some((config, schema)) = created.take() else { return };
    // After an interrupt, sessions of this program may still hold locks in it.
    let end = format!(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
         WHERE application_name = '{schema}' AND pid <> pg_backend_pid()"
    );
    let remove = format!("SET lock_timeout = '10s'; DROP SCHEMA IF EXISTS {schema} CASCADE");
    let removed = config.connect(NoTls).and_then(|mut client| {
        client.batch_execute(&end)?;
        client.batch_execute(&remove)
    });
    if let Err(error) = removed {
        eprintln!(
            "error: please drop the schema {schema}, which could not be removed: {}",
            chain(&error)
        );
    }
}

/// Removes the schema and exits at a signal. Only the first call has an effect.
fn remove_when_interrupted() -> Result<(), Problem> {
    static INSTALLED: Once = Once::new();
    let mut result = Ok(());
    INSTALLED.call_once(|| match Signals::new(TERM_SIGNALS.iter().copied().chain([SIGHUP])) {
        Ok(mut signals) => {
            thread::spawn(move || {
                if signals.forever().next().is_some() {
                    remove();
                    process::exit(INTERRUPTED);
                }
            });
        }
        Err(error) => result = Err(Problem(format!("cannot handle Ctrl-C: {error}"))),
    });
    result
}
