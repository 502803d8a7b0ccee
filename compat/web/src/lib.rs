//! What the three programs share: the pool, the statements, and which failure gets which answer.

mod failure;

use std::env;
use std::error::Error;
use std::time::{Duration, Instant};

use fairpool::{Pool, PooledConnection};
use fairpool_postgres::postgres::{self, Row};
use fairpool_postgres::{NoTls, PostgresConnectionManager};
use fairpool_prometheus::PrometheusCollector;
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

pub use self::failure::Failure;

type Manager = PostgresConnectionManager<NoTls>;
type Connection = PooledConnection<Manager>;

/// What requests need.
#[derive(Clone)]
pub struct App {
    pub pool: Pool<Manager>,
    pub metrics: PrometheusCollector,
}

impl App {
    /// Does not wait for the database: while that is away, the service runs and is not ready.
    pub fn open() -> Result<App, Box<dyn Error>> {
        let manager = PostgresConnectionManager::from_url(&env::var("DATABASE_URL")?, NoTls)?
            .statement_timeout(Duration::from_secs(20));
        let pool = Pool::builder()
            .name("orders")
            .max_size(8)
            .connection_timeout(Duration::from_secs(1))
            .max_waiters(Some(32))
            .fail_fast_after(Some(Duration::from_secs(2)))
            .build_unchecked(manager);
        let metrics = PrometheusCollector::new([pool.downgrade()]);
        Ok(App { pool, metrics })
    }

    /// Whether requests can be expected to succeed, or why not.
    pub fn is_ready(&self) -> Result<&'static str, String> {
        match self.pool.readiness() {
            readiness if readiness.is_ready() => Ok("ready"),
            readiness => Err(readiness.to_string()),
        }
    }

    /// Closes the pool. It blocks, so it is for the end of `main`, when the server has ended.
    pub fn close(&self) {
        println!("{}", self.pool.close(Instant::now() + Duration::from_secs(10)));
    }
}

#[derive(Serialize)]
pub struct Order {
    id: i64,
    item: String,
}

impl From<Row> for Order {
    fn from(row: Row) -> Order {
        Order { id: row.get("id"), item: row.get("item") }
    }
}

pub fn find(conn: &mut Connection, id: i64) -> Result<Option<Order>, postgres::Error> {
    let sql = "SELECT id, item FROM orders WHERE id = $1";
    // `run` tells the pool if the error means that the connection is lost.
    let row = PooledConnection::run(conn, |conn| conn.query_opt(sql, &[&id]))?;
    Ok(row.map(Order::from))
}

pub fn add(conn: &mut Connection, item: &str) -> Result<Order, postgres::Error> {
    let sql = "INSERT INTO orders (item) VALUES ($1) RETURNING id, item";
    PooledConnection::run(conn, |conn| conn.query_one(sql, &[&item])).map(Order::from)
}

/// The port to listen on; 0 takes a free one.
pub fn port() -> u16 {
    env::var("PORT").ok().and_then(|port| port.parse().ok()).unwrap_or(8080)
}

/// Ctrl-C, or SIGTERM, by which systemd, Docker and Kubernetes stop a service.
pub async fn stopped() {
    let mut terminated = signal(SignalKind::terminate()).expect("a handler of SIGTERM");
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminated.recv() => {}
    }
}
