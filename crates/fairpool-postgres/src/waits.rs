//! Which holders of a pool's connections wait for locks, and who has these.

mod answer;
mod report;

use std::collections::HashMap;
use std::error;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use fairpool::snapshot::Holder;
use fairpool::text::Plain;
use fairpool::{ManageConnection, Pool};
use postgres::tls::{MakeTlsConnect, TlsConnect};
use postgres::{Error, Socket};

use self::answer::Answer;
use self::report::Lent;
pub use self::report::{LockWait, Party, ServerReport};
use crate::PostgresConnectionManager;

/// So many questions of one manager may be without an answer. Those that nobody waits for any more
/// count until the driver returns.
const MOST_AT_ONCE: u32 = 4;

/// Prepares the question which holders of this pool's connections wait for locks on the server,
/// and who has these. [`ask`](WhoWaits::ask) asks it.
///
/// The pool knows who holds a connection, and where in the code it was got; the server knows what
/// the connection waits for. The answer joins both, by the ids of the server's processes:
///
/// ```text
/// pool 'orders' at its server: 2 of 8 holders wait for locks
///   - thread 'worker-3' at src/orders.rs:42:25 for 3.9s (backend 4711) waits for a row of
///     public.orders for 3.8s, held by thread 'worker-9' at src/reports.rs:3:10 (sales report)
///     for 4.2s (backend 4712), idle in transaction for 4.1s
/// ```
///
/// It uses a connection of its own, which the pool's manager opens and which does not count in the
/// pool: so the pool may have none left. The server must allow one more.
///
/// # What the server shows
///
/// No privilege is needed. Of sessions of another role the server shows process id, name of the
/// application, role and database; their states, times and statements only to members of that role
/// and of `pg_read_all_stats`. Who waits for whom it shows to everybody. The name of a table is
/// shown if the lock is of the database that is asked. When a wait began is known from PostgreSQL
/// 14 on.
///
/// Where the configuration names several servers, the one is asked that a new connection reaches; a
/// holder on another one seems to have no session, or may be taken for another session with the
/// same process id. Behind a [`transaction_pooler`](PostgresConnectionManager::transaction_pooler)
/// no holder's session is known.
///
/// # Examples
///
/// ```no_run
/// use fairpool::Pool;
/// use fairpool_postgres::{NoTls, PostgresConnectionManager, who_waits};
///
/// let manager = PostgresConnectionManager::from_url("host=localhost user=postgres", NoTls)?;
/// let pool = Pool::new(manager)?;
/// if let Err(error) = pool.get() {
///     eprintln!("{error:#}");
///     match who_waits(&pool).ask() {
///         Ok(report) => eprint!("{report}"),
///         Err(error) => eprintln!("{error:#}"),
///     }
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn who_waits<T>(pool: &Pool<PostgresConnectionManager<T>>) -> WhoWaits<'_, T>
where
    T: MakeTlsConnect<Socket> + Clone + Send + Sync + 'static,
    T::TlsConnect: Send,
    T::Stream: Send,
    <T::TlsConnect as TlsConnect<Socket>>::Future: Send,
{
    WhoWaits {
        manager: pool.manager(),
        name: pool.name(),
        pools: vec![(pool.name(), Box::new(|| pool.holders()))],
        limit: Duration::from_secs(2),
        idle_after: Duration::from_secs(1),
        shows_statements: false,
    }
}

/// Whether a connection is still held by the same caller. One that has returned it and got it
/// again, at the same line, is no other.
fn is_same(before: &Holder, after: &Holder) -> bool {
    before.call_site() == after.call_site() && before.held_for() <= after.held_for()
}

/// A pool's name, and its holders now.
type Holders<'a> = (&'a str, Box<dyn Fn() -> Vec<Holder> + 'a>);

/// A question to the server, from [`who_waits`].
#[must_use = "nothing is asked before `ask`"]
pub struct WhoWaits<'a, T> {
    manager: &'a PostgresConnectionManager<T>,
    name: &'a str,
    pools: Vec<Holders<'a>>,
    limit: Duration,
    idle_after: Duration,
    shows_statements: bool,
}

