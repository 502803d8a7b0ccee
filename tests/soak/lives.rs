//! The life of one pool: a storm of faults, a calm in which it must be whole again, a second
//! storm, and an end, after which nothing may be left.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use fairpool::{Fairness, Pool, PooledConnection, SelfDeadlock};

use crate::users::{Crew, Expects, Held, Tally, allowed_overshoot};
use fairpool_testing::dice::Dice;
use fairpool_testing::hostile::{Call, Rates};
use fairpool_testing::hostile::{Hooks, Manager};
use fairpool_testing::hostile::{Limits, World, time_in_calls};
use fairpool_testing::stub::{WATCHDOG, eventually, lock};

/// The users of each pool.
pub const USERS: u64 = 16;

/// The rates of the mildest storm: fail, fail for good, panic, take long, hang.
const MILD: Rates = [500, 30, 300, 300, 60];

/// Each connect fails for good, and nothing else.
const NO_CONNECT: Rates = [0, 100_000, 0, 0, 0];

fn random_rates(dice: &mut Dice) -> Rates {
    let scale = [1, 3, 10, 30][dice.below(4) as usize];
    MILD.map(|rate| rate * scale)
}

struct Settings {
    size: u32,
    fairness: Fairness,
    limits: Limits,
    max_waiters: Option<u32>,
    max_abandoned: u32,
    self_deadlock: SelfDeadlock,
    /// It has a use handler.
    uses: bool,
    get: Duration,
}

impl Settings {
    fn random(dice: &mut Dice) -> Settings {
        let limit = |dice: &mut Dice| match dice.percent(90) {
            true => dice.millis(30, 120),
            false => Duration::from_secs(60),
        };
        Settings {
            size: [1, 2, 2, 3, 4, 6][dice.below(6) as usize],
            fairness: match dice.percent(40) {
                true => Fairness::Strict,
                false => Fairness::Bounded(dice.millis(1, 5)),
            },
            limits: Limits { open: limit(dice), check: limit(dice), close: limit(dice) },
            max_waiters: dice.maybe(|dice| dice.between(4, 12) as u32),
            max_abandoned: [2, 8, 64, 64][dice.below(4) as usize],
            self_deadlock: match dice.below(5) {
                0..2 => SelfDeadlock::Fail(dice.millis(0, 5)),
                2..4 => SelfDeadlock::Warn,
                _ => SelfDeadlock::Ignore,
            },
            get: dice.millis(10, 60),
            uses: dice.percent(30),
        }
    }

    /// Whether calls that hang are abandoned soon, so that the pool keeps serving.
    fn gives_up(&self) -> bool {
        let Limits { open, check, close } = self.limits;
        self.max_abandoned == 64 && open.max(check).max(close) < Duration::from_secs(1)
    }

    fn expects(&self) -> Expects {
        Expects {
            queue_full: self.max_waiters.is_some(),
            deadlock: matches!(self.self_deadlock, SelfDeadlock::Fail(_)),
            uses: self.uses,
            get: self.get,
            try_get: self.limits.check,
        }
    }

    fn build(&self, name: &str, world: &World, dice: &mut Dice) -> Pool<Manager> {
        let hooks = Hooks(world.clone());
        // Without these settings, the reaper runs only at deadlines.
        let ages = dice.percent(60);
        let mut builder = Pool::builder()
            .name(name)
            .max_size(self.size)
            .min_idle(dice.maybe(|dice| dice.below(u64::from(self.size) + 1) as u32))
            .max_waiters(self.max_waiters)
            .fairness(self.fairness)
            .priority_ageing(dice.millis(1, 20))
            .skip_check_within(dice.millis(0, 20))
            .max_lifetime(dice.maybe(|dice| dice.millis(30, 300)).filter(|_| ages))
            .idle_timeout(dice.maybe(|dice| dice.millis(20, 100)).filter(|_| ages))
            .keepalive(dice.maybe(|dice| dice.millis(10, 40)).filter(|_| ages))
            .leak_threshold(dice.maybe(|dice| dice.millis(5, 10)).filter(|_| ages))
            .on_self_deadlock(self.self_deadlock)
            .connection_timeout(self.get)
            .open_timeout(self.limits.open)
            .validation_timeout(self.limits.check)
            .reset_timeout(self.limits.check)
            .close_timeout(self.limits.close)
            .max_opening(dice.between(1, 4) as u32)
            .max_closers(dice.between(1, 4) as u32)
            .max_abandoned(self.max_abandoned)
            .connect_backoff(Duration::from_millis(1), Duration::from_millis(20))
            .error_handler(Box::new(hooks.clone()))
            .event_handler(Box::new(hooks.clone()))
            .connection_customizer(Box::new(hooks.clone()));
        if self.uses {
            builder = builder.use_handler(Box::new(hooks));
        }
        if let Some(test) = dice.maybe(|dice| dice.percent(50)) {
            builder = builder.test_on_check_out(test);
        }
        builder.build_unchecked(Manager::new(world))
    }
}

