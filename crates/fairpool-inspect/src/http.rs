//! Accepts clients and serves each one request. One thread serves all of them and never
//! blocks, so a slow or silent client does not delay the others.

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
use tokio::task::{LocalSet, spawn_local};
use tokio::time;

use crate::access::HostRule;
use crate::clients::{ClientState, Clients, is_about_one_client};
use crate::question::Question;
use crate::routes::{Site, answer};
use crate::stream::Stream;
use crate::view::{SAMPLE_EVERY, View};

/// A client must send its whole request within this time.
const REQUEST_LIMIT: Duration = Duration::from_secs(5);

/// A client is cut off after this time: enough for the longest recording, and a minute or
/// two to fetch it.
const VISIT_LIMIT: Duration = Duration::from_secs(180);

/// In bytes.
const LONGEST_REQUEST: usize = 16 * 1024;

/// Does everything that can fail, before the thread starts. Returns what the thread runs.
pub(crate) fn prepare(
    listener: StdListener,
    pools: Vec<WeakPool>,
    questions: Vec<Question>,
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
        let site = Rc::new(Site::new(View::new(pools, questions), host));
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
    let mut clients = Clients::new();
    loop {
        match listener.accept().await {
            Ok((tcp, _)) => {
                clients.room().await;
                let state = ClientState::new();
                let watched = Rc::downgrade(&state);
                let task = spawn_local(serve(tcp, Rc::clone(&site), state));
                clients.add(watched, task.abort_handle());
            }
            Err(error) if is_about_one_client(&error) => {}
            Err(_) => clients.disconnect_half().await,
        }
    }
}

async fn serve(tcp: TcpStream, site: Rc<Site>, state: Rc<ClientState>) {
    let stream = Stream::new(tcp, Rc::clone(&state));
    let service = service_fn(move |request| {
        let (site, state) = (Rc::clone(&site), Rc::clone(&state));
        async move {
            state.request_arrived();
            Ok::<_, Infallible>(answer(&site, &request, &state).await)
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST_LIMIT)
        .max_buf_size(LONGEST_REQUEST)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    // An error is the client's: it has had its answer, or there is none.
    let _ = time::timeout(VISIT_LIMIT, connection).await;
}
