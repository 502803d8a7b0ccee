//! Starts and stops the server.

use std::fmt;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::process;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use fairpool::WeakPool;
use tokio::sync::oneshot;

use crate::access::HostRule;
use crate::error::ServeError;
use crate::http;
use crate::question::Question;

/// Serves on this address until the returned server is dropped.
///
/// The same as [`Inspector::serve`] with the default settings.
///
/// # Errors
///
/// As [`Inspector::serve`].
pub fn serve(addr: impl ToSocketAddrs, pools: &[WeakPool]) -> Result<Server, ServeError> {
    Inspector::new().serve(addr, pools)
}

/// Settings of a server.
///
/// # Examples
///
/// ```
/// # use fairpool_testing::StubManager;
/// use fairpool_inspect::Inspector;
///
/// let pool = fairpool::Pool::new(StubManager)?;
/// let refused = Inspector::new().serve("0.0.0.0:0", &[pool.downgrade()]).unwrap_err();
/// assert!(refused.to_string().contains("0.0.0.0:0 can be reached from other machines"));
///
/// let server = Inspector::new().allow_remote(true).serve("0.0.0.0:0", &[pool.downgrade()])?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Inspector {
    allow_remote: bool,
    questions: Vec<Question>,
}

impl Inspector {
    /// The default settings.
    pub fn new() -> Inspector {
        Inspector::default()
    }

    /// Whether other machines may connect: whether the address may be one that is not
    /// loopback. Default: no. The server has no password and no encryption; use a proxy
    /// that has both if the network is not trusted.
    ///
    /// The server always rejects requests that a browser makes on behalf of another website,
    /// except for a link to the page itself. If other machines may not connect, it also
    /// rejects requests whose host is neither `localhost` nor a numeric address. So no website
    /// can read it through the browser of a user of this machine. If they may, the host can be
    /// anything, and a website can let its own name resolve to the server: another reason for
    /// a proxy. A proxy must pass the header `Host` on, or recordings from the page may be
    /// refused.
    #[must_use]
    pub fn allow_remote(mut self, allow: bool) -> Inspector {
        self.allow_remote = allow;
        self
    }

    /// Gives the page of this pool a button, *ask the server*, that shows what `ask` returns;
    /// default none. For what is too dear to be asked each second, such as which locks its
    /// connections wait for: `who_waits` of `fairpool-postgres`. Also by `PUT /ask?pool=0`, with
    /// the pool's place in the list. A second question about a pool replaces the first.
    ///
    /// `ask` runs on a thread of its own, and should keep a limit of time by itself: two questions
    /// may be under way in the process. Whoever can read the page can ask it. What it owns lives
    /// until the server is dropped, so a clone of the pool in it keeps that pool open for so long.
    ///
    /// # Examples
    ///
    /// ```
    /// # use fairpool_testing::StubManager;
    /// use fairpool_inspect::Inspector;
    ///
    /// let pool = fairpool::Pool::new(StubManager)?;
    /// let asked = pool.clone();
    /// // With PostgreSQL: who_waits(&asked).ask().map_or_else(|e| format!("{e:#}"), |r| r.to_string())
    /// let server = Inspector::new()
    ///     .question(&pool.downgrade(), move || asked.diagnose().to_string())
    ///     .serve("127.0.0.1:0", &[pool.downgrade()])?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn question(
        mut self,
        pool: &WeakPool,
        ask: impl Fn() -> String + Send + Sync + 'static,
    ) -> Inspector {
        self.questions.retain(|question| !question.pool.ptr_eq(pool));
        self.questions.push(Question { pool: pool.clone(), ask: Arc::new(ask) });
        self
    }

    /// Serves on this address until the returned server is dropped. With port 0 the system
    /// chooses a free port: see [`Server::addr`].
    ///
    /// The pools may have different drivers. They are not kept alive; a pool that is gone
    /// is shown as gone.
    ///
    /// # Errors
    ///
    /// If there is no pool in the list, or one that a question is about is not; if the address
    /// cannot be resolved, is in use, or can be reached from other machines; or if the system
    /// cannot start a thread.
    ///
    /// # Blocking
    ///
    /// If the address has a host name: until the name is resolved.
    pub fn serve(self, addr: impl ToSocketAddrs, pools: &[WeakPool]) -> Result<Server, ServeError> {
        if pools.is_empty() {
            return Err(ServeError::NoPools);
        }
        let is_shown = |question: &Question| pools.iter().any(|pool| pool.ptr_eq(&question.pool));
        if let Some(question) = self.questions.iter().find(|question| !is_shown(question)) {
            return Err(ServeError::NotShown(question.pool.name().to_string()));
        }
        let listener = self.listen(addr)?;
        let addr = listener.local_addr().map_err(ServeError::Start)?;
        let host = HostRule { any: self.allow_remote };
        let (stop, stopped) = oneshot::channel();
        let run = http::prepare(listener, pools.to_vec(), self.questions, host, stopped);
        let thread = run.and_then(|run| {
            thread::Builder::new().name("fairpool-inspector".to_string()).spawn(run)
        });
        let running = Some((stop, thread.map_err(ServeError::Start)?));
        Ok(Server { addr, running, process: process::id() })
    }

    fn listen(&self, addr: impl ToSocketAddrs) -> Result<TcpListener, ServeError> {
        let addrs: Vec<SocketAddr> = addr.to_socket_addrs().map_err(ServeError::Resolve)?.collect();
        let remote = addrs.iter().find(|addr| !addr.ip().to_canonical().is_loopback());
        if let (Some(addr), false) = (remote, self.allow_remote) {
            return Err(ServeError::Remote(*addr));
        }
        TcpListener::bind(&addrs[..]).map_err(|source| ServeError::Listen { addrs, source })
    }
}

/// A running server. It stops when this is dropped; in a child made by `fork`, where its
/// thread does not run, that does nothing.
pub struct Server {
    addr: SocketAddr,
    /// The sender that stops it, and its thread.
    running: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
    /// The process that the thread runs in.
    process: u32,
}

impl Server {
    /// The address on which it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Stops the server: when this returns, the port is free. The same as dropping it.
    ///
    /// # Blocking
    ///
    /// For a moment; answers under way are cut off. (On the server's own thread, where the
    /// drop of a pool's manager may run, it does not wait for the end.)
    pub fn stop(self) {}
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.process != process::id() {
            // This process does not have the thread.
            return std::mem::forget(self.running.take());
        }
        if let Some((stop, thread)) = self.running.take() {
            // It fails if the thread has already ended.
            let _ = stop.send(());
            // The server may be the last to hold a pool while it reads it. Then the pool's
            // manager is dropped on the server's thread, and the manager may own this.
            if thread.thread().id() != thread::current().id() {
                let _ = thread.join();
            }
        }
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("addr", &self.addr).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::sync_channel;
    use std::time::Duration;

    use super::*;

    #[test]
    fn it_may_be_dropped_on_its_own_thread() {
        let (give, take) = sync_channel::<Server>(1);
        let (done, is_done) = sync_channel(1);
        let (stop, mut stopped) = oneshot::channel();
        let thread = thread::spawn(move || {
            drop(take.recv());
            let _ = done.send(stopped.try_recv().is_ok());
        });
        let addr = ([127, 0, 0, 1], 1).into();
        let process = process::id();
        give.send(Server { addr, running: Some((stop, thread)), process }).unwrap();
        assert_eq!(is_done.recv_timeout(Duration::from_secs(10)), Ok(true), "it received the stop");
    }
}
