//! Which uses of a connection are timed, and how many uses each of them stands for.
//!
//! Reading the exact clock costs as much as a get and a return. So of a connection that is
//! used very often, chance decides which uses are timed
//! (`docs/decisions/0010-times.md`). There are two kinds of uses:
//!
//! - The first use that begins in a tick of the coarse clock, and each that lasts beyond the
//!   tick in which it began. All of these are recorded, and each stands for itself alone.
//! - The others. They are short. They are divided into blocks of uses in a row. In each block
//!   one number is drawn, and the use with that number stands for the block's others.
//!
//! The size of a block is settled before it begins. So nothing that happens within a block
//! has an influence on which of its uses is timed.

use std::mem;

use crate::core::Time;

/// The rate of uses is judged over at least this time, in nanoseconds: a few ticks of the
/// coarse clock.
const WINDOW: u64 = 16_000_000;

/// If a connection has fewer than two uses in this time, in nanoseconds, each use is timed. If it
/// has twice as many, one in four is timed, and so on.
const SPACING: u64 = 80_000;

/// The largest block is the square of this: 256 uses.
const MOST_PER_SPACING: u64 = 16;

/// A duration, and how many uses it stands for: zero if there is nothing to record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) nanos: u64,
    pub(crate) times: u64,
}

impl Record {
    const NOTHING: Record = Record { nanos: 0, times: 0 };
}

/// The sampling state of one connection. Its uses are numbered from 1.
pub(crate) struct UseSampler {
    /// The tick of the last call of `end`. `NEVER` while a use is timed.
    tick: Time,
    /// `begin` must be called for the use with this number, even within the same tick.
    next_due: u64,
    /// The tick in which the timed use began.
    began: Time,
    /// The timed use is the first in its tick.
    is_first: bool,
    /// When the exact clock was last read.
    last_read: Time,
    /// The last use at whose end the exact clock was read.
    last_read_use: u64,
    /// The pace of uses is that since the first reading at the end of a use in this tick.
    pace_tick: Time,
    /// When that reading was.
    pace_start: Time,
    /// The use at whose end it was.
    pace_start_use: u64,
    /// How long the last short use took that was timed.
    last_short: u64,
    block: Block,
    /// Short uses of earlier blocks that have no sample, because the drawn use lasted beyond its
    /// tick. The next sample stands for them, too.
    owed: u64,
    /// Where the window began in which the rate of uses is judged.
    window: (Time, u64),
    /// The size of new blocks: a power of two.
    size: u64,
    random: u64,
}

/// Uses in a row, of which one is drawn.
struct Block {
    /// Its first use.
    first: u64,
    /// The first use after it.
    end: u64,
    drawn: u64,
    /// How many of the uses from the first to the end stand for themselves.
    alone: u64,
    /// How long the drawn use took, if that was a short one.
    sample: Option<u64>,
}

impl UseSampler {
    pub(crate) fn new(seed: u64) -> UseSampler {
        UseSampler {
            tick: Time::NEVER,
            next_due: 1,
            began: Time::START,
            is_first: false,
            last_read: Time::START,
            last_read_use: 0,
            pace_tick: Time::NEVER,
            pace_start: Time::START,
            pace_start_use: 0,
            last_short: 0,
            block: Block { first: 1, end: 1, drawn: 1, alone: 0, sample: None },
            owed: 0,
            window: (Time::START, 0),
            size: 1,
            random: seed | 1,
        }
    }

    /// Whether [`begin`](UseSampler::begin) must be called for the use that begins now.
    #[inline]
    pub(crate) fn is_due(&self, tick: Time, number: u64) -> bool {
        tick != self.tick || number >= self.next_due
    }

    /// A use begins. `every_use`: each is to be timed. Returns what can be recorded of earlier
    /// uses.
    #[inline]
    pub(crate) fn begin(
        &mut self,
        tick: Time,
        number: u64,
        every_use: bool,
        exact: impl FnOnce() -> Time,
    ) -> Record {
        let mut earlier = Record::NOTHING;
        if number >= self.block.end {
            earlier = self.close_block();
            self.open_block(tick, number, every_use);
        }
        self.is_first = tick != self.tick;
        let block = &mut self.block;
        if self.is_first {
            // It stands for itself alone, so the block becomes longer by one.
            block.end += 1;
            block.drawn += u64::from(block.drawn >= number);
        }
        self.next_due = if number < block.drawn { block.drawn } else { block.end };
        if self.is_first || number == block.drawn {
            (self.tick, self.began, self.last_read) = (Time::NEVER, tick, exact());
        }
        earlier
    }

