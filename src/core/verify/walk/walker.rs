//! The walk itself, and the test that walks.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use super::super::toy::Toy;
use crate::core::*;

use super::reference::Reference;
use super::setting::{KINDS, Kind, Random, Setting};
use super::subscriber::Subscriber;

/// The cheap clock advances by this much at a time.
pub(super) const TICK: u64 = 3;

/// A connection that a client holds.
pub(super) struct Held {
    pub(super) lease: Lease<u32>,
    pub(super) client: u8,
    pub(super) moved: bool,
    /// It has proved dead.
    pub(super) broken: bool,
}

impl Held {
    pub(super) fn new(lease: Lease<u32>, client: u8) -> Held {
        Held { lease, client, moved: false, broken: false }
    }
}

/// A get that may have made checks itself.
#[derive(Clone, Copy)]
pub(super) struct Get {
    pub(super) client: u8,
    pub(super) priority: u8,
    pub(super) arrival: Arrival,
    pub(super) only_idle: bool,
    pub(super) has_time: bool,
    pub(super) checks_itself: bool,
}

#[derive(Clone, Copy, Default)]
pub(super) struct Client {
    /// The last wait, and whether it still lasts.
    pub(super) wait: Option<WaiterId>,
    pub(super) waits: bool,
    pub(super) nudged: bool,
    /// It makes a check itself.
    pub(super) checks: bool,
}

/// How many walks there are by default.
const WALKS: u64 = 1200;

pub(super) type Tally = BTreeMap<&'static str, u64>;

pub(super) struct Walk {
    pub(super) seed: u64,
    pub(super) setting: Setting,
    pub(super) random: Random,
    pub(super) core: Core<Toy>,
    pub(super) reference: Reference,
    pub(super) now: Time,
    pub(super) clients: Vec<Client>,
    pub(super) subscriber: Subscriber,
    pub(super) held: Vec<Held>,
    pub(super) jobs: Vec<Job<Toy>>,
    /// Nothing fails any more.
    pub(super) recovers: bool,
    /// The checks that clients make themselves.
    pub(super) own_checks: Vec<(Get, Lease<u32>)>,
    /// The last steps, to be printed if the walk fails.
    pub(super) log: VecDeque<(u64, Kind, usize)>,
    pub(super) did: [u64; KINDS.len()],
    pub(super) most_waiters: usize,
    pub(super) tally: Tally,
}

impl Walk {
    fn new(seed: u64) -> Walk {
        let mut random = Random::new(seed);
        let setting = Setting::draw(&mut random);
        let subscriber = Subscriber::draw(&mut random);
        let mut walk = Walk {
            core: Core::new(setting.policy.clone()),
            reference: Reference::new(setting.policy.clone()),
            clients: vec![Client::default(); setting.clients],
            seed,
            setting,
            subscriber,
            random,
            now: Time::START,
            held: Vec::new(),
            jobs: Vec::new(),
            recovers: false,
            own_checks: Vec::new(),
            log: VecDeque::new(),
            did: [0; KINDS.len()],
            most_waiters: 0,
            tally: Tally::new(),
        };
        walk.tick();
        walk
    }

    pub(super) fn count(&mut self, what: &'static str) {
        *self.tally.entry(what).or_default() += 1;
    }

    /// Draws kinds of steps until one is possible.
    fn step(&mut self, last_tenth: bool) {
        for _ in 0..40 {
            let kind = self.draw_kind();
            let targets = self.targets(kind);
            if !targets.is_empty() && (kind != Kind::Close || last_tenth) {
                let target = self.random.pick(&targets);
                return self.apply(kind, target);
            }
        }
        self.apply(Kind::Advance, 0);
    }

    fn draw_kind(&mut self) -> Kind {
        let weights = self.setting.weights;
        let mut at = self.random.below(weights.iter().sum());
        for ((kind, _), weight) in KINDS.into_iter().zip(weights) {
            if at < weight {
                return kind;
            }
            at -= weight;
        }
        unreachable!("the weights have a sum")
    }

