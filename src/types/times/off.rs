//! Replaces the distributions without the feature `histograms`: records nothing.

use std::time::Duration;

use super::Timed;

pub(crate) struct Recorder;

impl Recorder {
    pub(crate) fn new() -> Recorder {
        Recorder
    }

    #[inline]
    pub(crate) fn record(&self, _: Timed, _: Duration, _: u64) {}

    pub(crate) fn try_record(&self, _: Timed, _: Duration) -> bool {
        true
    }
}
