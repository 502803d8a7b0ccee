//! Events of gets.

use super::*;

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

    let EventKind::CheckedOut { call_site, waited, connection_id, from, .. } = &feed.seen[0].kind
    else {
        panic!("{:#?}", feed.kinds())
    };
    assert_eq!((call_site.location().file(), call_site.location().line()), (file!(), line));
    assert_eq!((call_site.label(), call_site.priority()), (Some("report"), 3));
    assert!(thread::current().name().unwrap().starts_with(call_site.thread()), "{call_site}");
    assert_eq!((*waited, *connection_id), (Duration::ZERO, number));
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
    let EventKind::Enqueued { get_id, call_site } = started else { panic!("{started:?}") };
    assert_eq!((*get_id, call_site), (listed.get_id(), listed.call_site()));
    assert_eq!((call_site.thread(), call_site.label()), ("patient", Some("later")));
    let EventKind::CheckedOut { get_id: same, call_site: who, waited, connection_id, from, .. } =
        acquired
    else {
        panic!("{acquired:?}")
    };
    assert_eq!((same, who, *connection_id), (get_id, call_site, id));
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
    let EventKind::Enqueued { get_id, .. } = started else { panic!("{started:?}") };
    let EventKind::GetFailed { get_id: same, waited, kind, .. } = left else { panic!("{left:?}") };
    assert_eq!((same, *kind), (get_id, ErrorKind::Timeout));
    assert!(*waited >= ms(20), "{waited:?}");

    // A get with no time at all is enqueued as well.
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
    held.touch();
    assert!(pool.get().unwrap_err().is_self_deadlock());
    let at = feed.until("the threads", |kind| matches!(kind, EventKind::SelfDeadlock(_)));
    assert_eq!(
        feed.ends().iter().map(|(_, end)| *end).collect::<Vec<_>>(),
        [ErrorKind::SelfDeadlock]
    );
    let EventKind::SelfDeadlock(nested) = &feed.seen[at].kind else { unreachable!() };
    assert_eq!(nested.len(), 1);
    drop(held);
    check(&feed.seen, false);
}
