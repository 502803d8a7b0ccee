//! Starts and stops the server.

use std::fmt;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::thread::{self, JoinHandle};

use fairpool::WeakPool;
use tokio::sync::oneshot;

use crate::access::HostRule;
use crate::error::ServeError;
use crate::http;

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
#[derive(Clone, Copy, Debug, Default)]
pub struct Inspector {
    allow_remote: bool,
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

    /// Serves on this address until the returned server is dropped. With port 0 the system
    /// chooses a free port: see [`Server::addr`].
    ///
    /// The pools may have different drivers. They are not kept alive; a pool that is gone
    /// is shown as gone.
    ///
    /// # Errors
    ///
    /// If there is no pool in the list; if the address cannot be resolved, is in use, or
    /// can be reached from other machines; or if the system cannot start a thread.
    ///
    /// # Blocking
    ///
    /// If the address has a host name: until the name is resolved.
    pub fn serve(self, addr: impl ToSocketAddrs, pools: &[WeakPool]) -> Result<Server, ServeError> {
        if pools.is_empty() {
            return Err(ServeError::NoPools);
        }
        let listener = self.listen(addr)?;
        let addr = listener.local_addr().map_err(ServeError::Start)?;
        let host = HostRule { any: self.allow_remote };
        let (stop, stopped) = oneshot::channel();
        let run = http::prepare(listener, pools.to_vec(), host, stopped);
        let thread = run.and_then(|run| {
            thread::Builder::new().name("fairpool-inspector".to_string()).spawn(run)
        });
        Ok(Server { addr, running: Some((stop, thread.map_err(ServeError::Start)?)) })
    }

    fn listen(self, addr: impl ToSocketAddrs) -> Result<TcpListener, ServeError> {
        let addrs: Vec<SocketAddr> = addr.to_socket_addrs().map_err(ServeError::Resolve)?.collect();
        let remote = addrs.iter().find(|addr| !addr.ip().to_canonical().is_loopback());
        if let (Some(addr), false) = (remote, self.allow_remote) {
            return Err(ServeError::Remote(*addr));
        }
        TcpListener::bind(&addrs[..]).map_err(|source| ServeError::Listen { addrs, source })
    }
}

/// A running server. It stops when this is dropped.
pub struct Server {
    addr: SocketAddr,
    /// The sender that stops it, and its thread.
    running: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
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
        give.send(Server { addr, running: Some((stop, thread)) }).unwrap();
        assert_eq!(is_done.recv_timeout(Duration::from_secs(10)), Ok(true), "it received the stop");
    }
}
