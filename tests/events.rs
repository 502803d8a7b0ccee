//! Everything that happens is told to those who subscribe: in order, exactly, and at
//! nobody's cost but theirs.

#[allow(dead_code)]
#[path = "support/dice.rs"]
mod dice;
#[allow(dead_code)]
#[path = "support/feed.rs"]
mod feed;
#[allow(dead_code)]
#[path = "support/stub.rs"]
mod stub;

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::TryRecvError;
use dice::Dice;
use fairpool::event::{
    AcquireEvent, CheckinEvent, CheckoutEvent, ConnectionState, EventKind, ErrorKind, LeakEvent,
    Reason, ReleaseEvent, SelfDeadlockEvent, TimeoutEvent,
};
use fairpool::{Builder, CancelToken, ErrorKind, HandleEvent, ManageConnection, Pool, PooledConnection, SelfDeadlock};
use fairpool::event::Event;
use fairpool::snapshot::CallKind;
use feed::{Feed, check};
use stub::{
    Does, Gate, Manager, Op, Server, WATCHDOG, builder, eventually, silent_panic, threads_named,
    watched,
};

use ConnectionState::{Abandoned, Busy, Checking, Closing, Gone, Idle, Opening, Retired};

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Pools with one connection, which is open and idle.
fn primed(builder: Builder<Manager>) -> Pool<Manager> {
    let pool = builder.build(Server::new().manager()).unwrap();
    drop(pool.get().unwrap());
    pool
}

/// A get on a thread of that name, which has joined the queue when this returns.
fn waiter(pool: &Pool<Manager>, name: &str, timeout: Duration) -> thread::JoinHandle<bool> {
    let before = pool.stats().waiting;
    let here = pool.clone();
    let get = move || here.request().label("later").timeout(timeout).get().is_ok();
    let thread = thread::Builder::new().name(name.to_string()).spawn(get).unwrap();
    eventually("it waits", || pool.stats().waiting == before + 1);
    thread
}

fn deadline() -> Instant {
    Instant::now() + WATCHDOG
}

// ---------------------------------------------------------------------------
// Gets

#[test]
fn a_get_that_need_not_wait_leaves_one_event() {
    let pool = primed(builder(1));
    let mut feed = Feed::of(&pool);
    let before = Instant::now();
    let (conn, line) = (pool.request().label("report").priority(3).get().unwrap(), line!());
    let number = PooledConnection::info(&conn).id;
    drop(conn);
    feed.until_moved(Idle, None);
    let after = Instant::now();

    let EventKind::CheckedOut { call_site, waited, connection, from, .. } = &feed.seen[0].kind else {
        panic!("{:#?}", feed.kinds())
    };
    assert_eq!((call_site.location().file(), call_site.location().line()), (file!(), line));
    assert_eq!((call_site.label(), call_site.priority()), (Some("report"), 3));
    assert!(thread::current().name().unwrap().starts_with(call_site.thread()), "{call_site}");
    assert_eq!((*waited, *connection), (Duration::ZERO, number));
    assert_eq!(*from, None, "it was got before the subscription");
    assert_eq!(feed.states(), [(Idle, Busy, None), (Busy, Idle, None)]);
    assert_eq!(feed.seen.len(), 3);
    for event in &feed.seen {
        assert_eq!(&*event.pool, pool.name());
        assert!(before <= event.at && event.at <= after, "{event:?}");
    }
    check(&feed.seen, false);
}

#[test]
fn a_wait_is_told_from_its_start_to_its_end() {
    let pool = primed(builder(1));
    let mut feed = Feed::of(&pool);
    let (held, line) = (pool.get().unwrap(), line!());
    let id = PooledConnection::info(&held).id;
    let waiter = waiter(&pool, "patient", WATCHDOG);
    let listed = pool.waiters()[0].clone();
    drop(held);
    assert!(waiter.join().unwrap());
    feed.until_moved(Busy, None);
    feed.until_moved(Busy, None);
    feed.until_moved(Idle, None);

    let [_, _, started, _, acquired, moved, _] = feed.kinds()[..] else {
        panic!("{:#?}", feed.kinds())
    };
    let EventKind::Enqueued { get, call_site } = started else { panic!("{started:?}") };
    assert_eq!((*get, call_site), (listed.id(), listed.call_site()));
    assert_eq!((call_site.thread(), call_site.label()), ("patient", Some("later")));
    let EventKind::CheckedOut { get: same, call_site: who, waited, connection, from } = acquired else {
        panic!("{acquired:?}")
    };
    assert_eq!((same, who, *connection), (get, call_site, id));
    assert!(*waited >= listed.waited() && *waited < WATCHDOG, "{waited:?}");
    assert_eq!(from.as_ref().map(|from| from.location().line()), Some(line));
    assert!(matches!(moved, EventKind::Moved { from: Idle, to: Busy, .. }), "{moved:?}");
    check(&feed.seen, false);
}

