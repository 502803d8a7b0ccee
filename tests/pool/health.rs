//! The probe: a level from the number of waiters and their waits, kept until the pool is calm,
//! updated without a question, and reported to handlers and subscribers.

use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::feed::Feed;
use fairpool::event::{EventKind, HealthEvent};
use fairpool::health::{Health, HealthLevel, HealthThresholds, Readiness};
use fairpool::{Builder, CancelToken, ErrorKind, HandleEvent, Pool, PooledConnection};
use fairpool_testing::stub::{Does, Gate, Manager, Op, Server, builder, eventually, lock};

use crate::support::ms;

use HealthLevel::{Critical, Healthy, Warning};

/// Longer than any test that passes.
const LONG: Duration = Duration::from_secs(3600);

fn thresholds(set: impl FnOnce(&mut HealthThresholds)) -> HealthThresholds {
    let mut thresholds = HealthThresholds::default();
    set(&mut thresholds);
    thresholds
}

/// The number of waiters alone decides, and a level is left at once.
fn by_number(set: impl FnOnce(&mut HealthThresholds)) -> HealthThresholds {
    thresholds(|it| {
        (it.waiters_warning, it.waiters_critical) = (5, 10);
        (it.wait_warning, it.wait_critical) = (LONG, Duration::MAX);
        it.calm_for = Duration::ZERO;
        set(it);
    })
}

/// The waiters' times alone decide, and a level is left at once.
fn by_time() -> HealthThresholds {
    thresholds(|it| {
        (it.waiters_warning, it.waiters_critical) = (1_000, u32::MAX);
        (it.wait_warning, it.wait_critical) = (ms(50), ms(200));
        it.calm_for = Duration::ZERO;
    })
}

/// Records the events.
#[derive(Clone, Debug, Default)]
struct Recorder(Arc<Mutex<Vec<(HealthLevel, Health)>>>);

impl Recorder {
    fn changes(&self) -> Vec<(HealthLevel, HealthLevel)> {
        lock(&self.0).iter().map(|(from, health)| (*from, health.level)).collect()
    }
}

impl HandleEvent for Recorder {
    fn handle_health(&self, event: HealthEvent) {
        lock(&self.0).push((event.from(), event.health()));
    }
}

/// A pool whose one connection is in use, and the callers that wait for it.
struct Queue {
    pool: Pool<Manager>,
    recorder: Recorder,
    held: Option<PooledConnection<Manager>>,
    /// In the order of arrival.
    waiters: Vec<(CancelToken, thread::JoinHandle<()>)>,
}

impl Queue {
    fn of(thresholds: HealthThresholds) -> Queue {
        Queue::with(|builder| builder.health_thresholds(thresholds))
    }

    fn with(set: impl FnOnce(Builder<Manager>) -> Builder<Manager>) -> Queue {
        let recorder = Recorder::default();
        // The connection is open from the start, so that the first get does not wait.
        let builder = builder(1).min_idle(Some(1)).connection_timeout(LONG);
        let builder = builder.event_handler(Box::new(recorder.clone()));
        let pool = set(builder).build(Server::new().manager()).unwrap();
        let held = Some(pool.get().unwrap());
        Queue { pool, recorder, held, waiters: Vec::new() }
    }

    /// Adds or cancels waiters until this many wait.
    fn fill(&mut self, waiters: usize) {
        while self.waiters.len() > waiters {
            let (token, thread) = self.waiters.pop().unwrap();
            token.cancel();
            thread.join().unwrap();
        }
        while self.waiters.len() < waiters {
            let token = CancelToken::new();
            let (pool, its) = (self.pool.clone(), token.clone());
            let get = move || drop(pool.request().cancel(&its).get());
            self.waiters.push((token, thread::spawn(get)));
        }
        eventually("all wait", || self.pool.stats().waiting as usize == waiters);
    }

