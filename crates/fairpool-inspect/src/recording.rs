//! Recordings: few at a time, since each is kept in memory until it is fetched.

use std::error::Error as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use fairpool_trace::{Recorder, Trace};
use hyper::StatusCode;
use hyper::header::{self, HeaderValue};
use tokio::sync::oneshot;
use tokio::time;

use crate::clients::ClientState;
use crate::response::{Answer, JSON, text, with_type};
use crate::view::View;

/// How long a recording may take, in seconds.
pub(crate) const SECONDS: std::ops::RangeInclusive<u64> = 1..=60;
pub(crate) const DEFAULT_SECONDS: u64 = 5;

/// In the process, however many servers it has. A busy pool fills 100 MB with one, half of it
/// for the file.
const MOST: usize = 2;

/// A recording keeps this many slices, at about 200 bytes each; the file takes as much
/// again.
const SLICES: usize = 200_000;

/// How many permits there are.
static PERMITS: AtomicUsize = AtomicUsize::new(0);

/// The right to make a recording. It is kept until the recording is fetched, or its client is
/// gone.
pub(crate) struct Permit(());

impl Permit {
    fn take() -> Option<Arc<Permit>> {
        let one_more = |now| (now < MOST).then_some(now + 1);
        let taken = PERMITS.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more);
        taken.is_ok().then(|| Arc::new(Permit(())))
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        PERMITS.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Records for so many seconds, and answers with the file.
pub(crate) async fn answer(view: &View, seconds: u64, state: &ClientState) -> Answer {
    let Some(permit) = Permit::take() else {
        let why = format!(
            "{MOST} recordings are under way in this process, or not fetched yet: try again later\n"
        );
        return text(StatusCode::TOO_MANY_REQUESTS, why);
    };
    state.keep_permit(Arc::clone(&permit));
    let recorder = match Recorder::start_with(&view.pools(), Trace::with_limit(SLICES)) {
        Ok(recorder) => recorder,
        Err(error) => {
            let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
            return text(StatusCode::SERVICE_UNAVAILABLE, format!("{error}{cause}\n"));
        }
    };
    // If the client disconnects, this is dropped here, and with it the recorder.
    time::sleep(Duration::from_secs(seconds)).await;
    let Some(file) = written(recorder, permit).await else {
        let why = "the system cannot start a thread to write the file\n";
        return text(StatusCode::SERVICE_UNAVAILABLE, why);
    };
    let mut answer = with_type(JSON, file);
    let name = HeaderValue::from_static("attachment; filename=\"pools.trace.json\"");
    answer.headers_mut().insert(header::CONTENT_DISPOSITION, name);
    answer
}

/// Writes the file on a thread of its own: that takes a while.
async fn written(recorder: Recorder, permit: Arc<Permit>) -> Option<Vec<u8>> {
    let (done, file) = oneshot::channel();
    let write = move || {
        let mut file = Vec::new();
        // Writing into memory cannot fail.
        let _ = recorder.stop().write(&mut file);
        let _ = done.send(file);
        drop(permit);
    };
    thread::Builder::new().name("fairpool-trace".to_string()).spawn(write).ok()?;
    file.await.ok()
}
