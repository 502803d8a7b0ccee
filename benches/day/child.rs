//! What a child process does: it reads commands, and answers each when it is done. The
//! commands are in `benches/peers/README.md`, because a peer has the same.

use std::io::{self, BufRead};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::pools::Lender;

/// Small, because there may be ten thousand threads.
const STACK: usize = 128 * 1024;
/// No wait of this time ends by its deadline.
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// The last waiters have said that they wait, but may not sleep yet.
const FALLING_ASLEEP: Duration = Duration::from_millis(50);

/// Ends with its input.
pub fn be<L: Lender>() {
    println!("{{\"version\":\"\"}}");
    let mut state = State::<L> { pool: None, load: None, lent: Vec::new(), crowd: None };
    for line in io::stdin().lock().lines().map_while(Result::ok) {
        let mut words = line.split(' ');
        let command = words.next().expect("a command");
        let numbers: Vec<u64> = words.map(|word| word.parse().expect("a number")).collect();
        println!("{}", state.obey(command, &numbers));
    }
}

struct State<L: Lender> {
    pool: Option<L>,
    load: Option<Load>,
    lent: Vec<L::Lent>,
    crowd: Option<Crowd>,
}

impl<L: Lender> State<L> {
    fn obey(&mut self, command: &str, numbers: &[u64]) -> u64 {
        match (command, numbers) {
            ("open", &[connections]) => {
                self.pool = None; // Its memory is free before the next is opened.
                self.pool = Some(L::open(connections as u32));
            }
            ("load", &[threads, hold]) => {
                let load = Load::start(self.pool(), threads, Duration::from_nanos(hold));
                self.load = Some(load);
            }
            ("gets", []) => return self.load.as_ref().expect("a load").gets(),
            ("end", []) => self.load.take().expect("a load").end(),
            ("lend", &[connections]) => {
                let get = |_| self.pool().get(DAY).expect("a connection");
                self.lent = (0..connections).map(get).collect();
            }
            ("wait", &[waiters]) => self.crowd = Some(Crowd::gather(self.pool(), waiters)),
            ("serve", []) => {
                let start = Instant::now();
                self.lent.clear();
                let crowd = self.crowd.as_ref().expect("waiters");
                crowd.all_back();
                return nanos(start.elapsed());
            }
            ("leave", []) => drop(self.crowd.take().expect("waiters").end()),
            ("timeouts", &[waiters, gathering]) => {
                let late = timeouts(self.pool(), waiters, Duration::from_nanos(gathering));
                return nanos(late);
            }
            _ => panic!("no such command: {command} {numbers:?}"),
        }
        0
    }

    fn pool(&self) -> &L {
        self.pool.as_ref().expect("an open pool")
    }
}

fn nanos(span: Duration) -> u64 {
    span.as_nanos() as u64
}

fn start<R: Send + 'static>(work: impl FnOnce() -> R + Send + 'static) -> JoinHandle<R> {
    thread::Builder::new().stack_size(STACK).spawn(work).expect("room for the threads")
}

/// Threads that get a connection, sleep and return it, until they shall stop.
struct Load {
    threads: Vec<JoinHandle<()>>,
    gets: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
}

impl Load {
    fn start<L: Lender>(pool: &L, threads: u64, hold: Duration) -> Load {
        let (gets, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let one = |number: u64| {
            let (pool, gets, stop) = (pool.clone(), Arc::clone(&gets), Arc::clone(&stop));
            // So the gets are spread over the time of a hold.
            let offset = hold.mul_f64(number as f64 / threads as f64);
            start(move || {
                thread::sleep(offset);
                while !stop.load(Ordering::Relaxed) {
                    let lent = pool.get(DAY).expect("a connection");
                    thread::sleep(hold);
                    drop(lent);
                    gets.fetch_add(1, Ordering::Relaxed);
                }
            })
        };
        Load { threads: (0..threads).map(one).collect(), gets, stop }
    }

    fn gets(&self) -> u64 {
        self.gets.load(Ordering::Relaxed)
    }

    fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
    }
}

/// Threads that wait. None of them exits before all are back, because ten thousand threads
/// take longer to exit than to return.
struct Crowd {
    threads: Vec<JoinHandle<Instant>>,
    waiting: Arc<AtomicU64>,
    back: Arc<AtomicU64>,
    door: Arc<OnceLock<()>>,
}

impl Crowd {
    fn start(waiters: u64, wait: impl Fn() + Clone + Send + 'static) -> Crowd {
        let (waiting, back): (Arc<AtomicU64>, Arc<AtomicU64>) = Default::default();
        let door: Arc<OnceLock<()>> = Arc::default();
        let one = |_| {
            let (waiting, back, door) = (waiting.clone(), back.clone(), door.clone());
            let wait = wait.clone();
            start(move || {
                waiting.fetch_add(1, Ordering::Relaxed);
                wait();
                let now = Instant::now();
                back.fetch_add(1, Ordering::Relaxed);
                door.wait();
                now
            })
        };
        let threads = (0..waiters).map(one).collect();
        Crowd { threads, waiting, back, door }
    }

    /// Returns when all wait for a connection, which each returns at once.
    fn gather<L: Lender>(pool: &L, waiters: u64) -> Crowd {
        let pool = pool.clone();
        let crowd = Crowd::start(waiters, move || drop(pool.get(DAY).expect("a connection")));
        crowd.all_wait();
        assert_eq!(crowd.back.load(Ordering::Relaxed), 0, "all connections are lent");
        crowd
    }

    fn all_wait(&self) {
        while self.waiting.load(Ordering::Relaxed) < self.threads.len() as u64 {
            thread::sleep(Duration::from_millis(1));
        }
        thread::sleep(FALLING_ASLEEP);
    }

    fn all_back(&self) {
        while self.back.load(Ordering::Relaxed) < self.threads.len() as u64 {
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// When the last one was back.
    fn end(self) -> Instant {
        self.all_back();
        self.door.set(()).expect("only this sets it");
        let back = self.threads.into_iter().map(|thread| thread.join().expect("no panic"));
        back.max().expect("somebody waited")
    }
}

/// How late the last of many waits ends whose deadline is the same instant. Tries again with
/// more time if not all waited before it.
fn timeouts<L: Lender>(pool: &L, waiters: u64, gathering: Duration) -> Duration {
    let (pool_of_all, end) = (pool.clone(), Instant::now() + gathering);
    let crowd = Crowd::start(waiters, move || {
        let lent = pool_of_all.get(end.saturating_duration_since(Instant::now()));
        assert!(lent.is_none(), "all connections are lent");
    });
    crowd.all_wait();
    let in_time = Instant::now() < end;
    let last = crowd.end();
    match in_time {
        true => last.saturating_duration_since(end),
        false => timeouts(pool, waiters, 2 * gathering),
    }
}
