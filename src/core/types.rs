//! The types that the core passes on without knowing them.

/// The parameters of a pool's core.
pub(crate) trait PoolTypes {
    /// A connection, owned.
    type Conn;
    /// Who asks for one: thread, call site, label.
    type Caller: ThreadId;
    /// Where a waiter finds its answer.
    type Cell: Clone;
    /// Why connecting or a check failed.
    type Cause: Clone;

    /// The number of a connection; never zero.
    fn connection_id(conn: &Self::Conn) -> u64;
}

/// Tells the threads of callers apart.
pub(crate) trait ThreadId: Copy {
    /// The number of the thread. No two threads have the same.
    fn thread_id(&self) -> u64;
}
