//! A TCP proxy on loopback that slows, holds or cuts links, as a network may.
//!
//! Each link has two threads, one for each direction, which follow the link's [`Flow`].
//! Dropping the proxy resets all links and joins all threads.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use socket2::SockRef;

use crate::host;

const PORTS: Range<u16> = 5_500..9_900;

/// Bounds each call of a pump, except reads: the end of the link interrupts those.
const IO_LIMIT: Duration = Duration::from_secs(5);

/// What happens to the bytes of a link.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Flow {
    /// Bytes pass at once.
    Pass,
    /// Each piece is delayed, and then limited to a rate.
    Slow {
        /// How long each piece waits.
        delay: Duration,
        /// The rate.
        bytes_per_second: u32,
    },
    /// Nothing passes, not even the end of a stream, and nothing is lost: bytes pass
    /// when the flow changes. New links are accepted and get no answer.
    Hold,
    /// Bytes pass until the server has sent this many; then as [`Reset`](Flow::Reset).
    CutAfter(usize),
    /// Both sides find the connection reset. A link cannot leave this state.
    Reset,
}

/// A proxy in front of one server.
pub struct Proxy {
    port: u16,
    links: Arc<Links>,
    /// `None` while it refuses connections.
    acceptor: Option<Acceptor>,
}

struct Links {
    target: SocketAddr,
    inner: Mutex<Inner>,
}

struct Inner {
    /// The flow of new links.
    flow: Flow,
    /// A link lives as long as its pumps.
    links: Vec<Weak<Link>>,
    threads: Vec<JoinHandle<()>>,
}

struct Acceptor {
    listener: Arc<TcpListener>,
    thread: JoinHandle<()>,
}

struct Link {
    flow: Mutex<Flow>,
    changed: Condvar,
    client: TcpStream,
    /// Set before the first byte passes.
    server: OnceLock<TcpStream>,
}

impl Proxy {
    /// Starts a proxy in front of a port on 127.0.0.1.
    pub fn start(target_port: u16) -> Proxy {
        Proxy::before(SocketAddr::from((Ipv4Addr::LOCALHOST, target_port)))
    }

    /// Starts a proxy in front of a server at any address.
    pub fn before(target: SocketAddr) -> Proxy {
        let inner = Inner { flow: Flow::Pass, links: Vec::new(), threads: Vec::new() };
        let links = Arc::new(Links { target, inner: Mutex::new(inner) });
        let listener = host::listen(PORTS);
        let port = listener.local_addr().expect("a port").port();
        let acceptor = Some(Acceptor::start(listener, &links));
        Proxy { port, links, acceptor }
    }

    /// Returns the port on 127.0.0.1 on which the proxy listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns the number of links.
    pub fn links(&self) -> usize {
        self.links.alive().len()
    }

    /// Sets the flow of all links, present and future.
    pub fn set(&self, flow: Flow) {
        self.set_new(flow);
        self.set_existing(flow);
    }

    /// Sets the flow of future links.
    pub fn set_new(&self, flow: Flow) {
        self.links.lock().flow = flow;
    }

    /// Sets the flow of present links.
    pub fn set_existing(&self, flow: Flow) {
        self.links.alive().iter().for_each(|link| link.set(flow));
    }

    /// Refuses new connections. Returns when the port is closed.
    pub fn refuse(&mut self) {
        if let Some(acceptor) = self.acceptor.take() {
            acceptor.stop();
        }
    }

    /// Accepts connections again after [`refuse`](Self::refuse), on the same port.
    ///
    /// # Panics
    ///
    /// If another process has taken the port.
    pub fn accept(&mut self) {
        if self.acceptor.is_none() {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, self.port)).expect("our port");
            self.acceptor = Some(Acceptor::start(listener, &self.links));
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.refuse();
        self.set(Flow::Reset);
        let threads = std::mem::take(&mut self.links.lock().threads);
        for thread in threads {
            let _ = thread.join();
        }
    }
}

impl Acceptor {
    fn start(listener: TcpListener, links: &Arc<Links>) -> Acceptor {
        let listener = Arc::new(listener);
        let (accepting, links) = (Arc::clone(&listener), Arc::clone(links));
        let thread = thread::spawn(move || {
            while let Ok((client, _)) = accepting.accept() {
                links.add(client);
            }
        });
        Acceptor { listener, thread }
    }

