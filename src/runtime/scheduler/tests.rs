//! The decisions of the executor, without a thread.

use super::*;
use crate::runtime::threads::{BURST, SPAWN_INTERVAL};
use crate::sync::WaitCell;

/// A pool that needs nothing.
struct Quiet;

impl ErasedPool for Quiet {
    fn run_due(self: Arc<Self>, timers: Timers) -> (Timers, Option<Instant>) {
        (timers, None)
    }

    fn end(&self) {}

    fn release(self: Arc<Self>) -> Option<Job> {
        None
    }
}

/// A scheduler with this many pools, numbered from 1, and the time.
fn scheduler(pools: u64) -> (Scheduler, Instant) {
    let mut scheduler = Scheduler::default();
    for _ in 0..pools {
        let number = scheduler.next_number();
        scheduler.register(number, || Arc::new(Quiet));
    }
    (scheduler, Instant::now())
}

fn work(pool: u64) -> Work {
    Work { pool, job: Box::new(|| ()) }
}

#[derive(Debug, PartialEq, Eq)]
enum Became {
    Handed,
    Started,
    Queued,
}

fn place(scheduler: &mut Scheduler, pool: u64, now: Instant) -> Became {
    match scheduler.place(work(pool), || now) {
        Placement::ToIdle(..) => Became::Handed,
        Placement::ToNew(_) => Became::Started,
        Placement::Queued => Became::Queued,
    }
}

/// The pools of the jobs for which the reaper spawns workers at this time; 0 for one to be idle.
fn started_at(scheduler: &mut Scheduler, now: Instant) -> Vec<u64> {
    let next = || scheduler.next_to_spawn(now).map(|first| first.map_or(0, |work| work.pool));
    std::iter::from_fn(next).collect()
}

fn cell() -> WorkerCell {
    Arc::new(WaitCell::new())
}

#[test]
fn the_worker_that_came_last_works_first_and_the_others_end() {
    let (mut scheduler, now) = scheduler(1);
    let cells = [cell(), cell()];
    scheduler.threads.workers = 2;
    cells.iter().for_each(|cell| scheduler.add_idle(cell));
    for _ in 0..3 {
        let Placement::ToIdle(cell, _) = scheduler.place(work(1), || now) else {
            panic!("one is idle")
        };
        assert!(Arc::ptr_eq(&cell, &cells[1]));
        scheduler.job_ended(1);
        scheduler.add_idle(&cell);
    }
    assert!(scheduler.remove_idle(&cells[0]), "it has been idle for long");
    assert_eq!(scheduler.threads.workers, 1);
}

#[test]
fn a_worker_that_has_a_command_does_not_end() {
    let (mut scheduler, now) = scheduler(1);
    let cell = cell();
    scheduler.threads.workers = 1;
    scheduler.add_idle(&cell);
    assert_eq!(place(&mut scheduler, 1, now), Became::Handed);
    assert!(!scheduler.remove_idle(&cell));
    assert_eq!(scheduler.threads.workers, 1);
}

#[test]
fn in_a_burst_jobs_wait_a_moment_and_for_calls_that_hang_not_for_long() {
    const JOBS: usize = 400;
    let (mut scheduler, start) = scheduler(JOBS as u64);
    let placed: Vec<_> = (1..=JOBS as u64).map(|pool| place(&mut scheduler, pool, start)).collect();
    let at_once = placed.iter().filter(|it| **it == Became::Started).count();
    assert_eq!(at_once, BURST);
    assert_eq!(placed[BURST..].iter().filter(|it| **it == Became::Queued).count(), JOBS - at_once);
    // No worker comes free.
    let mut left = JOBS - at_once;
    let mut spans = 0;
    while left > 0 {
        spans += 1;
        let now = scheduler.sleep_until().expect("something is queued");
        assert_eq!(now, start + spans * SPAWN_INTERVAL);
        left -= started_at(&mut scheduler, now).len();
    }
    assert!(spans <= 5, "the last of {JOBS} jobs waited for {:?}", spans * SPAWN_INTERVAL);
    assert_eq!(scheduler.threads.workers, JOBS);
    // The next one does not wait at all.
    let now = start + (spans + 1) * SPAWN_INTERVAL;
    assert_eq!(place(&mut scheduler, 1, now), Became::Started);
}

#[test]
fn while_workers_come_free_few_others_start() {
    let (mut scheduler, start) = scheduler(400);
    (1..=400).for_each(|pool| _ = place(&mut scheduler, pool, start));
    for span in 1..=20 {
        // Each of those that are there does ten jobs.
        for _ in 0..10 {
            let next = scheduler.take_next().expect("400 are queued");
            scheduler.job_ended(next.pool);
        }
        assert_eq!(started_at(&mut scheduler, start + span * SPAWN_INTERVAL).len(), 1);
    }
    assert_eq!(scheduler.threads.workers, BURST + 20);
}

