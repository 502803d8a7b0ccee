//! In place of the distributions, without the feature `histograms`.

use std::time::Duration;

#[derive(Clone, Copy)]
pub(crate) enum Timed {
    Wait,
    InUse,
    Connect,
    Validate,
    Close,
}

pub(crate) struct Recorder;

impl Recorder {
    pub(crate) fn new() -> Recorder {
        Recorder
    }

    #[inline]
    pub(crate) fn record(&self, _: Timed, _: Duration, _: u64) {}
}
