//! A scriptable server and its driver.
//!
//! Each call of the driver looks up what it is to do: succeed, fail, panic, or
//! hang at a gate until the test opens it. The server counts connections as a
//! real one would, from the first byte of `connect` to the end of the close,
//! and notes every breach of a rule: [`Server::check`] reports them.

use std::collections::{HashMap, VecDeque};
use std::error::Error as StdError;
use std::fmt;
use std::panic::resume_unwind;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use fairpool::{Builder, ManageConnection, NopErrorHandler, Pool};

/// No test waits longer than this for what should happen at once.
pub const WATCHDOG: Duration = Duration::from_secs(10);

/// The calls that a pool makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Op {
    Connect,
    IsValid,
    Reset,
    HasBroken,
    NeedsReset,
    IsPermanent,
    IsFatal,
    /// The connection's `Drop`.
    Close,
}

/// What a call does.
#[derive(Clone, Debug)]
pub enum Does {
    /// For `has_broken`, `needs_reset` and the like: it says no.
    Succeed,
    /// For `has_broken`, `needs_reset` and the like: it says yes.
    Fail,
    /// A connect error that no retry cures.
    FailForGood,
    Panic,
    /// Waits at the gate, then does what the gate was opened with.
    Hang(Gate),
    /// Takes this long, then succeeds.
    Take(Duration),
}

/// The driver's error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StubError {
    /// The number of the attempt.
    Refused(usize),
    WrongPassword,
    Invalid,
    ResetFailed,
    Query,
}

impl fmt::Display for StubError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StubError::Refused(attempt) => write!(f, "attempt {attempt} was refused"),
            StubError::WrongPassword => f.write_str("wrong password"),
            StubError::Invalid => f.write_str("the connection is dead"),
            StubError::ResetFailed => f.write_str("the reset failed"),
            StubError::Query => f.write_str("the query failed"),
        }
    }
}

impl StdError for StubError {}

/// Where calls hang until the test lets them go.
#[derive(Clone, Default)]
pub struct Gate(Arc<(Mutex<GateState>, Condvar)>);

#[derive(Default)]
struct GateState {
    entered: usize,
    open: Option<Does>,
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Gate")
    }
}

impl Gate {
    pub fn new() -> Gate {
        Gate::default()
    }

    /// Lets everyone through, now and in future.
    pub fn open(&self) {
        self.open_with(Does::Succeed);
    }

    pub fn open_with(&self, then: Does) {
        lock(&self.0.0).open = Some(then);
        self.0.1.notify_all();
    }

    /// Waits until this many calls have come to the gate.
    pub fn await_entered(&self, calls: usize) {
        let state = lock(&self.0.0);
        let (state, timeout) = self
            .0
            .1
            .wait_timeout_while(state, WATCHDOG, |state| state.entered < calls)
            .unwrap_or_else(PoisonError::into_inner);
        let entered = state.entered;
        assert!(!timeout.timed_out(), "{entered} of {calls} calls came to the gate");
    }

    pub fn entered(&self) -> usize {
        lock(&self.0.0).entered
    }

    pub fn is_open(&self) -> bool {
        lock(&self.0.0).open.is_some()
    }

