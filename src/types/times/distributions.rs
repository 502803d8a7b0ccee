//! Distributions of times, kept off the hot path.
//!
//! A get that does not wait is not recorded: the pool counts all gets, and those that
//! waited, so the number of zeros is known. Of the uses of a connection that is used very
//! often only some are timed, by chance, and stand for the others (see `use_sampler`, and
//! `docs/decisions/0010-times.md`).

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;

use super::Timed;
use crate::core::Counters;
use crate::sync::PlainMutex;

/// 100 ns, in nanoseconds. Shorter times count as 100 ns.
const SHORTEST: u64 = 100;
/// One hour, in nanoseconds. Longer times count as one hour.
const LONGEST: u64 = 3_600_000_000_000;

/// Significant digits: times are exact to 1 %.
const DIGITS: u8 = 2;

/// Up to this many records are kept as they are, in 512 bytes. A histogram takes 30 kB
/// (decision 0031).
const FEW: usize = 32;

/// How long waits, uses, connects, checks and closes took since the pool was built. From
/// [`Stats::times`](crate::stats::Stats::times).
///
/// # Examples
///
/// ```
/// # use fairpool_testing::StubManager;
/// let pool = fairpool::Pool::builder().max_size(1).build(StubManager)?;
/// drop(pool.get()?);
/// let times = pool.stats().times;
/// assert_eq!((times.wait.count, times.connect.count), (1, 1));
/// # Ok::<(), fairpool::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Times {
    /// How long gets took, with or without success. A get that found an idle connection
    /// counts as zero. A get that failed without waiting does not count.
    pub wait: Quantiles,
    /// How long connections were held, however they came back. Of a connection that is used
    /// more than some 25,000 times a second, only some uses are timed. Chance decides which,
    /// and they stand for the others; uses of some milliseconds and longer are all recorded.
    /// Of such a connection, the last few hundred uses are counted with its next ones, or
    /// when it ends; and a use that follows a pause, is not timed, and lasts beyond the clock's
    /// tick (4 ms on most systems) may be recorded as longer by that pause.
    pub in_use: Quantiles,
    /// How long connecting took (with `on_acquire`) if it succeeded.
    pub connect: Quantiles,
    /// How long checks took: resets and validations.
    pub validate: Quantiles,
    /// How long closing took.
    pub close: Quantiles,
}

/// A distribution of times, exact to 1 %. Serialised as seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Quantiles {
    /// The number of times.
    pub count: u64,
    /// The mean.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::types::json::seconds"))]
    pub mean: Duration,
    /// The median: half of the times are no longer.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::types::json::seconds"))]
    pub p50: Duration,
    /// 90 % of the times are no longer.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::types::json::seconds"))]
    pub p90: Duration,
    /// 99 % of the times are no longer.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::types::json::seconds"))]
    pub p99: Duration,
    /// 99.9 % of the times are no longer.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::types::json::seconds"))]
    pub p999: Duration,
    /// The longest time.
    #[cfg_attr(feature = "serde", serde(serialize_with = "crate::types::json::seconds"))]
    pub max: Duration,
}

impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "  times         count       mean        p50        p90        p99      p99.9        max"
        )?;
        let rows = [
            ("wait", &self.wait),
            ("in use", &self.in_use),
            ("connect", &self.connect),
            ("validate", &self.validate),
            ("close", &self.close),
        ];
        for (name, times) in rows {
            write!(f, "    {name:<9} {:>9}", times.count)?;
            for span in [times.mean, times.p50, times.p90, times.p99, times.p999, times.max] {
                write!(f, " {:>10}", format!("{span:.1?}"))?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

/// A whole distribution of times, for exporters that need more than [`Quantiles`].
///
/// Values are exact to 1 %, from 100 ns to one hour. The sum is exact.
///
/// # Examples
///
/// ```
/// # use fairpool_testing::StubManager;
/// use std::time::Duration;
///
/// let pool = fairpool::Pool::builder().max_size(1).build(StubManager)?;
/// let before = pool.reading().times.wait;
/// (0..3).for_each(|_| drop(pool.get()));
/// let waits = pool.reading().times.wait.since(&before);
/// assert_eq!((waits.count(), waits.sum()), (3, Duration::ZERO));
/// assert_eq!(waits.cumulative_counts(&[Duration::from_millis(1)]), [3]);
/// # Ok::<(), fairpool::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Distribution {
    records: Records,
    /// The exact sum, in nanoseconds.
    sum: u128,
    /// The exact longest value, in nanoseconds.
    longest: u64,
}

#[derive(Clone, Debug)]
enum Records {
    /// Values in nanoseconds, and how many times each was recorded: [`FEW`] at most.
    Few(Vec<(u64, u64)>),
    Many(Box<Histogram<u64>>),
}

impl Records {
    fn histogram(&self) -> Cow<'_, Histogram<u64>> {
        match self {
            Records::Few(few) => {
                let histogram = Histogram::new_with_bounds(SHORTEST, LONGEST, DIGITS);
                let mut histogram = histogram.expect("BUG: the bounds are legal");
                few.iter().for_each(|&(nanos, times)| histogram.saturating_record_n(nanos, times));
                Cow::Owned(histogram)
            }
            Records::Many(histogram) => Cow::Borrowed(histogram),
        }
    }

    fn add(&mut self, nanos: u64, times: u64) {
        match self {
            Records::Few(few) if few.len() < FEW => {
                // All of it at once, so that a distribution allocates only twice: here and for the
                // histogram.
                few.reserve_exact(if few.is_empty() { FEW } else { 0 });
                few.push((nanos, times));
            }
            Records::Few(_) => {
                let mut histogram = self.histogram().into_owned();
                histogram.saturating_record_n(nanos, times);
                *self = Records::Many(Box::new(histogram));
            }
            Records::Many(histogram) => histogram.saturating_record_n(nanos, times),
        }
    }
}

impl Distribution {
    fn new() -> Distribution {
        Distribution { records: Records::Few(Vec::new()), sum: 0, longest: 0 }
    }

    fn add(&mut self, span: Duration, times: u64) {
        let nanos = u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
        self.records.add(nanos, times);
        self.sum += u128::from(nanos) * u128::from(times);
        self.longest = self.longest.max(nanos);
    }

    /// The number of values.
    pub fn count(&self) -> u64 {
        match &self.records {
            Records::Few(few) => few.iter().map(|(_, times)| times).sum(),
            Records::Many(histogram) => histogram.len(),
        }
    }

    /// The sum of the values.
    pub fn sum(&self) -> Duration {
        const NANOS: u128 = 1_000_000_000;
        Duration::new((self.sum / NANOS) as u64, (self.sum % NANOS) as u32)
    }

    /// For each of these bounds, in rising order, the number of values that are not
    /// larger: the cumulative buckets of a Prometheus histogram.
    pub fn cumulative_counts(&self, bounds: &[Duration]) -> Vec<u64> {
        let mut counts = vec![0; bounds.len()];
        let histogram = self.records.histogram();
        for step in histogram.iter_recorded() {
            let nanos = u128::from(step.value_iterated_to());
            // The value stands for a bucket that is 1 % wide. Its lower end decides.
            let lowest = u128::from(histogram.lowest_equivalent(nanos as u64));
            let fits = bounds.partition_point(|bound| bound.as_nanos() < lowest);
            if let Some(count) = counts.get_mut(fits) {
                *count += step.count_since_last_iteration();
            }
        }
        for at in 1..counts.len() {
            counts[at] += counts[at - 1];
        }
        counts
    }

    /// The values that were recorded after `earlier`, which is an earlier clone of this
    /// distribution.
    pub fn since(&self, earlier: &Distribution) -> Distribution {
        let mut gained = Distribution::new();
        let (now, earlier_histogram) = (self.records.histogram(), earlier.records.histogram());
        for step in now.iter_recorded() {
            let value = step.value_iterated_to();
            let before = earlier_histogram.count_at(value);
            let count = step.count_since_last_iteration().saturating_sub(before);
            if count > 0 {
                gained.records.add(value, count);
            }
        }
        gained.sum = self.sum.saturating_sub(earlier.sum);
        gained.longest = self.longest;
        gained
    }

