//! Random numbers that can be had again: `FAIRPOOL_SEED` sets them all.

use std::time::{Duration, SystemTime};

/// A sequence of numbers (splitmix64; Steele, Lea and Flood, 2014).
#[derive(Clone)]
pub struct Dice(u64);

impl Dice {
    /// The dice of one purpose among many that share a seed.
    pub fn of(seed: u64, purpose: &[u64]) -> Dice {
        let mix = |seed, &part: &u64| Dice(seed ^ part.wrapping_mul(0xA24B_AED4_963E_E407)).next();
        Dice(purpose.iter().fold(seed, mix))
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }

    pub fn between(&mut self, first: u64, last: u64) -> u64 {
        first + self.below(last - first + 1)
    }

    pub fn percent(&mut self, share: u64) -> bool {
        self.below(100) < share
    }

    pub fn millis(&mut self, first: u64, last: u64) -> Duration {
        Duration::from_micros(self.between(first * 1000, last * 1000))
    }

    pub fn maybe<T>(&mut self, value: impl FnOnce(&mut Dice) -> T) -> Option<T> {
        self.percent(50).then(|| value(self))
    }
}

/// The seed of this run: the one that is set, or another each time.
pub fn seed() -> u64 {
    let set = std::env::var("FAIRPOOL_SEED").ok().and_then(|seed| seed.parse().ok());
    set.unwrap_or_else(|| {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        now.map_or(0, |now| Dice(now.as_nanos() as u64).next() % 1_000_000_000)
    })
}