#[test]
fn a_get_that_opens_a_connection_takes_it_from_nobody() {
    let pool = builder(1).build(Server::new().manager()).unwrap();
    let mut feed = Feed::of(&pool);
    drop(pool.get().unwrap());
    feed.until_moved(Idle, None);
    let states = [(Gone, Opening, None), (Opening, Busy, None), (Busy, Idle, None)];
    assert_eq!(feed.states(), states);
    let sums = check(&feed.seen, true);
    assert_eq!((sums.started, sums.acquired_waited, sums.opened), (1, 1, 1));
}

#[test]
fn a_timeout_is_told() {
    let pool = primed(builder(1).on_self_deadlock(SelfDeadlock::Ignore));
    let held = pool.get().unwrap();
    let mut feed = Feed::of(&pool);
    assert!(pool.get_timeout(ms(20)).unwrap_err().is_timeout());
    feed.until("the end", |kind| matches!(kind, EventKind::GetFailed { .. }));
    let [started, left] = feed.kinds()[..] else { panic!("{:#?}", feed.kinds()) };
    let EventKind::Enqueued { get, .. } = started else { panic!("{started:?}") };
    let EventKind::GetFailed { get: same, waited, end, .. } = left else { panic!("{left:?}") };
    assert_eq!((same, *end), (get, ErrorKind::Timeout));
    assert!(*waited >= ms(20), "{waited:?}");

    // One that has no time at all joins the queue too.
    pool.get_timeout(Duration::ZERO).unwrap_err();
    feed.until("the end", |kind| matches!(kind, EventKind::GetFailed { .. }));
    assert_eq!(feed.seen.len(), 4, "{:#?}", feed.kinds());
    drop(held);
    check(&feed.seen, false);
}

#[test]
fn a_cancelled_get_is_told_whether_it_waited_or_not() {
    let pool = primed(builder(1));
    let held = pool.get().unwrap();
    let mut feed = Feed::of(&pool);
    let token = CancelToken::new();
    thread::scope(|scope| {
        let get = || pool.request().cancel(&token).get().map(drop).unwrap_err();
        let waits = scope.spawn(get);
        eventually("it waits", || pool.stats().waiting == 1);
        token.cancel();
        assert!(waits.join().unwrap().is_cancelled());
        assert!(get().is_cancelled());
    });
    feed.until("an end", |kind| matches!(kind, EventKind::GetFailed { .. }));
    feed.until("an end", |kind| matches!(kind, EventKind::GetFailed { .. }));
    let [(first, ErrorKind::Cancelled), (second, ErrorKind::Cancelled)] = feed.ends()[..] else {
        panic!("{:#?}", feed.kinds())
    };
    assert!(first < second);
    let sums = check(&feed.seen, false);
    assert_eq!((sums.started, sums.left), (1, 2));
    assert_eq!(pool.stats().cancelled, 2);
    drop(held);
}

#[test]
fn a_refusal_by_a_full_queue_is_told() {
    let pool = primed(builder(1).max_waiters(Some(1)));
    let held = pool.get().unwrap();
    let mut feed = Feed::of(&pool);
    let waits = waiter(&pool, "first", WATCHDOG);
    assert!(pool.get().unwrap_err().is_queue_full());
    drop(held);
    assert!(waits.join().unwrap());
    feed.until_moved(Busy, None);
    assert_eq!(feed.ends().len(), 1, "{:#?}", feed.kinds());
    assert_eq!(feed.ends()[0].1, ErrorKind::QueueFull);
    check(&feed.seen, false);
}

