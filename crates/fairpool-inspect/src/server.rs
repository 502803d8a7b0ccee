//! Clients come, are answered, and go: one request each. Nobody who is slow, or says
//! nothing, holds up the others: all are served by one thread that never waits.

use std::cell::{Cell, OnceCell};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::net::TcpListener as StdListener;
use std::panic::{self, AssertUnwindSafe};
use std::rc::Rc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime;
use tokio::sync::oneshot;
use tokio::task::{AbortHandle, LocalSet, spawn_local};
use tokio::time;
use tokio_io_timeout::TimeoutStream;

use super::routes::{Host, Site, answer};
use super::view::{SAMPLE_EVERY, View};
use crate::error::text_of_panic;
use crate::snapshot::WeakPool;

/// More clients at once are not served: the newest comes in, another has to go.
const MOST_CLIENTS: usize = 256;

/// Within this time a client has to send all of its request.
const REQUEST_LIMIT: Duration = Duration::from_secs(5);

/// So long it may read nothing of its answer.
const STALL_LIMIT: Duration = Duration::from_secs(5);

/// A client is done within this time: with the longest of recordings, and a minute or
/// two to fetch it.
const VISIT_LIMIT: Duration = Duration::from_secs(180);

/// A request is no longer than this.
const LONGEST_REQUEST: usize = 16 * 1024;

/// When no client can be let in (there are no more file descriptors, say), it is tried
/// again after this long.
const RETRY: Duration = Duration::from_millis(100);

/// Everything that can fail, before there is a thread; what is returned runs on it.
pub(super) fn prepare(
    listener: StdListener,
    pools: Vec<WeakPool>,
    host: Host,
    stopped: oneshot::Receiver<()>,
) -> io::Result<impl FnOnce() + Send> {
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
        // Ends with a message, or because nobody can send one any more.
        let _ = tasks.block_on(&runtime, stopped);
    })
}

/// Notes how the pools are, once a second.
async fn sample(site: Rc<Site>) {
    let mut ticks = time::interval(SAMPLE_EVERY);
    ticks.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        // It may be the last to hold a pool, whose manager is the user's code.
        let sampled = panic::catch_unwind(AssertUnwindSafe(|| site.view.sample()));
        sampled.unwrap_or_else(|payload| drop(text_of_panic(payload)));
    }
}

async fn accept(listener: TcpListener, site: Rc<Site>) {
    let mut clients = Clients(VecDeque::new());
    loop {
        match listener.accept().await {
            Ok((stream, _)) => clients.let_in(stream, &site),
            Err(_) => time::sleep(RETRY).await,
        }
    }
}

/// Those who are being served, the oldest first.
struct Clients(VecDeque<Client>);

struct Client {
    task: AbortHandle,
    /// Its request has come, and is being answered.
    asked: Rc<Cell<bool>>,
}

impl Clients {
    fn let_in(&mut self, stream: TcpStream, site: &Rc<Site>) {
        self.0.retain(|client| !client.task.is_finished());
        if self.0.len() >= MOST_CLIENTS {
            self.turn_out();
        }
        let asked = Rc::new(Cell::new(false));
        let serving = serve(stream, Rc::clone(site), Rc::clone(&asked));
        self.0.push_back(Client { task: spawn_local(serving).abort_handle(), asked });
    }

    /// The one has to go who has been about to ask for longest; if all have asked,
    /// the one who came first.
    fn turn_out(&mut self) {
        let silent = self.0.iter().position(|client| !client.asked.get()).unwrap_or(0);
        if let Some(client) = self.0.remove(silent) {
            client.task.abort();
        }
    }
}

async fn serve(stream: TcpStream, site: Rc<Site>, asked: Rc<Cell<bool>>) {
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(STALL_LIMIT));
    // As long as the answer is kept.
    let turn = Rc::new(OnceCell::new());
    let service = service_fn(move |request| {
        asked.set(true);
        let (site, turn) = (Rc::clone(&site), Rc::clone(&turn));
        async move { Ok::<_, Infallible>(answer(&site, &request, &turn).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST_LIMIT)
        .max_buf_size(LONGEST_REQUEST)
        .keep_alive(false)
        .serve_connection(TokioIo::new(Box::pin(stream)), service);
    // Whatever a client does wrong, it has had its answer, or there is none.
    let _ = time::timeout(VISIT_LIMIT, connection).await;
}
