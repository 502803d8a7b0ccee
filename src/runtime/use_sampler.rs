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
use std::time::Duration;

use crate::core::Time;

/// How often a connection has a use drawn, on average. Below twice this rate, every use is
/// timed.
const SPACING: Duration = Duration::from_micros(250);

/// The rate of uses is judged over at least this time: a few ticks of the coarse clock.
const WINDOW: Duration = Duration::from_millis(16);

/// How many uses are drawn in a window.
const DRAWN_IN_WINDOW: u64 = (WINDOW.as_nanos() / SPACING.as_nanos()) as u64;

/// The largest block.
const LARGEST: u64 = 256;

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
    /// The tick in which this use began, or the last one seen. `NEVER` while a use is timed.
    tick: Time,
    /// `begin` must be called for the use with this number.
    stop: u64,
    /// The tick in which the timed use began.
    began: Time,
    /// The timed use is the first in its tick.
    is_first: bool,
    /// When the exact clock was last read.
    read: Time,
    /// The number of the last use that was recorded or drawn.
    read_at: u64,
    /// How long the last short use took that was timed.
    last: u64,
    block: Block,
    /// Short uses of earlier blocks that no sample stands for: the drawn use was not short.
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
    /// How many of its uses stand for themselves.
    alone: u64,
    /// How long the drawn use took, if that was a short one.
    sample: Option<u64>,
}

impl UseSampler {
    pub(crate) fn new(seed: u64) -> UseSampler {
        UseSampler {
            tick: Time::NEVER,
            stop: 1,
            began: Time::START,
            is_first: false,
            read: Time::START,
            read_at: 0,
            last: 0,
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
        tick != self.tick || number >= self.stop
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
        let is_before = number < self.block.drawn;
        self.stop = if is_before { self.block.drawn } else { self.block.end };
        self.is_first = tick != self.tick;
        if self.is_first || number == self.block.drawn {
            (self.tick, self.began, self.read) = (Time::NEVER, tick, exact());
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
        let mut took = exact.0.saturating_sub(self.read.0);
        if !is_timed {
            // It began in the tick in which the clock was last read, after some short uses.
            let between = (number - self.read_at - 1).saturating_mul(self.last);
            took = took.saturating_sub(between);
        }
        (self.tick, self.read, self.read_at) = (tick, exact, number);
        if is_short {
            self.last = took;
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

    /// When the exact clock was last read.
    pub(crate) fn last_read(&self) -> Time {
        self.read
    }

    /// The connection ends after this many uses. Returns what is not recorded yet.
    pub(crate) fn flush(&mut self, uses: u64) -> Record {
        self.block.end = uses + 1;
        self.block.sample = self.block.sample.or(Some(self.last));
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
        if elapsed >= WINDOW.as_nanos() as u64 {
            self.window = (now, number);
            let spacings = elapsed / SPACING.as_nanos() as u64;
            // The power of two at or below it.
            self.size = 1 << (uses / spacings).clamp(1, LARGEST).ilog2();
        } else if uses > DRAWN_IN_WINDOW * self.size {
            self.size = (self.size * 2).min(LARGEST);
        }
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
