//! What several modules use.

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use fairpool::{Error, ManageConnection, Pool, PooledConnection};
use fairpool_testing::stub::{Manager, Server, WATCHDOG, eventually, from_env};

/// What a get on another thread returned.
pub type Outcome<M = Manager> = Result<PooledConnection<M>, Error>;

pub const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// `FAIRPOOL_ROUNDS`: how often the tests that go in rounds repeat.
pub fn rounds(default: usize) -> usize {
    from_env("FAIRPOOL_ROUNDS").unwrap_or(default)
}

/// The promise is 10 ms on an idle machine; a busy one only gets a watchdog.
pub fn allowed_overshoot() -> Duration {
    ms(from_env("FAIRPOOL_OVERSHOOT_MS").unwrap_or(2000))
}

#[track_caller]
pub fn await_waiting<M: ManageConnection>(pool: &Pool<M>, waiting: u32) {
    eventually(&format!("{waiting} callers wait"), || pool.stats().waiting == waiting);
}

/// All of the pool's connections can be had at once, and the server saw no breach.
#[track_caller]
pub fn assert_whole(pool: &Pool<Manager>, server: &Server) {
    let size = pool.max_size();
    let conns: Vec<_> =
        (0..size).map(|n| pool.get().unwrap_or_else(|e| panic!("number {n}: {e}"))).collect();
    conns.iter().for_each(|conn| conn.touch());
    drop(conns);
    server.check();
}

/// Starts a get on a thread of its own. It may be served before this returns.
pub fn start_waiter<M: ManageConnection>(
    pool: &Pool<M>,
    timeout: Duration,
) -> mpsc::Receiver<Outcome<M>> {
    let (sender, outcome) = mpsc::channel();
    let here = pool.clone();
    thread::spawn(move || {
        let _ = sender.send(here.get_timeout(timeout));
    });
    outcome
}

/// Starts a get on a thread of its own. It is in the queue when this returns.
#[track_caller]
pub fn waiter<M: ManageConnection>(
    pool: &Pool<M>,
    timeout: Duration,
) -> mpsc::Receiver<Outcome<M>> {
    let before = pool.stats().waiting;
    let outcome = start_waiter(pool, timeout);
    await_waiting(pool, before + 1);
    outcome
}

/// The waiter's connection, as soon as it has one.
#[track_caller]
pub fn served<M: ManageConnection>(outcome: &mpsc::Receiver<Outcome<M>>) -> PooledConnection<M> {
    match outcome.recv_timeout(WATCHDOG) {
        Ok(Ok(conn)) => conn,
        Ok(Err(error)) => panic!("refused: {error}"),
        Err(_) => panic!("the waiter is not served"),
    }
}
