//! Threads that use a pool in every possible way, and one that changes its settings.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use fairpool::{CancelToken, Error, ErrorKind, Pool, PooledConnection};

use fairpool_testing::dice::Dice;
use fairpool_testing::hostile::{
    Conn, Counts, Fault, HostileExtension, Manager, World, time_in_calls,
};
use fairpool_testing::stub::{StubError, from_env, lock, silent_panic};

/// The promise is 10 ms on an idle machine; a busy one only gets a watchdog.
pub fn allowed_overshoot() -> Duration {
    Duration::from_millis(from_env("FAIRPOOL_OVERSHOOT_MS").unwrap_or(2000))
}

/// The counts of all lives of all pools.
#[derive(Default)]
pub struct Tally {
    actions: Mutex<BTreeMap<&'static str, u64>>,
    counted: Mutex<Counts>,
    overshoot: AtomicU64,
    recovery: AtomicU64,
    recovery_beside: AtomicU64,
}

impl Tally {
    pub fn add(&self, action: &'static str, times: u64) {
        *lock(&self.actions).entry(action).or_default() += times;
    }

    pub fn of(&self, action: &str) -> u64 {
        lock(&self.actions).get(action).copied().unwrap_or(0)
    }

    pub fn all(&self) -> BTreeMap<&'static str, u64> {
        lock(&self.actions).clone()
    }

    /// Adds the counts of one life's server.
    pub fn absorb(&self, life: &Counts) {
        lock(&self.counted).add(life);
    }

    pub fn counted(&self) -> Counts {
        lock(&self.counted).clone()
    }

    pub fn faults(&self, fault: Fault) -> u64 {
        lock(&self.counted).faults.iter().map(|faults| faults[fault as usize]).sum()
    }

    fn overshot(&self, by: Duration) {
        self.overshoot.fetch_max(by.as_micros() as u64, Ordering::Relaxed);
    }

    pub fn recovered(&self, after: Duration) {
        self.recovery.fetch_max(after.as_micros() as u64, Ordering::Relaxed);
    }

    pub fn recovered_beside_hung_calls(&self, after: Duration) {
        self.recovery_beside.fetch_max(after.as_micros() as u64, Ordering::Relaxed);
    }

    pub fn longest_recovery_beside_hung_calls(&self) -> Duration {
        Duration::from_micros(self.recovery_beside.load(Ordering::Relaxed))
    }

    pub fn largest_overshoot(&self) -> Duration {
        Duration::from_micros(self.overshoot.load(Ordering::Relaxed))
    }

    pub fn longest_recovery(&self) -> Duration {
        Duration::from_micros(self.recovery.load(Ordering::Relaxed))
    }
}

/// Registers a holder with the server, from the get until just before the return.
struct Mark {
    world: World,
    id: u64,
}

impl Drop for Mark {
    fn drop(&mut self) {
        self.world.let_go(self.id);
    }
}

/// A connection and its registration, which is dropped first.
pub struct Held {
    mark: Mark,
    conn: PooledConnection<Manager>,
}

impl Held {
    pub fn new(world: &World, conn: PooledConnection<Manager>) -> Held {
        world.hold(conn.id);
        Held { mark: Mark { world: world.clone(), id: conn.id }, conn }
    }

    pub fn discard(self) {
        let Held { mark, conn } = self;
        drop(mark);
        PooledConnection::discard(conn);
    }
}

/// Which errors the settings of a pool allow.
#[derive(Clone, Copy, Debug)]
pub struct Expects {
    pub queue_full: bool,
    pub deadlock: bool,
    /// The use handler may refuse.
    pub uses: bool,
    /// The pool's `connection_timeout`, and how long `try_get` may take.
    pub get: Duration,
    pub try_get: Duration,
}

/// What the users of one pool share.
pub struct Crew {
    pub world: World,
    pub tally: Arc<Tally>,
    pub expects: Expects,
    pub size: u32,
    pub stop: AtomicBool,
    /// From now on gets may fail because the pool is closed.
    pub closing: AtomicBool,
    tokens: Mutex<Vec<CancelToken>>,
    /// Connections on their way to other threads.
    pub basket: Mutex<Vec<Held>>,
    /// Connections that were taken out of the pool.
    pub detached: Mutex<Vec<Conn>>,
}

enum Way {
    Get,
    Timeout(Duration),
    Deadline(Duration),
    Request(Duration, Option<CancelToken>),
    Try,
}

impl Crew {
    pub fn new(world: &World, tally: &Arc<Tally>, expects: Expects, size: u32) -> Arc<Crew> {
        Arc::new(Crew {
            world: world.clone(),
            tally: Arc::clone(tally),
            expects,
            size,
            stop: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            tokens: Mutex::new(vec![CancelToken::new(); 4]),
            basket: Mutex::new(Vec::new()),
            detached: Mutex::new(Vec::new()),
        })
    }