    /// The values, from the shortest to the longest, each with the number of times it was
    /// recorded.
    pub fn values(&self) -> Vec<ValueCount> {
        let histogram = self.records.histogram();
        let steps: Vec<(f64, f64, u64)> = histogram
            .iter_recorded()
            .map(|step| {
                let highest = step.value_iterated_to();
                let lowest = histogram.lowest_equivalent(highest);
                (lowest as f64, (highest - lowest) as f64, step.count_since_last_iteration())
            })
            .collect();
        let lowest_sum: f64 = steps.iter().map(|&(lowest, _, count)| lowest * count as f64).sum();
        let width: f64 = steps.iter().map(|&(_, width, count)| width * count as f64).sum();
        // Each value is placed at this part of its step, so that the sum is exact.
        let part = ((self.sum as f64 - lowest_sum) / width.max(1.0)).clamp(0.0, 1.0);
        let value =
            |(lowest, width, count)| ValueCount { seconds: (lowest + width * part) / 1e9, count };
        steps.into_iter().map(value).collect()
    }

    /// The quantile `part`, from 0 to 1: 0.5 is the median. `None` if nothing was
    /// recorded.
    pub fn quantile(&self, part: f64) -> Option<Duration> {
        let value = self.records.histogram().value_at_quantile(part);
        (self.count() > 0).then(|| Duration::from_nanos(value.min(self.longest)))
    }

    /// The quantiles of the recorded values and of `zeros` further values of zero.
    fn quantiles(&self, zeros: u64) -> Quantiles {
        let count = self.count() + zeros;
        if count == 0 {
            return Quantiles::default();
        }
        let histogram = self.records.histogram();
        let at = |permille: u128| {
            // In integers, because a rounding error could lead to the next larger value.
            let rank = (u128::from(count) * permille).div_ceil(1000) as u64;
            let Some(rank) = rank.checked_sub(zeros).filter(|&rank| rank > 0) else {
                return Duration::ZERO;
            };
            // Half a rank lower, because the histogram rounds up.
            let quantile = (rank as f64 - 0.5) / self.count() as f64;
            let value = histogram.value_at_quantile(quantile);
            // A bucket's upper end may be larger than every recorded value.
            Duration::from_nanos(value.min(self.longest))
        };
        let mean = (self.sum / u128::from(count)) as u64;
        Quantiles {
            count,
            mean: Duration::from_nanos(mean),
            p50: at(500),
            p90: at(900),
            p99: at(990),
            p999: at(999),
            max: Duration::from_nanos(self.longest),
        }
    }
}

/// A value of a [`Distribution`], from [`Distribution::values`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ValueCount {
    /// The value in seconds, exact to 1 %. It is not a `Duration`, which would round it:
    /// so the sum of all values is exact.
    pub seconds: f64,
    /// How often the value was recorded.
    pub count: u64,
}

/// The distributions of which [`Times`] has the quantiles. From
/// [`Reading::times`](crate::stats::Reading::times).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Distributions {
    /// See [`Times::wait`].
    pub wait: Distribution,
    /// See [`Times::in_use`].
    pub in_use: Distribution,
    /// See [`Times::connect`].
    pub connect: Distribution,
    /// See [`Times::validate`].
    pub validate: Distribution,
    /// See [`Times::close`].
    pub close: Distribution,
}

/// Records times. Each distribution has a lock of its own, which is never taken under the
/// pool's lock.
pub(crate) struct Recorder([PlainMutex<Distribution>; 5]);

impl Recorder {
    pub(crate) fn new() -> Recorder {
        Recorder([(); 5].map(|()| PlainMutex::new(Distribution::new())))
    }

    #[cold]
    pub(crate) fn record(&self, what: Timed, span: Duration, times: u64) {
        self.0[what as usize].lock().add(span, times);
    }

    /// Does not wait for the lock. `false`: it is locked; nothing is recorded.
    #[cold]
    pub(crate) fn try_record(&self, what: Timed, span: Duration) -> bool {
        self.0[what as usize].try_lock().map(|mut times| times.add(span, 1)).is_some()
    }

