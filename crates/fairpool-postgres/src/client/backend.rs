//! Which process of the server a connection has, and whether another connection has the same.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// A process of a server: its number, and when the server started, since two servers may use one
/// number.
pub(crate) type Backend = (u32, String);

/// The processes of all connections of a manager, each with the number of connections that have it.
#[derive(Debug, Default)]
pub(super) struct Backends {
    connections: Mutex<HashMap<Backend, u32>>,
    /// Connections minus processes: above zero, some share one.
    surplus: AtomicU32,
}

impl Backends {
    /// Notes that a connection has this one.
    pub(super) fn join(self: &Arc<Self>, backend: Backend) -> Seat {
        let mut all = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        let count = all.entry(backend.clone()).or_default();
        *count += 1;
        if *count > 1 {
            self.surplus.fetch_add(1, Ordering::Relaxed);
        }
        Seat { backends: Arc::clone(self), backend }
    }

    /// Whether two connections have one process: something between gives one session to several
    /// clients. (Or one of the two has ended, which nobody has noticed yet.)
    pub(super) fn are_shared(&self) -> bool {
        self.surplus.load(Ordering::Relaxed) > 0
    }
}

/// A connection's process, until the connection is dropped.
pub(crate) struct Seat {
    backends: Arc<Backends>,
    backend: Backend,
}

impl Seat {
    pub(super) fn id(&self) -> u32 {
        self.backend.0
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let all = &self.backends.connections;
        let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
        match all.get_mut(&self.backend) {
            Some(count) if *count > 1 => {
                *count -= 1;
                self.backends.surplus.fetch_sub(1, Ordering::Relaxed);
            }
            _ => drop(all.remove(&self.backend)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_process_for_two_connections_is_noticed_while_both_live() {
        let backends = Arc::new(Backends::default());
        let of = |id, server: &str| backends.join((id, server.to_owned()));
        let others = (of(1, "a"), of(2, "a"), of(1, "b"));
        assert!(!backends.are_shared());
        let (second, third) = (of(1, "a"), of(1, "a"));
        drop(others);
        assert!(backends.are_shared());
        drop(third);
        assert!(!backends.are_shared());
        drop(second);
        assert!(backends.connections.lock().unwrap().is_empty());
    }
}
