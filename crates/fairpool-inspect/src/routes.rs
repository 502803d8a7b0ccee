//! The paths and their answers. All of them only read.

use std::cell::OnceCell;
use std::error::Error as _;
use std::net::IpAddr;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use fairpool_prometheus::{PrometheusCollector, TEXT_CONTENT_TYPE};
use fairpool_trace::{Recorder, Trace};
use hyper::body::{Body, Bytes};
use hyper::header::{self, HeaderValue};
use hyper::{Method, Request, StatusCode};
use tokio::sync::oneshot;
use tokio::time;

use crate::page;
use crate::response::{Answer, with_type};
use crate::view::View;

/// How long a recording may take, in seconds.
const TRACE_SECONDS: std::ops::RangeInclusive<u64> = 1..=60;
const DEFAULT_TRACE_SECONDS: u64 = 5;

/// At most this many recordings are under way or being fetched.
const MOST_TRACES: usize = 2;

/// A recording keeps this many slices, at about 200 bytes each; the file takes as much
/// again.
const TRACE_LIMIT: usize = 200_000;

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";

/// Everything that is served.
pub(crate) struct Site {
    pub(crate) view: View,
    metrics: PrometheusCollector,
    host: HostRule,
    /// Has one reference for each recording under way or being fetched, and this one.
    permits: Permit,
}

/// The right to make a recording. It is kept until the recording is fetched.
pub(crate) type Permit = Arc<()>;

/// Which host names a request may have.
pub(crate) struct HostRule {
    pub(crate) any: bool,
}

impl HostRule {
    /// A website whose own name resolves to this machine could otherwise read everything
    /// through the browser of a user of this machine.
    fn allows<B>(&self, request: &Request<B>) -> bool {
        let Some(host) = request.headers().get(header::HOST) else { return true };
        self.any || host.to_str().is_ok_and(is_local_name) && !is_from_website(request)
    }
}

/// Whether a browser sends this on behalf of another website, rather than because a user
/// follows a link.
fn is_from_website<B>(request: &Request<B>) -> bool {
    let is = |name, value: &str| request.headers().get(name).is_some_and(|is| is == value);
    is("sec-fetch-site", "cross-site") && !is("sec-fetch-mode", "navigate")
}

fn is_local_name(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let address = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost") || address.parse::<IpAddr>().is_ok()
}

impl Site {
    pub(crate) fn new(view: View, host: HostRule) -> Site {
        let metrics = PrometheusCollector::new(view.pools());
        Site { view, metrics, host, permits: Arc::new(()) }
    }
}

pub(crate) async fn answer<B: Body>(
    site: &Site,
    request: &Request<B>,
    permit: &OnceCell<Permit>,
) -> Answer {
    if !site.host.allows(request) {
        let why = "forbidden: use localhost or a numeric address as the host name\n";
        return text(StatusCode::FORBIDDEN, why);
    }
    let path = request.uri().path();
    let known = ["/", "/metrics", "/snapshot.json", "/history.json", "/dump", "/trace"];
    if !known.contains(&path) {
        let paths = known.join(", ");
        return text(StatusCode::NOT_FOUND, format!("not found; the paths are: {paths}\n"));
    }
    if ![Method::GET, Method::HEAD].contains(request.method()) {
        let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, "use GET or HEAD\n");
        answer.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        return answer;
    }
    let query = request.uri().query().unwrap_or("");
    match path {
        "/" => page::answer(),
        "/metrics" => with_type(TEXT_CONTENT_TYPE, site.metrics.text()),
        "/snapshot.json" => with_type(JSON, site.view.overview().json()),
        "/history.json" => history(site, query),
        "/dump" => with_type(TEXT, site.view.overview().text().to_owned()),
        _ => trace(site, query, *request.method() == Method::HEAD, permit).await,
    }
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    let mut answer = with_type(TEXT, body);
    *answer.status_mut() = status;
    answer
}

fn history(site: &Site, query: &str) -> Answer {
    match number(query, "after", 0, 0..=u64::MAX) {
        Ok(after) => with_type(JSON, site.view.history(after)),
        Err(why) => text(StatusCode::BAD_REQUEST, why),
    }
}

/// The one parameter that there may be.
fn number(
    query: &str,
    name: &str,
    usual: u64,
    range: std::ops::RangeInclusive<u64>,
) -> Result<u64, String> {
    let mut number = usual;
    for part in query.split('&').filter(|part| !part.is_empty()) {
        let (key, value) = part.split_once('=').unwrap_or((part, ""));
        if key != name {
            return Err(format!("the only parameter is {name}, not '{key}'\n"));
        }
        let legal = value.parse().ok().filter(|number| range.contains(number));
        number = legal.ok_or_else(|| {
            let (least, most) = range.clone().into_inner();
            format!("{name} must be a whole number from {least} to {most}, but is '{value}'\n")
        })?;
    }
    Ok(number)
}

async fn trace(site: &Site, query: &str, only_head: bool, kept: &OnceCell<Permit>) -> Answer {
    let seconds = match number(query, "seconds", DEFAULT_TRACE_SECONDS, TRACE_SECONDS) {
        Ok(seconds) => seconds,
        Err(why) => return text(StatusCode::BAD_REQUEST, why),
    };
    if only_head {
        return with_type(JSON, "");
    }
    let permit = Arc::clone(&site.permits);
    if Arc::strong_count(&permit) > MOST_TRACES + 1 {
        let why = format!("{MOST_TRACES} recordings are already under way: try again later\n");
        return text(StatusCode::TOO_MANY_REQUESTS, why);
    }
    let trace = Trace::with_limit(TRACE_LIMIT);
    let recorder = match Recorder::start_with(&site.view.pools(), trace) {
        Ok(recorder) => recorder,
        Err(error) => {
            let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
            return text(StatusCode::SERVICE_UNAVAILABLE, format!("{error}{cause}\n"));
        }
    };
    // If the client disconnects, this is dropped here, and with it the recorder.
    time::sleep(Duration::from_secs(seconds)).await;
    match written(recorder, Arc::clone(&permit)).await {
        Some(file) => {
            let _ = kept.set(permit);
            let mut answer = with_type(JSON, file);
            let name = HeaderValue::from_static("attachment; filename=\"pools.trace.json\"");
            answer.headers_mut().insert(header::CONTENT_DISPOSITION, name);
            answer
        }
        None => text(
            StatusCode::SERVICE_UNAVAILABLE,
            "the system cannot start a thread to write the file\n",
        ),
    }
}

/// Writes the file on a thread of its own: that takes a while.
async fn written(recorder: Recorder, permit: Permit) -> Option<Vec<u8>> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_names_are_localhost_and_addresses() {
        for name in ["localhost", "LocalHost:80", "127.0.0.1:8080", "[::1]:80", "[::1]", "10.0.0.1"]
        {
            assert!(is_local_name(name), "{name}");
        }
        for name in ["example.com", "localhost.example.com", "127.0.0.1.nip.io:80", "", ":80"] {
            assert!(!is_local_name(name), "{name}");
        }
    }
}