    fn level(&self) -> HealthLevel {
        self.pool.health().level
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        drop(self.held.take());
        self.waiters.drain(..).for_each(|(_, thread)| drop(thread.join()));
    }
}

// ---------------------------------------------------------------------------
// Levels

#[test]
fn the_number_of_waiters_makes_the_level() {
    let mut queue = Queue::of(by_number(|_| ()));
    for (waiters, level) in [(0, Healthy), (4, Healthy), (5, Warning), (9, Warning), (10, Critical)]
    {
        queue.fill(waiters);
        let health = queue.pool.health();
        assert_eq!((health.level, health.waiting as usize), (level, waiters));
        assert_eq!(health.is_healthy(), level == Healthy);
        assert!(health.oldest_wait >= health.mean_wait);
        assert_eq!(health.mean_wait > Duration::ZERO, waiters > 0);
    }
}

#[test]
fn a_level_is_kept_until_the_figures_are_well_below_it() {
    let mut queue = Queue::of(by_number(|_| ()));
    // Of 10, four fifths is 8; of 5, 4.
    let steps = [
        (10, Critical),
        (9, Critical),
        (8, Critical),
        (7, Warning),
        (9, Warning),
        (10, Critical),
        (5, Warning),
        (4, Warning),
        (3, Healthy),
        (4, Healthy),
    ];
    for (waiters, level) in steps {
        queue.fill(waiters);
        assert_eq!(queue.level(), level, "{waiters} wait");
    }
}

#[test]
fn a_level_is_left_when_it_has_been_calm_for_long_enough() {
    let calm_for = ms(300);
    let mut queue = Queue::of(by_number(|it| it.calm_for = calm_for));
    queue.fill(5);
    assert_eq!(queue.level(), Warning);
    // The level was reached after this, however long the rest took.
    let before = Instant::now();
    assert_eq!(queue.level(), Warning);
    queue.fill(0);
    eventually("it is healthy again", || queue.level() == Healthy);
    assert!(before.elapsed() >= calm_for);
    let lasted = queue.pool.health().lasted;
    assert!(lasted < before.elapsed(), "{lasted:?}");
    assert!(queue.pool.health().lasted > lasted);
}

#[test]
fn a_pool_that_goes_to_and_fro_does_not_flap() {
    let mut queue = Queue::of(by_number(|it| it.calm_for = LONG));
    for _ in 0..20 {
        queue.fill(5);
        assert_eq!(queue.level(), Warning);
        queue.fill(0);
        assert_eq!(queue.level(), Warning);
    }
    eventually("the change is reported", || !queue.recorder.changes().is_empty());
    assert_eq!(queue.recorder.changes(), [(Healthy, Warning)]);
}

#[test]
fn the_mean_wait_makes_the_level() {
    let mut queue = Queue::of(by_time());
    queue.fill(1);
    eventually("it has waited too long", || queue.level() == Critical);
    let health = queue.pool.health();
    assert!(health.mean_wait >= ms(200) && health.waiting == 1, "{health:?}");
    // Many new waiters lower the mean, but not the oldest wait.
    queue.fill(200);
    let health = queue.pool.health();
    assert!(health.mean_wait < health.oldest_wait, "{health:?}");
    let text = health.to_string();
    assert!(text.contains("200 waiting, for ") && text.contains(" at most"), "{text}");
}

#[test]
fn thresholds_that_are_never_reached_are_never_reached() {
    let mut queue = Queue::of(thresholds(|it| {
        (it.waiters_warning, it.waiters_critical) = (u32::MAX - 1, u32::MAX);
        it.wait_warning = Duration::MAX - Duration::from_nanos(1);
        (it.wait_critical, it.calm_for) = (Duration::MAX, Duration::MAX);
    }));
    queue.fill(20);
    assert_eq!(queue.level(), Healthy);
    assert_eq!(queue.recorder.changes(), []);
}

