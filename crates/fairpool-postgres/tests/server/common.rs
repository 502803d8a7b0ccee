//! What the tests share.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::process::Command;
use std::sync::{Mutex, Once, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use fairpool::{Builder, Error, ManageConnection, Pool, PooledConnection};
use fairpool_postgres::postgres::{self, Config};
use fairpool_postgres::{Client, NoTls, PostgresConnectionManager};
use fairpool_servers::cluster::Cluster;
use fairpool_servers::proxy::Proxy;
use log::{Level, LevelFilter, Metadata, Record};

pub(crate) type Manager = PostgresConnectionManager<NoTls>;
pub(crate) type Guard = PooledConnection<Manager>;

/// Longer than anything here should take: a watchdog.
pub(crate) const LONG: Duration = Duration::from_secs(60);
/// "At once", where the alternative is [`LONG`].
pub(crate) const PROMPT: Duration = Duration::from_secs(10);

pub(crate) const fn millis(number: u64) -> Duration {
    Duration::from_millis(number)
}

pub(crate) const fn secs(number: u64) -> Duration {
    Duration::from_secs(number)
}

/// The server of the tests that neither stop nor freeze it.
pub(crate) fn shared() -> &'static Cluster {
    static SHARED: OnceLock<Cluster> = OnceLock::new();
    SHARED.get_or_init(|| Cluster::start_with(&[("max_connections", "200")]))
}

thread_local! {
    /// The database of this test on [`shared`].
    static DATABASE: Cell<&'static str> = const { Cell::new("postgres") };
}

/// Until this is dropped, the test has a database of its own.
pub(crate) struct OwnDatabase(());

impl Drop for OwnDatabase {
    fn drop(&mut self) {
        DATABASE.set("postgres");
    }
}

/// Creates a database on [`shared`] for a test whose tables or channels others could have too.
/// [`named`], [`manager`] and [`psql`] then use it on the test's thread.
pub(crate) fn own_database(name: &'static str) -> OwnDatabase {
    shared().psql(&format!("CREATE DATABASE {name}"));
    DATABASE.set(name);
    OwnDatabase(())
}

/// The name of the test's database.
pub(crate) fn database() -> &'static str {
    DATABASE.get()
}

fn config() -> Config {
    let mut config = shared().config();
    config.dbname(database());
    config
}

/// Runs SQL in the test's database on [`shared`].
pub(crate) fn psql(sql: &str) -> String {
    shared().psql_in(database(), sql)
}

/// A manager for the test's database whose connections the server lists under this name.
pub(crate) fn named(name: &str) -> Manager {
    manager().application_name(name)
}

/// A manager for the test's database.
pub(crate) fn manager() -> Manager {
    Manager::new(config(), NoTls)
}

pub(crate) fn manager_of(cluster: &Cluster) -> Manager {
    Manager::new(cluster.config(), NoTls)
}

pub(crate) fn builder() -> Builder<Manager> {
    Pool::builder().connection_timeout(LONG)
}

/// A session of the test itself, beside the pool.
pub(crate) fn session(cluster: &Cluster) -> Client {
    cluster.config().connect(NoTls).expect("a session").into()
}

/// The same server as the proxy's, through the proxy.
pub(crate) fn through(proxy: &Proxy) -> Config {
    let mut config = Config::new();
    config.host("127.0.0.1").port(proxy.port()).user("postgres").dbname("postgres");
    config
}

pub(crate) fn backend(client: &mut Client) -> i32 {
    client.query_one("SELECT pg_backend_pid()", &[]).expect("a backend").get(0)
}

pub(crate) fn show(client: &mut Client, name: &str) -> String {
    client.query_one(&format!("SHOW {name}"), &[]).expect(name).get(0)
}

pub(crate) fn sessions_named(client: &mut Client, name: &str) -> i64 {
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE application_name = $1";
    client.query_one(sql, &[&name]).expect("a count").get(0)
}

/// Takes as many connections as the pool has, all at once.
pub(crate) fn take_all(pool: &Pool<Manager>) -> Vec<Guard> {
    let all = (0..pool.max_size()).map(|_| pool.get());
    all.collect::<Result<_, _>>().expect("a full pool")
}

pub(crate) fn backends(guards: &mut [Guard]) -> BTreeSet<i32> {
    guards.iter_mut().map(|guard| backend(guard)).collect()
}

/// Kills backends and returns when they are gone.
pub(crate) fn kill(admin: &mut Client, pids: &[i32]) {
    let sql = "SELECT pg_terminate_backend(pid) FROM unnest($1::int4[]) AS pid";
    admin.query(sql, &[&pids]).expect("signals");
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE pid = ANY($1)";
    wait_until("the backends are gone", || {
        admin.query_one(sql, &[&pids]).expect("a count").get::<_, i64>(0) == 0
    });
}

pub(crate) fn refused(result: Result<Guard, Error>) -> Error {
    result.expect_err("no connection")
}

/// The driver's own error behind the pool's.
pub(crate) fn driver_error(error: &Error) -> &postgres::Error {
    use std::error::Error as _;
    let source = error.source().unwrap_or_else(|| panic!("no cause: {error}"));
    let typed = source.downcast_ref();
    typed.unwrap_or_else(|| panic!("not the driver's error: {source:?}"))
}

/// Polls until a condition holds. Returns how long that took.
#[track_caller]
pub(crate) fn wait_until(what: &str, mut holds: impl FnMut() -> bool) -> Duration {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < LONG, "not within {LONG:?}: {what}");
        thread::sleep(millis(2));
    }
    start.elapsed()
}

/// The error with which connecting fails.
pub(crate) fn refusal(manager: &Manager) -> postgres::Error {
    match manager.connect() {
        Ok(_) => panic!("connected"),
        Err(error) => error,
    }
}

/// The first column of the first row, as text.
pub(crate) fn ask(client: &mut Client, sql: &str) -> String {
    let row = client.query_one(sql, &[]).expect(sql);
    row.get::<_, String>(0)
}

/// Sends a signal to a process of a cluster that this program started.
pub(crate) fn signal(name: &str, pid: impl ToString) {
    let status = Command::new("kill").args([name, &pid.to_string()]).status().expect("kill");
    assert!(status.success(), "kill {name}");
}

/// Keeps what is logged, by anybody, at any level.
struct Log(Mutex<Vec<(Level, String)>>);

static LOG: Log = Log(Mutex::new(Vec::new()));

impl log::Log for Log {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let line = (record.level(), format!("{}: {}", record.target(), record.args()));
        self.0.lock().unwrap().push(line);
    }

    fn flush(&self) {}
}

/// From now on everything is logged, also what drivers log.
pub(crate) fn start_log() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        log::set_logger(&LOG).unwrap();
        log::set_max_level(LevelFilter::Trace);
    });
}

/// The lines so far that contain this.
pub(crate) fn logged(part: &str) -> Vec<(Level, String)> {
    let lines = LOG.0.lock().unwrap();
    lines.iter().filter(|(_, line)| line.contains(part)).cloned().collect()
}
