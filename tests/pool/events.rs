//! Subscribers get every event: in order, exactly, and at no cost to others.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, TryRecvError};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use crate::feed::{Feed, check};
use fairpool::event::{
    AcquireEvent, CheckinEvent, CheckoutEvent, ConnectionState, Event, EventKind, LeakEvent,
    Reason, ReleaseEvent, SelfDeadlockEvent, TimeoutEvent,
};
use fairpool::snapshot::CallKind;
use fairpool::{
    Builder, CancelToken, ErrorKind, HandleEvent, ManageConnection, Pool, PooledConnection,
    SelfDeadlock,
};
use fairpool_testing::dice::{Dice, seed};
use fairpool_testing::stub::{
    Does, Gate, Manager, Op, Server, WATCHDOG, builder, eventually, silent_panic, watched,
};

use crate::support::ms;

use ConnectionState::{Abandoned, Busy, Checking, Closing, Gone, Idle, Opening, Retired};

/// A pool with one connection, which is idle.
fn primed(builder: Builder<Manager>) -> Pool<Manager> {
    let pool = builder.build(Server::new().manager()).unwrap();
    drop(pool.get().unwrap());
    pool
}

/// Starts a get on a thread with this name. It is in the queue when this returns.
fn waiter(pool: &Pool<Manager>, name: &str, timeout: Duration) -> thread::JoinHandle<bool> {
    let before = pool.stats().waiting;
    let here = pool.clone();
    let get = move || here.request().label("later").timeout(timeout).get().is_ok();
    let thread = thread::Builder::new().name(name.to_string()).spawn(get).unwrap();
    eventually("it waits", || pool.stats().waiting == before + 1);
    thread
}

fn deadline() -> Instant {
    Instant::now() + WATCHDOG
}

mod connections;
mod gets;
mod subscriptions;
