//! P11: shutdown ends.

use std::fmt;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use fairpool::event::{AcquireEvent, CheckinEvent, CheckoutEvent, ReleaseEvent, TimeoutEvent};
use fairpool::{HandleEvent, Pool, PooledConnection};
use fairpool_testing::stub::{
    Does, Gate, Manager, Op, Server, WATCHDOG, builder, eventually, lock, watched,
};

use crate::support::{allowed_overshoot, ms, waiter};

#[test]
fn p11_close_wakes_waiters_and_waits_for_holders() {
    let server = Server::new();
    let pool = builder(2).build(server.manager()).unwrap();
    let held = [pool.get().unwrap(), pool.get().unwrap()];
    let outcomes: Vec<_> = (0..3).map(|_| waiter(&pool, Duration::MAX)).collect();
    let closing = {
        let pool = pool.clone();
        thread::spawn(move || pool.close(Instant::now() + WATCHDOG))
    };
    for outcome in outcomes {
        let error = outcome.recv_timeout(WATCHDOG).unwrap().map(drop).unwrap_err();
        assert!(error.is_closed(), "{error}");
    }
    let error = pool.get().map(drop).unwrap_err();
    assert!(error.is_closed(), "{error}");
    assert!(pool.try_get().is_none());
    held.iter().for_each(|conn| conn.touch());
    assert!(!closing.is_finished(), "two are still out");
    drop(held);
    let report = closing.join().unwrap();
    assert!(report.is_complete(), "{report}");
    assert!(report.elapsed < WATCHDOG, "{report}");
    assert_eq!(server.live(), 0);
    let again = pool.close(Instant::now());
    assert!(again.is_complete(), "{again}");
    server.check();
}

#[test]
fn p11_close_names_the_holders_that_never_return() {
    let server = Server::new();
    let pool = builder(3).build(server.manager()).unwrap();
    let hoard = {
        let pool = pool.clone();
        let get = move || pool.request().label("nightly").get().unwrap();
        thread::Builder::new().name("hoarder".into()).spawn(get).unwrap().join().unwrap()
    };
    thread::sleep(ms(5));
    let line = line!() + 1;
    let mine = pool.get().unwrap();
    let start = Instant::now();
    let report = pool.close(Instant::now() + ms(50));
    let took = start.elapsed();
    assert!(took >= ms(50) && took < ms(50) + allowed_overshoot(), "{took:?}");
    assert!(!report.is_complete());
    let holders: Vec<_> = report.holders.iter().map(|h| (h.thread(), h.label())).collect();
    assert_eq!(holders.len(), 2, "{report}");
    assert_eq!(holders[0], ("hoarder", Some("nightly")), "longest first");
    assert_eq!(report.holders[1].location().line(), line);
    let text = report.to_string();
    assert!(text.contains("hoarder") && text.contains(file!()), "{text}");
    drop((hoard, mine));
    eventually("it ends in the background", || {
        server.live() == 0 && pool.close(Instant::now()).is_complete()
    });
}

#[test]
fn p11_close_ends_at_its_deadline_beside_a_driver_that_hangs() {
    let (server, gate) = (Server::new(), Gate::new());
    let pool =
        builder(3).close_timeout(ms(10)).open_timeout(ms(10)).build(server.manager()).unwrap();
    let held = [pool.get().unwrap(), pool.get().unwrap()];
    server.on(Op::Close, Does::Hang(gate.clone()));
    server.on(Op::Connect, Does::Hang(gate.clone()));
    assert!(pool.get_timeout(ms(1)).is_err());
    gate.await_entered(1);
    drop(held);
    let there = pool.clone();
    let (report, took) = watched("close", move || {
        let start = Instant::now();
        (there.close(start + ms(60)), start.elapsed())
    });
    assert!(took < ms(60) + allowed_overshoot(), "{took:?}");
    assert!(!report.is_complete());
    assert_eq!(report.abandoned, 3, "{report}");
    assert_eq!(report.threads, 3, "{report}");
    gate.open();
    let report = pool.close(Instant::now() + WATCHDOG);
    assert!(report.is_complete(), "{report}");
    assert_eq!(server.live(), 0);
    server.check();
}

#[test]
fn p6_dropping_the_last_handle_closes_what_nobody_holds() {
    let server = Server::new();
    // More connections than closers, so that some closes only begin when others have ended.
    let pool = builder(9).max_closers(2).min_idle(Some(9)).build(server.manager()).unwrap();
    server.on(Op::Close, Does::Take(ms(5)));
    let held = pool.get().unwrap();
    watched("the drop", move || drop(pool));
    assert_eq!(server.live(), 1, "what is held");
    held.touch();
    watched("the return", move || drop(held));
    eventually("all is gone", || server.live() == 0);
    server.check();
}

