//! Connecting that fails: retries with backoff, and the error to report.

use std::mem;

use super::state::Outage;
use super::{Core, Effects, PoolTypes, Time};

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

    /// No connection is open, and connecting fails permanently.
    pub(crate) fn has_none_for_good(&self) -> bool {
        self.open_count() == 0 && self.fails_permanently()
    }

    /// A newcomer cannot be served: there is no connection for good. Once the next attempt
    /// is due, newcomers wait for its result.
    pub(super) fn is_hopeless(&self, now: Time) -> bool {
        let not_yet = |outage: &Outage| now < outage.retry_at;
        self.serving() && self.has_none_for_good() && self.outage.as_ref().is_some_and(not_yet)
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
            permanent,
        });
        failures == 1
    }
}