    fn is_over(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// The life of one user.
    pub fn use_pool(&self, pool: &Pool<Manager>, mut dice: Dice) {
        while !self.is_over() {
            if dice.percent(25) {
                let found = lock(&self.basket).pop();
                self.tally.add("dropped on another thread", u64::from(found.is_some()));
                drop(found);
            }
            let way = self.choose(&mut dice, 50);
            match self.ask(pool, way, &mut dice) {
                Ok(held) => self.use_up(pool, held, &mut dice),
                Err(Some(ErrorKind::Closed)) => return,
                // Gets may fail at once, for all users.
                Err(_) => thread::sleep(dice.millis(0, 3)),
            }
        }
    }

    fn choose(&self, dice: &mut Dice, longest_ms: u64) -> Way {
        let timeout = dice.millis(0, longest_ms);
        match dice.below(100) {
            0..20 => Way::Get,
            20..50 => Way::Timeout(timeout),
            50..56 => Way::Timeout(Duration::ZERO),
            56..57 => Way::Timeout(Duration::MAX),
            57..65 => Way::Deadline(timeout),
            65..80 => Way::Request(timeout, None),
            80..90 => {
                let tokens = lock(&self.tokens);
                Way::Request(timeout, Some(tokens[dice.below(4) as usize].clone()))
            }
            _ => Way::Try,
        }
    }

    /// One get, and the checks of its result.
    fn ask(
        &self,
        pool: &Pool<Manager>,
        way: Way,
        dice: &mut Dice,
    ) -> Result<Held, Option<ErrorKind>> {
        let timeout = match &way {
            Way::Get => self.expects.get,
            Way::Timeout(timeout) | Way::Deadline(timeout) | Way::Request(timeout, _) => *timeout,
            Way::Try => self.expects.try_get,
        };
        let cancellable = matches!(way, Way::Request(_, Some(_)));
        // The time in the test's own hooks on this thread is not the pool's.
        let (start, elsewhere) = (Instant::now(), time_in_calls());
        let (action, got) = match way {
            Way::Get => ("get", pool.get()),
            Way::Timeout(Duration::MAX) => ("get without end", pool.get_timeout(Duration::MAX)),
            Way::Timeout(timeout) => ("get_timeout", pool.get_timeout(timeout)),
            Way::Deadline(timeout) => {
                ("get with a deadline", pool.request().deadline(start + timeout).get())
            }
            Way::Request(timeout, token) => {
                let priority = dice.below(10) as u8;
                let request = pool.request().timeout(timeout).priority(priority).label("soak");
                match &token {
                    Some(token) => ("get with a token", request.cancel(token).get()),
                    None => ("get with a priority", request.get()),
                }
            }
            Way::Try => {
                let got = pool.try_get();
                self.tally.add("try_get", 1);
                self.note_overshoot("try_get", start.elapsed(), elsewhere, timeout);
                return got.map(|conn| Held::new(&self.world, conn)).ok_or(None);
            }
        };
        let took = start.elapsed();
        self.tally.add(action, 1);
        self.note_overshoot(action, took, elsewhere, timeout);
        match got {
            Ok(conn) => Ok(Held::new(&self.world, conn)),
            Err(error) => {
                self.judge(&error, took, timeout, cancellable);
                Err(Some(error.kind()))
            }
        }
    }

    fn note_overshoot(&self, action: &str, took: Duration, elsewhere: Duration, limit: Duration) {
        let took = took.saturating_sub(time_in_calls() - elsewhere);
        let overshoot = took.saturating_sub(limit);
        self.tally.overshot(overshoot);
        if overshoot > allowed_overshoot() {
            self.world.breach(format!("P1: {action} of {limit:?} took {took:?}"));
        }
    }

    fn judge(&self, error: &Error, took: Duration, timeout: Duration, cancellable: bool) {
        let (action, is_legal) = match error.kind() {
            ErrorKind::Timeout => ("timed out", took >= timeout),
            ErrorKind::Closed => ("closed", self.closing.load(Ordering::SeqCst)),
            ErrorKind::QueueFull => ("queue full", self.expects.queue_full),
            ErrorKind::Cancelled => ("cancelled", cancellable),
            ErrorKind::Connect => ("cannot connect", true),
            ErrorKind::SelfDeadlock => ("deadlock", self.expects.deadlock),
            ErrorKind::UseHandler => ("use refused", self.expects.uses),
            _ => ("unknown", false),
        };
        self.tally.add(action, 1);
        if !is_legal {
            self.world.breach(format!("after {took:?} of {timeout:?}: {error}"));
        }
        // Printing an error must not fail either.
        assert!(error.to_string().len() > 10);
    }

    fn use_up(&self, pool: &Pool<Manager>, mut held: Held, dice: &mut Dice) {
        let action = match dice.below(100) {
            0..5 => {
                let way = self.choose(dice, 20);
                // Without a timeout, two such users could wait for each other for ever.
                let way = if matches!(way, Way::Timeout(Duration::MAX)) { Way::Try } else { way };
                let inner = self.ask(pool, way, dice);
                if dice.percent(50) {
                    drop(held);
                    drop(inner);
                }
                "nested get"
            }
            5..8 => {
                let panicked = catch_unwind(AssertUnwindSafe(move || {
                    let _held = held;
                    silent_panic();
                }));
                assert!(panicked.is_err());
                "panic with a connection"
            }
            8..10 => {
                let Held { mark, conn } = held;
                self.world.detach(mark.id);
                drop(mark);
                let value = PooledConnection::detach(conn);
                lock(&self.detached).push(value);
                "detach"
            }
            10..13 => {
                held.discard();
                "discard"
            }
            13..16 => {
                PooledConnection::mark_broken(&mut held.conn);
                drop(held);
                "mark_broken"
            }
            16..20 => {
                let ran = PooledConnection::run(&mut held.conn, |conn| Ok(conn.id));
                assert_eq!(ran, Ok(held.mark.id));
                "run"
            }
            20..23 => {
                let ran = PooledConnection::run(&mut held.conn, |_| Err::<(), _>(StubError::Query));
                assert_eq!(ran, Err(StubError::Query));
                "run with an error"
            }
            23..25 => {
                let panicked = catch_unwind(AssertUnwindSafe(|| {
                    PooledConnection::run(&mut held.conn, |_| -> Result<(), _> { silent_panic() })
                }));
                assert!(panicked.is_err());
                "run with a panic"
            }
            25..35 => {
                let extensions = PooledConnection::extensions_mut(&mut held.conn);
                if extensions.get::<HostileExtension>().is_none() {
                    extensions.insert(HostileExtension(self.world.clone()));
                }
                "extension"
            }
            35..50 => {
                if dice.percent(50) {
                    PooledConnection::unbind(&held.conn);
                }
                let mut basket = lock(&self.basket);
                // Under the lock of the basket, so that it cannot be added after the last emptying.
                if basket.len() < self.size as usize && !self.is_over() {
                    basket.push(held);
                }
                "moved to another thread"
            }
            50..53 => {
                thread::sleep(dice.millis(5, 20));
                "held for long"
            }
            53..55 => {
                assert!(PooledConnection::info(&held.conn).times_used > 0);
                assert!(format!("{:?}{:?}", pool.stats(), held.conn).len() > 100);
                "looked at"
            }
            55..75 => {
                thread::sleep(Duration::from_micros(dice.below(300)));
                "held for a while"
            }
            _ => "held for a moment",
        };
        self.tally.add(action, 1);
    }

    /// Changes every setting that can change while the pool is in use.
    pub fn meddle(&self, pool: &Pool<Manager>, mut dice: Dice) {
        while !self.is_over() && !self.closing.load(Ordering::SeqCst) {
            let action = match dice.below(100) {
                0..10 => {
                    let size = dice.between(1, u64::from(self.size)) as u32;
                    self.world.raise_ceiling(size);
                    // Refused if it would be smaller than `min_idle`.
                    let _ = pool.set_max_size(size);
                    "set_max_size"
                }
                10..20 => {
                    let min_idle = dice.below(u64::from(self.size) + 1) as u32;
                    let _ = pool.set_min_idle(dice.percent(80).then_some(min_idle));
                    "set_min_idle"
                }
                20..24 => {
                    pool.pause();
                    thread::sleep(dice.millis(0, 15));
                    pool.resume();
                    "pause and resume"
                }
                24..30 => {
                    pool.refresh();
                    "refresh"
                }
                30..50 => {
                    let number = dice.below(4) as usize;
                    let next = CancelToken::new();
                    let old = std::mem::replace(&mut lock(&self.tokens)[number], next);
                    old.cancel();
                    "cancel"
                }
                50..52 => {
                    self.world.release();
                    "release of all that hangs"
                }
                52..72 => {
                    self.world.release_callers();
                    "release of callers"
                }
                _ => {
                    let stats = pool.stats();
                    let bound = stats.open + stats.opening + stats.closing;
                    assert!(bound <= self.size, "P5: {stats}");
                    "stats"
                }
            };
            self.tally.add(action, 1);
            thread::sleep(dice.millis(0, 4));
        }
        pool.resume();
    }

    /// Drops the connections on their way to threads that have ended.
    pub fn empty_basket(&self) {
        let left = std::mem::take(&mut *lock(&self.basket));
        drop(left);
    }
}