#[test]
fn thresholds_that_make_no_sense_are_refused() {
    let cases = [
        (thresholds(|it| it.waiters_warning = 0), "waiters_warning must be at least 1, but is 0"),
        (
            thresholds(|it| it.wait_warning = Duration::ZERO),
            "wait_warning must be positive, but is 0ns",
        ),
        (
            thresholds(|it| it.waiters_critical = 5),
            "waiters_critical (5) must be larger than waiters_warning (5)",
        ),
        (
            thresholds(|it| it.waiters_warning = 20),
            "waiters_critical (15) must be larger than waiters_warning (20)",
        ),
        (
            thresholds(|it| it.wait_critical = ms(100)),
            "wait_critical (100ms) must be longer than wait_warning (100ms)",
        ),
        (
            thresholds(|it| it.wait_warning = LONG),
            "wait_critical (500ms) must be longer than wait_warning (3600s)",
        ),
    ];
    for (thresholds, expected) in cases {
        let error = builder(1).health_thresholds(thresholds).build(Server::new().manager());
        let error = error.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        let text = error.to_string();
        assert!(text.contains(&format!("health_thresholds: {expected}")), "{text}");
        assert!(!text.contains('\n'), "{text}");
    }
}

// ---------------------------------------------------------------------------
// Without a question

#[test]
fn the_pool_itself_notices_and_tells_all_who_want_to_know() {
    let mut queue = Queue::of(by_time());
    let mut feed = Feed::of(&queue.pool);
    queue.fill(1);
    let is_critical = |kind: &EventKind| match kind {
        EventKind::Health { health, .. } => health.level == Critical,
        _ => false,
    };
    let at = feed.until("it is critical", is_critical);
    let EventKind::Health { health, .. } = feed.seen[at].kind else { unreachable!() };
    assert!(health.waiting == 1 && health.mean_wait >= ms(200), "{health:?}");
    assert!(health.oldest_wait >= health.mean_wait);

    queue.fill(0);
    let is_healthy = |kind: &EventKind| match kind {
        EventKind::Health { health, .. } => health.is_healthy(),
        _ => false,
    };
    let at = feed.until("it is healthy again", is_healthy);
    let EventKind::Health { health, .. } = feed.seen[at].kind else { unreachable!() };
    assert_eq!((health.waiting, health.mean_wait), (0, Duration::ZERO));

    // The same changes, in the same order, without a gap.
    let recorder: Vec<_> = feed
        .kinds()
        .into_iter()
        .filter_map(|kind| match kind {
            EventKind::Health { from, health } => Some((*from, health.level)),
            _ => None,
        })
        .collect();
    eventually("the handler gets the same changes", || queue.recorder.changes() == recorder);
    assert_eq!((recorder[0].0, recorder.last().unwrap().1), (Healthy, Healthy));
    assert!(recorder.windows(2).all(|pair| pair[0].1 == pair[1].0), "{recorder:?}");
    assert!(recorder.iter().all(|(from, to)| from != to), "{recorder:?}");
}

/// All waiters have left, and there is no get and no question: the level falls by itself.
#[test]
fn it_is_healthy_again_when_the_queue_has_gone() {
    let mut queue = Queue::of(by_number(|it| it.calm_for = ms(50)));
    queue.fill(10);
    let last_is =
        |queue: &Queue, level| queue.recorder.changes().last().is_some_and(|(_, to)| *to == level);
    for _ in 0..2 {
        queue.fill(10);
        eventually("it is noticed", || last_is(&queue, Critical));
        queue.fill(0);
        eventually("that has passed", || last_is(&queue, Healthy));
    }
}

/// Hangs when the pool is reported as unhealthy.
#[derive(Debug)]
struct Stuck(Gate);

impl HandleEvent for Stuck {
    fn handle_health(&self, event: HealthEvent) {
        if !event.health().is_healthy() {
            self.0.pass();
        }
    }
}