    /// Whether [`end`](UseSampler::end) must be called for the use that ends now.
    #[inline]
    pub(crate) fn is_recorded(&self, tick: Time) -> bool {
        tick != self.tick
    }

    /// A use ends. Returns how long it took, in nanoseconds, and what can be recorded.
    #[inline]
    pub(crate) fn end(&mut self, tick: Time, number: u64, exact: Time) -> (u64, Record) {
        let is_timed = self.tick == Time::NEVER;
        let is_short = is_timed && tick == self.began;
        let mut took = exact.0.saturating_sub(self.last_read.0);
        if !is_timed {
            // It began in the tick of the last reading, after some short uses.
            took = took.saturating_sub(self.until_start(number));
        }
        if tick != self.pace_tick {
            (self.pace_tick, self.pace_start, self.pace_start_use) = (tick, exact, number);
        }
        (self.tick, self.last_read, self.last_read_use) = (tick, exact, number);
        if is_short {
            self.last_short = took;
        }
        let record = if self.is_first || !is_short {
            self.block.alone += 1;
            Record { nanos: took, times: 1 }
        } else {
            self.block.sample = Some(took);
            let is_last = number + 1 == self.block.end;
            if is_last { self.close_block() } else { Record::NOTHING }
        };
        self.is_first = false;
        (took, record)
    }

    /// The time from the last reading of the exact clock to the start of this use, estimated by
    /// the pace of the uses before it in the same tick.
    fn until_start(&self, number: u64) -> u64 {
        let (time, uses) =
            (self.last_read.0 - self.pace_start.0, self.last_read_use - self.pace_start_use);
        let pace = time.checked_div(uses).unwrap_or(self.last_short);
        (pace * (number - self.last_read_use)).saturating_sub(self.last_short)
    }

    /// When the exact clock was last read.
    pub(crate) fn last_read(&self) -> Time {
        self.last_read
    }

    /// The connection ends after this many uses. Returns what is not recorded yet.
    pub(crate) fn flush(&mut self, uses: u64) -> Record {
        self.block.end = uses + 1;
        self.block.sample = self.block.sample.or(Some(self.last_short));
        self.close_block()
    }

    /// What the block's sample stands for.
    fn close_block(&mut self) -> Record {
        let Block { first, end, alone, .. } = self.block;
        let others = mem::take(&mut self.owed) + (end - first) - alone;
        (self.block.first, self.block.alone) = (end, 0);
        match self.block.sample.take() {
            Some(nanos) => Record { nanos, times: others },
            None => {
                self.owed = others;
                Record::NOTHING
            }
        }
    }

    /// Settles which of the uses from this one on is drawn.
    fn open_block(&mut self, now: Time, number: u64, every_use: bool) {
        let size = if every_use { 1 } else { self.next_size(now, number) };
        self.block.end = number + size;
        self.block.drawn = number + (self.draw() & (size - 1));
    }

    /// The next block's size, by the rate of past uses. Within a window it only grows, so that
    /// a burst soon costs less.
    fn next_size(&mut self, now: Time, number: u64) -> u64 {
        let (began, first) = self.window;
        let (elapsed, uses) = (now.0.saturating_sub(began.0), number - first);
        let per_spacing = uses / (elapsed.max(WINDOW) / SPACING);
        let size = 1 << (2 * per_spacing.clamp(1, MOST_PER_SPACING).ilog2());
        if elapsed >= WINDOW {
            self.window = (now, number);
            self.size = size;
        }
        self.size = self.size.max(size);
        self.size
    }

