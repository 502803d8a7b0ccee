//! What a check before each get costs, beside r2d2: `test_on_check_out(true)`, one thread, and
//! a check that takes no time or 2 µs. The pools take turns, round by round; per pool the
//! median of the rounds. Under `cargo test` it runs once, to show that it runs.

use std::convert::Infallible;
use std::env;
use std::hint::black_box;
use std::time::{Duration, Instant};

struct Driver {
    check: Duration,
    trusted: bool,
}

impl Driver {
    fn spin(&self) {
        let start = Instant::now();
        while start.elapsed() < self.check {}
    }
}

impl fairpool::ManageConnection for Driver {
    type Connection = u64;
    type Error = Infallible;

    fn connect(&self) -> Result<u64, Infallible> {
        Ok(0)
    }

    fn is_valid(&self, _: &mut u64) -> Result<(), Infallible> {
        self.spin();
        Ok(())
    }

    fn has_broken(&self, _: &mut u64) -> bool {
        false
    }

    fn checks_within_limit(&self) -> bool {
        self.trusted
    }
}

impl r2d2::ManageConnection for Driver {
    type Connection = u64;
    type Error = Infallible;

    fn connect(&self) -> Result<u64, Infallible> {
        Ok(0)
    }

    fn is_valid(&self, _: &mut u64) -> Result<(), Infallible> {
        self.spin();
        Ok(())
    }

    fn has_broken(&self, _: &mut u64) -> bool {
        false
    }
}

/// The time of one get with its return.
fn time(times: u32, get: impl Fn()) -> Duration {
    let start = Instant::now();
    (0..times).for_each(|_| get());
    start.elapsed() / times
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn main() {
    let is_bench = env::args().any(|argument| argument == "--bench");
    let (rounds, times) = if is_bench { (200, 1000) } else { (1, 10) };
    for check in [Duration::ZERO, Duration::from_micros(2)] {
        let pool = |trusted| {
            let unset = fairpool::Pool::builder().max_size(8).test_on_check_out(true);
            unset.build(Driver { check, trusted }).expect("the stub never fails")
        };
        let (own, worker) = (pool(true), pool(false));
        let peer = r2d2::Pool::builder().max_size(8).test_on_check_out(true);
        let peer = peer.build(Driver { check, trusted: true }).expect("the stub never fails");
        let mut all = [Vec::new(), Vec::new(), Vec::new()];
        for _ in 0..rounds {
            all[0].push(time(times, || drop(black_box(peer.get()))));
            all[1].push(time(times, || drop(black_box(own.get()))));
            all[2].push(time(times / 10, || drop(black_box(worker.get()))));
        }
        let [peer, own, worker] = all.map(median);
        let ratio = own.as_secs_f64() / peer.as_secs_f64();
        println!(
            "a check of {check:?}: r2d2 {peer:?}; fairpool {own:?} on the caller's thread \
             ({ratio:.2} times), {worker:?} by a worker"
        );
    }
}
