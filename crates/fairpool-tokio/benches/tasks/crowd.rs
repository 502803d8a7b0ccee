//! A crowd that waits for a few connections, in a process of its own.

use std::cell::RefCell;
use std::env;
use std::fs;
use std::process::Command;
use std::rc::Rc;
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use fairpool::Pool;
use fairpool_bench::cell::Cell;
use fairpool_bench::growth::{Growth, Unit};
use fairpool_bench::pass::Pass;
use fairpool_bench::rounds::Contestant;
use fairpool_testing::StubManager;
use fairpool_testing::stub::threads_named;
use fairpool_tokio::Interact;
use serde::{Deserialize, Serialize};
use tokio::runtime::{self, Runtime};
use tokio::task::JoinHandle;

use crate::{ALLOCATOR, CONNECTIONS, HOLD};

/// Tells a child process its kind.
pub const CHILD: &str = "FAIRPOOL_BENCH_CROWD";
/// Tells a child process the size of its crowd.
const SIZE: &str = "FAIRPOOL_BENCH_CROWD_SIZE";
/// No wait ends by its deadline.
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// Enough for a get. The default of 2 MiB is too much for ten thousand threads.
const STACK_BYTES: usize = 256 * 1024;
/// Of the threads of a crowd: its own, or the runtime's.
const NAME: &str = "bench-crowd";

/// How a crowd waits.
#[derive(Clone, Copy, PartialEq)]
pub enum Kind {
    Threads,
    /// Tasks that call `interact`.
    Interact,
    /// Tasks that hold the guard themselves.
    Guards,
}

impl Kind {
    pub const ALL: [Kind; 3] = [Kind::Threads, Kind::Interact, Kind::Guards];

    fn name(self) -> &'static str {
        match self {
            Kind::Threads => "threads",
            Kind::Interact => "tasks that call `interact`",
            Kind::Guards => "tasks that hold guards",
        }
    }

    pub fn named(name: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// What a child process prints.
#[derive(Clone, Serialize, Deserialize)]
struct Measured {
    elapsed: Duration,
    waits: Vec<Duration>,
    /// While all wait.
    resident: u64,
    allocated: u64,
    threads: usize,
    /// At the end; tokio keeps its threads for a while.
    threads_at_end: usize,
}

/// A crowd as a contestant: each pass is a child process.
#[derive(Clone)]
pub struct Crowd {
    kind: Kind,
    rounds: Rc<RefCell<Vec<Measured>>>,
}

impl Crowd {
    pub fn new(kind: Kind) -> Crowd {
        Crowd { kind, rounds: Rc::default() }
    }

    /// Memory and threads.
    pub fn figures(&self, size: usize) -> Vec<Growth> {
        let rounds = self.rounds.borrow();
        let each = |bytes: u64| bytes as f64 / size as f64;
        let figure = |subject: &str, unit, of: &dyn Fn(&Measured) -> f64| Growth {
            subject: format!("{}: {subject}", self.kind.name()),
            size: size as u32,
            unit,
            rounds: rounds.iter().map(of).collect(),
        };
        let mut all = vec![
            figure("resident for each that waits", Unit::Bytes, &|one| each(one.resident)),
            figure("allocated for each that waits", Unit::Bytes, &|one| each(one.allocated)),
            figure("threads while all wait", Unit::Threads, &|one| one.threads as f64),
        ];
        if self.kind != Kind::Threads {
            let threads: &dyn Fn(&Measured) -> f64 = &|one| one.threads_at_end as f64;
            all.push(figure("threads at the end", Unit::Threads, threads));
        }
        all
    }
}

impl Contestant for Crowd {
    fn name(&self) -> String {
        self.kind.name().to_string()
    }

    /// Each pass begins cold, in a new process.
    fn warm_up(&mut self, _: &Cell, _: Duration) -> Result<(), String> {
        Ok(())
    }

    fn pass(&mut self, cell: &Cell, _: Duration, _: bool) -> Result<Pass, String> {
        let program = env::current_exe().map_err(|error| error.to_string())?;
        let mut child = Command::new(program);
        child.env(CHILD, self.kind.name()).env(SIZE, cell.threads.to_string());
        let output = child.output().map_err(|error| error.to_string())?;
        let text = String::from_utf8_lossy(&output.stdout);
        let measured: Measured = serde_json::from_str(&text).map_err(|_| {
            format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr))
        })?;
        let pass = Pass::of_crowd(measured.elapsed, measured.waits.iter().copied());
        self.rounds.borrow_mut().push(measured);
        Ok(pass)
    }
}