#[test]
fn the_pools_close_is_told_for_each_who_waits_and_who_comes_later() {
    let pool = primed(builder(1));
    let held = pool.get().unwrap();
    let mut feed = Feed::of(&pool);
    let waits: Vec<_> = (0..3).map(|_| waiter(&pool, "unlucky", WATCHDOG)).collect();
    assert!(!pool.close(Instant::now()).is_complete());
    assert!(pool.get().unwrap_err().is_closed());
    waits.into_iter().for_each(|waits| assert!(!waits.join().unwrap()));
    drop(held);
    feed.read_to_end();
    assert_eq!(feed.ends().len(), 4, "{:#?}", feed.kinds());
    assert!(feed.ends().iter().all(|(_, end)| *end == ErrorKind::Closed));
    let states = [
        (Busy, Retired, Some(Reason::PoolClosed)),
        (Retired, Closing, None),
        (Closing, Gone, None),
    ];
    assert_eq!(feed.states(), states);
    assert_eq!(check(&feed.seen, false).started, 3);
}

#[test]
fn connecting_that_fails_for_good_is_told_to_those_who_wait_and_who_come_later() {
    let server = Server::new();
    server.on(Op::Connect, Does::FailForGood);
    let pool = builder(1).connect_backoff(WATCHDOG, 2 * WATCHDOG).build(server.manager()).unwrap();
    let mut feed = Feed::of(&pool);
    for _ in 0..2 {
        assert_eq!(pool.get().unwrap_err().kind(), ErrorKind::Connect);
    }
    feed.until("an end", |kind| matches!(kind, EventKind::GetFailed { .. }));
    feed.until("an end", |kind| matches!(kind, EventKind::GetFailed { .. }));
    assert!(feed.ends().iter().all(|(_, end)| *end == ErrorKind::Connect));
    assert_eq!(feed.states()[1], (Opening, Gone, Some(Reason::ConnectFailed)));
    assert_eq!(check(&feed.seen, true).started, 1);
}

#[test]
fn a_deadlock_is_told() {
    let pool = primed(builder(1).on_self_deadlock(SelfDeadlock::Fail(Duration::ZERO)));
    let mut feed = Feed::of(&pool);
    let held = pool.get().unwrap();
    assert!(pool.get().unwrap_err().is_self_deadlock());
    let at = feed.until("the threads", |kind| matches!(kind, EventKind::SelfDeadlock(_)));
    assert_eq!(feed.ends().iter().map(|(_, end)| *end).collect::<Vec<_>>(), [ErrorKind::SelfDeadlock]);
    let EventKind::SelfDeadlock(nested) = &feed.seen[at].kind else { unreachable!() };
    assert_eq!(nested.len(), 1);
    drop(held);
    check(&feed.seen, false);
}

// ---------------------------------------------------------------------------
// Connections

#[test]
fn a_broken_connection_goes_through_all_its_states() {
    let pool = builder(1).build(Server::new().manager()).unwrap();
    let mut feed = Feed::of(&pool);
    PooledConnection::discard(pool.get().unwrap());
    feed.until_moved(Gone, None);
    let states = [
        (Gone, Opening, None),
        (Opening, Busy, None),
        (Busy, Retired, Some(Reason::Broken)),
        (Retired, Closing, None),
        (Closing, Gone, None),
    ];
    assert_eq!(feed.states(), states);
    check(&feed.seen, true);
}

#[test]
fn checks_are_told_and_what_fails_them() {
    let server = Server::new();
    let pool = builder(1).test_on_check_out(true).build(server.manager()).unwrap();
    let mut feed = Feed::of(&pool);
    drop(pool.get().unwrap());
    drop(pool.get().unwrap()); // checked on its way
    feed.until_moved(Checking, None);
    feed.until_moved(Idle, None);
    server.next(Op::IsValid, Does::Fail);
    server.next(Op::NeedsReset, Does::Fail); // after this use, it is reset
    drop(pool.get().unwrap());
    feed.until_moved(Retired, Some(Reason::Invalid));
    feed.until_moved(Gone, None);
    feed.until_moved(Checking, None);
    feed.until_moved(Idle, None);
    let steps: Vec<_> = feed.states().iter().map(|(from, to, _)| (*from, *to)).collect();
    for step in [(Idle, Checking), (Checking, Busy), (Checking, Retired), (Busy, Checking)] {
        assert!(steps.contains(&step), "{step:?}: {steps:?}");
    }
    assert_eq!(steps.last(), Some(&(Checking, Idle)));
    check(&feed.seen, true);
}

