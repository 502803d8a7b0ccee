//! The driver's methods that set hooks.
//!
//! Before version 0.41 rusqlite's take `&self`, so a hook could be set without `deref_mut`, which
//! notices it.

use std::ffi::c_int;
use std::ops::DerefMut;

use rusqlite::Result;
use rusqlite::hooks::Action;
use rusqlite::trace::{TraceEvent, TraceEventCodes};

use super::Connection;

impl Connection {
    /// [`rusqlite::Connection::update_hook`], for this use.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn update_hook<F>(&mut self, hook: Option<F>) -> Result<()>
    where
        F: FnMut(Action, &str, &str, i64) + Send + 'static,
    {
        self.deref_mut().update_hook(hook)
    }

    /// [`rusqlite::Connection::commit_hook`], for this use.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn commit_hook<F>(&mut self, hook: Option<F>) -> Result<()>
    where
        F: FnMut() -> bool + Send + 'static,
    {
        self.deref_mut().commit_hook(hook)
    }

    /// [`rusqlite::Connection::rollback_hook`], for this use.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn rollback_hook<F>(&mut self, hook: Option<F>) -> Result<()>
    where
        F: FnMut() + Send + 'static,
    {
        self.deref_mut().rollback_hook(hook)
    }

    /// [`rusqlite::Connection::progress_handler`], for this use.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn progress_handler<F>(&mut self, operations: c_int, handler: Option<F>) -> Result<()>
    where
        F: FnMut() -> bool + Send + 'static,
    {
        self.deref_mut().progress_handler(operations, handler)
    }

    /// [`rusqlite::Connection::busy_handler`], for this use.
    ///
    /// It takes what every version of rusqlite takes. For a closure that owns something (rusqlite
    /// 0.41 or later), call the driver's: `let driver: &mut rusqlite::Connection = &mut conn;`.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn busy_handler(&mut self, handler: Option<fn(i32) -> bool>) -> Result<()> {
        self.deref_mut().busy_handler(handler)
    }

    /// [`rusqlite::Connection::trace_v2`], for this use.
    ///
    /// It takes what every version of rusqlite takes. For a closure that owns something (rusqlite
    /// 0.41 or later), call the driver's: `let driver: &mut rusqlite::Connection = &mut conn;`.
    ///
    /// # Errors
    ///
    /// As there; with rusqlite 0.40 or before, none.
    pub fn trace_v2(
        &mut self,
        codes: TraceEventCodes,
        hook: Option<fn(TraceEvent<'_>)>,
    ) -> Result<()> {
        self.deref_mut().trace_v2(codes, hook).into_result()
    }
}

/// What a method of rusqlite returns: before version 0.41 nothing.
trait IntoResult {
    fn into_result(self) -> Result<()>;
}

impl IntoResult for () {
    fn into_result(self) -> Result<()> {
        Ok(())
    }
}

impl IntoResult for Result<()> {
    fn into_result(self) -> Result<()> {
        self
    }
}
