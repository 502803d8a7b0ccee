//! Numbers that nobody can foresee.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};

/// A number at random: the hash of nothing, with keys from the system's source of randomness.
pub(crate) fn number() -> u64 {
    RandomState::new().build_hasher().finish()
}
