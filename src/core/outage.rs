//! Connecting that fails: retries with backoff, and the error to report.

use std::mem;
use std::time::Duration;

use super::state::Outage;
use super::{Core, Effects, ErrorKind, PoolTypes, Time};

impl<T: PoolTypes> Core<T> {
    /// No connection was opened so far. After the first success, an error that the driver
    /// calls permanent ends no wait: the configuration has worked, so the cause is elsewhere
    /// and may pass.
    pub(super) fn never_connected(&self) -> bool {
        self.counters.opened == 0
    }

    /// No retry cures an error of this outage.
    pub(crate) fn fails_permanently(&self) -> bool {
        self.outage.as_ref().is_some_and(|outage| outage.permanent)
    }

    /// No caller can hope for a connection: none is open, and connecting fails permanently,
    /// or has failed for `fail_fast_after`. The next attempt may be due or under way: who
    /// fails fast does not wait for it.
    pub(super) fn is_hopeless(&self, now: Time) -> bool {
        now >= self.hopeless_from()
    }

    /// `NEVER` if time alone does not make it so. While the pool is paused, callers wait.
    pub(super) fn hopeless_from(&self) -> Time {
        match &self.outage {
            Some(outage) if self.serving() && self.open_count() == 0 => {
                if outage.permanent {
                    outage.began
                } else {
                    outage.fails_fast_from
                }
            }
            _ => Time::NEVER,
        }
    }

    /// Ends all waits, if they are hopeless; plans for the time from which they are.
    pub(super) fn fail_if_hopeless(&mut self, fx: &mut Effects<T>) {
        if self.outage.is_none() || self.queue.waiting() == 0 {
            return;
        }
        let from = self.hopeless_from();
        if fx.now < from {
            return self.wake_reaper_at(from, fx);
        }
        let cause = self.last_error.as_ref().map(|(_, cause)| cause.clone());
        self.fail_all(ErrorKind::Connect, cause.as_ref(), fx);
        fx.garbage.extend(cause);
    }

    /// Callers may fail without waiting, so the pool must not wait for callers to try again.
    pub(super) fn tries_by_itself(&self) -> bool {
        let fails_fast = self.policy.fail_fast_after.is_some();
        self.outage.as_ref().is_some_and(|outage| outage.permanent || fails_fast)
    }

    /// When a caller that fails fast should come again: when the next attempt is due, but
    /// not before the shortest backoff, also if an attempt is under way. So who comes again
    /// and again after this time does not spin.
    pub(crate) fn retry_after(&self, now: Time) -> Duration {
        let due_in = |outage: &Outage| outage.retry_at.since(now).max(self.policy.backoff_min);
        self.outage.as_ref().map_or(Duration::ZERO, due_in)
    }

    /// For how long connecting has failed.
    pub(crate) fn failing_for(&self, now: Time) -> Option<Duration> {
        self.outage.as_ref().map(|outage| now.since(outage.began))
    }

    /// No backoff is under way.
    pub(super) fn may_retry(&self, now: Time) -> bool {
        self.outage.as_ref().is_none_or(|outage| now >= outage.retry_at)
    }

    /// The last error of a connect or a check and its time, unless a connection was
    /// opened since.
    pub(crate) fn last_error(&self) -> Option<(Time, T::Cause)> {
        self.last_error.clone()
    }

    /// Keeps an error to report it, unless the last one explains more: why none can be
    /// opened for good.
    pub(super) fn keep_error(&mut self, cause: T::Cause, permanent: bool, fx: &mut Effects<T>) {
        if self.fails_permanently() && !permanent {
            fx.garbage.push(cause);
        } else {
            self.replace_error(Some((fx.now, cause)), fx);
        }
    }

    pub(super) fn replace_error(&mut self, error: Option<(Time, T::Cause)>, fx: &mut Effects<T>) {
        let old = mem::replace(&mut self.last_error, error);
        fx.garbage.extend(old.map(|(_, cause)| cause));
    }

    /// A connect that was `begun` then has failed. Returns whether an outage begins.
    pub(super) fn count_connect_failure(
        &mut self,
        begun: Time,
        now: Time,
        permanent: bool,
    ) -> bool {
        self.counters.open_failures += 1;
        self.pace.slow_down();
        if let Some(outage) = &mut self.outage {
            outage.failures += 1;
            if begun <= outage.failed_at {
                // Begun before the last failure was known, so it says nothing new.
                outage.permanent |= permanent;
                return false;
            }
        }
        let before = self.outage.as_ref();
        let (attempts, failures) = before.map_or((0, 1), |o| (o.attempts, o.failures));
        let began = before.map_or(now, |outage| outage.began);
        let from_now = now.after_opt(self.policy.fail_fast_after);
        let fails_fast_from = before.map_or(from_now, |o| o.fails_fast_from.min(from_now));
        let doubled = self.policy.backoff_min.saturating_mul(1 << attempts.min(20));
        let longest = doubled.min(self.policy.backoff_max);
        // Between half and all of it, so that many pools do not retry at once.
        let delay = longest.mul_f64(0.5 + self.fraction() / 2.0);
        self.outage = Some(Outage {
            began,
            failures,
            attempts: attempts.saturating_add(1),
            failed_at: now,
            retry_at: now.after(delay),
            fails_fast_from,
            permanent,
        });
        failures == 1
    }
}
