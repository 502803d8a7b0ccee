//! P1 measured: how long after its deadline a get returns while a call of the driver or of a
//! hook hangs for ever.
//!
//! The promise is 10 ms on an idle machine. `FAIRPOOL_GETS` sets how many gets are timed in
//! each case, `FAIRPOOL_SEED` their durations.

use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use fairpool::{Builder, Pool, PooledConnection};
use fairpool_testing::dice::{Dice, seed};
use fairpool_testing::hostile::{Call, Hooks, Limits, Manager, World};
use fairpool_testing::stub::{Does, Gate, WATCHDOG, eventually, from_env};

use crate::{allowed_overshoot, alone};

const THREADS: usize = 16;
/// Callers without a deadline.
const PATIENT: usize = 2;
const LONGEST_MS: u64 = 500;
const NEVER: Duration = Duration::from_secs(600);

/// One case, alone.
fn measure(case: impl FnOnce() + Send + 'static) {
    let longest = Duration::from_millis(LONGEST_MS) * (gets() / THREADS + 1) as u32;
    alone(longest, case);
}

fn gets() -> usize {
    from_env("FAIRPOOL_GETS").unwrap_or(200)
}

fn world() -> World {
    World::new(0, Limits { open: NEVER, check: NEVER, close: NEVER }, 1)
}

/// A pool of one connection, which opens and closes nothing on its own.
fn builder(world: &World) -> Builder<Manager> {
    Pool::builder()
        .max_size(1)
        .min_idle(Some(0))
        .test_on_check_out(false)
        .max_lifetime(None)
        .idle_timeout(None)
        .connection_timeout(WATCHDOG)
        .open_timeout(NEVER)
        .validation_timeout(NEVER)
        .reset_timeout(NEVER)
        .close_timeout(NEVER)
        .connect_backoff(Duration::from_millis(1), Duration::from_millis(4))
        .error_handler(Box::new(Hooks(world.clone())))
        .connection_customizer(Box::new(Hooks(world.clone())))
}

fn build(world: &World, builder: Builder<Manager>) -> Pool<Manager> {
    builder.build(Manager::new(world)).expect("nothing is opened yet")
}

/// Zero, or up to half a second.
fn random_timeout(dice: &mut Dice) -> Duration {
    if dice.below(10) == 0 { Duration::ZERO } else { dice.millis(0, LONGEST_MS) }
}

/// How much later than its timeout each of many gets returned.
fn overshoots(what: &'static str, pool: &Pool<Manager>) -> Vec<Duration> {
    let (gets, seed) = (gets(), seed());
    println!("FAIRPOOL_SEED={seed}");
    let (sender, receiver) = mpsc::channel();
    for number in 0..THREADS {
        let (pool, sender) = (pool.clone(), sender.clone());
        let mut dice = Dice::of(seed, &[number as u64]);
        let share = gets / THREADS + usize::from(number < gets % THREADS);
        thread::spawn(move || {
            for _ in 0..share {
                let timeout = random_timeout(&mut dice);
                let start = Instant::now();
                let result = pool.get_timeout(timeout);
                let took = start.elapsed();
                let _ = sender.send((timeout, took, result.map(drop)));
            }
        });
    }
    drop(sender);
    let mut overshoots = Vec::new();
    for _ in 0..gets {
        let next = receiver.recv_timeout(WATCHDOG);
        let (timeout, took, result) =
            next.unwrap_or_else(|e| panic!("{what}: a get does not return ({e})"));
        let error = result.expect_err(what);
        assert!(error.is_timeout(), "{what}: {error}");
        assert!(took >= timeout, "{what}: {timeout:?} ended after {took:?}, too early");
        overshoots.push(took - timeout);
    }
    overshoots
}

fn report(what: &str, mut overshoots: Vec<Duration>) {
    overshoots.sort();
    let at = |permille: usize| {
        overshoots[(overshoots.len() * permille / 1000).min(overshoots.len() - 1)]
    };
    let largest = at(1000);
    println!(
        "figure: overshoot while {what} hangs, {} gets of 0 to {LONGEST_MS} ms from {THREADS} \
         threads: largest {largest:.1?}, p99 {:.1?}, median {:.1?}",
        overshoots.len(),
        at(990),
        at(500),
    );
    assert!(largest <= allowed_overshoot(), "{what}: overshoot {largest:?}");
}

/// `pool` has at most one connection, and every get from now on depends on a call that hangs
/// at `gate`.
fn assert_deadlines_kept(what: &'static str, world: &World, pool: &Pool<Manager>, gate: &Gate) {
    let (sender, receiver) = mpsc::channel();
    for number in 0..PATIENT {
        let (there, sender) = (pool.clone(), sender.clone());
        thread::spawn(move || {
            let _ = sender.send(there.get_timeout(Duration::MAX));
        });
        eventually("one more waits", || pool.stats().waiting == number as u32 + 1);
    }
    gate.await_entered(1);
    let overshoots = overshoots(what, pool);
    assert!(receiver.try_recv().is_err(), "{what}: a wait without end has ended");
    assert_eq!(pool.stats().waiting, PATIENT as u32, "{what}: {}", pool.stats());
    gate.open();
    for _ in 0..PATIENT {
        let served =
            receiver.recv_timeout(WATCHDOG).unwrap_or_else(|_| panic!("{what}: not served"));
        drop(served.unwrap_or_else(|error| panic!("{what}: {error}")));
    }
    let closed = pool.close(Instant::now() + WATCHDOG);
    assert!(closed.is_complete(), "{what}: {closed}");
    assert_eq!(world.live(), 0, "{what}");
    world.check();
    report(what, overshoots);
}