#[test]
fn p3_jobs_wait_in_order_for_a_thread() {
    let (mut scheduler, now) = scheduler(1);
    for _ in 0..2 {
        let Placement::ToNew(work) = scheduler.place(work(1), || now) else {
            panic!("none is idle")
        };
        scheduler.reaper_has_work = false;
        scheduler.not_spawned(Some(work), now);
        assert!(scheduler.reaper_has_work, "the reaper does not know when to try again");
        assert_eq!(scheduler.sleep_until(), Some(now + SPAWN_RETRY));
        assert_eq!(place(&mut scheduler, 1, now), Became::Queued);
        // It has not lost the first: both are there.
        let later = now + SPAWN_RETRY;
        assert_eq!(started_at(&mut scheduler, later).len(), 2);
        (0..2).for_each(|_| _ = scheduler.job_ended(1));
        scheduler.spawned();
        scheduler.threads.workers = 0;
        scheduler.spawn_rate = SpawnRate::default();
    }
    assert_eq!(scheduler.running(1), 0);
}

#[test]
fn the_pool_with_the_fewest_jobs_under_way_goes_first() {
    let (mut scheduler, now) = scheduler(3);
    // Calls of the first pool hang, and the system has no more threads.
    for _ in 0..4 {
        assert_eq!(place(&mut scheduler, 1, now), Became::Started);
    }
    let Placement::ToNew(last) = scheduler.place(work(1), || now) else { panic!("none is idle") };
    scheduler.not_spawned(Some(last), now);
    for pool in [1, 1, 2, 2, 3] {
        assert_eq!(place(&mut scheduler, pool, now), Became::Queued);
    }
    let order = std::iter::from_fn(|| {
        let next = scheduler.take_next()?.pool;
        if next != 1 {
            scheduler.job_ended(next);
        }
        Some(next)
    });
    let order: Vec<_> = order.collect();
    assert_eq!(order, [2, 3, 2, 1, 1, 1]);
}

#[test]
fn a_pool_with_many_jobs_leaves_a_worker_to_the_others() {
    let (mut scheduler, now) = scheduler(2);
    for _ in 0..MANY_JOBS {
        assert_eq!(place(&mut scheduler, 1, now), Became::Started);
    }
    // Nobody is idle: first one more is started for the others, then the job's own.
    assert_eq!(place(&mut scheduler, 1, now), Became::Queued);
    assert_eq!(started_at(&mut scheduler, now), [0, 1]);
    scheduler.worker_ready();
    assert!(scheduler.take_next().is_none());
    let reserve = cell();
    scheduler.add_idle(&reserve);
    // It does nothing for the pool with many jobs, and stays.
    assert_eq!(place(&mut scheduler, 1, now), Became::Started);
    assert!(!scheduler.remove_idle(&reserve));
    assert_eq!(place(&mut scheduler, 2, now), Became::Handed);
    scheduler.job_ended(2);
    scheduler.add_idle(&reserve);
    // When there are no calls any more, it has been idle for long.
    (0..MANY_JOBS + 2).for_each(|_| _ = scheduler.job_ended(1));
    assert!(scheduler.remove_idle(&reserve));
}

#[test]
fn a_pool_without_others_may_have_all_workers() {
    let (mut scheduler, now) = scheduler(1);
    for _ in 0..=MANY_JOBS {
        assert_eq!(place(&mut scheduler, 1, now), Became::Started);
    }
}

#[test]
fn a_pool_is_gone_when_it_has_ended_and_its_last_job_too() {
    let (mut scheduler, now) = scheduler(2);
    assert_eq!(place(&mut scheduler, 1, now), Became::Started);
    scheduler.signal(1, Signal::Stop);
    let due = scheduler.take_due(now);
    assert_eq!(
        due.iter().map(|due| (due.number, due.has_ended)).collect::<Vec<_>>(),
        [(1, true), (2, false)]
    );
    assert!(!scheduler.put_back(1, None), "it has a job under way");
    assert!(!scheduler.is_gone(1) && scheduler.is_gone(3));
    assert!(scheduler.job_ended(1));
    assert!(scheduler.is_gone(1) && !scheduler.is_empty());
}

#[test]
fn a_pool_that_is_signalled_when_its_time_has_come_is_due_once() {
    let (mut scheduler, now) = scheduler(1);
    let due = scheduler.take_due(now);
    assert_eq!(due.len(), 1, "it was just registered");
    // It is signalled while it is taken, and planned for now.
    assert!(scheduler.signal(1, Signal::Deliver));
    assert!(!scheduler.signal(1, Signal::Tick), "the reaper knows already");
    scheduler.put_back(1, Some((due[0].timers, Some(now))));
    assert_eq!(scheduler.take_due(now).len(), 1);
    assert!(scheduler.take_due(now).is_empty());
    assert_eq!(scheduler.sleep_until(), None);
}
