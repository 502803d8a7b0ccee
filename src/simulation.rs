//! The pool's decisions in virtual time: what would happen with these settings under this
//! load. A million gets take a second or two.
//!
//! The simulation drives the state machine of a real pool, with a clock of its own and
//! without threads: it advances time to the next event. So of a real machine it knows only
//! what [`Driver`] says: connects and checks always succeed, and take the same time each.
//! The same input has the same outcome.

use std::collections::btree_map::OccupiedEntry;
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use crate::api::builder::Builder;
use crate::api::request::DEFAULT_PRIORITY;
use crate::core::{
    Answer, Core, Effects, Job, Lease, Leased, Policy, PoolTypes, ThreadId, Time, Verdict, Waiter,
    WaiterId,
};
use crate::types::{Error, ErrorKind, ManageConnection, Stats};

/// A caller: when it comes, how long it waits at most, and how long it holds its
/// connection.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// use fairpool::simulation::Arrival;
///
/// let ms = Duration::from_millis;
/// let arrival = Arrival::new(ms(8), ms(10)).timeout(ms(100));
/// assert_eq!((arrival.timeout, arrival.priority), (ms(100), 5));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Arrival {
    /// When it comes, from the start of the simulation.
    pub at: Duration,
    /// How long it holds its connection.
    pub hold: Duration,
    /// How long it waits at most; `Duration::MAX` is forever.
    pub timeout: Duration,
    /// Its priority: smaller is served first.
    pub priority: u8,
    /// It returns its connection as broken, which casts doubt on the others.
    pub breaks: bool,
}

impl Arrival {
    /// A caller that waits forever, with the default priority, 5.
    pub fn new(at: Duration, hold: Duration) -> Arrival {
        let priority = DEFAULT_PRIORITY;
        Arrival { at, hold, timeout: Duration::MAX, priority, breaks: false }
    }

    /// Sets how long it waits at most.
    #[must_use]
    pub fn timeout(self, timeout: Duration) -> Arrival {
        Arrival { timeout, ..self }
    }

    /// Sets its priority: smaller is served first.
    #[must_use]
    pub fn priority(self, priority: u8) -> Arrival {
        Arrival { priority, ..self }
    }

    /// It returns its connection as broken: that is closed, and the others are
    /// [in doubt](crate::Builder::skip_check_within).
    #[must_use]
    pub fn breaks(self) -> Arrival {
        Arrival { breaks: true, ..self }
    }
}

/// How long the driver's calls and the machine take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Driver {
    /// To open a connection. Default: 5 ms.
    pub connect: Duration,
    /// To validate or reset one. Default: 200 µs.
    pub check: Duration,
    /// To close one. Default: 100 µs.
    pub close: Duration,
    /// From the wake-up of a thread until it runs. Default: 20 µs.
    pub wake_up: Duration,
}

impl Driver {
    /// A driver and a machine that take no time, so that only the queue matters.
    pub const fn instant() -> Driver {
        let zero = Duration::ZERO;
        Driver { connect: zero, check: zero, close: zero, wake_up: zero }
    }
}

impl Default for Driver {
    fn default() -> Driver {
        Driver {
            connect: Duration::from_millis(5),
            check: Duration::from_micros(200),
            close: Duration::from_micros(100),
            wake_up: Duration::from_micros(20),
        }
    }
}

/// How a get of the simulation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Ended {
    /// The caller.
    pub arrival: Arrival,
    /// How long it waited.
    pub waited: Duration,
    /// Why it failed; `None` if it got a connection.
    pub end: Option<ErrorKind>,
}

/// Runs callers through a pool with these settings, in virtual time.
///
/// The callers must be in order of time. The pool starts with `min_idle` connections, and
/// the simulation ends when the last caller has left the queue. It calls `report` for each
/// caller that gets a connection or fails, and returns what the pool counted.
///
/// # Errors
///
/// [`ErrorKind::Config`] if a setting has an invalid value, or if the callers are not in
/// order.
///
/// # Panics
///
/// If `min_idle` is greater than `max_size`, as [`Builder::build`] does.
///
/// # Examples
///
/// One connection, held for 10 ms each time; a caller every 8 ms, which waits for 100 ms
/// at most: 8 of 10 can be served.
///
/// ```
/// # use fairpool_testing::StubManager;
/// use std::time::Duration;
///
/// use fairpool::Pool;
/// use fairpool::simulation::{Arrival, Driver, simulate};
///
/// let ms = Duration::from_millis;
/// let arrivals = (0..10_000).map(|n| Arrival::new(ms(8 * n), ms(10)).timeout(ms(100)));
/// let pool = Pool::<StubManager>::builder().max_size(1);
/// let mut served = 0;
/// let stats = simulate(pool, Driver::default(), arrivals, |get| {
///     served += u64::from(get.end.is_none());
/// })?;
/// assert_eq!(stats.gets, served);
/// assert!((7_800..=8_100).contains(&served), "{served}");
/// # Ok::<(), fairpool::Error>(())
/// ```
pub fn simulate<M: ManageConnection>(
    settings: Builder<M>,
    driver: Driver,
    arrivals: impl IntoIterator<Item = Arrival>,
    report: impl FnMut(Ended),
) -> Result<Stats, Error> {
    // Lifetimes have jitter, but the same each time.
    let policy = Policy { seed: 0, ..settings.config()?.policy };
    let mut world = World::new(Core::new(policy), driver, report);
    world.open_all();
    let begin = world.now;
    let mut latest = Duration::ZERO;
    for arrival in arrivals {
        if arrival.at < latest {
            let at = arrival.at;
            let what =
                format!("arrivals must be in order, but one at {at:?} comes after {latest:?}");
            return Err(Error::config(what));
        }
        latest = arrival.at;
        world.run_until(begin.after(arrival.at));
        world.arrive(arrival);
    }
    world.run_until_all_have_left();
    Ok(Stats::new(&world.core.gauges(), world.core.counters()))
}

