//! The fast path must not allocate, and a subscription takes memory only for what it has not
//! read. A global allocator counts, for each thread by itself: hence a process of its own.

use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use allocation_counter::measure;
use fairpool::{Fairness, Label, Pool};
use fairpool_testing::StubManager;
use fairpool_testing::stub::{WATCHDOG, eventually};

/// A newcomer may always overtake.
const ALWAYS: Fairness = Fairness::Bounded(Duration::from_secs(3600));

fn pool(max_size: u32, fairness: Fairness) -> Pool<StubManager> {
    let pool = Pool::builder().max_size(max_size).fairness(fairness).build(StubManager);
    pool.expect("the stub never fails")
}

fn allocations(what: impl FnOnce()) -> u64 {
    measure(what).count_total
}

fn get_and_return(pool: &Pool<StubManager>) {
    drop(pool.get().expect("the stub never fails"));
}

#[test]
fn the_counter_counts() {
    assert_eq!(allocations(|| drop(std::hint::black_box(Box::new(1)))), 1);
}

#[test]
fn gets_and_returns_allocate_nothing() {
    for size in [1, 8] {
        let pool = pool(size, Fairness::default());
        let thousand = || (0..1000).for_each(|_| get_and_return(&pool));
        // The first get of a thread allocates the thread's record, and the first uses of a pool
        // their distribution.
        thousand();
        assert_eq!(allocations(thousand), 0, "{size} connections");
    }
}

#[test]
fn gets_without_waiting_allocate_nothing() {
    let pool = pool(1, Fairness::default());
    let label = Label::from(String::from("a label that is kept"));
    let thousand = || {
        for _ in 0..1000 {
            drop(pool.request().label(label.clone()).get().expect("it is idle"));
            drop(pool.try_get().expect("it is idle"));
            drop(pool.get_timeout(Duration::ZERO).expect("it is idle"));
            drop(pool.request().label("a label").get().expect("it is idle"));
        }
    };
    get_and_return(&pool); // connects
    thousand();
    assert_eq!(allocations(thousand), 0);
}

/// The pool keeps the label of the last caller only.
#[test]
fn labels_of_single_requests_leave_nothing_behind() {
    let pool = pool(1, Fairness::default());
    let label = |number: u32| format!("request {number}");
    let labelled = |number| drop(pool.request().label(label(number)).get().expect("it is idle"));
    let none_without_waiting = |number| {
        let held = pool.request().label(label(number)).get().expect("it is idle");
        let other = pool.request().label(label(number)).timeout(Duration::ZERO).get();
        assert!(other.map(drop).is_err_and(|error| error.to_string().contains(&label(number))));
        drop(held);
    };
    let thousand = || {
        (0..1000).for_each(labelled);
        (0..1000).for_each(none_without_waiting);
        get_and_return(&pool); // forgets the last label
    };
    thousand();
    let all = measure(thousand);
    assert_eq!((all.count_current, all.bytes_current), (0, 0), "what is left: {all:?}");
    assert!(all.count_total >= 3000, "each label is allocated: {all:?}");
}

/// A waiter that was notified of an idle connection needs a moment to wake up. A newcomer that
/// gets and returns the connection meanwhile allocates nothing. How long the waiter takes is
/// up to the system, so the test repeats until it was slow enough a hundred times.
#[test]
fn overtaking_allocates_nothing() {
    let pool = pool(1, ALWAYS);
    let held = pool.get().expect("the stub never fails");
    // On a busy machine most rounds prove nothing.
    let end = Instant::now() + 6 * WATCHDOG;
    thread::scope(|scope| {
        scope.spawn(|| while Instant::now() < end && pool.get().is_ok() {});
        eventually("a caller waits", || pool.stats().waiting == 1);
        drop(held);
        let mut overtakings = 0;
        while overtakings < 100 && Instant::now() < end {
            overtakings += u32::from(overtakes_for_free(&pool));
        }
        // Closed before the assertion, since the waiter ends with the pool.
        let report = pool.close(end + WATCHDOG);
        assert!(report.is_complete(), "{report}");
        assert_eq!(overtakings, 100);
    });
}

