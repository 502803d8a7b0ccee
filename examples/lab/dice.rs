//! Random numbers that can be had again with `--seed`.

/// A sequence of numbers (splitmix64; Steele, Lea and Flood, 2014).
pub struct Dice(u64);

impl Dice {
    /// The dice of one thread among several that share a seed.
    pub fn new(seed: u64, thread: u64) -> Dice {
        let mut dice = Dice(seed ^ (thread + 1).wrapping_mul(0xA24B_AED4_963E_E407));
        dice.next();
        dice
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// From zero to one below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }
}
