//! What all handles, connections and threads of a pool share.
//!
//! The only place that locks the core. Every change of it has the same shape:
//! lock, transition, answers into their cells, unlock, everything else.

use std::fmt;
use std::panic::{self, AssertUnwindSafe};
use std::time::{Duration, Instant};

use log::kv::{self, Key, Source, Value, VisitSource};
use log::{Level, Record};

use crate::types::caller::{Caller, Holder, NestedGet, Waiter};
use crate::types::config::Config;
use crate::runtime::conn::{Conn, Kind};
use crate::core::{Core, Counters, Effects, Gauges, Held, Time, Waiting};
use crate::types::error::{Cause, Report, text_of_panic};
use crate::runtime::health::HealthProbe;
use crate::types::manage::ManageConnection;
use crate::runtime::notices::{Added, Notices};
use crate::runtime::reaper::Reaper;
use crate::types::stats::Stats;
use crate::runtime::subscribers::Subscribers;
use crate::sync::{Arc, AtomicBool, Clock, Condvar, Mutex, Ordering, PlainBool, PlainMutex};
use crate::runtime::threads::Threads;
use crate::types::times::{Recorder, Timed};
use crate::runtime::workers::{Task, Workers};

pub(crate) type PoolCore<M> = Core<Kind<M>>;

pub(crate) struct Shared<M: ManageConnection> {
    /// The pool's one lock. Under it: no call into a driver or a hook, no I/O,
    /// no log, no destructor of a connection or an error. Only the locks of waiters'
    /// cells, of the notices and of threads' names are ever taken inside it.
    core: Mutex<PoolCore<M>>,
    /// Signalled when something has changed that `build` or `close` wait for.
    progress: Condvar,
    pub(crate) config: Config<M>,
    pub(crate) manager: M,
    pub(crate) clock: Clock,
    pub(crate) workers: Workers<M>,
    pub(crate) reaper: Reaper,
    pub(crate) threads: Threads,
    pub(crate) notices: Notices,
    pub(crate) subscribers: Subscribers,
    pub(crate) watcher: HealthProbe,
    pub(crate) times: Recorder,
    /// Somebody wants to know exact times: a handler, or a subscriber.
    pub(crate) watched: PlainBool,
    /// When slow gets were last reported, and how many were not since.
    pub(crate) slow_gets: SlowGets,
    /// The system had no thread to give when last asked.
    starved: AtomicBool,
}

impl<M: ManageConnection> Shared<M> {
    pub(crate) fn new(config: Config<M>, manager: M) -> Arc<Shared<M>> {
        Arc::new(Shared {
            core: Mutex::new(Core::new(config.policy.clone())),
            progress: Condvar::new(),
            workers: Workers::new(Arc::clone(&config.name)),
            reaper: Reaper::new(),
            threads: Threads::new(),
            notices: Notices::new(),
            subscribers: Subscribers::new(),
            watcher: HealthProbe::new(),
            times: Recorder::new(),
            watched: PlainBool::new(config.event_handler.is_some()),
            slow_gets: SlowGets::new(),
            starved: AtomicBool::new(false),
            clock: Clock::start(),
            config,
            manager,
        })
    }

    /// The fast paths: a question or a step that asks for nothing outside.
    #[inline]
    pub(crate) fn quick<R>(&self, step: impl FnOnce(&mut PoolCore<M>) -> R) -> R {
        step(&mut self.core.lock())
    }

