//! What is where. Nothing can be changed from outside: all that one can do is to ask.

use std::cell::OnceCell;
use std::net::IpAddr;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Body, Bytes};
use hyper::header::{self, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use tokio::sync::oneshot;
use tokio::time;

use super::page;
use super::view::View;
use crate::metrics::{PrometheusCollector, TEXT_CONTENT_TYPE};
use crate::sync::{self, Arc};
use crate::trace::{Recorder, Trace};

/// A recording takes this many seconds …
const TRACE_SECONDS: std::ops::RangeInclusive<u64> = 1..=60;
/// … unless told otherwise.
const USUAL_TRACE: u64 = 5;

/// So many recordings may be made at once.
const MOST_TRACES: usize = 2;

/// A recording keeps the last so many slices, at some 200 bytes each, and then as many
/// for the file.
const TRACE_LIMIT: usize = 200_000;

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";

type Answer = Response<Full<Bytes>>;

/// What there is to see.
pub(super) struct Site {
    pub(super) view: View,
    metrics: PrometheusCollector,
    host: Host,
    /// As many as recordings are being made or fetched, and one.
    traces: Turn,
}

/// To make a recording, and to have it fetched.
pub(super) type Turn = Arc<()>;

/// By which names one may ask.
pub(super) struct Host {
    pub(super) any: bool,
}

impl Host {
    /// A website that has its own name lead here could otherwise read everything
    /// through the browser of somebody on this machine.
    fn welcomes<B>(&self, request: &Request<B>) -> bool {
        let Some(host) = request.headers().get(header::HOST) else { return true };
        self.any || host.to_str().is_ok_and(is_local_name) && !is_of_website(request)
    }
}

/// A browser asks for the page of some website, not because somebody follows a link.
fn is_of_website<B>(request: &Request<B>) -> bool {
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
    pub(super) fn new(view: View, host: Host) -> Site {
        let metrics = PrometheusCollector::new(view.watches());
        Site { view, metrics, host, traces: Arc::new(()) }
    }
}

pub(super) async fn answer<B: Body>(
    site: &Site,
    request: &Request<B>,
    turn: &OnceCell<Turn>,
) -> Answer {
    if !site.host.welcomes(request) {
        let why = "this is not for others: ask for localhost, or for a numeric address\n";
        return text(StatusCode::FORBIDDEN, why);
    }
    let path = request.uri().path();
    let known = ["/", "/metrics", "/snapshot.json", "/history.json", "/dump", "/trace"];
    if !known.contains(&path) {
        let there_is = known.join(", ");
        return text(StatusCode::NOT_FOUND, format!("there is only: {there_is}\n"));
    }
    if ![Method::GET, Method::HEAD].contains(request.method()) {
        let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, "one can only look: GET or HEAD\n");
        answer.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        return answer;
    }
    let query = request.uri().query().unwrap_or("");
    match path {
        "/" => page::answer(),
        "/metrics" => with_type(TEXT_CONTENT_TYPE, site.metrics.text()),
        "/snapshot.json" => with_type(JSON, site.view.look().json()),
        "/history.json" => history(site, query),
        "/dump" => with_type(TEXT, site.view.look().text().to_owned()),
        _ => trace(site, query, *request.method() == Method::HEAD, turn).await,
    }
}

/// An answer that is not kept, and taken for nothing but what it says it is.
pub(super) fn with_type(kind: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    let headers = answer.headers_mut();
    let value = HeaderValue::from_static;
    headers.insert(header::CONTENT_TYPE, value(kind));
    headers.insert(header::CACHE_CONTROL, value("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, value("nosniff"));
    headers.insert(header::REFERRER_POLICY, value("no-referrer"));
    answer
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

async fn trace(site: &Site, query: &str, only_head: bool, kept: &OnceCell<Turn>) -> Answer {
    let seconds = match number(query, "seconds", USUAL_TRACE, TRACE_SECONDS) {
        Ok(seconds) => seconds,
        Err(why) => return text(StatusCode::BAD_REQUEST, why),
    };
    if only_head {
        return with_type(JSON, "");
    }
    let turn = Arc::clone(&site.traces);
    if Arc::strong_count(&turn) > MOST_TRACES + 1 {
        let why = format!("{MOST_TRACES} recordings are being made already: try again later\n");
        return text(StatusCode::TOO_MANY_REQUESTS, why);
    }
    let trace = Trace::with_limit(TRACE_LIMIT);
    let recorder = match Recorder::start_with(&site.view.watches(), trace) {
        Ok(recorder) => recorder,
        Err(error) => return text(StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")),
    };
    // If the client goes, this ends here, and the recorder with it.
    time::sleep(Duration::from_secs(seconds)).await;
    match written(recorder, Arc::clone(&turn)).await {
        Some(file) => {
            let _ = kept.set(turn);
            let mut answer = with_type(JSON, file);
            let name = HeaderValue::from_static("attachment; filename=\"pools.trace.json\"");
            answer.headers_mut().insert(header::CONTENT_DISPOSITION, name);
            answer
        }
        None => {
            text(StatusCode::SERVICE_UNAVAILABLE, "the system has no thread to write the file\n")
        }
    }
}

/// That takes a while, so another thread does it.
async fn written(recorder: Recorder, turn: Turn) -> Option<Vec<u8>> {
    let (done, file) = oneshot::channel();
    let write = move || {
        let mut file = Vec::new();
        // Into memory, where nothing can fail.
        let _ = recorder.stop().write(&mut file);
        let _ = done.send(file);
        drop(turn);
    };
    sync::spawn("fairpool-trace".to_string(), write).ok()?;
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
