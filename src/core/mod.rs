//! The pool's decisions: a state machine without locks, clocks, threads, logs
//! or driver calls.
//!
//! It owns the idle connections, the queue of waiters, the slots and all counts. Its
//! methods are of three kinds: questions; commands of callers and of the pool's owner;
//! and events that report the result of a driver call (`driver_events`) or the passing
//! of time (`reap`). Time is always an argument; what has to happen outside goes into
//! [`Effects`].
//!
//! | file | holds |
//! |---|---|
//! | `state` | [`Core`]: its fields, their counts, the change of a slot's state |
//! | `fast_path` | a get and a return that need no decision |
//! | `checkout` | all other gets and returns |
//! | `serve` | who is next, and what is checked for whom |
//! | `pace` | how many connects start, when, and how long each is counted on |
//! | `replace` | which connections end, when their close starts, and what takes their places |
//! | `driver_events`, `outage`, `overruns` | results of driver calls; calls that fail or hang |
//! | `reap` | what time alone changes |
//! | `holders` | who holds connections: for reports, leaks and deadlocks |
//! | `tasks` | waits for which no thread sleeps |
//! | `doubt` | what a dead connection says of the others |
//! | `control` | pause, resize, refresh, prove, close |
//! | `uses` | connections that a handler prepares for their callers |
//! | `events`, `picture` | what others may know of it |
//! | `queue`, `slot` | the waiters in order; what is known of one connection |
//! | `effects`, `kinds`, `policy`, `time` | what a transition asks for; names; settings; points in time |
//! | `invariants` | promises, asserted after each transition in debug builds |
//! | `verify` | exhaustive exploration, random walks and single cases |

mod checkout;
mod control;
mod doubt;
mod driver_events;
mod effects;
mod events;
mod fast_path;
mod holders;
mod invariants;
mod kinds;
mod outage;
mod overruns;
mod pace;
mod picture;
mod policy;
mod queue;
mod reap;
mod replace;
mod serve;
mod slot;
mod state;
mod tasks;
mod time;
mod uses;
#[cfg(test)]
mod verify;

pub(crate) use checkout::Verdict;
pub(crate) use effects::{Answer, Effects, Job, NestedWait, Notice};
pub(crate) use events::{ConnectionRef, Entry, EventBuffer, Step};
pub use kinds::{CallKind, ConnectionState, ErrorKind, Reason};
pub(crate) use picture::{Call, Pressure, Prospect, SlotView, Waiting};
pub(crate) use policy::Policy;
pub(crate) use queue::{Arrival, Waiter};
pub(crate) use slot::{Check, Held, Lease, Leased, Permit};
pub(crate) use state::{Core, Counters, Gauges};
pub(crate) use time::Time;

/// The parameters of a pool's core: what it passes on without knowing it.
pub(crate) trait PoolTypes {
    /// A connection, owned.
    type Conn;
    /// Who asks for one: thread, call site, label.
    type Caller: ThreadId;
    /// Where a waiter finds its answer.
    type Cell: Clone;
    /// What a caller tells the use handler. Its destructor is user code. No clone in the core is
    /// ever the last: who waits has another until it has its answer, and a job's is the worker's.
    type Context: Clone;
    /// Why connecting or a check failed.
    type Cause: Clone;

    /// The number of a connection; never zero.
    fn connection_id(conn: &Self::Conn) -> u64;

    /// The number of its session at the server; zero if that is not known.
    fn backend_id(conn: &Self::Conn) -> u32;
}

/// Tells the threads of callers apart.
pub(crate) trait ThreadId: Clone {
    /// The number of the thread. No two threads have the same.
    fn thread_id(&self) -> u64;
}

/// Identifies one wait. Never reused, so that a late cancel cannot hit another wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct WaiterId {
    serial: u64,
    index: u32,
}

impl WaiterId {
    /// The number of the get that waits; larger for later ones.
    pub(crate) fn get_id(self) -> u64 {
        self.serial
    }
}

/// The conditions of the fast paths, computed at the end of every other transition.
/// The fast paths only move connections between the stack and their holders, which
/// changes none of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Gate {
    /// Newcomers may overtake waiters until then; `NEVER` if the queue is empty.
    until: Time,
    /// A newcomer may take an idle connection while more than this many are idle.
    floor: usize,
    /// A connection may be returned while fewer than this many are idle.
    ceiling: usize,
}

impl Gate {
    const SHUT: Gate = Gate { until: Time::START, floor: usize::MAX, ceiling: 0 };
}
