//! A pool of numbers, for all tests of the core.

use std::time::Duration;

use crate::core::{Policy, PoolTypes, ThreadId};

/// Connections are numbers; callers and cells are the index of a client.
pub(crate) struct Toy;

impl PoolTypes for Toy {
    type Conn = u32;
    type Caller = u8;
    type Cell = u8;
    type Context = ();
    type Cause = u8;

    fn connection_id(conn: &u32) -> u64 {
        u64::from(*conn) + 1
    }

    fn backend_id(conn: &u32) -> u32 {
        conn + 1001
    }
}

/// Each client is a thread.
impl ThreadId for u8 {
    fn thread_id(&self) -> u64 {
        u64::from(*self)
    }
}

pub(crate) fn policy(max_size: u32) -> Policy {
    Policy {
        max_size,
        min_idle: Some(0),
        max_idle: None,
        max_waiters: None,
        fairness_bound: Duration::ZERO,
        priority_ageing: Duration::from_nanos(2),
        max_lifetime: None,
        lifetime_jitter_permille: 0,
        idle_timeout: None,
        ends_on_time: false,
        keepalive: None,
        fresh_for: Duration::MAX,
        fresh_by_check: false,
        begins_uses: false,
        ends_uses: false,
        clock_lag: Duration::ZERO,
        check_patience: Duration::MAX,
        patience_min: Duration::MAX,
        patience_max: Duration::MAX,
        open_limit: Duration::MAX,
        validation_limit: Duration::MAX,
        reset_limit: Duration::MAX,
        close_limit: Duration::MAX,
        max_opening: 2,
        max_closers: 1,
        max_abandoned: 1,
        take_up_limit: Duration::from_nanos(1),
        leak_threshold: None,
        reports_self_deadlock: true,
        self_deadlock_limit: None,
        backoff_min: Duration::from_nanos(1),
        backoff_max: Duration::from_nanos(1),
        fail_fast_after: None,
        seed: 1,
    }
}
