//! How a transaction runs.

use std::time::Duration;

use fairpool::Label;
use postgres::IsolationLevel;

use crate::random;

// Measured in docs/decisions/0039-transactions.md.
const MAX_ATTEMPTS: u32 = 20;
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(250);

/// How a [`transaction`](crate::transaction) runs and for how long it is tried.
///
/// | option | default |
/// |---|---|
/// | [`isolation_level`](Self::isolation_level), [`read_only`](Self::read_only), [`deferrable`](Self::deferrable) | the session's |
/// | [`timeout`](Self::timeout) | the pool's `connection_timeout` |
/// | [`max_attempts`](Self::max_attempts) | 20 |
/// | [`backoff`](Self::backoff) | 5 ms, doubled up to 250 ms |
/// | [`label`](Self::label) | none |
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// use fairpool_postgres::TransactionOptions;
/// use fairpool_postgres::postgres::IsolationLevel;
///
/// let options = TransactionOptions::new()
///     .isolation_level(IsolationLevel::Serializable)
///     .timeout(Duration::from_secs(2))
///     .label("transfer");
/// # drop(options);
/// ```
#[derive(Clone, Debug)]
#[must_use = "options do nothing by themselves"]
pub struct TransactionOptions {
    pub(super) isolation_level: Option<IsolationLevel>,
    pub(super) read_only: Option<bool>,
    pub(super) deferrable: Option<bool>,
    pub(super) timeout: Option<Duration>,
    pub(super) max_attempts: u32,
    pub(super) label: Option<Label>,
    first_pause: Duration,
    longest_pause: Duration,
}

impl Default for TransactionOptions {
    fn default() -> Self {
        Self::new()
    }
}

impl TransactionOptions {
    /// The defaults.
    pub const fn new() -> Self {
        Self {
            isolation_level: None,
            read_only: None,
            deferrable: None,
            timeout: None,
            max_attempts: MAX_ATTEMPTS,
            label: None,
            first_pause: FIRST_PAUSE,
            longest_pause: LONGEST_PAUSE,
        }
    }

    /// Sets the isolation level; the default is the session's.
    pub fn isolation_level(mut self, level: IsolationLevel) -> Self {
        self.isolation_level = Some(level);
        self
    }

    /// Sets whether the transaction may only read; the default is the session's.
    pub fn read_only(mut self, read_only: bool) -> Self {
        self.read_only = Some(read_only);
        self
    }

    /// Sets whether a serializable transaction that only reads may wait at its start, so that it
    /// cannot fail later; the default is the session's.
    pub fn deferrable(mut self, deferrable: bool) -> Self {
        self.deferrable = Some(deferrable);
        self
    }

    /// How much time there is for all of it: for getting connections, attempts, and the pauses
    /// between them; the default is the pool's
    /// [`connection_timeout`](fairpool::Builder::connection_timeout).
    ///
    /// After that no attempt begins. An attempt that has begun is not interrupted: so the
    /// transaction ends late by one attempt at most. Limit its statements with
    /// [`statement_timeout`](crate::PostgresConnectionManager::statement_timeout) and
    /// [`lock_timeout`](crate::PostgresConnectionManager::lock_timeout). Zero allows one attempt,
    /// on a connection that is idle and needs no check, and with a use handler none.
    /// `Duration::MAX` is no limit.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// How many attempts there are at most; default 20. One: nothing is retried.
    ///
    /// The timeout is the limit for conflicts, which pass. This one is for a failure that comes
    /// each time: a statement that crashes its backend, a trigger that always raises 40001. With
    /// the default pauses it comes 20 times in 2 s or so, and not for the whole timeout. Conflicts
    /// seldom get there: where 32 threads do nothing but count up one row under `SERIALIZABLE`, 3
    /// transactions of 10,000. Allow more for such a row, or less contention on it.
    ///
    /// # Panics
    ///
    /// If it is zero.
    #[track_caller]
    pub fn max_attempts(mut self, attempts: u32) -> Self {
        assert!(attempts > 0, "max_attempts is 0, and must be at least 1");
        self.max_attempts = attempts;
        self
    }

    /// The pause before the next attempt is drawn at random between zero and `first`, after each
    /// failure between zero and twice as much as before, but at most `longest`; default 5 ms and
    /// 250 ms.
    ///
    /// Those who met must not meet again: so the whole pause is random ("full jitter"), and grows
    /// until there is room for all. 5 ms is the time of a few transactions, so a single conflict
    /// costs little. In 250 ms there is room for a hundred of them, and in an outage the load is
    /// small. During the pause the transaction has no connection. Zero for both: no pause.
    ///
    /// # Panics
    ///
    /// If `first` is longer than `longest`.
    #[track_caller]
    pub fn backoff(mut self, first: Duration, longest: Duration) -> Self {
        assert!(
            first <= longest,
            "backoff: the first pause, {first:?}, is longer than the longest, {longest:?}"
        );
        (self.first_pause, self.longest_pause) = (first, longest);
        self
    }

    /// What the connection is for, as in [`Request::label`](fairpool::Request::label); default
    /// none.
    pub fn label(mut self, label: impl Into<Label>) -> Self {
        self.label = Some(label.into());
        self
    }

    /// Draws the pause after this many attempts.
    pub(super) fn pause_after(&self, attempts: u32) -> Duration {
        let doubled = 2_u32.saturating_pow(attempts.saturating_sub(1));
        let limit = self.first_pause.saturating_mul(doubled).min(self.longest_pause);
        // 53 random bits: between 0 and 1.
        limit.mul_f64((random::number() >> 11) as f64 / (1_u64 << 53) as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn millis(number: u64) -> Duration {
        Duration::from_millis(number)
    }

    /// The least and the longest of many.
    fn drawn(options: &TransactionOptions, attempts: u32) -> (Duration, Duration) {
        let pauses = (0..1000).map(|_| options.pause_after(attempts));
        pauses.fold((Duration::MAX, Duration::ZERO), |(least, longest), pause| {
            (least.min(pause), longest.max(pause))
        })
    }

    #[test]
    fn pauses_are_random_from_zero_and_double_up_to_the_longest() {
        let options = TransactionOptions::new().backoff(millis(8), millis(50));
        for (attempts, limit) in [(1, 8), (2, 16), (3, 32), (4, 50), (5, 50), (u32::MAX, 50)] {
            let (least, longest) = drawn(&options, attempts);
            // None of a thousand is in that tenth: once in 10^45.
            assert!(least < millis(limit) / 10, "{attempts}: {least:?}");
            assert!(longest > millis(limit) * 9 / 10, "{attempts}: {longest:?}");
            assert!(longest <= millis(limit), "{attempts}: {longest:?}");
        }
    }

    #[test]
    fn pauses_have_no_limits_of_their_own() {
        let none = TransactionOptions::new().backoff(Duration::ZERO, Duration::ZERO);
        assert_eq!(drawn(&none, 3), (Duration::ZERO, Duration::ZERO));
        let longest = TransactionOptions::new().backoff(Duration::MAX, Duration::MAX);
        assert!(drawn(&longest, 3).1 > Duration::MAX / 2);
    }

    #[test]
    #[should_panic(expected = "max_attempts is 0, and must be at least 1")]
    fn no_attempt_is_refused() {
        let _ = TransactionOptions::new().max_attempts(0);
    }

    #[test]
    #[should_panic(expected = "backoff: the first pause, 2s, is longer than the longest, 1s")]
    fn a_backoff_that_shrinks_is_refused() {
        let _ = TransactionOptions::new().backoff(millis(2000), millis(1000));
    }
}