/// Threads that must end within the watchdog's time.
struct Team(Vec<(String, mpsc::Receiver<thread::Result<()>>)>);

impl Team {
    fn new() -> Team {
        Team(Vec::new())
    }

    fn send(&mut self, name: String, run: impl FnOnce() + Send + 'static) {
        let (sender, receiver) = mpsc::channel();
        let body = move || {
            let _ = sender.send(catch_unwind(AssertUnwindSafe(run)));
        };
        thread::Builder::new().name(name.clone()).spawn(body).expect("a thread");
        self.0.push((name, receiver));
    }

    fn join_all(self, pool: impl Fn() -> String) {
        for (name, receiver) in self.0 {
            match receiver.recv_timeout(WATCHDOG) {
                Ok(Ok(())) => {}
                Ok(Err(payload)) => std::panic::resume_unwind(payload),
                Err(_) => panic!("'{name}' hangs, though nothing else does; {}", pool()),
            }
        }
    }
}

struct Storm {
    crew: Arc<Crew>,
    users: Team,
    meddler: Team,
}

impl Storm {
    fn begin(pool: &Pool<Manager>, crew: Arc<Crew>, dice: &mut Dice) -> Storm {
        let (mut users, mut meddler) = (Team::new(), Team::new());
        for number in 0..USERS {
            let (pool, crew, dice) = (pool.clone(), crew.clone(), Dice::of(dice.roll(), &[number]));
            users.send(format!("user-{number}"), move || crew.use_pool(&pool, dice));
        }
        let (pool, there, dice) = (pool.clone(), crew.clone(), Dice::of(dice.roll(), &[]));
        meddler.send("meddler".to_string(), move || there.meddle(&pool, dice));
        Storm { crew, users, meddler }
    }