struct Virtual;

/// Each caller is a thread of its own, which asks once.
#[derive(Clone, Copy)]
struct Caller(u64);

impl ThreadId for Caller {
    fn thread_id(&self) -> u64 {
        self.0
    }
}

impl PoolTypes for Virtual {
    type Conn = u64;
    type Caller = Caller;
    /// The number of the caller.
    type Cell = u64;
    type Context = ();
    type Cause = ();

    fn connection_id(conn: &u64) -> u64 {
        *conn
    }

    /// There is no server.
    fn backend_id(_: &u64) -> u32 {
        0
    }
}

enum Happening {
    Return(Lease<u64>, Verdict),
    /// A nudged caller claims an idle connection.
    Claim(u64),
    Deadline(u64),
    CallEnds(Job<Virtual>),
    Tick,
}

/// A caller in the queue.
struct Waiting {
    arrival: Arrival,
    id: WaiterId,
    since: Time,
}

struct World<F> {
    core: Core<Virtual>,
    driver: Driver,
    report: F,
    now: Time,
    /// By time; at the same time, in the order in which they were planned.
    planned: BTreeMap<(Time, u64), Happening>,
    serial: u64,
    waiting: HashMap<u64, Waiting>,
    connections: u64,
    next_tick: Time,
}

impl<F: FnMut(Ended)> World<F> {
    fn new(core: Core<Virtual>, driver: Driver, report: F) -> World<F> {
        World {
            core,
            driver,
            report,
            now: Time::START,
            planned: BTreeMap::new(),
            serial: 0,
            waiting: HashMap::new(),
            connections: 0,
            next_tick: Time::NEVER,
        }
    }

    fn plan(&mut self, at: Time, what: Happening) {
        self.serial += 1;
        self.planned.insert((at, self.serial), what);
    }

    /// Lets the pool open the connections that it keeps idle.
    fn open_all(&mut self) {
        self.tick();
        while self.core.open_count() < self.core.policy().min_idle_now() && self.step(Time::NEVER) {
        }
    }

    fn run_until(&mut self, end: Time) {
        while self.step(end) {}
        self.now = end;
    }

    fn run_until_all_have_left(&mut self) {
        while !self.waiting.is_empty() && self.step(Time::NEVER) {}
    }

    /// Makes the next thing happen, unless it is later than `end`. Returns whether it did.
    fn step(&mut self, end: Time) -> bool {
        let next = self.planned.first_entry().filter(|next| next.key().0 <= end);
        let Some(((at, _), what)) = next.map(OccupiedEntry::remove_entry) else { return false };
        self.now = at;
        match what {
            Happening::Return(lease, verdict) => self.give_back(lease, verdict),
            Happening::Claim(caller) => self.claim(caller),
            Happening::Deadline(caller) => self.give_up(caller),
            Happening::CallEnds(job) => self.end_call(job),
            Happening::Tick if at == self.next_tick => self.tick(),
            // It was planned anew since.
            Happening::Tick => {}
        }
        true
    }

    /// A caller has got a connection, and uses it from `begin` on.
    fn serve(&mut self, arrival: Arrival, since: Time, begin: Time, lease: Lease<u64>) {
        (self.report)(Ended { arrival, waited: begin.since(since), end: None });
        let verdict = if arrival.breaks { Verdict::Broken } else { Verdict::Keep };
        self.plan(begin.after(arrival.hold), Happening::Return(lease, verdict));
    }

    /// A caller in the queue gets an error.
    fn fail(&mut self, caller: u64, end: ErrorKind) {
        if let Some(Waiting { arrival, since, .. }) = self.waiting.remove(&caller) {
            (self.report)(Ended { arrival, waited: self.now.since(since), end: Some(end) });
        }
    }