    /// A random number (xorshift64; Marsaglia, 2003).
    fn draw(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random >> 32
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    const TICK: u64 = 4_000_000;
    const MICRO: u64 = 1000;
    const MILLI: u64 = 1_000_000;
    const SECOND: u64 = 1_000_000_000;
    const ALWAYS: u64 = u64::MAX;

    /// One connection, with a clock that the test moves.
    struct Life {
        sampler: UseSampler,
        now: u64,
        uses: u64,
        /// What was recorded.
        records: Vec<Record>,
        /// How often the exact clock was read.
        reads: u64,
    }

    impl Life {
        fn begin(seed: u64, now: u64) -> Life {
            let sampler = UseSampler::new(seed);
            Life { sampler, now, uses: 0, records: Vec::new(), reads: 0 }
        }

        fn tick(&self) -> Time {
            Time(self.now - self.now % TICK)
        }

        fn record(&mut self, record: Record) {
            if record.times > 0 {
                self.records.push(record);
            }
        }

        /// The way of a guard.
        fn use_once(&mut self, nanos: u64) {
            self.uses += 1;
            let (tick, number, now) = (self.tick(), self.uses, Time(self.now));
            if self.sampler.is_due(tick, number) {
                let mut read = false;
                let earlier = self.sampler.begin(tick, number, false, || {
                    read = true;
                    now
                });
                self.reads += u64::from(read);
                self.record(earlier);
            }
            self.now += nanos;
            let (tick, now) = (self.tick(), Time(self.now));
            if self.sampler.is_recorded(tick) {
                self.reads += 1;
                let (_, record) = self.sampler.end(tick, number, now);
                self.record(record);
            }
        }

        fn end(&mut self) {
            let record = self.sampler.flush(self.uses);
            self.record(record);
        }
    }

    /// How long a connection rests before a use, and how long that takes.
    type Step = (u64, u64);

    /// Durations, and how often each of them occurred.
    #[derive(Default)]
    struct Figures(BTreeMap<u64, u64>);

    impl Figures {
        fn add(&mut self, nanos: u64, times: u64) {
            *self.0.entry(nanos).or_default() += times;
        }

        fn count(&self) -> u64 {
            self.0.values().sum()
        }

        fn sum(&self) -> f64 {
            self.0.iter().map(|(&nanos, &times)| nanos as f64 * times as f64).sum()
        }

        fn quantile(&self, part: f64) -> u64 {
            let rank = ((self.count() as f64 * part).ceil() as u64).max(1);
            let mut below = 0;
            let mut found = self.0.iter().filter(|&(_, times)| {
                below += times;
                below >= rank
            });
            *found.next().expect("a rank within the count").0
        }
    }

    /// What happened, what was recorded of it, and how often the clock was read for a use.
    struct Lives {
        truth: Figures,
        recorded: Figures,
        reads_per_use: f64,
    }

    /// Connections that live one after another, each for so many uses.
    fn live(
        uses_of_each: u64,
        uses: u64,
        mut pattern: impl FnMut(u64, &mut dyn FnMut() -> f64) -> Step,
    ) -> Lives {
        let (mut truth, mut recorded) = (Figures::default(), Figures::default());
        let mut random = UseSampler::new(4711);
        let mut fraction = || random.draw() as f64 / 2_f64.powi(32);
        let (mut now, mut done, mut reads) = (SECOND, 0, 0);
        while done < uses {
            let mut life = Life::begin(done, now);
            while life.uses < uses_of_each && done < uses {
                let (rest, nanos) = pattern(done, &mut fraction);
                life.now += rest;
                life.use_once(nanos);
                truth.add(nanos, 1);
                done += 1;
            }
            life.end();
            life.records.iter().for_each(|record| recorded.add(record.nanos, record.times));
            (now, reads) = (life.now, reads + life.reads);
        }
        Lives { truth, recorded, reads_per_use: reads as f64 / done as f64 }
    }

    /// Asserts that the count is exact, and that the sum and the quantiles are right to 5 %. At
    /// a jump of the true distribution a quantile is right if it is that of a rank nearby:
    /// away by at most a tenth of the ranks above.
    #[track_caller]
    fn assert_right(what: &str, Lives { truth, recorded, reads_per_use }: Lives) {
        assert_eq!(recorded.count(), truth.count(), "{what}: the count");
        let sum = recorded.sum() / truth.sum();
        println!("{what}: {:+.1} %, {reads_per_use:.3} readings for each use", (sum - 1.0) * 100.0);
        assert!((0.95..=1.05).contains(&sum), "{what}: the sum is {sum} times the true one");
        for part in [0.5, 0.9, 0.99] {
            let near = (1.0 - part) / 10.0;
            let (least, most) = (truth.quantile(part - near), truth.quantile(part + near));
            let (least, most) = (least as f64 * 0.95, most as f64 * 1.05);
            let got = recorded.quantile(part);
            assert!((least..=most).contains(&(got as f64)), "{what}: {part} is {got}, not {least}");
        }
    }

    fn in_turns(one: u64, other: u64) -> impl FnMut(u64, &mut dyn FnMut() -> f64) -> Step {
        move |number, _| (50, if number % 2 == 0 { one } else { other })
    }

    #[test]
    fn uses_of_two_lengths_in_turns_are_recorded_as_they_are() {
        for (one, other) in [(200 * MICRO, 6 * MILLI), (100 * MICRO, 9 * MILLI), (MICRO, MICRO)] {
            assert_right("in turns", live(ALWAYS, 10_000, in_turns(one, other)));
        }
        // Hundreds of thousands a second.
        assert_right("quickly in turns", live(ALWAYS, 500_000, in_turns(MICRO, 6 * MICRO)));
    }

    #[test]
    fn uses_in_step_with_the_coarse_clock_are_recorded_as_they_are() {
        for one in [MICRO, TICK / 2, TICK - MICRO] {
            assert_right("in step", live(ALWAYS, 10_000, in_turns(one - 50, TICK - one - 50)));
        }
        // Tens of thousands a second, and a long one in each tick: within it, or beyond it.
        for begins in [0, TICK / 3, TICK * 2 / 3] {
            let burst = |number, _: &mut dyn FnMut() -> f64| match number % 151 {
                150 => (MICRO, TICK - 151 * 6 * MICRO),
                _ if number == 0 => (begins, 5 * MICRO),
                _ => (if number % 151 == 0 { 6 * MICRO } else { MICRO }, 5 * MICRO),
            };
            assert_right("a burst in each tick", live(ALWAYS, 2_000_000, burst));
        }
    }

    #[test]
    fn long_uses_after_bursts_of_short_ones_are_recorded_as_they_are() {
        for (short, long, uses) in [
            (10, MILLI, 100_000),
            (100, MILLI, 4_000_000),
            (100, 5 * MILLI, 500_000),
            (1000, 5 * MILLI, 2_000_000),
            (1000, 9 * MILLI, 2_000_000),
            (1000, 20 * MILLI, 2_000_000),
            (10_000, 20 * MILLI, 2_000_000),
        ] {
            let burst = |number: u64, _: &mut dyn FnMut() -> f64| {
                (MICRO, if number % (short + 1) == short { long } else { MICRO })
            };
            assert_right(&format!("{short}, then {long} ns"), live(ALWAYS, uses, burst));
        }
    }

    #[test]
    fn nothing_is_lost_when_connections_end() {
        // One in ten is discarded, also among the quick ones; and ends within a block.
        assert_right("ten", live(10, 10_000, in_turns(100 * MICRO, 3 * MILLI)));
        assert_right("ten quick ones", live(10, 10_000, in_turns(MICRO, 6 * MICRO)));
        assert_right("999 quick ones", live(999, 500_000, in_turns(MICRO, 6 * MICRO)));
        assert_right("99,999 quick ones", live(99_999, 500_000, in_turns(MICRO, 6 * MICRO)));
    }

    #[test]
    fn random_uses_are_recorded_as_they_are() {
        for longest in [100.0 * 1e3, 10.0 * 1e6] {
            let even = |_, fraction: &mut dyn FnMut() -> f64| (50, (fraction() * longest) as u64);
            assert_right("uniform", live(ALWAYS, 100_000, even));
        }
        for typical in [5e3, 20e3] {
            // The longest of a hundred thousand are 10,000 times as long as half of them.
            let heavy = |_, fraction: &mut dyn FnMut() -> f64| {
                (50, (typical * (1e-6 + fraction()).powf(-0.8)) as u64)
            };
            assert_right("heavy tail", live(ALWAYS, 1_000_000, heavy));
        }
    }

    #[test]
    fn busy_connections_are_seldom_timed_and_others_always() {
        let reads = |rest| live(ALWAYS, 200_000, |_, _| (rest, MICRO)).reads_per_use;
        assert_eq!(reads(50 * MICRO), 2.0, "20,000 uses a second");
        assert!(reads(0) < 2.0 / 64.0, "a million uses a second");
    }

    /// After a million uses a second, one a second: a block would last for minutes.
    #[test]
    fn a_connection_that_is_used_less_and_less_has_its_uses_recorded_at_once() {
        let mut life = Life::begin(1, SECOND);
        (0..200_000).for_each(|_| life.use_once(MICRO));
        let before: u64 = life.records.iter().map(|record| record.times).sum();
        for _ in 0..10 {
            life.now += SECOND;
            life.use_once(MILLI);
        }
        let after: u64 = life.records.iter().map(|record| record.times).sum();
        assert_eq!(after, before + 10);
        life.end();
        let all: u64 = life.records.iter().map(|record| record.times).sum();
        assert_eq!(all, 200_010);
    }

    #[test]
    fn with_a_handler_every_use_is_timed() {
        let mut sampler = UseSampler::new(1);
        for number in 1..100_000 {
            let (tick, exact) = (Time::START, Time(number));
            assert!(sampler.is_due(tick, number));
            sampler.begin(tick, number, true, || exact);
            assert!(sampler.is_recorded(tick));
            assert_eq!(sampler.end(tick, number, exact), (0, Record { nanos: 0, times: 1 }));
        }
    }
}