    /// Called by whoever is to hang.
    pub fn pass(&self) -> Does {
        let mut state = lock(&self.0.0);
        state.entered += 1;
        self.0.1.notify_all();
        while state.open.is_none() {
            state = self.0.1.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.open.clone().unwrap_or(Does::Succeed)
    }
}

/// A mutex that survives the panics that these tests are made of.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Panics without a message on the terminal.
pub fn silent_panic() -> ! {
    resume_unwind(Box::new("a scripted panic"))
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Life {
    Open,
    Closing,
    Closed,
}

type Spy = Arc<dyn Fn(Op) + Send + Sync>;

#[derive(Default)]
struct State {
    usual: HashMap<Op, Does>,
    next: HashMap<Op, VecDeque<Does>>,
    calls: HashMap<Op, usize>,
    threads: HashMap<Op, Vec<String>>,
    lives: HashMap<usize, Life>,
    connecting: usize,
    live: usize,
    peak: usize,
    limit: Option<usize>,
    spy: Option<Spy>,
    breaches: Vec<String>,
}

/// The server, and the script of its driver. Clones are one server.
#[derive(Clone, Default)]
pub struct Server(Arc<Mutex<State>>);

impl Server {
    pub fn new() -> Server {
        Server::default()
    }

    /// What these calls do from now on.
    pub fn on(&self, op: Op, does: Does) {
        lock(&self.0).usual.insert(op, does);
    }

    /// What the next call does that has not been told yet.
    pub fn next(&self, op: Op, does: Does) {
        lock(&self.0).next.entry(op).or_default().push_back(does);
    }

    /// More connections than this at once, attempts included, are a breach.
    pub fn limit(&self, limit: u32) {
        lock(&self.0).limit = Some(limit as usize);
    }

    /// Is called in every call of the driver.
    pub fn spy(&self, spy: impl Fn(Op) + Send + Sync + 'static) {
        lock(&self.0).spy = Some(Arc::new(spy));
    }

    pub fn no_spy(&self) {
        let spy = lock(&self.0).spy.take();
        drop(spy);
    }

    pub fn calls(&self, op: Op) -> usize {
        lock(&self.0).calls.get(&op).copied().unwrap_or(0)
    }

    /// The names of the threads that made these calls.
    pub fn threads(&self, op: Op) -> Vec<String> {
        lock(&self.0).threads.get(&op).cloned().unwrap_or_default()
    }

    /// Connections that are open or being closed.
    pub fn live(&self) -> usize {
        lock(&self.0).live
    }

    /// The most connections and attempts that there were at once.
    pub fn peak(&self) -> usize {
        lock(&self.0).peak
    }

    /// Fails if a rule was broken.
    pub fn check(&self) {
        let breaches = lock(&self.0).breaches.clone();
        assert!(breaches.is_empty(), "{breaches:#?}");
    }

    pub fn manager(&self) -> Manager {
        Manager(self.clone())
    }

    fn does(&self, op: Op) -> Does {
        let (does, spy) = {
            let mut state = lock(&self.0);
            *state.calls.entry(op).or_default() += 1;
            let thread = thread::current().name().unwrap_or("?").to_string();
            state.threads.entry(op).or_default().push(thread);
            let scripted = state.next.get_mut(&op).and_then(VecDeque::pop_front);
            let does = scripted.or_else(|| state.usual.get(&op).cloned());
            (does.unwrap_or(Does::Succeed), state.spy.clone())
        };
        if let Some(spy) = spy {
            spy(op);
        }
        let does = match does {
            Does::Hang(gate) => gate.pass(),
            does => does,
        };
        if let Does::Take(time) = does {
            thread::sleep(time);
        }
        does
    }

    fn says(&self, op: Op) -> bool {
        match self.does(op) {
            Does::Fail | Does::FailForGood => true,
            Does::Panic => silent_panic(),
            _ => false,
        }
    }

    fn expect_open(&self, op: Op, id: usize) {
        let mut state = lock(&self.0);
        let life = state.lives.get(&id).copied();
        if life != Some(Life::Open) {
            state.breaches.push(format!("{op:?} on connection {id}, which is {life:?}"));
        }
    }

    fn count(state: &mut State) {
        let now = state.live + state.connecting;
        state.peak = state.peak.max(now);
        if state.limit.is_some_and(|limit| now > limit) {
            state.breaches.push(format!("{now} connections at once"));
        }
    }
}

/// Ends an attempt however it ends.
struct Attempt<'a>(&'a Server);

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        lock(&self.0.0).connecting -= 1;
    }
}

/// A driver's connection.
#[derive(Debug)]
pub struct Conn {
    pub id: usize,
    server: Server,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Server")
    }
}

impl Conn {
    /// A query.
    pub fn touch(&self) {
        self.server.expect_open(Op::IsValid, self.id);
    }
}

impl Drop for Conn {
    fn drop(&mut self) {
        {
            let mut state = lock(&self.server.0);
            match state.lives.insert(self.id, Life::Closing) {
                Some(Life::Open) => {}
                life => {
                    let id = self.id;
                    state.breaches.push(format!("close of connection {id}, which is {life:?}"));
                }
            }
        }
        let does = self.server.does(Op::Close);
        let mut state = lock(&self.server.0);
        state.lives.insert(self.id, Life::Closed);
        state.live -= 1;
        drop(state);
        if matches!(does, Does::Panic) {
            silent_panic();
        }
    }
}