#[test]
fn each_reason_to_close_an_idle_connection_is_told() {
    type Act = fn(&Pool<Manager>);
    type Set = fn(Builder<Manager>) -> Builder<Manager>;
    let as_it_is: Set = |builder| builder;
    let cases: [(Reason, Set, Act); 5] = [
        (Reason::Expired, |builder| builder.max_lifetime(Some(ms(50))), |_| ()),
        (Reason::IdleTooLong, |builder| builder.idle_timeout(Some(ms(50))), |_| ()),
        (Reason::Excess, as_it_is, |pool| pool.set_max_size(1).unwrap()),
        (Reason::Stale, as_it_is, Pool::refresh),
        (Reason::PoolClosed, as_it_is, |pool| {
            pool.close(deadline());
        }),
    ];
    for (reason, set, act) in cases {
        let pool = set(builder(2)).build(Server::new().manager()).unwrap();
        let mut feed = Feed::of(&pool);
        drop((pool.get().unwrap(), pool.get().unwrap()));
        act(&pool);
        feed.until_moved(Retired, Some(reason));
        feed.until_moved(Gone, None);
        check(&feed.seen, true);
    }
}

#[test]
fn a_detached_connection_is_gone() {
    let pool = builder(1).build(Server::new().manager()).unwrap();
    let mut feed = Feed::of(&pool);
    drop(PooledConnection::detach(pool.get().unwrap()));
    feed.until_moved(Gone, Some(Reason::Detached));
    assert_eq!(feed.states().last(), Some(&(Busy, Gone, Some(Reason::Detached))));
    check(&feed.seen, true);
}

#[test]
fn a_connect_that_overruns_its_limit_is_told_and_what_became_of_it() {
    let (server, gate) = (Server::new(), Gate::new());
    server.on(Op::Connect, Does::Hang(gate.clone()));
    let pool = builder(2).open_timeout(ms(50)).build(server.manager()).unwrap();
    let mut feed = Feed::of(&pool);
    let get = waiter(&pool, "opener", WATCHDOG);
    let moved = feed.until_moved(Abandoned, Some(Reason::Overran));
    let told = feed.until("its call", |kind| matches!(kind, EventKind::Abandoned { .. }));
    let EventKind::Abandoned { call, connection, after } = &feed.seen[told].kind else {
        unreachable!()
    };
    assert_eq!((*call, *connection), (CallKind::Connect, None));
    assert!(*after >= ms(50) && told > moved, "{after:?}");
    gate.open();
    feed.until("it is taken in", |kind| {
        let EventKind::Moved { from, to, connection, .. } = kind else { return false };
        *from == Abandoned && matches!(to, Idle | Busy) && connection.is_some()
    });
    assert!(get.join().unwrap());
    check(&feed.seen, true);
}

#[test]
fn a_close_that_overruns_its_limit_is_told() {
    let (server, gate) = (Server::new(), Gate::new());
    server.next(Op::Close, Does::Hang(gate.clone()));
    let pool = builder(1).close_timeout(ms(50)).build(server.manager()).unwrap();
    let mut feed = Feed::of(&pool);
    let conn = pool.get().unwrap();
    let id = PooledConnection::info(&conn).id;
    PooledConnection::discard(conn);
    feed.until_moved(Abandoned, Some(Reason::Overran));
    feed.until("its call", |kind| match kind {
        EventKind::Abandoned { call, connection, .. } => {
            (*call, *connection) == (CallKind::Close, Some(id))
        }
        _ => false,
    });
    gate.open();
    feed.until_moved(Gone, None);
    assert_eq!(feed.states().last(), Some(&(Abandoned, Gone, None)));
    check(&feed.seen, true);
}

#[test]
fn an_outage_is_told_once_and_so_is_its_end() {
    let server = Server::new();
    (0..3).for_each(|_| server.next(Op::Connect, Does::Fail));
    let pool = builder(1).build(server.manager()).unwrap();
    let mut feed = Feed::of(&pool);
    drop(pool.get().unwrap());
    let end = feed.until("its end", |kind| matches!(kind, EventKind::OutageEnded { .. }));
    let EventKind::OutageEnded { failures, lasted } = feed.seen[end].kind else { unreachable!() };
    assert_eq!(failures, 3);
    assert!(lasted > Duration::ZERO);
    let outages: Vec<_> = feed
        .kinds()
        .into_iter()
        .filter_map(|kind| match kind {
            EventKind::Outage(text) => Some(text.as_str()),
            _ => None,
        })
        .collect();
    assert_eq!(outages, ["attempt 1 was refused"]);
    check(&feed.seen, true);
}