impl<'a, T> WhoWaits<'a, T>
where
    T: MakeTlsConnect<Socket> + Clone + Send + Sync + 'static,
    T::TlsConnect: Send,
    T::Stream: Send,
    <T::TlsConnect as TlsConnect<Socket>>::Future: Send,
{
    /// Asks for the holders of this pool too, which has connections to the same server. Otherwise
    /// its connections are strangers.
    pub fn with<U>(mut self, pool: &'a Pool<PostgresConnectionManager<U>>) -> Self
    where
        PostgresConnectionManager<U>: ManageConnection,
    {
        self.pools.push((pool.name(), Box::new(|| pool.holders())));
        self
    }

    /// Sets how long the caller waits for the answer at most, the connect included; default 2 s.
    pub fn within(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Sets from when on a holder is reported that is idle on the server; default 1 s. It has asked
    /// nothing for so long, in a transaction or without one.
    pub fn idle_after(mut self, idle_after: Duration) -> Self {
        self.idle_after = idle_after;
        self
    }

    /// Sets whether the answer has the sessions' last statements; default `false`, since they have
    /// values in them that may be secrets.
    pub fn statements(mut self, show: bool) -> Self {
        self.shows_statements = show;
        self
    }

    /// Asks the server.
    ///
    /// Holders are reported that had their connections before the question and have them still. The
    /// server is asked for waits and for sessions one after the other, so what changes meanwhile
    /// may not fit together.
    ///
    /// # Errors
    ///
    /// [`AskError::Connect`] and [`AskError::Query`] if the driver fails, [`AskError::TimedOut`] if
    /// there is no answer in time, [`AskError::TooMany`] if four questions of this pool's manager
    /// are without an answer, [`AskError::Thread`] if the system has no thread to give or the
    /// driver panics.
    ///
    /// # Blocking
    ///
    /// For the limit at most: see [`within`](WhoWaits::within). A thread of its own connects, asks
    /// and closes; if the driver hangs, that thread stays until it returns. The server gives up
    /// the question after the same time. May be called in an async runtime, where it blocks the
    /// calling thread.
    pub fn ask(self) -> Result<ServerReport, AskError> {
        let begun = Instant::now();
        let before: Vec<_> = self
            .pools
            .iter()
            .flat_map(|(name, now)| now().into_iter().map(move |h| (*name, h)))
            .collect();
        let pids: Vec<u32> = before.iter().filter_map(|(_, holder)| holder.backend_id()).collect();
        let answer = if pids.is_empty() { Answer::default() } else { self.fetch(pids, begun)? };
        let after = self.pools.iter().flat_map(|(_, now)| now());
        let mut after: HashMap<u64, Holder> =
            after.map(|holder| (holder.connection_id(), holder)).collect();
        let lent = before.into_iter().map(|(pool, holder)| {
            let now = after.remove(&holder.connection_id());
            Lent {
                pool,
                backend_id: holder.backend_id(),
                holder: now.filter(|now| is_same(&holder, now)),
            }
        });
        Ok(ServerReport::join(self.name, lent.collect(), answer, self.idle_after))
    }

    /// Asks on another thread, which the caller leaves alone when its time is over.
    fn fetch(&self, pids: Vec<u32>, begun: Instant) -> Result<Answer, AskError> {
        let place = Place::take(&self.manager.questions).ok_or(AskError::TooMany)?;
        let (limit, shows_statements) = (self.limit, self.shows_statements);
        let manager = self.manager.for_a_question(limit);
        let (give, take) = mpsc::sync_channel(1);
        let run = move || {
            let _place = place;
            let connected = manager.connect().map_err(AskError::Connect);
            let (result, _client) = match connected {
                Ok(mut client) => {
                    let left = limit.saturating_sub(begun.elapsed());
                    let answer = answer::fetch(client.inner(), &pids, left, shows_statements);
                    (answer.map_err(AskError::Query), Some(client))
                }
                Err(error) => (Err(error), None),
            };
            // It fails if nobody waits any more. The client is closed after it.
            let _ = give.send(result);
        };
        let named = thread::Builder::new().name("fairpool-asks".to_owned());
        named.spawn(run).map_err(AskError::Thread)?;
        match take.recv_timeout(limit.saturating_sub(begun.elapsed())) {
            Ok(result) => result,
            Err(RecvTimeoutError::Timeout) => Err(AskError::TimedOut(limit)),
            Err(RecvTimeoutError::Disconnected) => {
                Err(AskError::Thread(io::Error::other("the driver panicked")))
            }
        }
    }
}

impl<T> fmt::Debug for WhoWaits<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WhoWaits")
            .field("pools", &self.pools.iter().map(|(name, _)| name).collect::<Vec<_>>())
            .field("limit", &self.limit)
            .finish_non_exhaustive()
    }
}

/// A question that has no answer yet.
struct Place(Arc<AtomicU32>);

impl Place {
    fn take(questions: &Arc<AtomicU32>) -> Option<Place> {
        let one_more = |taken: u32| (taken < MOST_AT_ONCE).then_some(taken + 1);
        let taken = questions.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more);
        taken.is_ok().then(|| Place(Arc::clone(questions)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Why there is no answer from the server: see [`WhoWaits::ask`].
///
/// `{:#}` shows the driver's error too, which is the source.
#[derive(Debug)]
#[non_exhaustive]
pub enum AskError {
    /// No connection could be opened.
    Connect(Error),
    /// The query failed.
    Query(Error),
    /// There was no answer within this limit.
    TimedOut(Duration),
    /// Four questions of this pool's manager have no answer yet.
    TooMany,
    /// There was no thread to ask on, or the driver panicked on it.
    Thread(io::Error),
}

impl fmt::Display for AskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AskError::Connect(_) => f.write_str("cannot connect to ask the server who waits")?,
            AskError::Query(_) => f.write_str("cannot ask the server who waits")?,
            AskError::TimedOut(limit) => {
                write!(f, "the server did not say within {limit:.1?} who waits")?;
            }
            AskError::TooMany => {
                write!(f, "{MOST_AT_ONCE} questions who waits have no answer from the server yet")?;
            }
            AskError::Thread(_) => f.write_str("cannot ask on another thread who waits")?,
        }
        let mut source = error::Error::source(self).filter(|_| f.alternate());
        while let Some(error) = source {
            write!(f, ": {}", Plain(&error.to_string()))?;
            source = error.source();
        }
        Ok(())
    }
}

impl error::Error for AskError {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match self {
            AskError::Connect(error) | AskError::Query(error) => Some(error),
            AskError::Thread(error) => Some(error),
            AskError::TimedOut(_) | AskError::TooMany => None,
        }
    }
}

#[cfg(test)]
mod tests;
