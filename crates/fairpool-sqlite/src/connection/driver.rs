//! The driver's methods that change what the next holder would find.

use std::cmp::Ordering;
use std::ffi::c_int;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::functions::{Aggregate, Context, FunctionFlags, SqlFnOutput};
use rusqlite::limits::Limit;
use rusqlite::{Name, Result, Savepoint, Transaction, TransactionBehavior};

use super::{Connection, InterruptHandle};

impl Connection {
    /// A handle that interrupts this use of the connection and no later one.
    ///
    /// Take it here, not from the `rusqlite::Connection` inside: that one's handle outlives
    /// the use.
    pub fn get_interrupt_handle(&self) -> InterruptHandle {
        let make = || InterruptHandle::new(self.driver().get_interrupt_handle());
        self.interrupts.get_or_init(make).clone()
    }

    /// [`rusqlite::Connection::transaction`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn transaction(&mut self) -> Result<Transaction<'_>> {
        self.driver_mut().transaction()
    }

    /// [`rusqlite::Connection::transaction_with_behavior`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn transaction_with_behavior(
        &mut self,
        behavior: TransactionBehavior,
    ) -> Result<Transaction<'_>> {
        self.driver_mut().transaction_with_behavior(behavior)
    }

    /// [`rusqlite::Connection::savepoint`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn savepoint(&mut self) -> Result<Savepoint<'_>> {
        self.driver_mut().savepoint()
    }

    /// [`rusqlite::Connection::savepoint_with_name`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn savepoint_with_name<T: Into<String>>(&mut self, name: T) -> Result<Savepoint<'_>> {
        self.driver_mut().savepoint_with_name(name)
    }

    /// [`rusqlite::Connection::busy_timeout`], for this use.
    ///
    /// [`SqliteConnectionManager::busy_timeout`](crate::SqliteConnectionManager::busy_timeout)
    /// sets it for all.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn busy_timeout(&self, timeout: Duration) -> Result<()> {
        self.session.note_setting("busy_timeout");
        self.driver().busy_timeout(timeout)
    }

    /// [`rusqlite::Connection::set_transaction_behavior`]. The connection is closed when it
    /// returns.
    pub fn set_transaction_behavior(&mut self, behavior: TransactionBehavior) {
        self.session.note_other("a transaction behavior");
        self.driver_mut().set_transaction_behavior(behavior);
    }

    /// [`rusqlite::Connection::set_prepared_statement_cache_capacity`]. The connection is
    /// closed when it returns.
    pub fn set_prepared_statement_cache_capacity(&self, capacity: usize) {
        self.session.note_other("a capacity of its statement cache");
        self.driver().set_prepared_statement_cache_capacity(capacity);
    }

    /// [`rusqlite::Connection::set_db_config`]. The connection is closed when it returns.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn set_db_config(&self, config: DbConfig, value: bool) -> Result<bool> {
        self.session.note_other("a db_config flag");
        self.driver().set_db_config(config, value)
    }

    /// [`rusqlite::Connection::set_limit`]. The connection is closed when it returns.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn set_limit(&self, limit: Limit, value: i32) -> Result<i32> {
        self.session.note_other("a limit");
        self.driver().set_limit(limit, value)
    }

    /// [`rusqlite::Connection::create_scalar_function`]. The connection is closed when it
    /// returns; functions for all belong in
    /// [`with_init`](crate::SqliteConnectionManager::with_init).
    ///
    /// The function gets a `&Context`, as in rusqlite 0.41 and before, whatever the version.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn create_scalar_function<F, N: Name, T>(
        &self,
        name: N,
        n_arg: c_int,
        flags: FunctionFlags,
        function: F,
    ) -> Result<()>
    where
        F: Fn(&Context<'_>) -> Result<T> + Send + 'static,
        T: SqlFnOutput,
    {
        self.session.note_other("a function");
        self.driver().create_scalar_function(name, n_arg, flags, move |context| function(context))
    }

    /// [`rusqlite::Connection::create_aggregate_function`]. The connection is closed when it
    /// returns.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn create_aggregate_function<A, D, N: Name, T>(
        &self,
        name: N,
        n_arg: c_int,
        flags: FunctionFlags,
        aggregate: D,
    ) -> Result<()>
    where
        A: RefUnwindSafe + UnwindSafe + Send,
        D: Aggregate<A, T> + Send + 'static,
        T: SqlFnOutput,
    {
        self.session.note_other("a function");
        self.driver().create_aggregate_function(name, n_arg, flags, aggregate)
    }

    /// [`rusqlite::Connection::remove_function`]. The connection is closed when it returns.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn remove_function<N: Name>(&self, name: N, n_arg: c_int) -> Result<()> {
        self.session.note_other("a removed function");
        self.driver().remove_function(name, n_arg)
    }

    /// [`rusqlite::Connection::create_collation`]. The connection is closed when it returns.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn create_collation<C, N: Name>(&self, name: N, compare: C) -> Result<()>
    where
        C: Fn(&str, &str) -> Ordering + Send + 'static,
    {
        self.session.note_other("a collation");
        self.driver().create_collation(name, compare)
    }

    /// [`rusqlite::Connection::collation_needed`]. The connection is closed when it returns.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn collation_needed(
        &self,
        callback: fn(&rusqlite::Connection, &str) -> Result<()>,
    ) -> Result<()> {
        self.session.note_other("a callback for collations");
        self.driver().collation_needed(callback)
    }

    /// [`rusqlite::Connection::remove_collation`]. The connection is closed when it returns.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn remove_collation<N: Name>(&self, name: N) -> Result<()> {
        self.session.note_other("a removed collation");
        self.driver().remove_collation(name)
    }
}