#[test]
fn leaks_are_told_with_their_holder() {
    let pool = builder(1).leak_threshold(Some(ms(20))).build(Server::new().manager()).unwrap();
    let mut feed = Feed::of(&pool);
    let (held, line) = (pool.get().unwrap(), line!());
    let leak = feed.until("the leak", |kind| matches!(kind, EventKind::Leak(_)));
    drop(held);
    let end = feed.until("its end", |kind| matches!(kind, EventKind::LeakEnded(_)));
    for at in [leak, end] {
        let (EventKind::Leak(holder) | EventKind::LeakEnded(holder)) = &feed.seen[at].kind else {
            unreachable!()
        };
        assert_eq!(holder.location().line(), line);
    }
    check(&feed.seen, true);
}

// ---------------------------------------------------------------------------
// Subscriptions

#[test]
fn a_slow_reader_loses_the_newest_and_knows_how_many() {
    const ROOM: usize = 10;
    const CYCLES: usize = 2000;
    let pool = primed(builder(1));
    let mut feed = Feed::with_room_for(&pool, ROOM);
    (0..CYCLES).for_each(|_| drop(pool.get().unwrap()));
    let lost = (3 * CYCLES - ROOM) as u64;
    eventually("all that came is sent or lost", || pool.stats().events_lost == lost);
    (0..ROOM).for_each(|_| drop(feed.next().clone()));
    check(&feed.seen, false);
    assert!(feed.events.is_empty());

    drop(pool.request().label("after").get().unwrap());
    let event = feed.next();
    assert_eq!(event.lost_before, lost);
    let EventKind::CheckedOut { call_site, .. } = &event.kind else { panic!("{event:?}") };
    assert_eq!(call_site.label(), Some("after"));
    assert_eq!(feed.next().lost_before, 0, "they are told once");
    assert_eq!(pool.stats().events_lost, lost);
}

#[test]
fn a_reader_that_never_reads_stops_nobody() {
    const THREADS: u64 = 4;
    const CYCLES: u64 = 5_000;
    for capacity in [1, 100] {
        let pool = builder(2).build(Server::new().manager()).unwrap();
        let events = pool.subscribe(capacity).unwrap();
        let there = pool.clone();
        watched("gets beside a reader that does not read", move || {
            thread::scope(|scope| {
                for _ in 0..THREADS {
                    scope.spawn(|| (0..CYCLES).for_each(|_| drop(there.get().unwrap())));
                }
            });
        });
        let stats = pool.stats();
        assert_eq!((stats.gets, stats.waiting, stats.in_use), (THREADS * CYCLES, 0, 0));
        let least = 3 * THREADS * CYCLES - capacity as u64;
        eventually("what is lost is counted", || pool.stats().events_lost >= least);
        assert_eq!(events.len(), capacity);
    }
}

#[test]
fn each_subscriber_has_its_own_room_and_the_same_order() {
    let pool = primed(builder(1));
    let (mut large, mut small) = (Feed::of(&pool), Feed::with_room_for(&pool, 4));
    (0..100).for_each(|_| drop(pool.get().unwrap()));
    let last = waiting_number(&pool);
    large.until("the last get", |kind| matches!(kind, EventKind::GetFailed { get, .. } if *get == last));
    large.until_moved(Idle, None); // the very last
    assert_eq!(check(&large.seen, false).acquired, 101);
    eventually("the small one is full", || small.events.len() == 4);
    (0..4).for_each(|_| drop(small.next().clone()));
    for (a, b) in large.seen.iter().zip(&small.seen) {
        assert_eq!(format!("{:?}", a.kind), format!("{:?}", b.kind));
    }
    let total = large.seen.len() as u64;
    eventually("only the small one lost any", || pool.stats().events_lost == total - 4);
}