    /// From here on nothing fails, and there are no newcomers. Returns the number of steps
    /// until nobody waited, and its bound: three for each waiter (a check, a claim, a
    /// return), and three for each connection, call and slot (the call ends or the holder
    /// returns; if the connection is unfit it is closed, and another is opened). A few more
    /// for the reaper, and to wait until connecting is retried.
    fn recover(&mut self) -> (usize, usize) {
        let work = self.reference.queue.len()
            + self.reference.granted.len()
            + self.reference.absent.len()
            + self.jobs.len()
            + self.own_checks.len()
            + self.held.len()
            + self.reference.retired.len()
            + self.reference.idle.len()
            + self.reference.policy.max_size as usize;
        // With a use handler also: a use begins, and ends.
        let each = if self.reference.policy.begins_uses { 5 } else { 3 };
        let bound = each * work + 10;
        let (mut steps, mut served_after) = (0, 0);
        self.recovers = true;
        if self.core.is_paused() {
            self.apply(Kind::Resume, 0);
        }
        loop {
            let reference = &self.reference;
            let waits = !reference.queue.is_empty()
                || !reference.granted.is_empty()
                || !reference.absent.is_empty();
            if waits {
                served_after = steps;
                assert!(steps <= bound, "P3: waiters are not served within {bound} steps");
            }
            assert!(steps <= 50 * bound, "the pool does not come to rest");
            steps += 1;
            if self.reaper_is_due() {
                self.apply(Kind::Tick, 0);
            } else if !self.advance_one_thing() {
                if !waits {
                    break;
                }
                assert_ne!(self.reference.next_tick, Time::NEVER, "P3: a waiter is never served");
                // Connecting is retried after this long at the latest.
                self.now = self.now.after(self.setting.policy.backoff_max);
                self.now = self.now.max(self.reference.next_tick);
                self.reference.now = self.now;
            }
        }
        (served_after, bound)
    }

    /// A waiter claims, a holder returns, or a driver call ends.
    fn advance_one_thing(&mut self) -> bool {
        let nudged = self.targets(Kind::Claim);
        let (jobs, held) = (self.jobs.len(), self.held.len());
        if !self.own_checks.is_empty() {
            self.apply(Kind::EndOwnCheck, 0);
            return true;
        }
        let all = nudged.len() + jobs + held;
        if all == 0 {
            return false;
        }
        let place = self.random.below(all);
        if place < nudged.len() {
            self.apply(Kind::Claim, nudged[place]);
        } else if place < nudged.len() + jobs {
            self.apply(Kind::Succeed, place - nudged.len());
        } else {
            let place = place - nudged.len() - jobs;
            let held = &self.held[place];
            // Its client waits for another connection: so another thread returns this
            // one, or nobody could be served.
            if !held.moved && self.clients[held.client as usize].waits {
                self.apply(Kind::Move, place);
            }
            self.apply(Kind::Keep, place);
        }
        true
    }

    fn check_that_all_is_accounted_for(&self) {
        let core = &self.core;
        assert!(self.jobs.is_empty() && self.held.is_empty());
        let waits_for_retry = core.outage.is_some();
        assert!(core.old == 0 || waits_for_retry, "P17: nobody replaces what is old");
        assert_eq!(core.gauges().abandoned, 0, "P5: an abandoned call is not accounted for");
        assert_eq!(core.free.len() + core.idle.len(), core.slots.len(), "P5: a slot is lost");
        let alive = self.reference.conns.iter().filter(|facts| facts.alive).count();
        assert_eq!(alive, core.idle.len(), "P7: a connection is lost");
    }

    fn run(&mut self) -> (usize, usize) {
        let steps = self.setting.steps;
        for step in 0..steps {
            self.change_subscription();
            self.step(step * 10 > steps * 9);
        }
        let (served_after, bound) = self.recover();
        self.check_that_all_is_accounted_for();
        if !self.core.closed {
            self.apply(Kind::Close, 0);
        }
        while self.reaper_is_due() || self.advance_one_thing() {
            if self.reaper_is_due() {
                self.tick();
            }
        }
        self.check_that_all_is_accounted_for();
        assert!(self.core.is_drained(), "P11: not drained");
        self.swap_events(false);
        (served_after, bound)
    }
}

