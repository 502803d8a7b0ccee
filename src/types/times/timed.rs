//! What is timed.

/// What is timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Timed {
    Wait,
    InUse,
    Connect,
    Validate,
    Close,
}