/// Makes a get that times out at once, and returns its number.
fn waiting_number(pool: &Pool<Manager>) -> u64 {
    let (held, other) = (pool.get().unwrap(), pool.subscribe(100).unwrap());
    pool.get_timeout(Duration::ZERO).unwrap_err();
    let number = loop {
        let event = other.recv_timeout(WATCHDOG).unwrap();
        if let EventKind::GetFailed { get, .. } = event.kind {
            break get;
        }
    };
    drop((other, held));
    number
}

#[test]
fn a_subscriber_hears_nothing_of_what_was_before() {
    let pool = primed(builder(1));
    let mut early = Feed::of(&pool);
    for round in 0..20 {
        // Noted, and hardly delivered yet.
        drop(pool.request().label("before").get().unwrap());
        let mut late = Feed::of(&pool);
        drop(pool.request().label("after").get().unwrap());
        let EventKind::CheckedOut { call_site, from, .. } = &late.next().kind else {
            panic!("round {round}: {:#?}", late.kinds())
        };
        assert_eq!(call_site.label(), Some("after"), "round {round}");
        assert_eq!(from.as_ref().and_then(|from| from.label()), Some("before"));
    }
    while check(&early.seen, false).returned < 40 {
        early.next();
    }
}

#[test]
fn who_gave_a_connection_back_while_nobody_listened_is_not_guessed() {
    let pool = primed(builder(1));
    let mut feed = Feed::of(&pool);
    drop(pool.request().label("first").get().unwrap());
    feed.until_moved(Idle, None);
    drop(feed);
    // What is sent to nobody ends the subscription; from then on nothing is noted.
    drop(pool.request().label("second").get().unwrap());
    eventually("nobody listens", || {
        let mut feed = Feed::of(&pool);
        drop(pool.request().label("third").get().unwrap());
        let EventKind::CheckedOut { from, .. } = &feed.next().kind else {
            panic!("{:#?}", feed.kinds())
        };
        // Never the first: the second came in between, and perhaps the third of before.
        let giver = from.as_ref().and_then(|from| from.label());
        assert_ne!(giver, Some("first"));
        giver.is_none()
    });
}

#[test]
fn a_subscriber_that_has_gone_costs_the_others_nothing() {
    let pool = primed(builder(1));
    let mut feed = Feed::of(&pool);
    for _ in 0..10 {
        drop(pool.subscribe(1).unwrap());
        drop(pool.get().unwrap());
    }
    while check(&feed.seen, false).returned < 10 {
        feed.next();
    }
    // Those who had gone have lost nothing.
    assert_eq!(pool.stats().events_lost, 0);
}

#[test]
fn the_channel_ends_after_the_last_event_of_a_closed_pool() {
    let pool = builder(2).build(Server::new().manager()).unwrap();
    let mut feed = Feed::of(&pool);
    drop((pool.get().unwrap(), pool.get().unwrap()));
    assert!(pool.close(deadline()).is_complete());
    feed.read_to_end();
    let gone = feed.states().iter().filter(|step| **step == (Closing, Gone, None)).count();
    assert_eq!(gone, 2, "{:#?}", feed.kinds());
    check(&feed.seen, true);

    // Nobody can subscribe any more, and nobody is left waiting for events.
    let late = pool.subscribe(10).unwrap();
    assert_eq!(late.recv_timeout(WATCHDOG).unwrap_err().to_string(), disconnected());
    assert!(pool.get().unwrap_err().is_closed());
    assert_eq!(late.try_recv().unwrap_err(), TryRecvError::Disconnected);
}

fn disconnected() -> String {
    crossbeam_channel::RecvTimeoutError::Disconnected.to_string()
}

#[test]
fn the_channel_ends_when_the_last_handle_is_dropped() {
    let pool = primed(builder(1));
    let watch = pool.downgrade();
    let mut feed = Feed::of(&pool);
    drop(pool);
    feed.read_to_end();
    assert_eq!(feed.states().last(), Some(&(Closing, Gone, None)));
    // The pool may still be on its way out.
    if let Some(late) = watch.subscribe(10) {
        assert_eq!(late.unwrap().recv_timeout(WATCHDOG).unwrap_err().to_string(), disconnected());
    }
}

#[test]
fn subscribers_that_come_while_the_pool_closes_find_the_end() {
    for _ in 0..50 {
        let pool = primed(builder(2));
        let start = Barrier::new(2);
        thread::scope(|scope| {
            scope.spawn(|| {
                start.wait();
                pool.close(deadline());
            });
            start.wait();
            for _ in 0..20 {
                Feed::with_room_for(&pool, 100).read_to_end();
            }
        });
    }
}

