//! How long waits, uses, connects, checks and closes take.

#[cfg(feature = "histograms")]
mod distributions;

#[cfg(feature = "histograms")]
pub(crate) use distributions::Recorder;
#[cfg(feature = "histograms")]
pub use distributions::{Distribution, Distributions, Quantiles, Times, ValueCount};
#[cfg(not(feature = "histograms"))]
pub(crate) use off::Recorder;

/// A step that is timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Timed {
    Wait,
    InUse,
    Connect,
    Validate,
    Close,
}

/// Replaces the distributions without the feature `histograms`: records nothing.
#[cfg(not(feature = "histograms"))]
mod off {
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
}