#[test]
fn p6_the_drop_waits_for_a_reset_and_the_close_after_it() {
    let (server, gate) = (Server::new(), Gate::new());
    let pool = builder(1).drop_timeout(WATCHDOG).build(server.manager()).unwrap();
    server.next(Op::NeedsReset, Does::Fail); // "yes"
    server.next(Op::Reset, Does::Hang(gate.clone()));
    drop(pool.get().unwrap());
    gate.await_entered(1);
    let opener = thread::spawn(move || {
        thread::sleep(ms(20));
        gate.open();
    });
    let start = Instant::now();
    drop(pool);
    assert!(start.elapsed() < WATCHDOG / 2, "{:?}", start.elapsed());
    assert_eq!(server.live(), 0);
    opener.join().unwrap();
    server.check();
}

#[test]
fn p6_a_close_that_hangs_delays_the_drop_by_its_timeout_and_no_more() {
    let (server, gate) = (Server::new(), Gate::new());
    let pool = builder(2).min_idle(Some(2)).drop_timeout(ms(30)).build(server.manager()).unwrap();
    server.next(Op::Close, Does::Hang(gate.clone()));
    let start = Instant::now();
    watched("the drop", move || drop(pool));
    assert!(start.elapsed() >= ms(30), "{:?}", start.elapsed());
    assert_eq!(server.live(), 1, "the other one is closed");
    gate.open();
    eventually("all is gone", || server.live() == 0);
}

/// A close that is given up is none to wait for.
#[test]
fn p6_the_drop_does_not_wait_for_an_abandoned_close() {
    let (server, gate) = (Server::new(), Gate::new());
    let pool = builder(1).close_timeout(ms(20)).drop_timeout(WATCHDOG).build(server.manager());
    let pool = pool.unwrap();
    drop(pool.get().unwrap());
    server.next(Op::Close, Does::Hang(gate.clone()));
    let start = Instant::now();
    drop(pool);
    assert!(start.elapsed() < WATCHDOG / 2, "{:?}", start.elapsed());
    gate.open();
    eventually("all is gone", || server.live() == 0);
}

#[test]
fn p6_the_drop_does_not_wait_on_a_thread_that_has_to_close() {
    let server = Server::new();
    let pool = builder(2).min_idle(Some(2)).drop_timeout(Duration::MAX);
    let pool = pool.max_closers(1).build(server.manager()).unwrap();
    let last = Arc::new(Mutex::new(Some(pool.clone())));
    server.spy({
        let last = Arc::clone(&last);
        move |op| {
            if op == Op::Close {
                let pool = lock(&last).take();
                drop(pool);
            }
        }
    });
    let conn = pool.get().unwrap();
    drop(pool);
    PooledConnection::discard(conn);
    eventually("all is closed", || server.live() == 0);
}

#[test]
fn p6_after_close_the_drop_does_not_wait_again() {
    let (server, gate) = (Server::new(), Gate::new());
    let pool = builder(1).drop_timeout(Duration::MAX).build(server.manager()).unwrap();
    drop(pool.get().unwrap());
    server.next(Op::Close, Does::Hang(gate.clone()));
    assert!(!pool.close(Instant::now() + ms(20)).is_complete());
    watched("the drop", move || drop(pool));
    gate.open();
    eventually("all is gone", || server.live() == 0);
}

#[test]
fn p6_the_drop_waits_while_its_thread_panics_too() {
    let server = Server::new();
    let pool = builder(3).min_idle(Some(3)).build(server.manager()).unwrap();
    let panics = move || {
        let _pool = pool;
        fairpool_testing::stub::silent_panic()
    };
    assert!(thread::spawn(panics).join().is_err());
    assert_eq!(server.live(), 0);
}

#[test]
fn p11_without_a_timeout_the_drop_closes_in_the_background() {
    let (server, gate) = (Server::new(), Gate::new());
    let pool = builder(3).drop_timeout(Duration::ZERO).build(server.manager()).unwrap();
    let weak = pool.downgrade();
    let held = pool.get().unwrap();
    drop(pool.get().unwrap());
    server.on(Op::Close, Does::Hang(gate.clone()));
    let clone = pool.clone();
    drop(pool);
    assert!(clone.get_timeout(Duration::ZERO).is_ok(), "a handle is left");
    watched("drop of the last handle", move || drop(clone));
    gate.await_entered(1); // the idle connection is being closed
    held.touch();
    watched("a return to a pool that is gone", move || drop(held));
    gate.await_entered(2);
    gate.open();
    eventually("all is gone", || server.live() == 0 && weak.is_gone());
    server.check();
}

