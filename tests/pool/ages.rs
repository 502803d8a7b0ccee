//! When a connection is checked, and when it is too old.

use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use fairpool::event::ReleaseEvent;
use fairpool::{Builder, HandleEvent, Pool};
use fairpool_testing::stub::{
    Does, Gate, Manager, Op, Server, WATCHDOG, builder, eventually, lock,
};

use crate::support::ms;

#[test]
fn max_lifetime_is_enforced_at_return() {
    let server = Server::new();
    let pool =
        builder(1).max_lifetime(Some(ms(40))).lifetime_jitter(0.0).build(server.manager()).unwrap();
    let start = Instant::now();
    let conn = pool.get().unwrap();
    let id = conn.id;
    drop(conn);
    let young = pool.get().unwrap();
    if start.elapsed() < ms(40) {
        assert_eq!(young.id, id, "it was closed before its time");
    }
    thread::sleep(ms(45));
    young.touch(); // it expires while it is in use
    drop(young);
    assert_eq!(pool.stats().closed.expired, 1);
    assert_ne!(pool.get().unwrap().id, id);
    server.check();
}

#[test]
fn max_lifetime_ends_idle_connections_too() {
    let server = Server::new();
    let pool = builder(2).max_lifetime(Some(ms(20))).build(server.manager()).unwrap();
    drop([pool.get().unwrap(), pool.get().unwrap()]);
    eventually("both are gone", || server.live() == 0);
    // Two had a successor, which nobody used.
    assert_eq!(pool.stats().closed.expired, 4);
}

/// Ages at which connections of one pool were closed.
#[derive(Debug, Default)]
struct Ages(Mutex<Vec<Duration>>);

#[derive(Debug)]
struct RecordAges(Arc<Ages>);

impl HandleEvent for RecordAges {
    fn handle_release(&self, event: ReleaseEvent) {
        lock(&self.0.0).push(event.age());
    }
}

#[test]
fn lifetimes_end_early_and_not_together() {
    const LIFE: Duration = Duration::from_millis(400);
    const COUNT: usize = 40;
    let ages = Arc::new(Ages::default());
    let server = Server::new();
    let pool = builder(COUNT as u32)
        .max_opening(COUNT as u32)
        .max_closers(COUNT as u32)
        .max_lifetime(Some(LIFE))
        .lifetime_jitter(0.5)
        .event_handler(Box::new(RecordAges(ages.clone())))
        .build(server.manager())
        .unwrap();
    drop((0..COUNT).map(|_| pool.get().unwrap()).collect::<Vec<_>>());
    eventually("all have ended", || lock(&ages.0).len() >= COUNT);
    let ages = std::mem::take(&mut *lock(&ages.0));
    let late = LIFE + ms(300); // what a busy machine may take to close them
    // Half of it is jitter. Of what is left, half at the most is time for the successors.
    assert!(ages.iter().all(|&age| age >= LIFE / 4 && age < late), "{ages:?}");
    let (youngest, oldest) = (ages.iter().min().unwrap(), ages.iter().max().unwrap());
    assert!(*oldest - *youngest > LIFE / 10, "they end together: {ages:?}");
}

#[test]
fn idle_timeout_trims_and_a_use_starts_it_anew() {
    let server = Server::new();
    let pool = builder(1).idle_timeout(Some(ms(150))).build(server.manager()).unwrap();
    let id = pool.get().unwrap().id;
    let start = Instant::now();
    let mut last = start;
    while start.elapsed() < ms(250) {
        thread::sleep(ms(20));
        let (now, used) = (Instant::now(), pool.get().unwrap().id);
        if last.elapsed() < ms(150) {
            assert_eq!(used, id, "used within its idle time");
        }
        last = now;
    }
    eventually("it is trimmed", || server.live() == 0);
    assert!(last.elapsed() >= ms(150));
    assert_eq!(pool.stats().closed.idle_too_long, 1);
}

#[test]
fn keepalive_checks_idle_connections_and_does_not_prolong_idle_timeout() {
    let server = Server::new();
    let pool = builder(2)
        .keepalive(Some(ms(15)))
        .idle_timeout(Some(ms(150)))
        .build(server.manager())
        .unwrap();
    let both = [pool.get().unwrap(), pool.get().unwrap()];
    let start = Instant::now();
    drop(both);
    eventually("both were trimmed", || server.live() == 0);
    assert!(start.elapsed() >= ms(150), "too early: {:?}", start.elapsed());
    let checks = server.calls(Op::IsValid);
    assert!(checks >= 4, "{checks} checks");
    assert_eq!(pool.stats().closed.idle_too_long, 2, "{:?}", pool.stats());
    server.check();
}

