//! A TCP proxy on loopback, through which a test can do to a link what networks
//! do: slow it down, hold it, cut it.
//!
//! Each link has two pump threads, one for each direction, which do as the
//! link's [`Flow`] says. Dropping the proxy resets all links and joins all
//! threads.

#![allow(dead_code, unreachable_pub, reason = "each test program uses a part of this")]

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use socket2::SockRef;

/// No call of a pump blocks longer than this, except a read, which the end of
/// the link interrupts.
const IO_LIMIT: Duration = Duration::from_secs(5);

/// What becomes of the bytes of a link.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Flow {
    Pass,
    /// Each piece is delayed, and takes its time at this rate.
    Slow {
        delay: Duration,
        bytes_per_second: u32,
    },
    /// Nothing passes, the end of a stream neither, and nothing is lost: it
    /// goes on when the flow changes. A new link is accepted into silence.
    Hold,
    /// Passes, until the server has sent so many bytes more; then as `Reset`.
    CutAfter(usize),
    /// Both sides find the connection reset. Final.
    Reset,
}

pub struct Proxy {
    port: u16,
    links: Arc<Links>,
    /// `None` while it refuses.
    acceptor: Option<Acceptor>,
}

struct Links {
    target: SocketAddr,
    inner: Mutex<Inner>,
}

struct Inner {
    /// How new links begin.
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
    /// Not there before the first byte may pass.
    server: OnceLock<TcpStream>,
}

impl Proxy {
    /// Starts one in front of a port on 127.0.0.1.
    ///
    /// # Panics
    ///
    /// If there is no free port.
    pub fn start(target_port: u16) -> Proxy {
        Proxy::before(SocketAddr::from((Ipv4Addr::LOCALHOST, target_port)))
    }

    /// Starts one in front of a server elsewhere.
    ///
    /// # Panics
    ///
    /// If there is no free port.
    pub fn before(target: SocketAddr) -> Proxy {
        let inner = Inner { flow: Flow::Pass, links: Vec::new(), threads: Vec::new() };
        let links = Arc::new(Links { target, inner: Mutex::new(inner) });
        let listener = listen_on_a_free_port();
        let port = listener.local_addr().expect("a port").port();
        let acceptor = Some(Acceptor::start(listener, &links));
        Proxy { port, links, acceptor }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// How many links there are.
    pub fn links(&self) -> usize {
        self.links.alive().len()
    }

    /// Changes what becomes of all links, and of those to come.
    pub fn set(&self, flow: Flow) {
        self.set_new(flow);
        self.set_existing(flow);
    }

    /// Changes what becomes of the links to come.
    pub fn set_new(&self, flow: Flow) {
        self.links.lock().flow = flow;
    }

    /// Changes what becomes of the links that there are now.
    pub fn set_existing(&self, flow: Flow) {
        self.links.alive().iter().for_each(|link| link.set(flow));
    }

    /// Refuses new connections. Returns when the port is closed.
    pub fn refuse(&mut self) {
        if let Some(acceptor) = self.acceptor.take() {
            acceptor.stop();
        }
    }

    /// Accepts again after `refuse`, on the same port.
    ///
    /// # Panics
    ///
    /// If somebody has taken the port.
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
        // On Linux this ends an `accept` under way.
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

    /// Both pumps return from reading; the peers notice nothing of that. They
    /// are told when the sockets are dropped: by a reset.
    fn end_reads(&self) {
        for socket in [Some(&self.client), self.server.get()].into_iter().flatten() {
            let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO));
            let _ = socket.shutdown(Shutdown::Read);
        }
    }

    /// The life of a link.
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
            // Ended before it had a server to be reset.
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

    /// Passes a piece on, as the flow says. `false`: the link is at its end.
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

    /// Lets time pass; a change of the flow ends it.
    fn wait(&self, time: Duration) {
        let end = Instant::now() + time;
        let flow = self.lock();
        let before = *flow;
        let unchanged = |flow: &mut Flow| *flow == before;
        let left = end.saturating_duration_since(Instant::now());
        drop(self.changed.wait_timeout_while(flow, left, unchanged));
    }
}

/// A port outside the range from which the kernel takes the ports of outgoing
/// connections, so that it can be closed and opened again. The range is another
/// than the cluster's and PgBouncer's.
fn listen_on_a_free_port() -> TcpListener {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let step = NEXT.fetch_add(1, Ordering::Relaxed).wrapping_mul(107);
        let port = 5_500 + (process::id().wrapping_mul(6_373).wrapping_add(step) % 4_400) as u16;
        if let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            return listener;
        }
    }
}
