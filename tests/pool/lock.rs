//! No driver call, hook or destructor runs under the pool's lock.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Instant;

use fairpool::event::{AcquireEvent, CheckinEvent, CheckoutEvent, ReleaseEvent, TimeoutEvent};
use fairpool::{CustomizeConnection, HandleError, HandleEvent, Pool, PooledConnection};
use fairpool_testing::stub::{
    Conn, Does, Manager, Op, Server, StubError, WATCHDOG, builder, lock, watched,
};

use crate::support::ms;

#[derive(Clone, Default)]
struct Nosy(Arc<Mutex<Option<Pool<Manager>>>>, Arc<AtomicUsize>);

impl fmt::Debug for Nosy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Nosy")
    }
}

impl Nosy {
    fn ask(&self) {
        let pool = lock(&self.0).clone();
        if let Some(pool) = pool {
            let _ = (pool.stats(), pool.state(), pool.max_size());
            self.1.fetch_add(1, Ordering::SeqCst);
        }
    }
}

impl Drop for Nosy {
    fn drop(&mut self) {
        self.ask();
    }
}

impl HandleEvent for Nosy {
    fn handle_acquire(&self, _: AcquireEvent) {
        self.ask();
    }
    fn handle_release(&self, _: ReleaseEvent) {
        self.ask();
    }
    fn handle_checkout(&self, _: CheckoutEvent) {
        self.ask();
    }
    fn handle_timeout(&self, _: TimeoutEvent) {
        self.ask();
    }
    fn handle_checkin(&self, _: CheckinEvent) {
        self.ask();
    }
}

impl HandleError<StubError> for Nosy {
    fn inspect_error(&self, _: &StubError) -> bool {
        self.ask();
        false
    }
    fn handle_error(&self, _: StubError) {
        self.ask();
    }
}

impl CustomizeConnection<Conn, StubError> for Nosy {
    fn on_acquire(&self, _: &mut Conn) -> Result<(), StubError> {
        self.ask();
        Ok(())
    }
    fn on_release(&self, conn: Conn) {
        self.ask();
        drop(conn);
    }
}

#[test]
fn p6_no_driver_call_hook_or_destructor_runs_under_the_lock() {
    let server = Server::new();
    let nosy = Nosy::default();
    let seen: Arc<Mutex<Vec<Op>>> = Arc::default();
    let pool = builder(3)
        .test_on_check_out(true)
        .keepalive(Some(ms(5)))
        .idle_timeout(Some(ms(50)))
        .max_lifetime(Some(ms(80)))
        .event_handler(Box::new(nosy.clone()))
        .error_handler(Box::new(nosy.clone()))
        .connection_customizer(Box::new(nosy.clone()))
        .build(server.manager())
        .unwrap();
    *lock(&nosy.0) = Some(pool.clone());
    server.spy({
        let (nosy, seen) = (nosy.clone(), seen.clone());
        move |op| {
            lock(&seen).push(op);
            nosy.ask();
        }
    });
    let (there, script, marks) = (pool.clone(), server.clone(), nosy.clone());
    let report = watched("a pool whose every callback asks it", move || {
        for round in 0..40 {
            script.next(Op::NeedsReset, Does::Fail);
            if round % 5 == 0 {
                script.next(Op::Connect, Does::Fail);
                script.next(Op::IsValid, Does::Fail);
                script.next(Op::Reset, Does::Fail);
                script.next(Op::HasBroken, Does::Fail);
                there.refresh();
            }
            let mut all: Vec<_> = (0..3).map(|_| there.get().unwrap()).collect();
            assert!(there.get_timeout(ms(1)).is_err());
            PooledConnection::extensions_mut(&mut all[0]).insert(marks.clone());
            PooledConnection::discard(all.remove(0));
            drop(PooledConnection::detach(all.remove(0)));
            let _ = PooledConnection::run(&mut all[0], |_| Err::<(), _>(StubError::Query));
            drop(all);
            there.set_max_size(2).unwrap();
            there.set_max_size(3).unwrap();
            thread::sleep(ms(2));
        }
        there.close(Instant::now() + WATCHDOG)
    });
    assert!(report.is_complete(), "{report}");
    let seen = std::mem::take(&mut *lock(&seen));
    for op in [
        Op::Connect,
        Op::IsValid,
        Op::Reset,
        Op::HasBroken,
        Op::NeedsReset,
        Op::IsPermanent,
        Op::IsFatal,
        Op::Close,
    ] {
        assert!(seen.contains(&op), "{op:?} was never called");
    }
    assert!(nosy.1.load(Ordering::SeqCst) > 500);
    lock(&nosy.0).take();
    server.no_spy();
    server.check();
}