/// By a real clock, with times that are short beside the ticks of the kernel's. Without a
/// handler or a subscriber: with one, the pool reads the exact clock.
#[test]
fn nothing_is_early_by_a_real_clock() {
    const SPAN: Duration = ms(5);
    type Case = fn(Builder<Manager>, &Server) -> Pool<Manager>;
    let cases: [(&str, Op, Case); 2] = [
        ("idle_timeout", Op::Close, |builder, server| {
            builder.idle_timeout(Some(SPAN)).build(server.manager()).unwrap()
        }),
        ("keepalive", Op::IsValid, |builder, server| {
            builder.keepalive(Some(SPAN)).build(server.manager()).unwrap()
        }),
    ];
    for (what, op, build) in cases {
        let server = Server::new();
        let pool = build(builder(1), &server);
        let done: Arc<Mutex<Option<Instant>>> = Arc::default();
        server.spy({
            let done = done.clone();
            move |called| {
                if called == op {
                    lock(&done).get_or_insert_with(Instant::now);
                }
            }
        });
        let mut shortest = WATCHDOG;
        for round in 0..40 {
            let held = pool.get().unwrap();
            // At any time within a tick.
            thread::sleep(Duration::from_micros(100 * (round % 40)));
            // Before the step from which the pool counts.
            let begun = Instant::now();
            *lock(&done) = None;
            drop(held);
            eventually(what, || lock(&done).is_some());
            let at = lock(&done).expect("it is done");
            shortest = shortest.min(at - begun);
        }
        println!("figure: {what}: {shortest:?} at least, of {SPAN:?}");
        assert!(shortest >= SPAN, "{what}: after {shortest:?}");
    }
}

#[test]
fn no_hold_is_reported_early_or_as_longer_than_it_was() {
    const SPAN: Duration = ms(5);
    let pool = builder(1).leak_threshold(Some(SPAN)).build(Server::new().manager()).unwrap();
    drop(pool.get().unwrap());
    for round in 1..40 {
        thread::sleep(Duration::from_micros(100 * round));
        let before = Instant::now();
        let held = pool.get().unwrap();
        eventually("it is reported", || pool.stats().leaks == round);
        assert!(before.elapsed() >= SPAN, "reported after {:?}", before.elapsed());
        let shown = pool.holders()[0].held_for();
        assert!(shown <= before.elapsed(), "{shown:?} of {:?}", before.elapsed());
        drop(held);
    }
}

#[test]
fn keepalive_replaces_a_dead_connection_before_it_is_needed() {
    let server = Server::new();
    let pool =
        builder(1).min_idle(Some(1)).keepalive(Some(ms(10))).build(server.manager()).unwrap();
    server.next(Op::IsValid, Does::Fail);
    eventually("it was replaced", || {
        pool.stats().closed.invalid == 1 && pool.state().idle_connections == 1
    });
    assert_eq!(pool.get().unwrap().id, 2);
}

#[test]
fn test_on_check_out_true_checks_each_time_and_false_never() {
    for (test, expected) in [(true, 5), (false, 0)] {
        let server = Server::new();
        let pool = builder(1)
            .test_on_check_out(test)
            .skip_check_within(Duration::ZERO) // has no effect if `test_on_check_out` is set
            .build(server.manager())
            .unwrap();
        for _ in 0..6 {
            drop(pool.get().unwrap()); // the first time it is a new one
        }
        assert_eq!(server.calls(Op::IsValid), expected, "test_on_check_out({test})");
    }
}

fn unset(max_size: u32) -> Builder<Manager> {
    Pool::builder()
        .max_size(max_size)
        .min_idle(Some(0))
        .connection_timeout(WATCHDOG)
        .error_handler(Box::new(fairpool::NopErrorHandler))
}

#[test]
fn connections_used_just_now_are_not_checked() {
    let server = Server::new();
    let pool =
        unset(1).skip_check_within(Duration::from_secs(600)).build(server.manager()).unwrap();
    (0..20).for_each(|_| drop(pool.get().unwrap()));
    assert_eq!(server.calls(Op::IsValid), 0);

    let server = Server::new();
    let pool = unset(1).skip_check_within(ms(20)).build(server.manager()).unwrap();
    drop(pool.get().unwrap());
    thread::sleep(ms(60)); // a wide margin, since the clock is coarse
    drop(pool.get().unwrap());
    assert_eq!(server.calls(Op::IsValid), 1);

    let server = Server::new();
    let pool = unset(1).skip_check_within(Duration::ZERO).build(server.manager()).unwrap();
    (0..4).for_each(|_| drop(pool.get().unwrap()));
    assert_eq!(server.calls(Op::IsValid), 3);
}

#[test]
fn a_reset_runs_only_when_it_is_needed_and_before_the_next_use() {
    let (server, gate) = (Server::new(), Gate::new());
    let pool = builder(1).build(server.manager()).unwrap();
    drop(pool.get().unwrap());
    assert_eq!((server.calls(Op::NeedsReset), server.calls(Op::Reset)), (1, 0));
    server.next(Op::NeedsReset, Does::Fail);
    server.next(Op::Reset, Does::Hang(gate.clone()));
    drop(pool.get().unwrap());
    gate.await_entered(1);
    assert!(pool.get_timeout(ms(20)).is_err(), "it is not clean yet");
    let stats = pool.stats();
    assert_eq!((stats.checking, stats.in_use, stats.idle), (1, 1, 0), "{stats:?}");
    gate.open();
    assert_eq!(pool.get().unwrap().id, 1);

    server.next(Op::NeedsReset, Does::Fail);
    server.next(Op::Reset, Does::Fail);
    drop(pool.get().unwrap());
    assert_eq!(pool.get().unwrap().id, 2);
    assert_eq!(pool.stats().closed.broken, 1);
}
