//! P4 measured: ten thousand waiters that time out at one instant.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, RwLock};
use std::thread;
use std::time::{Duration, Instant};

use fairpool_testing::stub::{Gate, Server, builder, eventually};

use crate::{allowed_overshoot, alone};

#[test]
fn p4_ten_thousand_waiters_that_time_out_together_are_gone_at_once() {
    alone(Duration::from_secs(60), measure);
}

fn measure() {
    const WAITERS: usize = 10_000;
    let server = Server::new();
    server.limit(1);
    let pool = builder(1).build(server.manager()).unwrap();
    let held = pool.get().unwrap();
    // The deadline is chosen when all threads run, which may take a while.
    let start = Gate::new();
    // The end of 10,000 threads takes longer than their timeouts: all are measured before any
    // ends.
    let (end, out) = (Arc::new(RwLock::new(())), Arc::new(AtomicUsize::new(0)));
    let not_yet = end.write().unwrap();
    let deadline = Arc::new(OnceLock::new());
    let overshoot = Arc::new(AtomicU64::new(0));
    let mut threads = Vec::new();
    for _ in 0..WAITERS {
        let (pool, overshoot) = (pool.clone(), overshoot.clone());
        let (start, deadline) = (start.clone(), deadline.clone());
        let (end, out) = (end.clone(), out.clone());
        let wait = move || {
            start.pass();
            let deadline = *deadline.get().unwrap();
            let error = pool.request().deadline(deadline).get().map(drop).unwrap_err();
            let late = Instant::now().saturating_duration_since(deadline);
            assert!(error.is_timeout(), "{error}");
            overshoot.fetch_max(late.as_micros() as u64, Ordering::Relaxed);
            out.fetch_add(1, Ordering::Relaxed);
            drop(end.read());
        };
        match thread::Builder::new().stack_size(128 << 10).spawn(wait) {
            Ok(thread) => threads.push(thread),
            Err(_) => break, // as many as the machine gives
        }
    }
    let waiters = threads.len();
    assert!(waiters >= 1000, "only {waiters} threads");
    eventually("all threads run", || start.entered() == waiters);
    let deadline = *deadline.get_or_init(|| Instant::now() + Duration::from_secs(3));
    start.open();
    let mut together = 0;
    while Instant::now() < deadline {
        together = together.max(pool.stats().waiting);
        thread::sleep(Duration::from_millis(5));
    }
    assert!(together as usize > waiters / 2, "only {together} of {waiters} waited together");
    eventually("the queue is empty", || Instant::now() > deadline && pool.stats().waiting == 0);
    let emptied = Instant::now().saturating_duration_since(deadline);
    eventually("all are out", || out.load(Ordering::Relaxed) == waiters);
    drop(not_yet);
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    let worst = Duration::from_micros(overshoot.load(Ordering::Relaxed));
    println!(
        "{waiters} waiters ({together} of them in the queue at once): queue empty {emptied:?} \
         and last one out {worst:?} after the deadline"
    );
    assert!(
        worst < Duration::from_millis(10) * (waiters as u32 / 1000) + allowed_overshoot(),
        "{worst:?}"
    );
    assert_eq!(pool.stats().timeouts, waiters as u64);
    drop(held);
    pool.get_timeout(Duration::ZERO).expect("idle again").touch();
    server.check();
}
