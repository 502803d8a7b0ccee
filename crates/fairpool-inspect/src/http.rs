//! Accepts clients and serves each one request. One thread serves all of them and never
//! blocks, so a slow or silent client does not delay the others.

use std::cell::{Cell, OnceCell};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::net::TcpListener as StdListener;
use std::panic::{self, AssertUnwindSafe};
use std::rc::Rc;
use std::time::Duration;

use fairpool::WeakPool;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime;
use tokio::sync::oneshot;
use tokio::task::{AbortHandle, LocalSet, spawn_local};
use tokio::time;
use tokio_io_timeout::TimeoutStream;

use crate::routes::{HostRule, Site, answer};
use crate::view::{SAMPLE_EVERY, View};

/// With more clients than this, a new client replaces an old one.
const MOST_CLIENTS: usize = 256;

/// A client must send its whole request within this time.
const REQUEST_LIMIT: Duration = Duration::from_secs(5);

/// A client may stop reading its answer for this long.
const STALL_LIMIT: Duration = Duration::from_secs(5);

/// A client is cut off after this time: enough for the longest recording, and a minute or
/// two to fetch it.
const VISIT_LIMIT: Duration = Duration::from_secs(180);

/// In bytes.
const LONGEST_REQUEST: usize = 16 * 1024;

/// The pause after a client could not be accepted: for example, because the process has no
/// more file descriptors.
const RETRY: Duration = Duration::from_millis(100);

/// Does everything that can fail, before the thread starts. Returns what the thread runs.
pub(crate) fn prepare(
    listener: StdListener,
    pools: Vec<WeakPool>,
    host: HostRule,
    stopped: oneshot::Receiver<()>,
) -> io::Result<impl FnOnce() + Send + use<>> {
    listener.set_nonblocking(true)?;
    let runtime = runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
    let listener = {
        let _inside = runtime.enter();
        TcpListener::from_std(listener)?
    };
    Ok(move || {
        let site = Rc::new(Site::new(View::new(pools), host));
        let tasks = LocalSet::new();
        tasks.spawn_local(sample(Rc::clone(&site)));
        tasks.spawn_local(accept(listener, site));
        // Ends with a message, or when the sender is gone.
        let _ = tasks.block_on(&runtime, stopped);
    })
}

/// Samples the pools once a second.
async fn sample(site: Rc<Site>) {
    let mut ticks = time::interval(SAMPLE_EVERY);
    ticks.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        // This may hold the last reference to a pool, whose manager is user code.
        let sampled = panic::catch_unwind(AssertUnwindSafe(|| site.view.sample()));
        // The destructor of a payload could panic, too.
        sampled.unwrap_or_else(std::mem::forget);
    }
}

async fn accept(listener: TcpListener, site: Rc<Site>) {
    let mut clients = Clients(VecDeque::new());
    loop {
        match listener.accept().await {
            Ok((stream, _)) => clients.add(stream, &site),
            Err(_) => time::sleep(RETRY).await,
        }
    }
}

/// The clients being served, the oldest first.
struct Clients(VecDeque<Client>);

struct Client {
    task: AbortHandle,
    /// Its request has arrived and is being answered.
    asked: Rc<Cell<bool>>,
}

impl Clients {
    fn add(&mut self, stream: TcpStream, site: &Rc<Site>) {
        self.0.retain(|client| !client.task.is_finished());
        if self.0.len() >= MOST_CLIENTS {
            self.remove_one();
        }
        let asked = Rc::new(Cell::new(false));
        let serving = serve(stream, Rc::clone(site), Rc::clone(&asked));
        self.0.push_back(Client { task: spawn_local(serving).abort_handle(), asked });
    }

    /// Disconnects the oldest client without a request; if all have sent theirs, the
    /// oldest client.
    fn remove_one(&mut self) {
        let silent = self.0.iter().position(|client| !client.asked.get()).unwrap_or(0);
        if let Some(client) = self.0.remove(silent) {
            client.task.abort();
        }
    }
}

async fn serve(stream: TcpStream, site: Rc<Site>, asked: Rc<Cell<bool>>) {
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(STALL_LIMIT));
    // Lives as long as the answer is being sent.
    let permit = Rc::new(OnceCell::new());
    let service = service_fn(move |request| {
        asked.set(true);
        let (site, permit) = (Rc::clone(&site), Rc::clone(&permit));
        async move { Ok::<_, Infallible>(answer(&site, &request, &permit).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST_LIMIT)
        .max_buf_size(LONGEST_REQUEST)
        .keep_alive(false)
        .serve_connection(TokioIo::new(Box::pin(stream)), service);
    // An error is the client's: it has had its answer, or there is none.
    let _ = time::timeout(VISIT_LIMIT, connection).await;
}
