//! What a crowd of callers needs: chance, time, and the pool's threads.

use std::collections::VecDeque;

use super::{Bench, Driver, Plain, ms, work};
use crate::runtime::reaper::Woken;
use crate::runtime::shared::Shared;
use crate::runtime::shared::Task;
use crate::runtime::workers::Running;
use crate::sync::checker::rand::{Rng, thread_rng};
use crate::sync::checker::thread::{self, JoinHandle};
use crate::sync::{Arc, AtomicU64, Condvar, Mutex, Ordering, advance};

// ---- chance ----

pub(super) fn one_in(n: u32) -> bool {
    thread_rng().gen_ratio(1, n)
}

pub(super) fn below(n: u64) -> u64 {
    thread_rng().gen_range(0..n)
}

pub(super) fn pick<T: Copy>(from: &[T]) -> T {
    from[below(from.len() as u64) as usize]
}

/// Lets other threads run first, for a while.
pub(super) fn dawdle() {
    for _ in 0..below(4) {
        thread::yield_now();
    }
}

// ---- time ----

/// The clock gives up after this many turns without progress of a caller: a thread that can
/// run would have been drawn long before.
const TOO_LONG: u64 = 5_000;

/// Spawns the thread that advances time until this many callers have ended. It panics if
/// no caller makes progress for long.
pub(super) fn clock(
    bench: &Bench,
    outcomes: &Arc<Plain<Vec<String>>>,
    gone: &Arc<AtomicU64>,
    callers: u64,
) -> JoinHandle<()> {
    let shared = Arc::clone(&bench.shared);
    let (outcomes, gone) = (Arc::clone(outcomes), Arc::clone(gone));
    thread::spawn(move || {
        let (mut before, mut looks) = (0, 0);
        while gone.load(Ordering::Relaxed) < callers {
            thread::yield_now();
            if one_in(8) {
                advance(ms(1));
            }
            let now = outcomes.lock().expect("no caller panics here").len();
            looks = if now > before { 0 } else { looks + 1 };
            before = now;
            assert!(looks < TOO_LONG, "no caller makes progress: {:?}", shared.gauges());
        }
    })
}

// ---- the pool's threads ----

type Work = (Running<Shared<Driver>>, Task<Driver>);

/// The tasks of the helpers; `None` after the last.
struct Desk {
    tasks: Mutex<Option<VecDeque<Work>>>,
    laid: Condvar,
}

impl Desk {
    fn lay(&self, work: Work) {
        self.tasks.lock().as_mut().expect("an open desk").push_back(work);
        self.laid.notify_one();
    }

    fn take(&self) -> Option<Work> {
        let mut tasks = self.tasks.lock();
        loop {
            match tasks.as_mut()?.pop_front() {
                None => self.laid.wait(&mut tasks),
                work => return work,
            }
            // Tasks from before the desk was closed still run.
        }
    }
}

/// Spawns the reaper, which ends with the pool, and its helpers, which end after it.
pub(super) fn crew(shared: &Arc<Shared<Driver>>) -> JoinHandle<()> {
    let shared = Arc::clone(shared);
    thread::spawn(move || {
        let tasks = Mutex::new(Some(VecDeque::new()));
        let desk = Arc::new(Desk { tasks, laid: Condvar::new() });
        let helpers = [(); 2].map(|()| {
            let (shared, desk) = (Arc::clone(&shared), Arc::clone(&desk));
            thread::spawn(move || {
                while let Some((running, task)) = desk.take() {
                    shared.run_task(task);
                    work(&shared);
                    drop(running);
                }
            })
        });
        loop {
            let next = shared.transition(|core, fx| core.tick(fx));
            hand_out(&shared, &desk);
            let next = shared.deliver_events().map_or(next, |at| at.min(next));
            if shared.reaper.sleep_until(shared.clock.instant_of(next)) == Woken::ToStop {
                break;
            }
        }
        hand_out(&shared, &desk);
        while !desk.tasks.lock().as_ref().expect("an open desk").is_empty() {
            thread::yield_now();
        }
        drop(desk.tasks.lock().take());
        desk.laid.notify_all();
        helpers.into_iter().for_each(|helper| helper.join().expect("a helper"));
    })
}

fn hand_out(shared: &Arc<Shared<Driver>>, desk: &Desk) {
    while let Some(task) = shared.workers.take_from_backlog() {
        let running = shared.workers.count(shared);
        if one_in(3) {
            shared.run_task(task);
        } else {
            desk.lay((running, task));
        }
    }
}
