//! A pool to which nearly everything has happened, for tests of what is counted.

use std::thread;
use std::time::Duration;

use fairpool::{CancelToken, Pool, PooledConnection};

use crate::stub::{Does, Gate, Manager, Op, Server, builder, eventually};

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// A pool at rest with something in every counter but those of failed gets and of
/// self-deadlocks, and a connection of it that has leaked.
///
/// # Panics
///
/// If the pool does not do what it should.
pub fn eventful_pool(name: &str, server: &Server) -> (Pool<Manager>, PooledConnection<Manager>) {
    let pool = builder(2)
        .name(name)
        .max_waiters(Some(1))
        .validation_timeout(ms(20))
        .leak_threshold(Some(ms(20)))
        .test_on_check_out(true)
        .skip_check_within(Duration::ZERO)
        .build(server.manager())
        .unwrap();
    server.next(Op::Connect, Does::Fail);
    server.next(Op::Connect, Does::Take(ms(2)));
    let leaked = pool.get().unwrap();
    PooledConnection::discard(pool.get().unwrap());
    eventually("it is closed", || pool.stats().closing == 0);

    let other = pool.get().unwrap();
    assert!(pool.get_timeout(ms(1)).is_err());
    let token = CancelToken::new();
    thread::scope(|scope| {
        let cancelled = scope.spawn(|| pool.request().cancel(&token).get().is_err());
        eventually("it waits", || pool.stats().waiting == 1);
        assert!(pool.get().is_err(), "the queue is full");
        token.cancel();
        assert!(cancelled.join().unwrap());
        let served = scope.spawn(|| drop(pool.get().unwrap()));
        eventually("it waits", || pool.stats().waiting == 1);
        drop(other);
        served.join().unwrap();
    });
    server.next(Op::IsValid, Does::Fail);
    drop(pool.get().unwrap());
    let gate = Gate::new();
    server.next(Op::IsValid, Does::Hang(gate.clone()));
    drop(pool.get().unwrap());
    eventually("it is abandoned", || pool.stats().abandoned_calls >= 1);
    gate.open();
    // On a busy machine another connection may have leaked for a moment.
    eventually("it is leaked", || pool.holders().len() == 1 && pool.stats().leaks >= 1);
    eventually("it is at rest", || {
        let stats = pool.stats();
        stats.abandoned + stats.checking + stats.closing + stats.opening == 0
    });
    (pool, leaked)
}