/// Hangs when a leak or a deadlock is told, until the gate opens.
#[derive(Debug)]
struct Stuck(Gate);

impl HandleEvent for Stuck {
    fn handle_leak(&self, _: LeakEvent) {
        self.0.pass();
    }
    fn handle_self_deadlock(&self, _: SelfDeadlockEvent) {
        self.0.pass();
    }
}

#[test]
fn what_is_told_late_comes_before_the_end() {
    let gate = Gate::new();
    let pool = builder(1)
        .name("late")
        .leak_threshold(Some(ms(10)))
        .event_handler(Box::new(Stuck(gate.clone())))
        .build(Server::new().manager())
        .unwrap();
    let mut feed = Feed::of(&pool);
    let held = pool.get().unwrap();
    gate.await_entered(1);
    drop(held);
    assert!(!pool.close(Instant::now() + ms(100)).is_complete());
    feed.until_moved(Gone, None);
    eventually("the resident thread has ended", || threads_named("late-reaper") == 0);
    assert_eq!(feed.events.try_recv().unwrap_err(), TryRecvError::Empty, "there is more to tell");
    gate.open();
    feed.read_to_end();
    assert!(matches!(feed.kinds().last(), Some(EventKind::LeakEnded(_))), "{:#?}", feed.kinds());
}

#[test]
fn what_a_handler_was_too_slow_for_is_counted_as_lost() {
    const DEADLOCKS: usize = 1500;
    let gate = Gate::new();
    let pool = primed(
        builder(1)
            .on_self_deadlock(SelfDeadlock::Fail(Duration::ZERO))
            .event_handler(Box::new(Stuck(gate.clone()))),
    );
    let mut feed = Feed::of(&pool);
    let held = pool.get().unwrap();
    for _ in 0..DEADLOCKS {
        assert!(pool.get().unwrap_err().is_self_deadlock());
    }
    gate.open();
    drop(held);
    assert!(pool.close(deadline()).is_complete());
    feed.read_to_end();
    let told =
        feed.kinds().iter().filter(|kind| matches!(kind, EventKind::SelfDeadlock(_))).count();
    assert!(told < DEADLOCKS, "there was room for all");
    assert_eq!(told as u64 + pool.stats().events_lost, DEADLOCKS as u64);
}

/// A driver whose next attempt fails on demand, with an error that panics when it is
/// dropped.
#[derive(Clone, Default)]
struct Explosive(Arc<AtomicBool>);

#[derive(Debug)]
struct Bomb;

impl fmt::Display for Bomb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a bomb")
    }
}

impl std::error::Error for Bomb {}

impl Drop for Bomb {
    fn drop(&mut self) {
        silent_panic();
    }
}

impl ManageConnection for Explosive {
    type Connection = ();
    type Error = Bomb;

    fn connect(&self) -> Result<(), Bomb> {
        if self.0.swap(false, Ordering::Relaxed) { Err(Bomb) } else { Ok(()) }
    }

    fn is_valid(&self, (): &mut ()) -> Result<(), Bomb> {
        Ok(())
    }

    fn has_broken(&self, (): &mut ()) -> bool {
        false
    }
}

/// When the outage is told at last, nobody else has its error any more.
#[test]
fn an_error_whose_destructor_panics_silences_nobody() {
    let (driver, gate) = (Explosive::default(), Gate::new());
    let pool = Pool::builder()
        .max_size(2)
        .min_idle(Some(0))
        .leak_threshold(Some(ms(10)))
        .event_handler(Box::new(Stuck(gate.clone())))
        .build(driver.clone())
        .unwrap();
    let mut feed = Feed::of(&pool);
    let held = pool.get().unwrap();
    gate.await_entered(1);
    driver.0.store(true, Ordering::Relaxed);
    drop(pool.get().unwrap());
    gate.open();
    let outage = feed.until("the outage", |kind| matches!(kind, EventKind::Outage(_)));
    let EventKind::Outage(text) = &feed.seen[outage].kind else { unreachable!() };
    assert_eq!(text, "a bomb");
    feed.until("its end", |kind| matches!(kind, EventKind::OutageEnded { .. }));
    drop(held);
    assert!(pool.close(deadline()).is_complete());
    feed.read_to_end();
}