#[test]
fn p11_a_pool_that_could_not_be_built_leaves_nothing_behind() {
    let server = Server::new();
    server.on(Op::Connect, Does::Fail);
    server.next(Op::Connect, Does::Succeed);
    let error = builder(2)
        .min_idle(None)
        .connection_timeout(ms(50))
        .build(server.manager())
        .map(drop)
        .unwrap_err();
    assert!(error.is_timeout(), "{error}");
    eventually("all is gone", || server.live() == 0);
}

/// Closes the pool from every hook, or drops a last handle there.
#[derive(Clone)]
struct FromInside {
    pool: Arc<Mutex<Option<Pool<Manager>>>>,
    on: &'static str,
    close: bool,
}

impl fmt::Debug for FromInside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FromInside")
    }
}

impl FromInside {
    fn act(&self, on: &'static str) {
        if self.on != on {
            return;
        }
        let Some(pool) = lock(&self.pool).take() else { return };
        if self.close {
            let report = pool.close(Instant::now() + ms(30));
            assert!(report.elapsed < WATCHDOG);
        }
        drop(pool);
    }
}

impl HandleEvent for FromInside {
    fn handle_acquire(&self, _: AcquireEvent) {
        self.act("acquire");
    }
    fn handle_release(&self, _: ReleaseEvent) {
        self.act("release");
    }
    fn handle_checkout(&self, _: CheckoutEvent) {
        self.act("checkout");
    }
    fn handle_timeout(&self, _: TimeoutEvent) {
        self.act("timeout");
    }
    fn handle_checkin(&self, _: CheckinEvent) {
        self.act("checkin");
    }
}

#[test]
fn p11_a_pool_can_be_closed_or_dropped_from_inside_its_hooks() {
    for close in [false, true] {
        for on in ["acquire", "release", "checkout", "timeout", "checkin"] {
            let server = Server::new();
            let hook = FromInside { pool: Arc::default(), on, close };
            let pool =
                builder(1).event_handler(Box::new(hook.clone())).build(server.manager()).unwrap();
            let weak = pool.downgrade();
            *lock(&hook.pool) = Some(pool.clone());
            watched(on, move || {
                if let Ok(conn) = pool.get() {
                    let timed_out = pool.get_timeout(ms(1));
                    assert!(timed_out.is_err());
                    PooledConnection::discard(conn);
                }
            });
            eventually("all is gone", || server.live() == 0 && weak.is_gone());
            assert!(lock(&hook.pool).is_none(), "{on} was not called");
            server.check();
        }
    }
}

/// The call waits until all other handles are gone, and drops the last one.
#[test]
fn p11_the_last_handle_may_be_dropped_inside_any_driver_call() {
    let asks = [Op::Connect, Op::IsPermanent, Op::IsValid];
    let returns = [Op::HasBroken, Op::NeedsReset, Op::Reset, Op::Close];
    for at in asks.into_iter().chain(returns) {
        let (server, gate) = (Server::new(), Gate::new());
        let pool = builder(2).test_on_check_out(true).build(server.manager()).unwrap();
        let weak = pool.downgrade();
        let (held, mut second) = (pool.get().unwrap(), Some(pool.get().unwrap()));
        match at {
            Op::Connect | Op::IsPermanent => {
                second.take().into_iter().for_each(PooledConnection::discard)
            }
            Op::IsValid => drop(second.take()),
            _ => {}
        }
        eventually("nothing is under way", || pool.stats().closing == 0);
        if at == Op::IsPermanent {
            server.on(Op::Connect, Does::Fail);
        }
        server.on(Op::NeedsReset, Does::Fail); // "yes"
        let last = Arc::new(Mutex::new(Some(pool.clone())));
        server.spy({
            let (last, gate) = (Arc::clone(&last), gate.clone());
            move |op| {
                if op == at {
                    gate.pass();
                    let pool = lock(&last).take();
                    drop(pool);
                }
            }
        });
        if asks.contains(&at) {
            assert!(pool.get_timeout(Duration::from_millis(5)).is_err());
            gate.await_entered(1);
        }
        drop(pool);
        gate.open();
        watched("the returns", move || {
            if at == Op::Close {
                second.take().into_iter().for_each(PooledConnection::discard);
            }
            drop((second, held));
        });
        eventually("the last handle is dropped", || lock(&last).is_none());
        eventually("all is gone", || server.live() == 0 && weak.is_gone());
        server.no_spy();
        server.check();
    }
}
