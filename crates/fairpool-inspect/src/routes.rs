//! The paths and their answers. All of them only read.

use fairpool_prometheus::{PrometheusCollector, TEXT_CONTENT_TYPE};
use hyper::body::Body;
use hyper::header::{self, HeaderValue};
use hyper::{Method, Request, StatusCode};

use crate::access::HostRule;
use crate::clients::ClientState;
use crate::page;
use crate::question;
use crate::recording;
use crate::response::{Answer, JSON, TEXT, text, with_type};
use crate::view::View;

const PATHS: [&str; 9] = [
    "/",
    "/healthz",
    "/readyz",
    "/metrics",
    "/snapshot.json",
    "/history.json",
    "/dump",
    "/ask",
    "/trace",
];

/// Everything that is served.
pub(crate) struct Site {
    pub(crate) view: View,
    metrics: PrometheusCollector,
    host: HostRule,
}

impl Site {
    pub(crate) fn new(view: View, host: HostRule) -> Site {
        let metrics = PrometheusCollector::new(view.pools());
        Site { view, metrics, host }
    }
}

pub(crate) async fn answer<B: Body>(
    site: &Site,
    request: &Request<B>,
    state: &ClientState,
) -> Answer {
    if let Some(why) = site.host.refusal(request) {
        return text(StatusCode::FORBIDDEN, why);
    }
    let path = request.uri().path();
    if !PATHS.contains(&path) {
        let paths = PATHS.join(", ");
        return text(StatusCode::NOT_FOUND, format!("not found; the paths are: {paths}\n"));
    }
    if let Some(answer) = wrong_method(request.method(), path) {
        return answer;
    }
    if !request.body().is_end_stream() {
        return text(StatusCode::BAD_REQUEST, "a request must have no body\n");
    }
    let query = request.uri().query().unwrap_or("");
    match path {
        "/" => page::answer(),
        "/healthz" => text(StatusCode::OK, "ok\n"),
        "/readyz" => readiness(site),
        "/metrics" => with_type(TEXT_CONTENT_TYPE, site.metrics.text()),
        "/snapshot.json" => with_type(JSON, site.view.overview().json()),
        "/history.json" => history(site, query),
        "/dump" => with_type(TEXT, site.view.overview().text().to_owned()),
        "/ask" => ask(site, query).await,
        _ => trace(site, query, state).await,
    }
}

/// A recording or a question is started with `PUT`: no link, image, frame or form can send that,
/// and a script of another website only if the server agrees, which it does not.
fn wrong_method(method: &Method, path: &str) -> Option<Answer> {
    let (allowed, allow, why): (&[_], _, _) = match path {
        "/trace" => (
            &[Method::PUT],
            "PUT",
            "start a recording with PUT: \
             curl -X PUT -o pools.trace.json 'http://ADDRESS/trace?seconds=5'\n",
        ),
        "/ask" => {
            (&[Method::PUT], "PUT", "ask with PUT: curl -X PUT 'http://ADDRESS/ask?pool=0'\n")
        }
        _ => (&[Method::GET, Method::HEAD], "GET, HEAD", "use GET or HEAD\n"),
    };
    if allowed.contains(method) {
        return None;
    }
    let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, why);
    answer.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allow));
    Some(answer)
}

/// One line for each pool that is not ready. Causes may name hosts and users, so they are not
/// told here.
fn readiness(site: &Site) -> Answer {
    let pools = site.view.pools();
    let known: Vec<_> =
        pools.iter().filter_map(|pool| Some((pool.name(), pool.readiness()?))).collect();
    if known.is_empty() {
        return text(StatusCode::SERVICE_UNAVAILABLE, "all pools are gone\n");
    }
    let unready = known.iter().filter(|(_, readiness)| !readiness.is_ready());
    let why: String = unready.map(|(name, why)| format!("{name}: {why}\n")).collect();
    match why.is_empty() {
        true => text(StatusCode::OK, "ready\n"),
        false => text(StatusCode::SERVICE_UNAVAILABLE, why),
    }
}

fn history(site: &Site, query: &str) -> Answer {
    match number(query, "after", 0, 0..=u64::MAX) {
        Ok(after) => with_type(JSON, site.view.history(after)),
        Err(why) => text(StatusCode::BAD_REQUEST, why),
    }
}

async fn ask(site: &Site, query: &str) -> Answer {
    let at = match number(query, "pool", 0, 0..=u64::MAX) {
        Ok(at) => at,
        Err(why) => return text(StatusCode::BAD_REQUEST, why),
    };
    match site.view.question(at) {
        Some(ask) => question::answer(ask).await,
        None => text(StatusCode::NOT_FOUND, format!("there is no question about pool {at}\n")),
    }
}

async fn trace(site: &Site, query: &str, state: &ClientState) -> Answer {
    match number(query, "seconds", recording::DEFAULT_SECONDS, recording::SECONDS) {
        Ok(seconds) => recording::answer(&site.view, seconds, state).await,
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