    fn arrive(&mut self, arrival: Arrival) {
        let now = self.now;
        self.serial += 1;
        let number = self.serial;
        let caller = Caller(number);
        let lease = self.core.acquire_fast(now, &caller);
        let lease = lease.or_else(|| self.core.overtake(now, &caller));
        let acquire = |core: &mut Core<_>, fx: &mut _| {
            let came = core.arrive(now);
            core.acquire(came, arrival.priority, &caller, fx)
        };
        if let Some(lease) = lease.or_else(|| self.transition(acquire)) {
            return self.serve(arrival, now, now, lease);
        }
        let waiter = Waiter {
            get_id: number,
            since: now,
            priority: arrival.priority,
            caller,
            cell: number,
            only_idle: false,
            nested: false,
            task: None,
            context: (),
        };
        let mut fx = Effects::at(now);
        match self.core.join(waiter, &mut fx) {
            Ok(id) => {
                self.waiting.insert(number, Waiting { arrival, id, since: now });
                self.plan(now.after(arrival.timeout), Happening::Deadline(number));
            }
            Err(kind) => (self.report)(Ended { arrival, waited: Duration::ZERO, end: Some(kind) }),
        }
        self.carry_out(fx);
    }

    fn give_back(&mut self, lease: Lease<u64>, verdict: Verdict) {
        let fast = match verdict {
            Verdict::Keep => self.core.checkin_fast(self.now, lease),
            _ => Err(lease),
        };
        if let Err(lease) = fast {
            self.transition(|core, fx| core.checkin(lease, verdict, fx));
        }
    }

    fn claim(&mut self, caller: u64) {
        let Some(id) = self.waiting.get(&caller).map(|waiting| waiting.id) else { return };
        // Without a connection it continues to wait.
        let Some(lease) = self.transition(|core, fx| core.claim(id, fx)) else { return };
        if let Some(waiting) = self.waiting.remove(&caller) {
            self.serve(waiting.arrival, waiting.since, self.now, lease);
        }
    }

    fn give_up(&mut self, caller: u64) {
        self.claim(caller);
        let Some(id) = self.waiting.get(&caller).map(|waiting| waiting.id) else { return };
        if self.transition(|core, fx| core.leave(id, ErrorKind::Timeout, fx)) {
            self.fail(caller, ErrorKind::Timeout);
        }
    }

    fn end_call(&mut self, job: Job<Virtual>) {
        self.connections += u64::from(matches!(job, Job::Connect(_)));
        let conn = self.connections;
        self.transition(|core, fx| match job {
            Job::Connect(permit) => core.connect_finished(Leased::new(permit, conn), fx),
            Job::Check(lease, _) => core.check_finished(lease, Ok(()), fx),
            Job::Begin(lease, ..) => core.use_begun(lease, Ok(()), fx),
            Job::Close(lease, _) => core.close_finished(lease.permit, fx),
        });
    }

    /// The work of the reaper.
    fn tick(&mut self) {
        self.next_tick = self.transition(|core, fx| core.tick(fx));
        if self.next_tick != Time::NEVER {
            self.plan(self.next_tick, Happening::Tick);
        }
    }

    fn transition<R>(
        &mut self,
        step: impl FnOnce(&mut Core<Virtual>, &mut Effects<Virtual>) -> R,
    ) -> R {
        let mut fx = Effects::at(self.now);
        let result = step(&mut self.core, &mut fx);
        self.carry_out(fx);
        result
    }

    fn carry_out(&mut self, fx: Effects<Virtual>) {
        for (caller, answer) in fx.answers {
            self.answer(caller, answer);
        }
        for job in fx.jobs {
            let Driver { connect, check, close, .. } = self.driver;
            let takes = match job {
                Job::Connect(_) => connect,
                Job::Check(..) | Job::Begin(..) => check,
                Job::Close(..) => close,
            };
            self.plan(self.now.after(takes), Happening::CallEnds(job));
        }
        if fx.wake_reaper {
            self.next_tick = self.now;
            self.plan(self.now, Happening::Tick);
        }
    }

    fn answer(&mut self, caller: u64, answer: Answer<Virtual>) {
        let begin = self.now.after(self.driver.wake_up);
        match answer {
            Answer::Nudged => self.plan(begin, Happening::Claim(caller)),
            Answer::Granted(lease) => {
                if let Some(waiting) = self.waiting.remove(&caller) {
                    self.serve(waiting.arrival, waiting.since, begin, lease);
                }
            }
            Answer::Failed(kind, _) => self.fail(caller, kind),
            Answer::SelfDeadlock(_) => self.fail(caller, ErrorKind::SelfDeadlock),
        }
    }
}
