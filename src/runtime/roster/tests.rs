//! What the staff decides, without a thread.

use super::*;

/// A pool that needs nothing.
struct Quiet;

impl Employer for Quiet {
    fn tend(self: Arc<Self>, duties: Duties) -> (Duties, Option<Instant>) {
        (duties, None)
    }

    fn end(&self) {}

    fn release(self: Arc<Self>) -> Option<Job> {
        None
    }
}

/// A roster with this many pools, numbered from 1, and the time.
fn roster(pools: u64) -> (Roster, Instant) {
    let mut roster = Roster::default();
    for _ in 0..pools {
        let number = roster.number();
        roster.hire(number, || Arc::new(Quiet));
    }
    (roster, Instant::now())
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

fn offer(roster: &mut Roster, pool: u64, now: Instant) -> Became {
    match roster.offer(work(pool), || now) {
        Offer::Hand(..) => Became::Handed,
        Offer::Start(_) => Became::Started,
        Offer::Queued => Became::Queued,
    }
}

/// The pools of all jobs that the reaper has workers started for at this time.
fn started_at(roster: &mut Roster, now: Instant) -> Vec<u64> {
    let next = || roster.start_next(now).map(|first| first.map_or(0, |work| work.pool));
    std::iter::from_fn(next).collect()
}

fn seat() -> Seat {
    Arc::new(WaitCell::new())
}

#[test]
fn the_worker_that_came_last_works_first_and_the_others_end() {
    let (mut roster, now) = roster(1);
    let seats = [seat(), seat()];
    roster.workers = 2;
    seats.iter().for_each(|seat| roster.rest(seat));
    for _ in 0..3 {
        let Offer::Hand(seat, _) = roster.offer(work(1), || now) else { panic!("one is idle") };
        assert!(Arc::ptr_eq(&seat, &seats[1]));
        roster.done(1);
        roster.rest(&seat);
    }
    assert!(roster.leave(&seats[0]), "its rest is over");
    assert_eq!(roster.workers, 1);
}

#[test]
fn a_worker_that_has_an_order_does_not_leave() {
    let (mut roster, now) = roster(1);
    let seat = seat();
    roster.workers = 1;
    roster.rest(&seat);
    assert_eq!(offer(&mut roster, 1, now), Became::Handed);
    assert!(!roster.leave(&seat));
    assert_eq!(roster.workers, 1);
}

#[test]
fn k12_in_a_burst_jobs_wait_a_moment_and_for_calls_that_hang_not_for_long() {
    const JOBS: usize = 400;
    let (mut roster, start) = roster(JOBS as u64);
    let offered: Vec<_> = (1..=JOBS as u64).map(|pool| offer(&mut roster, pool, start)).collect();
    let at_once = offered.iter().filter(|it| **it == Became::Started).count();
    assert_eq!(at_once, AT_ONCE);
    assert_eq!(
        offered[AT_ONCE..].iter().filter(|it| **it == Became::Queued).count(),
        JOBS - at_once
    );
    // No worker comes free.
    let mut left = JOBS - at_once;
    let mut spans = 0;
    while left > 0 {
        spans += 1;
        let now = roster.sleep_until().expect("something is queued");
        assert_eq!(now, start + spans * PACE);
        left -= started_at(&mut roster, now).len();
    }
    assert!(spans <= 5, "the last of {JOBS} jobs waited for {:?}", spans * PACE);
    assert_eq!(roster.workers, JOBS);
    // The next one does not wait at all.
    let now = start + (spans + 1) * PACE;
    assert_eq!(offer(&mut roster, 1, now), Became::Started);
}

#[test]
fn k12_while_workers_come_free_few_others_start() {
    let (mut roster, start) = roster(400);
    (1..=400).for_each(|pool| _ = offer(&mut roster, pool, start));
    for span in 1..=20 {
        // Each of those that are there does ten jobs.
        for _ in 0..10 {
            let next = roster.take().expect("400 are queued");
            roster.done(next.pool);
        }
        assert_eq!(started_at(&mut roster, start + span * PACE).len(), 1);
    }
    assert_eq!(roster.workers, AT_ONCE + 20);
}

#[test]
fn p3_jobs_wait_in_order_for_a_thread() {
    let (mut roster, now) = roster(1);
    for _ in 0..2 {
        let Offer::Start(work) = roster.offer(work(1), || now) else { panic!("none is idle") };
        roster.calls_reaper = false;
        roster.not_started(Some(work), now);
        assert!(roster.calls_reaper, "the reaper does not know when to try again");
        assert_eq!(roster.sleep_until(), Some(now + SPAWN_RETRY));
        assert_eq!(offer(&mut roster, 1, now), Became::Queued);
        // It has not lost the first: both are there.
        let later = now + SPAWN_RETRY;
        assert_eq!(started_at(&mut roster, later).len(), 2);
        (0..2).for_each(|_| _ = roster.done(1));
        roster.started();
        roster.workers = 0;
        roster.pace = Pace::default();
    }
    assert_eq!(roster.running(1), 0);
}

#[test]
fn k12_the_pool_with_the_fewest_jobs_under_way_goes_first() {
    let (mut roster, now) = roster(3);
    // Calls of the first pool hang, and the system has no more threads.
    for _ in 0..4 {
        assert_eq!(offer(&mut roster, 1, now), Became::Started);
    }
    let Offer::Start(last) = roster.offer(work(1), || now) else { panic!("none is idle") };
    roster.not_started(Some(last), now);
    for pool in [1, 1, 2, 2, 3] {
        assert_eq!(offer(&mut roster, pool, now), Became::Queued);
    }
    let order = std::iter::from_fn(|| {
        let next = roster.take()?.pool;
        if next != 1 {
            roster.done(next);
        }
        Some(next)
    });
    let order: Vec<_> = order.collect();
    assert_eq!(order, [2, 3, 2, 1, 1, 1]);
}

#[test]
fn k12_a_pool_with_many_jobs_leaves_a_worker_to_the_others() {
    let (mut roster, now) = roster(2);
    for _ in 0..MANY {
        assert_eq!(offer(&mut roster, 1, now), Became::Started);
    }
    // Nobody is idle: first one more is started for the others, then the job's own.
    assert_eq!(offer(&mut roster, 1, now), Became::Queued);
    assert_eq!(started_at(&mut roster, now), [0, 1]);
    roster.arrived();
    assert!(roster.take().is_none());
    let reserve = seat();
    roster.rest(&reserve);
    // It does nothing for the pool with many jobs, and stays.
    assert_eq!(offer(&mut roster, 1, now), Became::Started);
    assert!(!roster.leave(&reserve));
    assert_eq!(offer(&mut roster, 2, now), Became::Handed);
    roster.done(2);
    roster.rest(&reserve);
    // When there are no calls any more, its rest is over.
    (0..MANY + 2).for_each(|_| _ = roster.done(1));
    assert!(roster.leave(&reserve));
}

#[test]
fn a_pool_without_others_may_have_all_workers() {
    let (mut roster, now) = roster(1);
    for _ in 0..=MANY {
        assert_eq!(offer(&mut roster, 1, now), Became::Started);
    }
}

#[test]
fn a_pool_is_gone_when_it_has_ended_and_its_last_job_too() {
    let (mut roster, now) = roster(2);
    assert_eq!(offer(&mut roster, 1, now), Became::Started);
    roster.signal(1, Signal::Stop);
    let due = roster.take_due(now);
    assert_eq!(
        due.iter().map(|due| (due.number, due.has_ended)).collect::<Vec<_>>(),
        [(1, true), (2, false)]
    );
    assert!(!roster.put_back(1, None), "it has a job under way");
    assert!(!roster.is_gone(1) && roster.is_gone(3));
    assert!(roster.done(1));
    assert!(roster.is_gone(1) && !roster.is_empty());
}

#[test]
fn a_pool_that_is_signalled_when_its_time_has_come_is_due_once() {
    let (mut roster, now) = roster(1);
    let due = roster.take_due(now);
    assert_eq!(due.len(), 1, "it was just hired");
    // It is signalled while it is attended, and planned for now.
    assert!(roster.signal(1, Signal::Deliver));
    assert!(!roster.signal(1, Signal::Tick), "the reaper has been called");
    roster.put_back(1, Some((due[0].duties, Some(now))));
    assert_eq!(roster.take_due(now).len(), 1);
    assert!(roster.take_due(now).is_empty());
    assert_eq!(roster.sleep_until(), None);
}