#[test]
fn a_capacity_that_makes_no_sense_is_refused() {
    let pool = primed(builder(1));
    for capacity in [0, (1 << 22) + 1, usize::MAX] {
        let error = pool.subscribe(capacity).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        let text = error.to_string();
        let expected = "subscribe: capacity must be between 1 and 4194304, but is";
        assert!(text.contains(&format!("{expected} {capacity}")), "{text}");
        assert!(!text.contains('\n'));
    }
}

// ---------------------------------------------------------------------------
// Beside the handler

#[derive(Clone, Debug, Default)]
struct Counts(Arc<[AtomicUsize; 5]>);

impl Counts {
    fn add(&self, what: usize) {
        self.0[what].fetch_add(1, Ordering::Relaxed);
    }

    fn all(&self) -> [usize; 5] {
        [0, 1, 2, 3, 4].map(|what| self.0[what].load(Ordering::Relaxed))
    }
}

impl HandleEvent for Counts {
    fn handle_acquire(&self, _: AcquireEvent) {
        self.add(0);
    }
    fn handle_release(&self, _: ReleaseEvent) {
        self.add(1);
    }
    fn handle_checkout(&self, _: CheckoutEvent) {
        self.add(2);
    }
    fn handle_timeout(&self, _: TimeoutEvent) {
        self.add(3);
    }
    fn handle_checkin(&self, _: CheckinEvent) {
        self.add(4);
    }
}

#[test]
fn the_handler_is_told_of_everything_with_and_without_subscribers() {
    let counts = Counts::default();
    let server = Server::new();
    let pool = builder(1).event_handler(Box::new(counts.clone())).build(server.manager()).unwrap();
    let round = |number: usize| {
        for _ in 0..100 {
            drop(pool.get().unwrap());
        }
        let held = pool.get().unwrap();
        pool.get_timeout(Duration::ZERO).unwrap_err();
        PooledConnection::discard(held);
        eventually("it is closed", || counts.all()[1] == number);
        assert_eq!(counts.all(), [number, number, 101 * number, number, 101 * number]);
    };
    round(1);
    let mut feed = Feed::of(&pool);
    round(2);
    feed.until_moved(Gone, None);
    assert_eq!(check(&feed.seen, false).acquired, 101);
    drop(feed);
    round(3);
    round(4);
}

// ---------------------------------------------------------------------------
// All at once

/// Threads get, wait, time out, break and return; the events add up to the counters.
#[test]
fn every_step_is_accounted_for_under_load() {
    const THREADS: u64 = 8;
    const STEPS: usize = 3_000;
    let server = Server::new();
    let pool = builder(3).build(server.manager()).unwrap();
    let seed = dice::seed();
    println!("FAIRPOOL_SEED={seed}");
    let events = pool.subscribe(1 << 20).unwrap();
    let reader = thread::spawn(move || events.iter().collect::<Vec<Event>>());
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let pool = &pool;
            scope.spawn(move || {
                let mut dice = Dice::of(seed, &[thread]);
                for _ in 0..STEPS {
                    let timeout = Duration::from_micros(dice.below(300));
                    let Ok(conn) = pool.get_timeout(timeout) else { continue };
                    match dice.below(100) {
                        0 => PooledConnection::discard(conn),
                        1 => drop(PooledConnection::detach(conn)),
                        2..12 => {
                            thread::yield_now();
                            drop(conn);
                        }
                        _ => drop(conn),
                    }
                }
            });
        }
    });
    assert!(pool.close(deadline()).is_complete());
    let events = reader.join().unwrap();
    let stats = pool.stats();
    assert_eq!(stats.events_lost, 0);
    let sums = check(&events, true);
    assert_eq!(sums.acquired, stats.gets);
    assert_eq!(sums.acquired_waited, stats.gets_waited);
    assert_eq!(sums.timed_out, stats.timeouts);
    assert_eq!(sums.left, stats.timeouts);
    assert_eq!(sums.acquired + sums.left, THREADS * STEPS as u64);
    assert_eq!(sums.started, sums.acquired_waited + sums.left);
    assert_eq!(sums.opened, stats.opened);
    let kept = stats.gets - stats.closed.broken - stats.closed.detached;
    assert_eq!(sums.returned, kept);
    server.check();
}
