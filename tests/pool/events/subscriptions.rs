//! Subscriptions: several, slow, gone, and beside a handler.

use super::*;

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
    assert_eq!(feed.next().lost_before, 0, "the count of lost events is reported once");
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
    large.until(
        "the last get",
        |kind| matches!(kind, EventKind::GetFailed { get_id, .. } if *get_id == last),
    );
    large.until_moved(Idle, None); // the last event
    assert_eq!(check(&large.seen, false).acquired, 101);
    // Before the small one is read: an event on its way would find room then.
    let total = large.seen.len() as u64;
    eventually("only the small one lost any", || pool.stats().events_lost == total - 4);
    (0..4).for_each(|_| drop(small.next().clone()));
    for (a, b) in large.seen.iter().zip(&small.seen) {
        assert_eq!(format!("{:?}", a.kind), format!("{:?}", b.kind));
    }
}

/// Makes a get that times out at once, and returns its number.
fn waiting_number(pool: &Pool<Manager>) -> u64 {
    let (held, other) = (pool.get().unwrap(), pool.subscribe(100).unwrap());
    pool.get_timeout(Duration::ZERO).unwrap_err();
    let number = loop {
        let event = other.recv_timeout(WATCHDOG).unwrap();
        if let EventKind::GetFailed { get_id, .. } = event.kind {
            break get_id;
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
        // Recorded, but probably not delivered yet.
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
    // An event that cannot be delivered ends the subscription; then nothing is recorded.
    drop(pool.request().label("second").get().unwrap());
    eventually("there is no subscriber", || {
        let mut feed = Feed::of(&pool);
        drop(pool.request().label("third").get().unwrap());
        let EventKind::CheckedOut { from, .. } = &feed.next().kind else {
            panic!("{:#?}", feed.kinds())
        };
        // Never the first: the second came in between, and perhaps the third of the round before.
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
    // Subscribers that are gone have lost nothing.
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

    // A late subscription ends at once, so that its reader does not wait for ever.
    let late = pool.subscribe(10).unwrap();
    assert_eq!(late.recv_timeout(WATCHDOG).unwrap_err(), RecvTimeoutError::Disconnected);
    assert!(pool.get().unwrap_err().is_closed());
    assert_eq!(late.try_recv().unwrap_err(), TryRecvError::Disconnected);
}

#[test]
fn the_channel_ends_when_the_last_handle_is_dropped() {
    let pool = primed(builder(1));
    let weak = pool.downgrade();
    let mut feed = Feed::of(&pool);
    drop(pool);
    feed.read_to_end();
    assert_eq!(feed.states().last(), Some(&(Closing, Gone, None)));
    // The pool may still exist for a moment.
    match weak.subscribe(10) {
        Ok(late) => {
            let end = late.recv_timeout(WATCHDOG).unwrap_err();
            assert_eq!(end, RecvTimeoutError::Disconnected);
        }
        Err(error) => assert!(error.is_closed(), "{error}"),
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
                let _ = pool.close(deadline());
            });
            start.wait();
            for _ in 0..20 {
                Feed::with_room_for(&pool, 100).read_to_end();
            }
        });
    }
}

/// Hangs at reports of leaks and deadlocks until the gate opens.
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
    // The reaper has ended the pool since.
    assert_eq!(feed.events.try_recv().unwrap_err(), TryRecvError::Empty, "there are more events");
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
    let delivered =
        feed.kinds().iter().filter(|kind| matches!(kind, EventKind::SelfDeadlock(_))).count();
    assert!(delivered < DEADLOCKS, "there was room for all");
    assert_eq!(delivered as u64 + pool.stats().events_lost, DEADLOCKS as u64);
}

/// A driver whose next connect fails on demand, with an error that panics when it is dropped.
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

/// When the outage is delivered at last, its error has no other owner.
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
        eventually("it is closed", || pool.stats().closing == 0);
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

/// Threads get, wait, time out, break and return; the events add up to the counters.
#[test]
fn every_step_is_accounted_for_under_load() {
    const THREADS: u64 = 8;
    const STEPS: usize = 3_000;
    let server = Server::new();
    let pool = builder(3).build(server.manager()).unwrap();
    let seed = seed();
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
    assert_eq!(sums.started, sums.acquired_waited - sums.unqueued + sums.left);
    assert_eq!(sums.opened, stats.opened);
    let kept = stats.gets - stats.closed.broken - stats.closed.detached;
    assert_eq!(sums.returned, kept);
    server.check();
}