    /// One transition of the core, with all that it asks for carried out.
    pub(crate) fn transition<R>(
        self: &Arc<Self>,
        step: impl FnOnce(&mut PoolCore<M>, Time, &mut Effects<Kind<M>>) -> R,
    ) -> R {
        let now = self.clock.now();
        let mut fx = Effects::new();
        let mut core = self.core.lock();
        let result = step(&mut core, now, &mut fx);
        let mut cells = Vec::new();
        for (cell, answer) in fx.answers.drain(..) {
            cell.fill(answer);
            cells.push(cell);
        }
        let told = self.notices.add(std::mem::take(&mut fx.notices), now);
        let wants_delivery = core.wants_delivery();
        let drained = core.is_drained();
        // Everything below is slow or foreign, or wakes someone who would only
        // run into this lock.
        drop(core);

        cells.iter().for_each(|cell| cell.wake());
        for job in fx.jobs {
            self.workers.submit(self, Task::Call(job));
        }
        if fx.wake_reaper {
            self.reaper.wake();
        }
        if wants_delivery {
            self.reaper.wake_to_deliver();
        }
        if fx.progress {
            // Not lost: `wait_for` checks under the core's lock before it
            // sleeps, and the change was made under that lock.
            self.progress.notify_all();
        }
        if drained {
            self.workers.stop();
            self.reaper.stop();
        } else {
            self.reaper.ensure(self);
        }
        if let Some(Added { tell, lost }) = told {
            if tell {
                self.workers.submit(self, Task::Tell);
            }
            for notice in lost {
                let _ = self.contain("dropping an error", || drop(notice));
            }
        }
        for error in fx.garbage {
            let _ = self.contain("dropping an error", || drop(error));
        }
        result
    }

    /// Waits until the core says what is hoped for, or until the deadline.
    pub(crate) fn wait_for(
        self: &Arc<Self>,
        deadline: Option<Instant>,
        mut hope: impl FnMut(&PoolCore<M>) -> bool,
    ) -> bool {
        let mut core = self.core.lock();
        while !hope(&core) {
            let until = self.reaper.sleep_limit(deadline);
            let timed_out = match until {
                None => {
                    self.progress.wait(&mut core);
                    false
                }
                Some(at) => self.progress.wait_until(&mut core, at).timed_out(),
            };
            if timed_out && until == deadline {
                return hope(&core);
            }
            if timed_out {
                drop(core);
                self.reaper.ensure(self);
                // There is none either when the pool has ended.
                self.workers.retry(self);
                core = self.core.lock();
            }
        }
        true
    }

    /// Wakes `wait_for` for changes that are not the core's.
    pub(crate) fn notify_progress(&self) {
        drop(self.core.lock());
        self.progress.notify_all();
    }

    /// What a caller that gets nothing is told of the pool, and the error that
    /// was met during its wait, or that no wait can change.
    pub(crate) fn report(
        &self,
        core: &mut PoolCore<M>,
        now: Time,
        start: Time,
    ) -> (Report, Option<Cause>) {
        let (earlier, cause) = match core.last_error() {
            Some((at, cause)) if at >= start || core.has_none_for_good() => (None, Some(cause)),
            Some((at, cause)) => (Some((start.since(at), cause)), None),
            None => (None, None),
        };
        let report = Report {
            earlier,
            pool: Arc::clone(&self.config.name),
            waited: now.since(start),
            gauges: core.gauges(),
            longest: core.longest_holder(now).map(Holder::from),
            nested: core.self_deadlock(now).into_iter().map(NestedGet::from).collect(),
            slowest: core.slowest_call().map(|(call, since)| (call, now.since(since))),
            paused: core.is_paused(),
        };
        (report, cause)
    }

    /// Those who hold connections, longest first.
    pub(crate) fn holders(&self) -> Vec<Holder> {
        let now = self.clock.now();
        let held: Vec<Held<Caller>> = self.quick(|core| core.holders(now).collect());
        let mut holders: Vec<Holder> = held.into_iter().map(Holder::from).collect();
        holders.sort_by_key(|holder| std::cmp::Reverse(holder.held_for()));
        holders
    }

    /// Those who wait, in order.
    pub(crate) fn waiters(&self) -> Vec<Waiter> {
        let now = self.clock.now();
        let mut waiting = self.quick(|core| core.waiting(now));
        Waiting::put_in_order(&mut waiting);
        waiting.into_iter().map(Waiter::from).collect()
    }

    /// Something that took from then until now.
    pub(crate) fn timed(&self, what: Timed, begun: Time) {
        self.times.record(what, self.ago(begun), 1);
    }

