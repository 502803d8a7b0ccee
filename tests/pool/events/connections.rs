//! Events of connections and of the server.

use super::*;

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
    drop(pool.get().unwrap()); // checked before the get returns
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
            let _ = pool.close(deadline());
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
    let abandoned = feed.until("its call", |kind| matches!(kind, EventKind::Abandoned { .. }));
    let EventKind::Abandoned { call, connection_id, after } = &feed.seen[abandoned].kind else {
        unreachable!()
    };
    assert_eq!((*call, *connection_id), (CallKind::Connect, None));
    assert!(*after >= ms(50) && abandoned > moved, "{after:?}");
    gate.open();
    feed.until("it is taken in", |kind| {
        let EventKind::Moved { from, to, connection_id, .. } = kind else { return false };
        *from == Abandoned && matches!(to, Idle | Busy) && connection_id.is_some()
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
        EventKind::Abandoned { call, connection_id, .. } => {
            (*call, *connection_id) == (CallKind::Close, Some(id))
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
