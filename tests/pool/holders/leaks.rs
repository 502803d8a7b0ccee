//! Leaks are reported with their holder.

use super::*;

fn leaky(size: u32, threshold: Duration) -> (Pool<Manager>, Recorder) {
    let recorder = Recorder::default();
    let pool = builder(size)
        .leak_threshold(Some(threshold))
        .event_handler(Box::new(recorder.clone()))
        .build(Server::new().manager())
        .unwrap();
    (pool, recorder)
}

#[test]
fn p9_a_connection_held_too_long_is_reported_once_and_so_is_its_return() {
    let (pool, recorder) = leaky(2, ms(40));
    let got = Instant::now();
    let holder = named("leaker", {
        let pool = pool.clone();
        move || (pool.request().label("a report").get().unwrap(), line!())
    });
    let (guard, line) = holder.recv_timeout(WATCHDOG).unwrap();
    eventually("it is reported", || recorder.leaks() == 1);
    // The time of the get comes from a coarse clock.
    assert!(got.elapsed() >= ms(20), "too early");
    thread::sleep(ms(120));
    assert_eq!((recorder.leaks(), recorder.ends()), (1, 0), "once");
    assert_eq!(pool.stats().leaks, 1);
    drop(guard);
    eventually("its end is reported", || recorder.ends() == 1);

    let records = lock(&recorder.0);
    for (what, holder, at_least) in
        [("leak", &records.leaks[0], ms(40)), ("end", &records.ends[0], ms(160))]
    {
        assert_eq!(holder.thread(), "leaker", "{what}");
        assert_eq!(holder.location().line(), line, "{what}");
        assert_eq!(holder.label(), Some("a report"), "{what}");
        assert!(holder.held_for() >= at_least, "{what}: {:?}", holder.held_for());
    }
}

#[test]
fn each_checkout_is_reported_anew_and_short_ones_are_not() {
    let (pool, recorder) = leaky(2, ms(50));
    for round in 1..=3 {
        let guard = pool.get().unwrap();
        eventually("it is reported", || recorder.leaks() == round);
        drop(guard);
        eventually("its end is reported", || recorder.ends() == round);
    }
    let busy = Instant::now();
    while busy.elapsed() < ms(150) {
        drop(pool.get().unwrap());
    }
    assert_eq!((recorder.leaks(), recorder.ends()), (3, 3));
}

#[test]
fn every_way_back_ends_a_leak() {
    let (pool, recorder) = leaky(3, ms(20));
    let (dropped, discarded, detached) =
        (pool.get().unwrap(), pool.get().unwrap(), pool.get().unwrap());
    eventually("they are reported", || recorder.leaks() == 3);
    drop(dropped);
    PooledConnection::discard(discarded);
    drop(PooledConnection::detach(detached));
    eventually("its end is reported", || recorder.ends() == 3);
    assert_whole(&pool);
}

#[test]
fn p10_a_panic_in_these_hooks_costs_nobody_anything() {
    #[derive(Debug)]
    struct Bomb;
    impl HandleEvent for Bomb {
        fn handle_leak(&self, _: LeakEvent) {
            silent_panic();
        }
        fn handle_leak_end(&self, _: LeakEvent) {
            silent_panic();
        }
        fn handle_self_deadlock(&self, _: SelfDeadlockEvent) {
            silent_panic();
        }
    }
    let server = Server::new();
    let pool = builder(1)
        .leak_threshold(Some(ms(10)))
        .on_self_deadlock(AT_ONCE)
        .event_handler(Box::new(Bomb))
        .build(server.manager())
        .unwrap();
    for round in 1..=3 {
        let held = used(&pool);
        assert!(pool.get().unwrap_err().is_self_deadlock());
        eventually("it is reported", || pool.stats().leaks == round);
        drop(held);
    }
    assert_whole(&pool);
    server.check();
}

#[test]
fn these_hooks_may_use_the_pool() {
    #[derive(Debug, Default)]
    struct Nosy(OnceLock<Pool<Manager>>);
    impl Nosy {
        fn ask(&self) {
            let pool = self.0.get().unwrap();
            assert_eq!(pool.stats().max_size, 1);
            assert!(pool.try_get().is_none_or(|conn| !format!("{conn:?}").is_empty()));
        }
    }
    #[derive(Clone, Debug, Default)]
    struct Handler(Arc<Nosy>);
    impl HandleEvent for Handler {
        fn handle_leak(&self, _: LeakEvent) {
            self.0.ask();
        }
        fn handle_leak_end(&self, _: LeakEvent) {
            self.0.ask();
        }
        fn handle_self_deadlock(&self, _: SelfDeadlockEvent) {
            self.0.ask();
        }
    }
    let handler = Handler::default();
    let pool = builder(1)
        .leak_threshold(Some(ms(10)))
        .on_self_deadlock(AT_ONCE)
        .event_handler(Box::new(handler.clone()))
        .build(Server::new().manager())
        .unwrap();
    handler.0.0.set(pool.clone()).unwrap();
    watched("hooks that use the pool", move || {
        let held = used(&pool);
        assert!(pool.get().unwrap_err().is_self_deadlock());
        eventually("it is reported", || pool.stats().leaks == 1);
        drop(held);
    });
}
