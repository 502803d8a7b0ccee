//! Questions about a pool that the program answers itself.

use std::fmt;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use fairpool::WeakPool;
use hyper::StatusCode;
use tokio::sync::oneshot;

use crate::response::{Answer, text};

/// In the process, however many servers it has: each takes a thread until it is answered.
const MOST: usize = 2;

static UNDER_WAY: AtomicUsize = AtomicUsize::new(0);

pub(crate) type Ask = Arc<dyn Fn() -> String + Send + Sync>;

/// What a pool's button asks.
#[derive(Clone)]
pub(crate) struct Question {
    pub(crate) pool: WeakPool,
    pub(crate) ask: Ask,
}

impl fmt::Debug for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Question").field("pool", &self.pool.name()).finish_non_exhaustive()
    }
}

/// A question that is not answered yet.
struct Permit(());

impl Permit {
    fn take() -> Option<Permit> {
        let one_more = |now| (now < MOST).then_some(now + 1);
        let taken = UNDER_WAY.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more);
        taken.is_ok().then_some(Permit(()))
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        UNDER_WAY.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Asks on a thread of its own, since that may take a while.
pub(crate) async fn answer(ask: Ask) -> Answer {
    let Some(permit) = Permit::take() else {
        let why = format!("{MOST} questions are under way in this process: try again later\n");
        return text(StatusCode::TOO_MANY_REQUESTS, why);
    };
    let (done, said) = oneshot::channel();
    let run = move || {
        let _permit = permit;
        // Caught, so that the permit's thread ends quietly: the panic hook has told of it.
        let said = panic::catch_unwind(AssertUnwindSafe(|| ask()));
        let _ = done.send(said.map_err(std::mem::forget));
    };
    let begun = thread::Builder::new().name("fairpool-question".to_string()).spawn(run);
    if begun.is_err() {
        return text(StatusCode::SERVICE_UNAVAILABLE, "the system cannot start a thread to ask\n");
    }
    match said.await {
        Ok(Ok(said)) => text(StatusCode::OK, said),
        _ => text(StatusCode::INTERNAL_SERVER_ERROR, "the question has panicked\n"),
    }
}