    fn stop(self) {
        // On Linux this ends a blocked `accept`.
        SockRef::from(&*self.listener).shutdown(Shutdown::Both).expect("a listener");
        let _ = self.thread.join();
    }
}

impl Links {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn alive(&self) -> Vec<Arc<Link>> {
        self.lock().links.iter().filter_map(Weak::upgrade).collect()
    }

    fn add(&self, client: TcpStream) {
        let mut inner = self.lock();
        let link = Arc::new(Link {
            flow: Mutex::new(inner.flow),
            changed: Condvar::new(),
            client,
            server: OnceLock::new(),
        });
        inner.links.retain(|link| link.strong_count() > 0);
        inner.links.push(Arc::downgrade(&link));
        inner.threads.retain(|thread| !thread.is_finished());
        let target = self.target;
        inner.threads.push(thread::spawn(move || link.run(target)));
    }
}

impl Link {
    fn lock(&self) -> MutexGuard<'_, Flow> {
        self.flow.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, flow: Flow) {
        let mut current = self.lock();
        if *current == Flow::Reset {
            return;
        }
        *current = flow;
        if flow == Flow::Reset {
            self.end_reads();
        }
        self.changed.notify_all();
    }

    /// Makes both pumps return from reading. The peers notice nothing until the sockets
    /// are dropped: then they get a reset.
    fn end_reads(&self) {
        for socket in [Some(&self.client), self.server.get()].into_iter().flatten() {
            let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO));
            let _ = socket.shutdown(Shutdown::Read);
        }
    }

    /// Runs the link from its first byte to its end.
    fn run(&self, target: SocketAddr) {
        if self.wait_while_held() == Flow::Reset {
            return;
        }
        let Ok(server) = TcpStream::connect_timeout(&target, IO_LIMIT) else {
            return self.set(Flow::Reset);
        };
        for socket in [&self.client, &server] {
            let _ = socket.set_nodelay(true);
            let _ = socket.set_write_timeout(Some(IO_LIMIT));
        }
        let server = self.server.get_or_init(|| server);
        if *self.lock() == Flow::Reset {
            // The link was reset before it had a server.
            return self.end_reads();
        }
        thread::scope(|scope| {
            scope.spawn(|| self.pump(&self.client, server, false));
            self.pump(server, &self.client, true);
        });
    }

    /// Carries one direction until its end, or the link's.
    fn pump(&self, mut from: &TcpStream, to: &TcpStream, from_server: bool) {
        let mut buffer = vec![0; 16 * 1024];
        loop {
            let passed = match from.read(&mut buffer) {
                Ok(0) => break,
                Ok(size) => self.pass(&buffer[..size], to, from_server),
                Err(_) => false,
            };
            if !passed {
                return self.set(Flow::Reset);
            }
        }
        if self.wait_while_held() != Flow::Reset {
            let _ = to.shutdown(Shutdown::Write);
        }
    }

    /// Passes a piece on as the flow demands. Returns `false` at the link's end.
    fn pass(&self, piece: &[u8], mut to: &TcpStream, from_server: bool) -> bool {
        match self.wait_while_held() {
            Flow::Pass => to.write_all(piece).is_ok(),
            Flow::Slow { delay, bytes_per_second } => {
                let rate = f64::from(bytes_per_second);
                self.wait(delay + Duration::from_secs_f64(piece.len() as f64 / rate));
                self.wait_while_held() != Flow::Reset && to.write_all(piece).is_ok()
            }
            Flow::CutAfter(_) if !from_server => to.write_all(piece).is_ok(),
            Flow::CutAfter(rest) if rest > piece.len() => {
                *self.lock() = Flow::CutAfter(rest - piece.len());
                to.write_all(piece).is_ok()
            }
            Flow::CutAfter(rest) => {
                let _ = to.write_all(&piece[..rest]);
                false
            }
            Flow::Hold | Flow::Reset => false,
        }
    }

    fn wait_while_held(&self) -> Flow {
        let held = |flow: &mut Flow| *flow == Flow::Hold;
        let flow = self.changed.wait_while(self.lock(), held);
        *flow.unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for some time, or until the flow changes.
    fn wait(&self, time: Duration) {
        let end = Instant::now() + time;
        let flow = self.lock();
        let before = *flow;
        let unchanged = |flow: &mut Flow| *flow == before;
        let left = end.saturating_duration_since(Instant::now());
        drop(self.changed.wait_timeout_while(flow, left, unchanged));
    }
}
