//! What the tests share.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, Once, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use fairpool::{Builder, Error, ManageConnection, Pool, PooledConnection};
use fairpool_mysql::mysql::prelude::Queryable;
use fairpool_mysql::mysql::{self, MySqlError, Opts, OptsBuilder};
use fairpool_mysql::{Connection, MysqlConnectionManager};
use fairpool_servers::mariadb::MariaDb;
use log::{Level, LevelFilter, Metadata, Record};

pub(crate) type Manager = MysqlConnectionManager;
pub(crate) type Guard = PooledConnection<Manager>;

/// Longer than anything here should take: a watchdog.
pub(crate) const LONG: Duration = Duration::from_secs(60);

pub(crate) const fn millis(number: u64) -> Duration {
    Duration::from_millis(number)
}

pub(crate) const fn secs(number: u64) -> Duration {
    Duration::from_secs(number)
}

/// The server of the tests that neither stop nor freeze it, nor change its variables.
pub(crate) fn shared() -> &'static MariaDb {
    static SHARED: OnceLock<MariaDb> = OnceLock::new();
    SHARED.get_or_init(MariaDb::start)
}

pub(crate) fn options(server: &MariaDb) -> OptsBuilder {
    OptsBuilder::from_opts(Opts::from_url(&server.url()).expect("a URL"))
}

pub(crate) fn manager_of(server: &MariaDb) -> Manager {
    Manager::from_url(&server.url()).expect("a URL")
}

pub(crate) fn manager() -> Manager {
    manager_of(shared())
}

/// Options of a user of its own, whose sessions can be counted and killed.
pub(crate) fn options_of(server: &MariaDb, user: &str) -> OptsBuilder {
    server.sql(&format!("CREATE USER {user} IDENTIFIED BY 'right'; GRANT ALL ON shop.* TO {user}"));
    options(server).user(Some(user))
}

pub(crate) fn builder() -> Builder<Manager> {
    Pool::builder().connection_timeout(LONG)
}

pub(crate) fn sessions_of(server: &MariaDb, user: &str) -> u32 {
    let sql = format!("SELECT count(*) FROM information_schema.processlist WHERE user = '{user}'");
    server.sql(&sql).parse().expect("a number")
}

/// The only value of the only row, as text.
pub(crate) fn ask(conn: &mut impl Queryable, sql: &str) -> String {
    let value: Option<Option<String>> = conn.query_first(sql).expect(sql);
    value.flatten().unwrap_or_else(|| "NULL".to_owned())
}

/// Takes as many connections as the pool has, all at once.
pub(crate) fn take_all(pool: &Pool<Manager>) -> Vec<Guard> {
    let all = (0..pool.max_size()).map(|_| pool.get());
    all.collect::<Result<_, _>>().expect("a full pool")
}

pub(crate) fn refused(result: Result<Guard, Error>) -> Error {
    result.expect_err("no connection")
}

/// The driver's own error behind the pool's.
pub(crate) fn driver_error(error: &Error) -> &mysql::Error {
    use std::error::Error as _;
    let source = error.source().unwrap_or_else(|| panic!("no cause: {error}"));
    source.downcast_ref().unwrap_or_else(|| panic!("not the driver's error: {source:?}"))
}

pub(crate) fn code(error: &mysql::Error) -> Option<u16> {
    match error {
        mysql::Error::MySqlError(MySqlError { code, .. }) => Some(*code),
        _ => None,
    }
}

/// The error with which connecting fails.
pub(crate) fn refusal(manager: &Manager) -> mysql::Error {
    manager.connect().expect_err("no connection")
}

pub(crate) fn wait_until(what: &str, mut holds: impl FnMut() -> bool) -> Duration {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < LONG, "not within {LONG:?}: {what}");
        thread::sleep(millis(5));
    }
    start.elapsed()
}

/// What threads do that use the pool all the time.
pub(crate) struct Load {
    stop: AtomicBool,
    done: AtomicU64,
    errors: Mutex<Vec<mysql::Error>>,
    refusals: Mutex<Vec<Error>>,
}

impl Load {
    /// Runs `change` while 8 threads get connections and use them by `run`. Returns the errors of
    /// the uses, and those of gets.
    pub(crate) fn during(
        pool: &Pool<Manager>,
        patience: Duration,
        work: impl Fn(&mut Connection) -> mysql::Result<()> + Sync,
        change: impl FnOnce(&Load),
    ) -> (Vec<mysql::Error>, Vec<Error>) {
        let load = Load {
            stop: AtomicBool::new(false),
            done: AtomicU64::new(0),
            errors: Mutex::default(),
            refusals: Mutex::default(),
        };
        thread::scope(|scope| {
            // Also if `change` panics, so that the test ends.
            let _stop = Stop(&load.stop);
            for _ in 0..8 {
                scope.spawn(|| load.work(pool, patience, &work));
            }
            load.until_some_are_done();
            change(&load);
        });
        (load.errors.into_inner().unwrap(), load.refusals.into_inner().unwrap())
    }

    fn work(
        &self,
        pool: &Pool<Manager>,
        patience: Duration,
        work: &impl Fn(&mut Connection) -> mysql::Result<()>,
    ) {
        while !self.stop.load(Ordering::Relaxed) {
            match pool.get_timeout(patience) {
                Ok(mut conn) => match PooledConnection::run(&mut conn, work) {
                    Ok(()) => drop(self.done.fetch_add(1, Ordering::SeqCst)),
                    Err(error) => self.errors.lock().unwrap().push(error),
                },
                Err(error) => self.refusals.lock().unwrap().push(error),
            }
        }
    }

    pub(crate) fn until_some_are_done(&self) {
        let from = self.done.load(Ordering::SeqCst);
        wait_until("uses are done", || self.done.load(Ordering::SeqCst) > from + 50);
    }

    pub(crate) fn refusals(&self) -> usize {
        self.refusals.lock().unwrap().len()
    }
}

struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
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
