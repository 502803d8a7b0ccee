//! The steps that are timed.

/// A step that is timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Timed {
    Wait,
    InUse,
    Connect,
    Validate,
    Close,
}
