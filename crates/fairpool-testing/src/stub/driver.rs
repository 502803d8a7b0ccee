//! The driver: its calls ask the server what to do.

use std::time::Duration;

use fairpool::stats::DriverCount;
use fairpool::{Builder, ManageConnection, NopErrorHandler, Pool};

use super::server::Life;
use super::{Does, Op, Server, StubError, WATCHDOG, lock, silent_panic};

/// A connection to a [`Server`].
#[derive(Debug)]
pub struct Conn {
    /// The server's number for it: 1 for the first.
    pub id: usize,
    server: Server,
}

impl Conn {
    /// Stands for a query: a breach if the connection is not open.
    pub fn touch(&self) {
        self.server.expect_open(Op::IsValid, self.id);
    }

    /// A query, which fails if the connection is dead: see [`Server::kill_all`].
    ///
    /// # Errors
    ///
    /// [`StubError::Query`].
    pub fn query(&self) -> Result<(), StubError> {
        self.touch();
        if self.server.is_dead(self.id) { Err(StubError::Query) } else { Ok(()) }
    }
}

impl Drop for Conn {
    fn drop(&mut self) {
        {
            let mut state = lock(&self.server.0);
            match state.lives.insert(self.id, Life::Closing) {
                Some(Life::Open) => {}
                life => {
                    let id = self.id;
                    state.breaches.push(format!("close of connection {id}, which is {life:?}"));
                }
            }
        }
        let does = self.server.does(Op::Close);
        let mut state = lock(&self.server.0);
        state.lives.insert(self.id, Life::Closed);
        state.live -= 1;
        drop(state);
        if matches!(does, Does::Panic) {
            silent_panic();
        }
    }
}

/// The driver of a [`Server`]; see [`Server::manager`].
#[derive(Debug)]
pub struct Manager(Server);

impl Manager {
    pub(super) fn new(server: &Server) -> Manager {
        Manager(server.clone())
    }
}

/// Counts an attempt until its end, even by a panic.
struct Attempt<'a>(&'a Server);

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        lock(&self.0.0).connecting -= 1;
    }
}

impl ManageConnection for Manager {
    type Connection = Conn;
    type Error = StubError;

    fn connect(&self) -> Result<Conn, StubError> {
        let server = &self.0;
        let attempt = {
            let mut state = lock(&server.0);
            state.connecting += 1;
            Server::count(&mut state);
            Attempt(server)
        };
        match server.does(Op::Connect) {
            Does::Fail => Err(StubError::Refused(server.calls(Op::Connect))),
            Does::FailForGood => Err(StubError::WrongPassword),
            Does::Panic => silent_panic(),
            _ => {
                let mut state = lock(&server.0);
                let id = state.lives.len() + 1;
                state.lives.insert(id, Life::Open);
                state.live += 1;
                // To the server the attempt becomes the connection: one step, or its count
                // would be wrong in between.
                state.connecting -= 1;
                std::mem::forget(attempt);
                Ok(Conn { id, server: server.clone() })
            }
        }
    }

    fn is_valid(&self, conn: &mut Conn) -> Result<(), StubError> {
        self.0.expect_open(Op::IsValid, conn.id);
        let fails = self.0.says(Op::IsValid) || self.0.is_dead(conn.id);
        if fails { Err(StubError::Invalid) } else { Ok(()) }
    }

    fn has_broken(&self, conn: &mut Conn) -> bool {
        self.0.expect_open(Op::HasBroken, conn.id);
        self.0.says(Op::HasBroken)
    }

    fn counts(&self) -> Vec<DriverCount> {
        let total = self.0.calls(Op::Connect) as u64;
        vec![DriverCount { name: "connects", total }]
    }

    fn needs_reset(&self, conn: &mut Conn) -> bool {
        self.0.expect_open(Op::NeedsReset, conn.id);
        self.0.says(Op::NeedsReset)
    }

    fn reset(&self, conn: &mut Conn) -> Result<(), StubError> {
        self.0.expect_open(Op::Reset, conn.id);
        if self.0.says(Op::Reset) { Err(StubError::ResetFailed) } else { Ok(()) }
    }

    fn is_permanent(&self, error: &StubError) -> bool {
        self.0.says(Op::IsPermanent) || *error == StubError::WrongPassword
    }

    fn is_fatal(&self, _: &StubError) -> bool {
        self.0.says(Op::IsFatal)
    }
}

/// Settings that leave every decision to the test: nothing ages, no connection is opened
/// before a get asks for one, a failed connect is retried at once, no driver call overruns
/// its limit.
pub fn builder(max_size: u32) -> Builder<Manager> {
    Pool::builder()
        .max_size(max_size)
        .min_idle(Some(0))
        .test_on_check_out(false)
        .max_lifetime(None)
        .idle_timeout(None)
        .connection_timeout(WATCHDOG)
        .open_timeout(Duration::from_secs(600))
        .validation_timeout(Duration::from_secs(600))
        .reset_timeout(Duration::from_secs(600))
        .close_timeout(Duration::from_secs(600))
        .connect_backoff(Duration::from_millis(1), Duration::from_millis(4))
        .error_handler(Box::new(NopErrorHandler))
}
