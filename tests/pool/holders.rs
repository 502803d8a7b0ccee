//! Holders: leaks are reported, and so are threads that wait for connections that they hold
//! themselves.

use std::sync::{Arc, Barrier, Mutex, OnceLock, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use fairpool::event::{LeakEvent, SelfDeadlockEvent};
use fairpool::snapshot::{Holder, NestedGet};
use fairpool::{Error, ErrorKind, HandleEvent, Pool, PooledConnection, SelfDeadlock};
use fairpool_testing::stub::{
    Manager, Server, WATCHDOG, builder, eventually, lock, silent_panic, watched,
};

use crate::support::ms;

/// Longer than any test that passes.
const LONG: Duration = Duration::from_secs(60);
const AT_ONCE: SelfDeadlock = SelfDeadlock::Fail(Duration::ZERO);

/// Records the events.
#[derive(Clone, Debug, Default)]
struct Recorder(Arc<Mutex<Records>>);

#[derive(Debug, Default)]
struct Records {
    leaks: Vec<Holder>,
    ends: Vec<Holder>,
    deadlocks: Vec<Vec<NestedGet>>,
}

impl Recorder {
    fn leaks(&self) -> usize {
        lock(&self.0).leaks.len()
    }

    fn ends(&self) -> usize {
        lock(&self.0).ends.len()
    }

    fn deadlocks(&self) -> usize {
        lock(&self.0).deadlocks.len()
    }
}

impl HandleEvent for Recorder {
    fn handle_leak(&self, event: LeakEvent) {
        lock(&self.0).leaks.push(event.holder().clone());
    }
    fn handle_leak_end(&self, event: LeakEvent) {
        lock(&self.0).ends.push(event.holder().clone());
    }
    fn handle_self_deadlock(&self, event: SelfDeadlockEvent) {
        lock(&self.0).deadlocks.push(event.nested_gets().to_vec());
    }
}

/// A connection that this thread has used.
#[track_caller]
fn used(pool: &Pool<Manager>) -> PooledConnection<Manager> {
    let conn = pool.get().unwrap();
    conn.touch();
    conn
}

fn pool(size: u32, on_self_deadlock: SelfDeadlock) -> (Pool<Manager>, Recorder) {
    let recorder = Recorder::default();
    let pool = builder(size)
        .on_self_deadlock(on_self_deadlock)
        .connection_timeout(LONG)
        .event_handler(Box::new(recorder.clone()))
        .build(Server::new().manager())
        .unwrap();
    (pool, recorder)
}

fn assert_whole(pool: &Pool<Manager>) {
    let size = pool.max_size();
    let all: Vec<_> = (0..size).map(|_| pool.get_timeout(WATCHDOG).unwrap()).collect();
    drop(all);
    let stats = pool.stats();
    assert_eq!((stats.in_use, stats.waiting), (0, 0));
}

/// Runs `body` on a thread with this name.
fn named<R: Send + 'static>(
    name: &str,
    body: impl FnOnce() -> R + Send + 'static,
) -> mpsc::Receiver<R> {
    let (done, result) = mpsc::channel();
    let body = move || drop(done.send(body()));
    thread::Builder::new().name(name.to_string()).spawn(body).unwrap();
    result
}

mod backends;
mod leaks;
mod self_deadlock;