/// Prints how to repeat a walk that failed.
impl Drop for Walk {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("FAIRPOOL_WALK_SEED={}", self.seed);
            eprintln!("{:?}", self.setting.policy);
            for (at, kind, target) in &self.log {
                eprintln!("    at {at:>6}  {kind:?} {target}");
            }
        }
    }
}

fn setting_of(variable: &str) -> Option<u64> {
    let value = std::env::var(variable).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{variable} is not a number: {value:?}")))
}

/// Everything that must happen in some walk, or the walks prove nothing.
const HAPPENS: [&str; 49] = [
    "got at once",
    "got on the slow path",
    "claimed",
    "checked itself",
    "own checks that succeeded too late",
    "own checks that failed",
    "own checks that took too long",
    "joined after an own check",
    "granted",
    "granted to a task",
    "taken up",
    "polled too late",
    "polled, and in doubt",
    "dropped with a connection",
    "dropped while it waits",
    "tasks that timed out",
    "nudged",
    "none idle",
    "failed",
    "failed without a cause",
    "cancelled",
    "closed",
    "deadlock",
    "refused: closed",
    "refused: full",
    "refused: hopeless",
    "returned at once",
    "opens",
    "checks",
    "closes",
    "uses that begin",
    "uses begun",
    "uses begun for nobody",
    "uses refused",
    "failed opens",
    "failed checks",
    "hung calls abandoned",
    "leaks",
    "leaks that ended",
    "deadlocks noticed",
    "got past waiters",
    "got and noted",
    "returned and noted",
    "steps received",
    "events lost",
    "outages",
    "outages that ended",
    "calls reported as abandoned",
    "doubts",
];

const REASONS: [Reason; 9] = [
    Reason::Broken,
    Reason::Invalid,
    Reason::Expired,
    Reason::IdleTooLong,
    Reason::Excess,
    Reason::Stale,
    Reason::PoolClosed,
    Reason::UseHandler,
    Reason::Detached,
];

#[test]
fn p2_p3_p4_p5_p7_hold_on_long_random_walks() {
    let begun = Instant::now();
    if let Some(seed) = setting_of("FAIRPOOL_WALK_SEED") {
        let (served_after, bound) = Walk::new(seed).run();
        return println!("walk {seed}: all served after {served_after} steps of {bound}");
    }
    let walks = setting_of("FAIRPOOL_WALKS").unwrap_or(WALKS);
    let seconds = setting_of("FAIRPOOL_WALK_SECONDS").map(Duration::from_secs);
    let mut tally = Tally::new();
    let mut did = [0; KINDS.len()];
    let mut closed = [0; REASONS.len()];
    let (mut most_waiters, mut longest, mut seed) = (0, (0, 0), 0);
    while seconds.map_or(seed < walks, |limit| begun.elapsed() < limit) {
        let mut walk = Walk::new(seed);
        longest = longest.max(walk.run());
        seed += 1;
        most_waiters = walk.most_waiters.max(most_waiters);
        did.iter_mut().zip(walk.did).for_each(|(all, some)| *all += some);
        let counted = walk.core.counters().closed;
        closed.iter_mut().zip(REASONS).for_each(|(all, by)| *all += counted[by as usize]);
        walk.tally.iter().for_each(|(what, times)| *tally.entry(what).or_default() += times);
    }
    let steps: u64 = did.iter().sum();
    let elapsed = begun.elapsed().as_secs_f64();
    println!("steps:   {:?}", KINDS.iter().map(|(kind, _)| kind).zip(did).collect::<Vec<_>>());
    println!("effects: {tally:?}");
    println!("closed:  {:?}", REASONS.iter().zip(closed).collect::<Vec<_>>());
    println!(
        "figure: random walks: {seed} walks, {steps} steps, up to {most_waiters} waiters; the last \
         of them served after at most {} steps (of {} that it may take); {elapsed:.1} s",
        longest.0, longest.1
    );
    if seed >= WALKS {
        for ((kind, _), times) in KINDS.iter().zip(did) {
            assert!(times > 0, "no walk has a step {kind:?}");
        }
        for what in HAPPENS {
            assert!(tally.contains_key(what), "{what:?} happens in no walk");
        }
        for (reason, times) in REASONS.iter().zip(closed) {
            assert!(times > 0, "no connection left as {reason:?}");
        }
    }
}