/// What the child process does.
pub fn be(kind: Kind) {
    let size = env::var(SIZE).ok().and_then(|size| size.parse().ok()).expect("a size");
    let measured = match kind {
        Kind::Threads => threads(size),
        Kind::Interact => tasks(size, |pool, start| async move {
            let work = pool.interact(move |_| {
                let waited = start.elapsed();
                thread::sleep(HOLD);
                waited
            });
            work.await.expect("a connection")
        }),
        Kind::Guards => tasks(size, |pool, start| async move {
            let guard = pool.get_async().await.expect("a connection");
            let waited = start.elapsed();
            tokio::time::sleep(HOLD).await;
            drop(guard);
            waited
        }),
    };
    println!("{}", serde_json::to_string(&measured).expect("BUG: it is plain data"));
}

/// When the connections came back, once they have.
#[derive(Clone, Default)]
struct Start(Arc<OnceLock<Instant>>);

impl Start {
    fn elapsed(&self) -> Duration {
        self.0.get().expect("served after the start").elapsed()
    }
}

/// Has the crowd gathered by `gather`, gives the connections back, and lets `collect` wait for all.
fn measure<C>(
    size: usize,
    gather: impl FnOnce(&Pool<StubManager>, &Start) -> C,
    collect: impl FnOnce(C) -> Vec<Duration>,
) -> Measured {
    let builder = Pool::builder().max_size(CONNECTIONS).connection_timeout(DAY);
    let pool = builder.build(StubManager).expect("the stub never fails");
    let held: Vec<_> = (0..CONNECTIONS).map(|_| pool.get().expect("the stub's")).collect();
    let (resident, allocated, start) = (resident(), allocated(), Start::default());
    let crowd = gather(&pool, &start);
    while (pool.stats().waiting as usize) < size {
        thread::sleep(Duration::from_millis(1));
    }
    let resident = self::resident() - resident;
    let (allocated, threads) = (self::allocated() - allocated, threads_named(NAME));
    let began = *start.0.get_or_init(Instant::now);
    drop(held);
    let waits = collect(crowd);
    let elapsed = began.elapsed();
    assert_eq!((waits.len(), pool.stats().timeouts), (size, 0), "all are served");
    let threads_at_end = threads_named(NAME);
    Measured { elapsed, waits, resident, allocated, threads, threads_at_end }
}

fn threads(size: usize) -> Measured {
    let wait = |pool: Pool<StubManager>, start: Start| {
        move || {
            let guard = pool.get().expect("a connection");
            let waited = start.elapsed();
            thread::sleep(HOLD);
            drop(guard);
            waited
        }
    };
    let gather = |pool: &Pool<_>, start: &Start| {
        let spawn = |_| {
            let thread = thread::Builder::new().name(NAME.into()).stack_size(STACK_BYTES);
            thread.spawn(wait(pool.clone(), start.clone())).expect("a thread")
        };
        (0..size).map(spawn).collect::<Vec<_>>()
    };
    let join = |thread: thread::JoinHandle<_>| thread.join().expect("no panic");
    measure(size, gather, |crowd| crowd.into_iter().map(join).collect())
}

fn tasks<T>(size: usize, task: impl Fn(Pool<StubManager>, Start) -> T) -> Measured
where
    T: Future<Output = Duration> + Send + 'static,
{
    let runtime = two_workers(512);
    let gather = |pool: &Pool<_>, start: &Start| {
        let spawn = |_| runtime.spawn(task(pool.clone(), start.clone()));
        (0..size).map(spawn).collect::<Vec<_>>()
    };
    let join = |task: JoinHandle<_>| runtime.block_on(task).expect("no panic");
    let collect = |crowd: Vec<_>| crowd.into_iter().map(join).collect();
    measure(size, gather, collect)
}

pub fn two_workers(for_blocking: usize) -> Runtime {
    let mut builder = runtime::Builder::new_multi_thread();
    let builder = builder
        .thread_name(NAME)
        .worker_threads(2)
        .max_blocking_threads(for_blocking)
        .enable_time();
    builder.build().expect("a runtime")
}

/// Bytes on the heap.
fn allocated() -> u64 {
    let stats = ALLOCATOR.stats();
    (stats.bytes_allocated - stats.bytes_deallocated) as u64
}

/// Bytes in memory, by the kernel's count; 0 on systems without it.
fn resident() -> u64 {
    let text = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().next());
    kilobytes.and_then(|number| number.parse::<u64>().ok()).unwrap_or(0) * 1024
}
