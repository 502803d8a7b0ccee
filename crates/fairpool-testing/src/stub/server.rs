//! The server: its script, its counts, and the breaches that it saw.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex};
use std::thread;

use super::{Does, Manager, Op, lock, silent_panic};

/// The server, and the script of its driver. Clones are one server.
#[derive(Clone, Default)]
pub struct Server(pub(super) Arc<Mutex<State>>);

impl Server {
    /// A server on which every call succeeds.
    pub fn new() -> Server {
        Server::default()
    }

    /// Sets what these calls do from now on.
    pub fn on(&self, op: Op, does: Does) {
        lock(&self.0).usual.insert(op, does);
    }

    /// Appends what one of the next calls does: the first `next` is for the next call, the
    /// second for the one after it. After that, what [`Server::on`] set holds again.
    pub fn next(&self, op: Op, does: Does) {
        lock(&self.0).next.entry(op).or_default().push_back(does);
    }

    /// Makes it a breach to have more connections than this at once, attempts included.
    pub fn limit(&self, limit: u32) {
        lock(&self.0).limit = Some(limit as usize);
    }

    /// All connections that are open now die: their queries fail, and so do their checks. The
    /// driver does not notice by itself.
    pub fn kill_all(&self) {
        let state = &mut *lock(&self.0);
        let open = state.lives.iter().filter(|(_, life)| **life == Life::Open);
        state.dead.extend(open.map(|(id, _)| *id));
    }

    /// Calls `spy` in every call of the driver, before the call does anything.
    pub fn spy(&self, spy: impl Fn(Op) + Send + Sync + 'static) {
        lock(&self.0).spy = Some(Arc::new(spy));
    }

    /// Removes the spy.
    pub fn no_spy(&self) {
        let spy = lock(&self.0).spy.take();
        drop(spy);
    }

    /// How many of these calls the pool has made.
    pub fn calls(&self, op: Op) -> usize {
        lock(&self.0).calls.get(&op).copied().unwrap_or(0)
    }

    /// The names of the threads that made these calls.
    pub fn threads(&self, op: Op) -> Vec<String> {
        lock(&self.0).threads.get(&op).cloned().unwrap_or_default()
    }

    /// How many connections are open or being closed.
    pub fn live(&self) -> usize {
        lock(&self.0).live
    }

    /// The most connections and attempts that there were at once.
    pub fn peak(&self) -> usize {
        lock(&self.0).peak
    }

    /// Checks that no rule was broken.
    ///
    /// # Panics
    ///
    /// If one was: a call or a close of a connection that is not open, or more connections than
    /// [`Server::limit`] allows.
    #[track_caller]
    pub fn check(&self) {
        let breaches = lock(&self.0).breaches.clone();
        assert!(breaches.is_empty(), "{breaches:#?}");
    }

    /// A driver that connects to this server: what a pool is built with.
    pub fn manager(&self) -> Manager {
        Manager::new(self)
    }

    pub(super) fn does(&self, op: Op) -> Does {
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

    pub(super) fn says(&self, op: Op) -> bool {
        match self.does(op) {
            Does::Fail | Does::FailForGood => true,
            Does::Panic => silent_panic(),
            _ => false,
        }
    }

    pub(super) fn expect_open(&self, op: Op, id: usize) {
        let mut state = lock(&self.0);
        let life = state.lives.get(&id).copied();
        if life != Some(Life::Open) {
            state.breaches.push(format!("{op:?} on connection {id}, which is {life:?}"));
        }
    }

    pub(super) fn is_dead(&self, id: usize) -> bool {
        lock(&self.0).dead.contains(&id)
    }

    pub(super) fn count(state: &mut State) {
        let now = state.live + state.connecting;
        state.peak = state.peak.max(now);
        if state.limit.is_some_and(|limit| now > limit) {
            state.breaches.push(format!("{now} connections at once"));
        }
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Server")
    }
}

/// What the server knows of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Life {
    Open,
    Closing,
    Closed,
}

type Spy = Arc<dyn Fn(Op) + Send + Sync>;

#[derive(Default)]
pub(super) struct State {
    usual: HashMap<Op, Does>,
    next: HashMap<Op, VecDeque<Does>>,
    calls: HashMap<Op, usize>,
    threads: HashMap<Op, Vec<String>>,
    pub(super) lives: HashMap<usize, Life>,
    dead: HashSet<usize>,
    pub(super) connecting: usize,
    pub(super) live: usize,
    peak: usize,
    limit: Option<usize>,
    spy: Option<Spy>,
    pub(super) breaches: Vec<String>,
}
