//! The table of the long transaction, in a schema of its own on the server, which is
//! removed at the end: also after an error, a panic or Ctrl-C.

use std::process;
use std::sync::{Mutex, Once, PoisonError};
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use fairpool_postgres::NoTls;
use fairpool_postgres::postgres::{Client, Config, Error};
use signal_hook::consts::{SIGHUP, TERM_SIGNALS};
use signal_hook::iterator::Signals;

use crate::scenarios::Problem;
use crate::server::chain;

/// What a shell expects from a program that Ctrl-C has ended.
const INTERRUPTED: i32 = 130;

pub struct Orders {
    config: Config,
    schema: String,
}

/// What is still on the server. Whoever takes it out removes it.
static LEFT: Mutex<Option<(Config, String)>> = Mutex::new(None);

impl Orders {
    pub fn create(mut config: Config) -> Result<Orders, Problem> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let schema = format!("fairpool_lab_{}_{:x}", process::id(), now.as_nanos());
        // By this name its sessions are found.
        config.application_name(&schema);
        remove_when_interrupted()?;
        let mut left = LEFT.lock().unwrap_or_else(PoisonError::into_inner);
        *left = Some((config.clone(), schema.clone()));
        let orders = Orders { config, schema };
        drop(left);
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
             COMMENT ON SCHEMA {schema} IS 'Of a run of fairpool''s lab; if that has ended, drop it';
             CREATE TABLE {schema}.orders (id BIGINT PRIMARY KEY, status TEXT NOT NULL);
             INSERT INTO {schema}.orders SELECT id, 'new' FROM generate_series(12300, 12399) AS id;"
        )
    }

    /// How its sessions connect.
    pub fn config(&self) -> Config {
        self.config.clone()
    }

    pub fn connect(&self) -> Result<Client, Error> {
        self.config.connect(NoTls)
    }

    /// Changes the order, and leaves the transaction open.
    pub fn begin_sql(&self) -> String {
        format!("BEGIN; UPDATE {}.orders SET status = 'paid' WHERE id = 12345", self.schema)
    }

    /// Locks the order.
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
    // Locked until it is done: an interrupted program does not end before.
    let mut left = LEFT.lock().unwrap_or_else(PoisonError::into_inner);
    let Some((config, schema)) = left.take() else { return };
    // Sessions of ours may still hold locks in it, if this comes unexpectedly.
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
        eprintln!("error: schema {schema} is left behind, please drop it: {}", chain(&error));
    }
}

/// From the first call on: removes what is there, then ends the program.
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
        Err(error) => result = Err(Problem(format!("cannot watch for Ctrl-C: {error}"))),
    });
    result
}
