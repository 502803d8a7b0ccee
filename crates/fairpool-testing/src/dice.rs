//! Random numbers that a seed reproduces, on every platform and in every version.

use std::time::{Duration, SystemTime};

use crate::stub::from_env;

/// A sequence of numbers (splitmix64; Steele, Lea and Flood, 2014).
///
/// # Examples
///
/// ```
/// use fairpool_testing::dice::Dice;
///
/// let (mut one, mut same) = (Dice::of(42, &[1]), Dice::of(42, &[1]));
/// assert_eq!(one.below(100), same.below(100));
/// ```
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// The dice for one purpose. Each purpose has its own sequence, so that the order in
    /// which threads draw does not matter.
    pub fn of(seed: u64, purpose: &[u64]) -> Dice {
        let mix = |seed, &part: &u64| Dice(seed ^ part.wrapping_mul(0xA24B_AED4_963E_E407)).roll();
        Dice(purpose.iter().fold(seed, mix))
    }

    /// Any number.
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `end`; 0 if `end` is 0.
    pub fn below(&mut self, end: u64) -> u64 {
        self.roll() % end.max(1)
    }

    /// A number from `first` to `last`, both included.
    ///
    /// # Panics
    ///
    /// If `last` is below `first`.
    pub fn between(&mut self, first: u64, last: u64) -> u64 {
        assert!(first <= last, "no number from {first} to {last}");
        first + self.below((last - first).saturating_add(1))
    }

    /// `true` in `share` of 100 cases.
    pub fn percent(&mut self, share: u64) -> bool {
        self.below(100) < share
    }

    /// A duration from `first` to `last` milliseconds, in steps of a microsecond.
    ///
    /// # Panics
    ///
    /// If `last` is below `first`.
    pub fn millis(&mut self, first: u64, last: u64) -> Duration {
        Duration::from_micros(self.between(first * 1000, last * 1000))
    }

    /// The value in one of two cases.
    pub fn maybe<T>(&mut self, value: impl FnOnce(&mut Dice) -> T) -> Option<T> {
        self.percent(50).then(|| value(self))
    }
}

/// The seed of this run: `FAIRPOOL_SEED` if it is set, or else one that differs from run to
/// run. Print it, so that a failure can be reproduced.
///
/// # Panics
///
/// If `FAIRPOOL_SEED` is set to something that is not a number.
pub fn seed() -> u64 {
    from_env("FAIRPOOL_SEED").unwrap_or_else(|| {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        now.map_or(0, |now| Dice(now.as_nanos() as u64).roll() % 1_000_000_000)
    })
}