    /// Lets the storm last for `time`.
    fn rage(&self, time: Duration, dice: &mut Dice) {
        let start = Instant::now();
        while start.elapsed() < time {
            self.crew.world.storm(random_rates(dice));
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// Ends the faults; every thread must end. Returns when the faults ended.
    fn end(self, pool: &Pool<Manager>) -> Instant {
        self.crew.world.calm();
        self.end_new_faults(pool)
    }

    /// The same, but calls that hang in the pool's own threads remain.
    fn end_new_faults(self, pool: &Pool<Manager>) -> Instant {
        self.crew.stop.store(true, Ordering::SeqCst);
        let since = Instant::now();
        self.crew.world.storm(Rates::default());
        self.crew.world.release_callers();
        // First this one, or it could pause the pool again.
        self.meddler.join_all(|| pool.stats().to_string());
        self.crew.empty_basket();
        self.users.join_all(|| pool.stats().to_string());
        since
    }
}

/// How a life ends.
#[derive(Clone, Copy, Debug)]
enum Ending {
    Close,
    CloseInHook(Call),
    DropLast,
    DropLastInHook(Call),
}

impl Ending {
    fn random(dice: &mut Dice) -> Ending {
        let call = |dice: &mut Dice, calls: &[Call]| calls[dice.below(calls.len() as u64) as usize];
        let anywhere = [Call::HandleCheckin, Call::HasBroken, Call::HandleRelease, Call::Connect];
        match dice.below(4) {
            0 => Ending::Close,
            1 => Ending::CloseInHook(call(dice, &anywhere)),
            2 => Ending::DropLast,
            _ => Ending::DropLastInHook(call(dice, &[Call::HandleCheckin, Call::HandleRelease])),
        }
    }

    fn action(self) -> &'static str {
        match self {
            Ending::Close => "life ended by close",
            Ending::CloseInHook(_) => "life ended by close in a hook",
            Ending::DropLast => "life ended by dropping the last handle",
            Ending::DropLastInHook(_) => "life ended by dropping the last handle in a hook",
        }
    }
}

/// One life.
pub fn live(lane: u64, number: u64, seed: u64, storm: Duration, tally: &Arc<Tally>) {
    let mut dice = Dice::of(seed, &[lane, number]);
    let settings = Settings::random(&mut dice);
    let world = World::new(dice.roll(), settings.limits, settings.size);
    let name = format!("soak{lane}-{number}-");
    // Only before the first success does an error end waits.
    let begins_badly = number.is_multiple_of(3);
    if begins_badly {
        world.storm(NO_CONNECT);
    }
    let pool = settings.build(&name, &world, &mut dice);
    let peek = pool.clone();
    world.audit(move || peek.stats());

    let crew = || Crew::new(&world, tally, settings.expects(), settings.size);
    let first = Storm::begin(&pool, crew(), &mut dice);
    if begins_badly {
        thread::sleep(Duration::from_millis(50));
    }
    first.rage(storm, &mut dice);
    let mut crews = vec![first.crew.clone()];
    let since = match settings.gives_up() {
        true => {
            // Makes sure that something hangs.
            world.storm([0, 0, 0, 0, 20_000]);
            thread::sleep(Duration::from_millis(20));
            let since = first.end_new_faults(&pool);
            assert_served_beside_hung_calls(&pool, &world, &settings, since, tally);
            world.release();
            Instant::now()
        }
        false => first.end(&pool),
    };
    assert_whole_again(&pool, &world, &settings, since, tally);

    let second = Storm::begin(&pool, crew(), &mut dice);
    second.rage(storm, &mut dice);
    crews.push(second.crew.clone());
    let ending = Ending::random(&mut dice);
    tally.add(ending.action(), 1);
    let pool = end(ending, pool, second, &mut dice);
    account(pool, &world, &crews);
}

/// No new faults, but calls still hang: they are abandoned and cost no connection.
fn assert_served_beside_hung_calls(
    pool: &Pool<Manager>,
    world: &World,
    settings: &Settings,
    since: Instant,
    tally: &Tally,
) {
    restore_sizes(pool, settings);
    let all: Vec<_> = (0..settings.size).map(|_| get_soon(pool, world)).collect();
    if pool.stats().abandoned > 0 {
        tally.recovered_beside_hung_calls(since.elapsed());
        tally.add("recovery beside hung calls", 1);
    }
    drop(all);
}

fn restore_sizes(pool: &Pool<Manager>, settings: &Settings) {
    pool.set_min_idle(Some(0)).expect("none is legal");
    pool.set_max_size(settings.size).expect("the size that it had");
}

/// After the faults all connections can be held at once, all callers are served in order, and
/// the pool's counts are the server's.
fn assert_whole_again(
    pool: &Pool<Manager>,
    world: &World,
    settings: &Settings,
    since: Instant,
    tally: &Tally,
) {
    restore_sizes(pool, settings);
    let all: Vec<_> = (0..settings.size).map(|_| get_soon(pool, world)).collect();
    tally.recovered(since.elapsed());
    tally.add("recovery", 1);
    drop(all);
    eventually("all calls have ended, and the pool's account is the server's", || {
        let stats = pool.stats();
        let quiet = stats.abandoned + stats.opening + stats.closing + stats.waiting == 0;
        quiet
            && world.live() == stats.open as usize
            && stats.opened - stats.closed.total() == u64::from(stats.open)
    });
    world.set_ceiling(settings.size);
    assert_everyone_served(pool, world, settings);
    assert_in_order(pool, world, settings);
    world.check();
}

/// A connection, even if the last connect of the storm failed for good.
fn get_soon(pool: &Pool<Manager>, world: &World) -> Held {
    let start = Instant::now();
    loop {
        match pool.get_timeout(WATCHDOG) {
            Ok(conn) => return Held::new(world, conn),
            Err(error) if error.is_timeout() || start.elapsed() > WATCHDOG => {
                panic!("P5: not whole {:?} after the last fault: {error}", start.elapsed())
            }
            Err(_) => thread::sleep(Duration::from_millis(1)),
        }
    }
}

fn assert_everyone_served(pool: &Pool<Manager>, world: &World, settings: &Settings) {
    let users = u64::from(settings.max_waiters.unwrap_or(16)).min(USERS);
    let mut team = Team::new();
    for number in 0..users {
        let (pool, world) = (pool.clone(), world.clone());
        team.send(format!("calm-user-{number}"), move || {
            for _ in 0..30 {
                let conn = pool.get_timeout(WATCHDOG).unwrap_or_else(|e| panic!("P3: {e}"));
                drop(Held::new(&world, conn));
            }
        });
    }
    team.join_all(|| pool.stats().to_string());
}

/// Waiters are served in the order of their arrival.
fn assert_in_order(pool: &Pool<Manager>, world: &World, settings: &Settings) {
    const WAITERS: u32 = 4;
    let mut held: Vec<_> = (0..settings.size).map(|_| get_soon(pool, world)).collect();
    let order = Arc::new(Mutex::new(Vec::new()));
    let mut team = Team::new();
    for number in 0..WAITERS {
        let (there, order) = (pool.clone(), order.clone());
        team.send(format!("waiter-{number}"), move || {
            let conn = there.get_timeout(WATCHDOG).unwrap_or_else(|e| panic!("P3: {e}"));
            lock(&order).push(number);
            drop(conn);
        });
        eventually("it waits", || pool.stats().waiting == number + 1);
    }
    if let Fairness::Bounded(bound) = settings.fairness {
        thread::sleep(bound);
    }
    drop(held.pop());
    team.join_all(|| pool.stats().to_string());
    let order = lock(&order).clone();
    assert!(order.is_sorted(), "P2: served in the order {order:?}");
}

/// Ends the life. Returns the pool if there is still a handle.
fn end(
    ending: Ending,
    pool: Pool<Manager>,
    storm: Storm,
    dice: &mut Dice,
) -> Option<Pool<Manager>> {
    let crew = storm.crew.clone();
    let world = crew.world.clone();
    match ending {
        Ending::Close => {
            crew.closing.store(true, Ordering::SeqCst);
            let limit = dice.millis(0, 30);
            let (start, elsewhere) = (Instant::now(), time_in_calls());
            let report = pool.close(start + limit);
            let took = start.elapsed() - (time_in_calls() - elsewhere);
            assert!(took < limit + allowed_overshoot(), "P11: {took:?}: {report}");
            storm.end(&pool);
            Some(pool)
        }
        Ending::CloseInHook(call) => {
            crew.closing.store(true, Ordering::SeqCst);
            let (there, (sender, receiver)) = (pool.clone(), mpsc::channel());
            world.ambush(call, move || {
                let _ = there.close(Instant::now() + Duration::from_millis(5));
                let _ = sender.send(());
            });
            await_ambush(call, &receiver, &world);
            storm.end(&pool);
            Some(pool)
        }
        Ending::DropLast => {
            crew.stop.store(true, Ordering::SeqCst);
            world.end_audit();
            // The users hold the last handles, and the storm continues.
            drop(pool);
            thread::sleep(dice.millis(0, 100));
            world.calm();
            storm.meddler.join_all(String::new);
            crew.empty_basket();
            storm.users.join_all(String::new);
            None
        }
        Ending::DropLastInHook(call) => {
            storm.end(&pool);
            let held = get_soon(&pool, &world);
            world.end_audit();
            world.storm(random_rates(dice));
            let (sender, receiver) = mpsc::channel();
            world.ambush(call, move || {
                drop(pool);
                let _ = sender.send(());
            });
            // On a thread of its own, since the return may hang in a hook.
            let mut team = Team::new();
            team.send("discarder".to_string(), move || held.discard());
            await_ambush(call, &receiver, &world);
            world.calm();
            team.join_all(String::new);
            None
        }
    }
}

fn await_ambush(call: Call, receiver: &mpsc::Receiver<()>, world: &World) {
    let start = Instant::now();
    while receiver.recv_timeout(Duration::from_millis(50)).is_err() {
        world.release(); // the thread that would make the call may hang in another one
        assert!(start.elapsed() < WATCHDOG, "{call:?} is never called");
    }
}

/// Every connection and waiter is gone, and the pool itself.
fn account(pool: Option<Pool<Manager>>, world: &World, crews: &[Arc<Crew>]) {
    let tally = &crews[0].tally;
    if let Some(pool) = pool {
        let report = pool.close(Instant::now() + WATCHDOG);
        assert!(report.is_complete(), "P11: {report}");
        let stats = pool.stats();
        let left = stats.open + stats.opening + stats.closing + stats.abandoned + stats.waiting;
        assert_eq!(left, 0, "{stats}");
        assert_eq!(stats.opened, stats.closed.total(), "P7: {stats:?}");
        assert!(pool.get().map(PooledConnection::discard).unwrap_err().is_closed());
        tally.add("self-deadlocks", stats.self_deadlocks);
        tally.add("leaks", stats.leaks);
        world.end_audit();
    }
    eventually("the server has no connection left", || world.live() == 0);
    // The crews' cancel tokens still exist; they must not keep anything of the pool alive.
    eventually("the pool itself is gone", || world.drivers() == 0);
    let detached: usize = crews.iter().map(|crew| lock(&crew.detached).drain(..).count()).sum();
    let counted = world.counted();
    assert_eq!(counted.opened, counted.closed, "P7: the server's, {detached} detached");
    world.check();
    tally.absorb(&counted);
    tally.add("life", 1);
}