#[test]
fn a_handler_that_hangs_holds_up_nobody_but_itself() {
    let gate = Gate::new();
    let handler = Stuck(gate.clone());
    let mut queue =
        Queue::with(|it| it.health_thresholds(by_number(|_| ())).event_handler(Box::new(handler)));
    queue.fill(5);
    gate.await_entered(1);
    assert_eq!(queue.level(), Warning);
    queue.fill(10);
    assert_eq!(queue.level(), Critical);
    drop(queue.held.take());
    queue.waiters.drain(..).for_each(|(_, thread)| thread.join().unwrap());
    eventually("the pool has long since recovered", || queue.level() == Healthy);
    assert_eq!(gate.entered(), 1, "one event after the other");
    gate.open();
}

#[test]
fn an_outage_without_callers_is_seen_and_reported_and_so_is_its_end() {
    let (server, recorder) = (Server::new(), Recorder::default());
    let pool = builder(2)
        .min_idle(Some(1))
        .keepalive(Some(ms(5)))
        .health_thresholds(by_time())
        .event_handler(Box::new(recorder.clone()))
        .build(server.manager())
        .unwrap();
    assert!(pool.readiness().is_ready() && pool.health().is_healthy());
    server.on(Op::Connect, Does::Fail);
    server.on(Op::IsValid, Does::Fail);
    eventually("it is reported", || recorder.changes().last() == Some(&(Warning, Critical)));
    let health = pool.health();
    assert!(health.waiting == 0 && health.out_for >= Some(ms(200)), "{health}");
    assert!(health.to_string().contains("connecting has failed for"), "{health}");
    assert!(pool.reading().health.out_for.is_some());
    match pool.readiness() {
        Readiness::Failing { lasted, cause: Some(cause) } => {
            assert!(lasted >= ms(200) && cause.contains("refused"), "{lasted:?}, {cause}");
        }
        other => panic!("{other:?}"),
    }
    server.on(Op::Connect, Does::Succeed);
    server.on(Op::IsValid, Does::Succeed);
    eventually("so is its end", || recorder.changes().last() == Some(&(Critical, Healthy)));
    assert!(pool.readiness().is_ready());
}

#[test]
fn readiness_tells_why_not() {
    let (server, gate) = (Server::new(), Gate::new());
    server.next(Op::Connect, Does::Hang(gate.clone()));
    let pool = builder(1).min_idle(Some(1)).build_unchecked(server.manager());
    assert_eq!(pool.readiness(), Readiness::Opening);
    gate.open();
    eventually("it is ready", || pool.readiness() == Readiness::Ready);
    pool.pause();
    assert_eq!(pool.readiness().to_string(), "paused");
    pool.resume();
    let held = pool.get().unwrap();
    assert!(pool.readiness().is_ready(), "all in use is not unready");
    drop(held);
    let weak = pool.downgrade();
    assert_eq!(weak.readiness(), Some(Readiness::Ready));
    let _ = pool.close(Instant::now());
    assert_eq!(pool.readiness(), Readiness::Closed);
    drop(pool);
    eventually("it is gone", || weak.readiness().is_none());
}

/// A pool that keeps no connection is not unready for ever: the question makes it connect.
#[test]
fn readiness_of_an_empty_pool_is_found_out() {
    let server = Server::new();
    server.on(Op::Connect, Does::Fail);
    let pool = builder(1).build(server.manager()).unwrap();
    assert_eq!(pool.readiness(), Readiness::Opening, "nothing is known yet");
    let failing = || matches!(pool.readiness(), Readiness::Failing { .. });
    eventually("that connecting fails is known", failing);
    server.on(Op::Connect, Does::Succeed);
    eventually("it is tried again", || pool.readiness().is_ready());
    let calls = server.calls(Op::Connect);
    (0..50).for_each(|_| assert!(pool.readiness().is_ready()));
    assert_eq!((server.calls(Op::Connect), server.calls(Op::IsValid)), (calls, 0), "known");
}
