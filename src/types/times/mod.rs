//! How long waits, uses, connects, checks and closes take.

#[cfg(feature = "histograms")]
mod distributions;
#[cfg(not(feature = "histograms"))]
mod off;

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
