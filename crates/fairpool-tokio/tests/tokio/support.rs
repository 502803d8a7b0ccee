//! Runtimes, and polls by hand.

use std::future::Future;
use std::pin::Pin;
use std::sync::mpsc;
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

use fairpool::Pool;
use fairpool_testing::stub::{Gate, Manager, WATCHDOG, eventually};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// After this time a grant that was not taken up goes to the next.
pub const TAKE_UP_LIMIT: Duration = ms(50);

/// Two workers and no timer: nobody but the pool keeps a deadline.
pub fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(2).build().expect("a runtime")
}

/// A runtime with one thread for blocking.
pub fn with_one_blocking_thread() -> Runtime {
    let mut builder = Builder::new_multi_thread();
    builder.worker_threads(1).max_blocking_threads(1).build().expect("a runtime")
}

/// Occupies a thread for blocking until this is opened, or dropped by a test that fails.
pub struct Occupied(Gate);

pub fn occupy(runtime: &Runtime) -> Occupied {
    let gate = Gate::new();
    let there = gate.clone();
    runtime.spawn_blocking(move || drop(there.pass()));
    gate.await_entered(1);
    Occupied(gate)
}

impl Occupied {
    pub fn open(&self) {
        self.0.open();
    }
}

impl Drop for Occupied {
    fn drop(&mut self) {
        self.open();
    }
}

/// A current-thread runtime on a thread of its own, until this is dropped.
pub struct Alone {
    end: Option<oneshot::Sender<()>>,
    handle: tokio::runtime::Handle,
    thread: Option<thread::JoinHandle<()>>,
}

impl Alone {
    pub fn new() -> Alone {
        let runtime = Builder::new_current_thread().build().expect("a runtime");
        let handle = runtime.handle().clone();
        let (end, ended) = oneshot::channel();
        let run = move || drop(runtime.block_on(ended));
        Alone { end: Some(end), handle, thread: Some(thread::spawn(run)) }
    }

    pub fn spawn<R: Send + 'static>(
        &self,
        task: impl Future<Output = R> + Send + 'static,
    ) -> JoinHandle<R> {
        self.handle.spawn(task)
    }

    /// Blocks the runtime's only thread until the gate is opened.
    pub fn block(&self) -> Gate {
        let gate = Gate::new();
        let there = gate.clone();
        self.spawn(async move { drop(there.pass()) });
        gate.await_entered(1);
        gate
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        drop(self.end.take());
        // A test that fails may leave the runtime blocked.
        if !thread::panicking() {
            self.thread.take().expect("dropped once").join().expect("no task panics");
        }
    }
}

/// Waits for a task from a thread, with a limit.
#[track_caller]
pub fn joined<R: Send + 'static>(task: JoinHandle<R>) -> R {
    let (done, result) = mpsc::channel();
    thread::spawn(move || {
        let runtime = Builder::new_current_thread().build().expect("a runtime");
        let _ = done.send(runtime.block_on(task));
    });
    let result = result.recv_timeout(WATCHDOG).expect("the task ends in time");
    result.expect("the task does not panic, and is not aborted")
}

pub fn poll<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    Pin::new(future).poll(&mut Context::from_waker(Waker::noop()))
}

#[track_caller]
pub fn await_waiting(pool: &Pool<Manager>, waiting: u32) {
    eventually(&format!("{waiting} wait"), || pool.stats().waiting == waiting);
}

/// Repeats what must be over before a grant that is not taken up ends: on a busy machine it may
/// take longer.
#[track_caller]
pub fn within_a_grant<R>(mut attempt: impl FnMut() -> R) -> R {
    for _ in 0..1000 {
        let start = Instant::now();
        let result = attempt();
        if start.elapsed() < TAKE_UP_LIMIT {
            return result;
        }
    }
    panic!("too slow a thousand times");
}

pub const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}
