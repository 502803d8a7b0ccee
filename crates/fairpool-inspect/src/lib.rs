//! A small web server that shows what pools do: to a person, who opens its page, and
//! to programs. (Feature `inspect`.)
//!
//! It runs on a thread of its own, changes nothing, and listens on a loopback address
//! unless told otherwise: what it shows (places in the code, labels, texts of errors)
//! is nobody else's business, and it asks nobody who they are.
//!
//! | path | what is there |
//! |---|---|
//! | `/` | a page that follows the pools: connections, queue, waits, who holds and who waits and where |
//! | `/metrics` | the metrics of [`metrics`](crate::metrics), for Prometheus |
//! | `/snapshot.json` | a [`Snapshot`](crate::Snapshot) of each pool, and what is wrong with it |
//! | `/history.json` | the last five minutes, second by second |
//! | `/dump` | the snapshots as text |
//! | `/trace?seconds=5` | a recording of the next 1 to 60 seconds, for <https://ui.perfetto.dev> |
//!
//! ```
//! # use fairpool_testing::StubManager;
//! use fairpool::{Pool, inspect};
//!
//! let orders = Pool::builder().name("orders").build(StubManager)?;
//! let server = inspect::serve("127.0.0.1:0", &[orders.downgrade()])?;
//! println!("see http://{}", server.addr());
//! # Ok::<(), fairpool::Error>(())
//! ```

use std::fmt;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};

use tokio::sync::oneshot;

use crate::error::Error;
use crate::snapshot::WeakPool;
use crate::sync::{self, JoinHandle};

mod page;
mod routes;
mod server;
mod view;

/// Serves on this address until the value returned is dropped.
///
/// As [`Inspector::serve`] with the default settings.
///
/// # Errors
///
/// As [`Inspector::serve`].
pub fn serve(addr: impl ToSocketAddrs, pools: &[WeakPool]) -> Result<Server, Error> {
    Inspector::new().serve(addr, pools)
}

/// Settings of an inspector.
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
/// # Ok::<(), fairpool::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Inspector {
    allow_remote: bool,
}

impl Inspector {
    /// The default settings.
    pub fn new() -> Inspector {
        Inspector::default()
    }

    /// Whether other machines may look: whether it may listen on an address that is
    /// not loopback. Default: no. There is no password and no encryption: where others
    /// may come who should not, let a proxy that has both stand in front.
    ///
    /// If they may not, it also turns away requests for any host but `localhost` and
    /// numeric addresses, and those that a website's page makes by itself, so that no
    /// website can read it through the browser of somebody on this machine.
    pub fn allow_remote(mut self, allow: bool) -> Inspector {
        self.allow_remote = allow;
        self
    }

    /// Serves on this address until the value returned is dropped. Port 0 is one that
    /// the system chooses: see [`Server::addr`].
    ///
    /// The pools may be of any drivers. They are not kept alive; one that is gone is
    /// shown as gone.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Config`](crate::ErrorKind::Config): there is no pool; the address
    /// is none, is in use, or can be reached from other machines; or the system has no
    /// thread to give.
    ///
    /// # Blocking
    ///
    /// If the address has the name of a host: for as long as it takes to look it up.
    pub fn serve(self, addr: impl ToSocketAddrs, pools: &[WeakPool]) -> Result<Server, Error> {
        if pools.is_empty() {
            return Err(Error::config("inspect: there is no pool to show".to_string()));
        }
        let listener = self.listen(addr)?;
        let failed = |what: &str, error| Error::config(format!("inspect: {what}: {error}"));
        let addr = listener.local_addr().map_err(|error| failed("no address", error))?;
        let host = routes::Host { any: self.allow_remote };
        let (stop, stopped) = oneshot::channel();
        let run = server::prepare(listener, pools.to_vec(), host, stopped)
            .map_err(|error| failed("cannot start the server", error))?;
        let thread = sync::spawn("fairpool-inspector".to_string(), run)
            .map_err(|error| failed("cannot start the server's thread", error))?;
        Ok(Server { addr, running: Some((stop, thread)) })
    }

    fn listen(self, addr: impl ToSocketAddrs) -> Result<TcpListener, Error> {
        let all = addr.to_socket_addrs().map_err(|error| {
            Error::config(format!("inspect: the address cannot be resolved: {error}"))
        })?;
        let all: Vec<SocketAddr> = all.collect();
        let remote = all.iter().find(|addr| !addr.ip().to_canonical().is_loopback());
        if let (Some(addr), false) = (remote, self.allow_remote) {
            return Err(Error::config(format!(
                "inspect: {addr} can be reached from other machines; \
                 Inspector::allow_remote allows that"
            )));
        }
        TcpListener::bind(&all[..]).map_err(|error| {
            let all: Vec<String> = all.iter().map(SocketAddr::to_string).collect();
            Error::config(format!("inspect: cannot listen on {}: {error}", all.join(", ")))
        })
    }
}

/// An inspector that serves. It stops when this is dropped.
pub struct Server {
    addr: SocketAddr,
    /// What stops it, and the thread.
    running: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
}

impl Server {
    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Stops it: when this returns, the port is free. The same as dropping it.
    ///
    /// # Blocking
    ///
    /// For a moment. Who is being served is cut off. (On its own thread, as part of the
    /// drop of a pool's manager, it only begins to stop.)
    pub fn stop(self) {}
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some((stop, thread)) = self.running.take() {
            // Fails if the thread has ended, which is what is wanted.
            let _ = stop.send(());
            // A look at a pool that everybody else has dropped ends with its manager's
            // drop, there: that may drop this.
            if !sync::is_current(&thread) {
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
    use std::time::Duration;

    use crossbeam_channel::bounded;

    use super::*;

    #[test]
    fn it_may_be_dropped_on_its_own_thread() {
        let (give, take) = bounded::<Server>(1);
        let (done, is_done) = bounded(1);
        let (stop, mut stopped) = oneshot::channel();
        let run = move || {
            drop(take.recv());
            let _ = done.send(stopped.try_recv().is_ok());
        };
        let thread = sync::spawn("test".to_string(), run).unwrap();
        let addr = ([127, 0, 0, 1], 1).into();
        give.send(Server { addr, running: Some((stop, thread)) }).unwrap();
        assert_eq!(is_done.recv_timeout(Duration::from_secs(10)), Ok(true), "it was told to stop");
    }
}