/// The driver.
pub struct Manager(Server);

impl ManageConnection for Manager {
    type Connection = Conn;
    type Error = StubError;

    fn connect(&self) -> Result<Conn, StubError> {
        let server = &self.0;
        let attempt = {
            let mut state = lock(&server.0);
            state.connecting += 1;
            Server::count(&mut state);
            Attempt(server)
        };
        match server.does(Op::Connect) {
            Does::Fail => Err(StubError::Refused(server.calls(Op::Connect))),
            Does::FailForGood => Err(StubError::WrongPassword),
            Does::Panic => silent_panic(),
            _ => {
                let mut state = lock(&server.0);
                let id = state.lives.len() + 1;
                state.lives.insert(id, Life::Open);
                state.live += 1;
                // Attempt and connection are one to the server, so they change
                // places in one step.
                state.connecting -= 1;
                std::mem::forget(attempt);
                Ok(Conn { id, server: server.clone() })
            }
        }
    }

    fn is_valid(&self, conn: &mut Conn) -> Result<(), StubError> {
        self.0.expect_open(Op::IsValid, conn.id);
        if self.0.says(Op::IsValid) { Err(StubError::Invalid) } else { Ok(()) }
    }

    fn has_broken(&self, conn: &mut Conn) -> bool {
        self.0.expect_open(Op::HasBroken, conn.id);
        self.0.says(Op::HasBroken)
    }

    fn needs_reset(&self, conn: &mut Conn) -> bool {
        self.0.expect_open(Op::NeedsReset, conn.id);
        self.0.says(Op::NeedsReset)
    }

    fn reset(&self, conn: &mut Conn) -> Result<(), StubError> {
        self.0.expect_open(Op::Reset, conn.id);
        if self.0.says(Op::Reset) { Err(StubError::ResetFailed) } else { Ok(()) }
    }

    fn is_permanent(&self, error: &StubError) -> bool {
        self.0.says(Op::IsPermanent) || *error == StubError::WrongPassword
    }

    fn is_fatal(&self, _: &StubError) -> bool {
        self.0.says(Op::IsFatal)
    }
}

/// Settings that leave every decision to the test: nothing ages, nothing is
/// opened unasked, a failed connect is retried at once, nothing overruns.
pub fn builder(max_size: u32) -> Builder<Manager> {
    Pool::builder()
        .max_size(max_size)
        .min_idle(Some(0))
        .test_on_check_out(false)
        .max_lifetime(None)
        .idle_timeout(None)
        .connection_timeout(WATCHDOG)
        .open_timeout(Duration::from_secs(600))
        .validation_timeout(Duration::from_secs(600))
        .reset_timeout(Duration::from_secs(600))
        .close_timeout(Duration::from_secs(600))
        .connect_backoff(Duration::from_millis(1), Duration::from_millis(4))
        .error_handler(Box::new(NopErrorHandler))
}

/// Polls until something is so.
#[track_caller]
pub fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < WATCHDOG, "in {WATCHDOG:?} it never came to this: {what}");
        thread::sleep(Duration::from_micros(500));
    }
}

/// Runs something that must not block for ever, on a thread of its own.
#[track_caller]
pub fn watched<R: Send + 'static>(what: &str, run: impl FnOnce() -> R + Send + 'static) -> R {
    let (done, result) = mpsc::channel();
    let runner = thread::spawn(move || {
        let _ = done.send(run());
    });
    match result.recv_timeout(WATCHDOG) {
        Ok(result) => result,
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("still blocked after {WATCHDOG:?}: {what}"),
        Err(mpsc::RecvTimeoutError::Disconnected) => match runner.join() {
            Err(payload) => resume_unwind(payload),
            Ok(()) => unreachable!("it ended without a result: {what}"),
        },
    }
}

/// How many threads of this process have a name that starts like this (the
/// system keeps the first 15 bytes).
pub fn threads_named(prefix: &str) -> usize {
    let Ok(tasks) = std::fs::read_dir("/proc/self/task") else { return 0 };
    tasks
        .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok())
        .filter(|name| name.starts_with(prefix))
        .count()
}