    pub(crate) fn stats(&self) -> Stats {
        let (gauges, counters) = self.quick(|core| (core.gauges(), *core.counters()));
        self.stats_of(&gauges, &counters)
    }

    pub(crate) fn stats_of(&self, gauges: &Gauges, counters: &Counters) -> Stats {
        let mut stats = Stats::new(gauges, counters);
        stats.events_lost = self.subscribers.lost();
        #[cfg(feature = "histograms")]
        {
            stats.times = self.times.times(counters);
        }
        stats
    }

    pub(crate) fn gauges(&self) -> Gauges {
        self.quick(|core| core.gauges())
    }

    /// Says something in the log. A logger is user code like any other: it runs
    /// outside the lock, and if it panics, what it was told is lost and no more.
    /// The facts come with it as key-values, and the pool's name.
    pub(crate) fn say(&self, level: Level, facts: &[(&str, Value<'_>)], what: fmt::Arguments<'_>) {
        if level > log::STATIC_MAX_LEVEL || level > log::max_level() {
            return;
        }
        let name = &*self.config.name;
        let facts = Facts { pool: name, facts };
        let say = || {
            let text = format_args!("pool '{name}': {what}");
            let mut record = Record::builder();
            record.target("fairpool").module_path_static(Some("fairpool"));
            log::logger().log(&record.level(level).key_values(&facts).args(text).build());
        };
        let _ = panic::catch_unwind(AssertUnwindSafe(say)).map_err(text_of_panic);
    }

    /// Calls into user code and keeps its panics from spreading. `Err` is what
    /// the panic said; it has been logged.
    pub(crate) fn contain<R>(&self, what: &str, call: impl FnOnce() -> R) -> Result<R, String> {
        panic::catch_unwind(AssertUnwindSafe(call)).map_err(|payload| {
            let said = text_of_panic(payload);
            self.say(Level::Error, &[], format_args!("{what} panicked: {said}"));
            said
        })
    }

    /// Drops what users keep with a connection, each by itself: one destructor
    /// that panics is no reason to leave out the others.
    pub(crate) fn drop_extensions(&self, conn: &mut Conn<M>) {
        for value in conn.extensions.take_all() {
            let _ = self.contain("dropping an extension", || drop(value));
        }
    }

    /// Starts a thread. `false` if the system has none to give; that is logged
    /// once until it has.
    pub(crate) fn spawn(&self, name: String, body: impl FnOnce() + Send + 'static) -> bool {
        let started = self.threads.start(name, body);
        match &started {
            Ok(()) => self.starved.store(false, Ordering::Relaxed),
            Err(error) => {
                if !self.starved.swap(true, Ordering::Relaxed) {
                    self.say(Level::Error, &[], format_args!("cannot start a thread: {error}"));
                }
            }
        }
        started.is_ok()
    }

    /// How long ago, by the pool's clock.
    pub(crate) fn ago(&self, at: Time) -> Duration {
        self.clock.now().since(at)
    }
}

/// What a line in the log is about.
struct Facts<'a> {
    pool: &'a str,
    facts: &'a [(&'a str, Value<'a>)],
}

impl Source for Facts<'_> {
    fn visit<'kvs>(&'kvs self, visitor: &mut dyn VisitSource<'kvs>) -> Result<(), kv::Error> {
        visitor.visit_pair(Key::from_str("pool"), Value::from(self.pool))?;
        self.facts.visit(visitor)
    }
}

/// Slow gets come in crowds: one line a second tells of them all.
pub(crate) struct SlowGets(PlainMutex<(Option<Time>, u64)>);

impl SlowGets {
    fn new() -> SlowGets {
        SlowGets(PlainMutex::new((None, 0)))
    }

    /// Whether to report this one, and how many were not reported since the last.
    pub(crate) fn report(&self, now: Time) -> Option<u64> {
        let (reported_at, more) = &mut *self.0.lock();
        if reported_at.is_some_and(|at| now.since(at) < Duration::from_secs(1)) {
            *more += 1;
            return None;
        }
        *reported_at = Some(now);
        Some(std::mem::take(more))
    }
}
