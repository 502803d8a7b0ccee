//! What the threads of a staff have in common.

use std::cell::Cell;

use crate::sync::{Arc, Mutex, per_thread};

/// What a thread is to the pools of its process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Of the program: it may call a pool.
    User,
    /// Makes driver calls: others may wait for what it is doing.
    Worker,
    /// Acts on the passing of time, for all pools: it may call no user code.
    Reaper,
}

per_thread! {
    static ROLE: Cell<Role> = const { Cell::new(Role::User) };
}

/// The calling thread has this role from now on.
pub(super) fn take_role(role: Role) {
    ROLE.with(|own| own.set(role));
}

/// The role of the calling thread.
pub(super) fn role() -> Role {
    // Thread-local values may be gone already: then this is a thread that ends.
    ROLE.try_with(Cell::get).unwrap_or(Role::User)
}

/// A value in a thread's body that survives a failed spawn: the body takes it out, and
/// if the body never ran, so can the caller.
pub(super) struct Handover<T>(Arc<Mutex<Option<T>>>);

impl<T> Handover<T> {
    pub(super) fn new(value: T) -> Handover<T> {
        Handover(Arc::new(Mutex::new(Some(value))))
    }

    pub(super) fn take(&self) -> Option<T> {
        self.0.lock().take()
    }
}

impl<T> Clone for Handover<T> {
    fn clone(&self) -> Handover<T> {
        Handover(Arc::clone(&self.0))
    }
}