/// The call hangs while the first connection is opened. Each attempt overruns its limit, so
/// that the pool abandons as many as it may.
fn assert_kept_while_opening_hangs_in(what: &'static str, call: Call) {
    measure(move || {
        let (world, gate) = (world(), Gate::new());
        let of_an_error = matches!(call, Call::IsPermanent | Call::InspectError);
        if of_an_error {
            world.on(Call::Connect, Does::Fail);
        }
        world.on(call, Does::Hang(gate.clone()));
        let limit = Duration::from_millis(50);
        let pool = build(&world, builder(&world).open_timeout(limit).max_abandoned(8));
        let released = world.clone();
        let opened = gate.clone();
        // After the hang, the next connect succeeds.
        let healed = thread::spawn(move || {
            while !opened.is_open() {
                thread::sleep(Duration::from_millis(1));
            }
            released.on(Call::Connect, Does::Succeed);
        });
        assert_deadlines_kept(what, &world, &pool, &gate);
        healed.join().expect("it only sleeps");
    });
}

#[test]
fn p1_no_get_overstays_while_connect_hangs() {
    assert_kept_while_opening_hangs_in("connect", Call::Connect);
}

#[test]
fn p1_no_get_overstays_while_on_acquire_hangs() {
    assert_kept_while_opening_hangs_in("on_acquire", Call::OnAcquire);
}

#[test]
fn p1_no_get_overstays_while_is_permanent_hangs() {
    assert_kept_while_opening_hangs_in("is_permanent", Call::IsPermanent);
}

#[test]
fn p1_no_get_overstays_while_inspect_error_hangs() {
    assert_kept_while_opening_hangs_in("inspect_error", Call::InspectError);
}

#[test]
fn p1_no_get_overstays_while_is_valid_hangs() {
    measure(move || {
        let (world, gate) = (world(), Gate::new());
        let pool = build(&world, builder(&world).test_on_check_out(true));
        drop(pool.get().expect("opened"));
        world.on(Call::IsValid, Does::Hang(gate.clone()));
        assert_deadlines_kept("is_valid", &world, &pool, &gate);
    });
}

#[test]
fn p1_no_get_overstays_while_reset_hangs() {
    measure(move || {
        let (world, gate) = (world(), Gate::new());
        let pool = build(&world, builder(&world));
        let conn = pool.get().expect("opened");
        world.on(Call::NeedsReset, Does::Fail);
        world.on(Call::Reset, Does::Hang(gate.clone()));
        drop(conn);
        assert_deadlines_kept("reset", &world, &pool, &gate);
    });
}

fn assert_kept_while_closing_hangs_in(what: &'static str, call: Call) {
    measure(move || {
        let (world, gate) = (world(), Gate::new());
        let pool = build(&world, builder(&world));
        let conn = pool.get().expect("opened");
        world.on(call, Does::Hang(gate.clone()));
        PooledConnection::discard(conn);
        assert_deadlines_kept(what, &world, &pool, &gate);
    });
}

#[test]
fn p1_no_get_overstays_while_a_connections_drop_hangs() {
    assert_kept_while_closing_hangs_in("the connection's drop", Call::Close);
}

#[test]
fn p1_no_get_overstays_while_on_release_hangs() {
    assert_kept_while_closing_hangs_in("on_release", Call::OnRelease);
}

/// These two run on the thread that returns a connection, by design: they delay only that
/// thread and those who need that connection.
#[test]
fn p1_has_broken_and_needs_reset_hold_up_only_the_thread_that_returns() {
    measure(move || {
        for (what, call) in [("has_broken", Call::HasBroken), ("needs_reset", Call::NeedsReset)] {
            let (world, gate) = (world(), Gate::new());
            world.set_ceiling(2);
            let pool = build(&world, builder(&world).max_size(2));
            let (first, second) = (pool.get().expect("opened"), pool.get().expect("opened"));
            world.on(call, Does::Hang(gate.clone()));
            let (sender, receiver) = mpsc::channel();
            let returns = thread::spawn(move || {
                drop(first);
                sender.send(()).expect("the test receives it");
            });
            gate.await_entered(1);
            world.on(call, Does::Succeed);

            drop(second);
            let start = Instant::now();
            for _ in 0..100 {
                drop(pool.get().expect("the other connection"));
            }
            let others = start.elapsed();
            let second = pool.get().expect("the other connection");
            let timeout = Duration::from_millis(50);
            let start = Instant::now();
            assert!(pool.get_timeout(timeout).expect_err("none is left").is_timeout());
            let overshoot = start.elapsed().saturating_sub(timeout);
            assert!(receiver.try_recv().is_err(), "{what} did not hang");
            println!(
                "figure: while {what} hangs on a returning thread: 100 gets and returns of the other \
             connection {others:.1?}, overshoot of a timeout {overshoot:.1?}"
            );
            assert!(others < allowed_overshoot() && overshoot < allowed_overshoot());

            gate.open();
            receiver.recv_timeout(WATCHDOG).expect("it returns when the driver does");
            returns.join().expect("it has returned");
            drop((second, pool.get().expect("the first one")));
            world.check();
        }
    });
}