/// Whether this get and return overtook one and the same waiter and allocated nothing.
fn overtakes_for_free(pool: &Pool<StubManager>) -> bool {
    let before = pool.stats();
    let allocated = allocations(|| get_and_return(pool));
    let after = pool.stats();
    let waited = before.waiting == 1 && after.waiting == 1;
    waited && before.gets_waited == after.gets_waited && allocated == 0
}

/// The waiter allocates a cell for its answer. The returning thread allocates the list of
/// answers, which becomes the list of waiters to wake.
#[test]
fn a_hand_off_allocates_twice() {
    let pool = pool(1, Fairness::Strict);
    // Both threads pass it at the beginning and at the end of each round.
    let round = Barrier::new(2);
    let take = || {
        let mut taken = None;
        round.wait();
        let allocated = allocations(|| taken = pool.get().ok());
        drop(taken.expect("it is given one"));
        round.wait();
        allocated
    };
    let give = || {
        let conn = pool.get().expect("it is idle");
        round.wait();
        eventually("a caller waits", || pool.stats().waiting == 1);
        let allocated = allocations(|| drop(conn));
        round.wait();
        allocated
    };
    // In the first round, threads and queue allocate what they keep; a thread also when it first
    // waits for a lock, which chance decides.
    const ROUNDS: usize = 6;
    let (gives, takes) = thread::scope(|scope| {
        let taker = scope.spawn(|| [(); ROUNDS].map(|()| take()));
        ([(); ROUNDS].map(|()| give()), taker.join().expect("the taker panicked"))
    });
    assert_eq!((gives.iter().min(), takes.iter().min()), (Some(&1), Some(&1)));
}

/// A journal allocates this many steps at a time, of which a get and its return are two.
const STEPS_AT_A_TIME: u64 = 64;

#[test]
fn gets_that_are_watched_allocate_once_in_dozens_at_most() {
    let pool = pool(1, Fairness::default());
    let events = pool.subscribe(100_000).expect("a capacity");
    get_and_return(&pool);
    let thousand = || (0..1000).for_each(|_| get_and_return(&pool));
    // The list of what was allocated grows, too: it doubles.
    let most = 2000_u64.div_ceil(STEPS_AT_A_TIME) + 8;
    let allocated = allocations(thousand);
    assert!(allocated <= most, "{allocated} instead of {most}");
    drop(events);
}

#[test]
fn a_subscription_takes_memory_for_what_happens_and_not_in_advance() {
    let pool = pool(1, Fairness::default());
    let mut events = None;
    let taken = measure(|| events = pool.subscribe(1 << 22).ok()).bytes_max;
    assert!(events.is_some() && taken < 4096, "{taken} bytes for a pool where nothing happens");
}

#[test]
fn a_dropped_subscription_leaves_nothing_behind_on_an_idle_pool() {
    let pool = pool(1, Fairness::default());
    let subscribe = || drop(pool.subscribe(1 << 16).expect("a capacity"));
    // A thread allocates what it keeps when it first waits for a lock, which chance decides.
    let rounds = [(); 4].map(|()| measure(|| (0..50_000).for_each(|_| subscribe())));
    let all = rounds.iter().min_by_key(|all| all.bytes_current).expect("four rounds");
    assert_eq!((all.count_current, all.bytes_current), (0, 0), "what is left: {all:?}");
    assert!(all.bytes_max < 4096, "at most one at a time: {all:?}");
}

/// The thread that reads frees what it has read, and the drop frees the rest.
#[test]
fn what_was_not_read_goes_with_the_subscription() {
    let pool = pool(1, Fairness::default());
    let events = pool.subscribe(100_000).expect("a capacity");
    (0..10_000).for_each(|_| get_and_return(&pool));
    eventually("all is delivered", || events.len() == 30_000);
    let freed = measure(|| drop(events)).bytes_current;
    let least = -(30_000 * size_of::<fairpool::event::Event>() as i64);
    assert!(freed <= least, "{freed} of at least {least} bytes");
}
