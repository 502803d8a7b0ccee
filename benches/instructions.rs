//! The operations whose instructions `scripts/instructions` counts: a get and its return
//! without other callers, and a hand-off to a caller that sleeps.
//!
//! It measures nothing itself. `instructions NAME TIMES` runs one of the two operations
//! this number of times; callgrind counts the instructions within the functions whose
//! names begin with `counted_`. Under `cargo test` it runs each a few times, to show that
//! it runs. It uses no dev-dependency, so that their code is not part of the program.

use std::convert::Infallible;
use std::env;
use std::hint::black_box;
use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use fairpool::{Fairness, ManageConnection, Pool, PooledConnection};

/// A driver that costs nothing.
struct Stub;

impl ManageConnection for Stub {
    type Connection = u64;
    type Error = Infallible;

    fn connect(&self) -> Result<u64, Infallible> {
        Ok(0)
    }

    fn is_valid(&self, _: &mut u64) -> Result<(), Infallible> {
        Ok(())
    }

    fn has_broken(&self, _: &mut u64) -> bool {
        false
    }
}

type Guard = PooledConnection<Stub>;

/// A pool of one connection, so that a second caller waits.
fn pool() -> Pool<Stub> {
    let builder = Pool::builder().max_size(1).fairness(Fairness::Strict);
    builder.build(Stub).expect("the stub never fails")
}

#[inline(never)]
fn counted_get_and_return(pool: &Pool<Stub>) {
    drop(black_box(pool.get().expect("the stub never fails")));
}

#[inline(never)]
fn counted_give(conn: Guard) {
    drop(conn);
}

#[inline(never)]
fn counted_take(pool: &Pool<Stub>) -> Guard {
    pool.get().expect("the giver returns one")
}

fn get_and_return(times: u32) {
    let pool = pool();
    for _ in 0..times {
        counted_get_and_return(&pool);
    }
}

fn hand_off(times: u32) {
    let pool = pool();
    // Both threads wait here at the beginning and at the end of each turn.
    let turn = Barrier::new(2);
    let taker = || {
        for _ in 0..times {
            turn.wait();
            drop(counted_take(&pool));
            turn.wait();
        }
    };
    thread::scope(|scope| {
        scope.spawn(taker);
        for _ in 0..times {
            let conn = pool.get().expect("it is idle");
            turn.wait();
            until_the_taker_sleeps(&pool);
            counted_give(conn);
            turn.wait();
        }
    });
}

/// A waiter sleeps a few instructions after it has joined the queue, while this thread
/// sleeps: callgrind runs one thread at a time. This thread sleeps before it asks, so that
/// it does not contend with the waiter for the pool's lock.
fn until_the_taker_sleeps(pool: &Pool<Stub>) {
    let mut waits = false;
    while !waits {
        thread::sleep(Duration::from_millis(1));
        waits = pool.stats().waiting == 1;
    }
}

fn main() {
    let args: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words[..] {
        ["get_and_return", times] => get_and_return(times.parse().expect("a number")),
        ["hand_off", times] => hand_off(times.parse().expect("a number")),
        _ => {
            get_and_return(3);
            hand_off(3);
        }
    }
}