    pub(crate) fn times(&self, counters: &Counters) -> Times {
        let quantiles = |what, zeros| self.0[what as usize].lock().quantiles(zeros);
        Times {
            wait: quantiles(Timed::Wait, gets_without_wait(counters)),
            in_use: quantiles(Timed::InUse, 0),
            connect: quantiles(Timed::Connect, 0),
            validate: quantiles(Timed::Validate, 0),
            close: quantiles(Timed::Close, 0),
        }
    }

    pub(crate) fn distributions(&self, counters: &Counters) -> Distributions {
        let copy = |what: Timed| self.0[what as usize].lock().clone();
        let mut wait = copy(Timed::Wait);
        wait.add(Duration::ZERO, gets_without_wait(counters));
        Distributions {
            wait,
            in_use: copy(Timed::InUse),
            connect: copy(Timed::Connect),
            validate: copy(Timed::Validate),
            close: copy(Timed::Close),
        }
    }
}

/// The number of gets that got a connection without waiting.
fn gets_without_wait(counters: &Counters) -> u64 {
    counters.gets.saturating_sub(counters.gets_waited)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A sequence of numbers (splitmix64; Steele, Lea and Flood, 2014).
    struct Random(u64);

    impl Random {
        fn next(&mut self) -> u64 {
            self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mut z = self.0;
            z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            z ^ (z >> 31)
        }

        /// Of any order of magnitude, in nanoseconds, up to half an hour.
        fn span(&mut self) -> u64 {
            self.next() >> (23 + self.next() % 40)
        }
    }

    fn of(spans: &[u64]) -> Distribution {
        let mut distribution = Distribution::new();
        spans.iter().for_each(|&nanos| distribution.add(Duration::from_nanos(nanos), 1));
        distribution
    }

    /// Asserts that a value is at most 1 %, or 100 ns, too large.
    #[track_caller]
    fn assert_near(what: &str, got: Duration, exact: u64) {
        let got = got.as_nanos() as u64;
        let most = exact + (exact / 100).max(SHORTEST);
        assert!((exact..=most).contains(&got), "{what}: {got} ns for {exact} ns");
    }

    fn quantiles_are_those_of_a_sorted_list(random: &mut Random, recorded: usize, zeros: usize) {
        let spans: Vec<u64> = (0..recorded).map(|_| random.span()).collect();
        let got = of(&spans).quantiles(zeros as u64);
        let mut sorted = vec![0; zeros];
        sorted.extend(spans);
        sorted.sort_unstable();
        assert_eq!(got.count, sorted.len() as u64);
        let at = |permille: usize| sorted[(sorted.len() * permille).div_ceil(1000) - 1];
        assert_near("p50", got.p50, at(500));
        assert_near("p90", got.p90, at(900));
        assert_near("p99", got.p99, at(990));
        assert_near("p99.9", got.p999, at(999));
        assert_eq!(got.max.as_nanos() as u64, sorted[sorted.len() - 1], "exactly");
        let sum: u64 = sorted.iter().sum();
        assert_eq!(got.mean.as_nanos() as u64, sum / sorted.len() as u64, "exactly");
        let rising = [got.p50, got.p90, got.p99, got.p999, got.max];
        assert!(rising.is_sorted(), "{got:?}");
    }

    #[test]
    fn quantiles_are_exact_to_a_hundredth() {
        let mut random = Random(1);
        for recorded in (1..120).chain([997, 1000, 1001, 9999, 10_000]) {
            for zeros in [0, 1, recorded / 2, recorded, 10 * recorded] {
                quantiles_are_those_of_a_sorted_list(&mut random, recorded, zeros);
            }
        }
        quantiles_are_those_of_a_sorted_list(&mut random, 0, 7);
        assert_eq!(of(&[]).quantiles(0), Quantiles::default());
    }

    #[test]
    fn what_is_longer_than_an_hour_counts_as_an_hour_but_for_the_longest() {
        let day = Duration::from_secs(24 * 3600);
        let mut distribution = Distribution::new();
        distribution.add(day, 1);
        distribution.add(Duration::MAX, 1);
        let got = distribution.quantiles(0);
        assert_eq!((got.count, got.max.as_nanos()), (2, u128::from(u64::MAX)));
        assert!(got.p50 >= Duration::from_secs(3600) && got.p50 <= day, "{got:?}");
    }

    #[test]
    fn one_may_stand_for_many() {
        let mut distribution = Distribution::new();
        distribution.add(Duration::from_micros(10), 99);
        distribution.add(Duration::from_millis(10), 1);
        let got = distribution.quantiles(0);
        assert_eq!((got.count, got.mean), (100, Duration::from_nanos(109_900)));
        assert_near("p99", got.p99, 10_000);
        assert_near("p99.9", got.p999, 10_000_000);
    }

    #[test]
    fn cumulated_counts_are_those_of_a_list_but_for_what_is_next_to_a_bound() {
        let mut random = Random(2);
        let bounds: Vec<Duration> = [0, 1, 10, 100, 1_000, 10_000, 100_000, 1_000_000]
            .map(|micros| Duration::from_nanos(micros * 1000 + 137))
            .to_vec();
        for recorded in [0, 1, 10, 1000, 10_000] {
            let mut spans: Vec<u64> = (0..recorded).map(|_| random.span()).collect();
            // Beyond all bounds, and at one.
            spans.extend([7_200_000_000_000, 137]);
            let got = of(&spans).cumulative_counts(&bounds);
            assert_eq!(got.len(), bounds.len());
            assert!(got.is_sorted(), "{got:?}");
            for (bound, count) in bounds.iter().zip(got) {
                let nanos = bound.as_nanos() as u64;
                let within =
                    |limit: u64| spans.iter().filter(|&&span| span <= limit).count() as u64;
                let wider = nanos + (nanos / 100).max(SHORTEST);
                let range = within(nanos)..=within(wider);
                assert!(range.contains(&count), "{bound:?}: {count}, not {range:?}");
            }
        }
        assert_eq!(of(&[5]).cumulative_counts(&[]), Vec::<u64>::new());
    }

    #[test]
    fn since_is_what_was_added() {
        let mut random = Random(3);
        let mut distribution = Distribution::new();
        for added in [0, 1, 100, 0, 10_000] {
            let earlier = distribution.clone();
            let mut spans: Vec<u64> = (0..added).map(|_| random.span()).collect();
            spans.iter().for_each(|&nanos| distribution.add(Duration::from_nanos(nanos), 1));
            spans.sort_unstable();
            let got = distribution.since(&earlier);
            assert_eq!(got.count(), added);
            let got: Vec<Duration> = got
                .values()
                .into_iter()
                .map(|value| (Duration::from_secs_f64(value.seconds), value.count as usize))
                .flat_map(|(span, times)| std::iter::repeat_n(span, times))
                .collect();
            assert_eq!(got.len(), spans.len());
            let sum: f64 = got.iter().map(Duration::as_secs_f64).sum();
            let exact = spans.iter().sum::<u64>() as f64 / 1e9;
            assert!((sum - exact).abs() <= exact / 1e6, "sum: {sum}, not {exact}");
            for (got, exact) in got.iter().zip(spans) {
                let away = (got.as_nanos() as u64).abs_diff(exact);
                assert!(away <= (exact / 100).max(SHORTEST), "{got:?} for {exact} ns");
            }
        }
    }

    #[test]
    fn quantiles_of_what_came_since() {
        let seconds = |distribution: &mut Distribution, span, times| {
            distribution.add(Duration::from_secs(span), times);
        };
        let mut earlier = Distribution::new();
        seconds(&mut earlier, 100, 1000);
        let mut now = earlier.clone();
        assert_eq!(now.since(&earlier).quantile(0.5), None);
        seconds(&mut now, 1, 50);
        seconds(&mut now, 10, 50);
        let quantile = |part| now.since(&earlier).quantile(part).unwrap().as_secs_f64().round();
        assert_eq!((quantile(0.5), quantile(0.51), quantile(1.0)), (1.0, 10.0, 10.0));
    }
}
