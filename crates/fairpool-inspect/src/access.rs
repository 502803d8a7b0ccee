//! Which requests are refused. A website must not use the server through the browser of a user who
//! can reach it: it can neither read answers nor start anything.

use hyper::header::{self, HeaderName};
use hyper::{Method, Request};

use std::net::IpAddr;

const OTHER_NAME: &str = "forbidden: use localhost or a numeric address as the host name\n";
const WEBSITE: &str = "forbidden: another website asks for this; open the page at / instead\n";

/// Which host names a request may have.
pub(crate) struct HostRule {
    pub(crate) any: bool,
}

impl HostRule {
    /// Why this request is refused; `None` if it is not.
    pub(crate) fn refusal<B>(&self, request: &Request<B>) -> Option<&'static str> {
        // A website whose own name resolves to this machine could otherwise read everything.
        let host = request.headers().get(header::HOST);
        if !self.any && host.is_some_and(|host| !host.to_str().is_ok_and(is_local_name)) {
            return Some(OTHER_NAME);
        }
        (is_from_website(request) && !is_page_navigation(request)).then_some(WEBSITE)
    }
}

/// Whether a browser sends this request for another website. Another port of this machine counts
/// as another website.
fn is_from_website<B>(request: &Request<B>) -> bool {
    let site = header(request, "sec-fetch-site");
    // The browser knows its own address, which a proxy may have changed since.
    if site == Some("same-origin") {
        return false;
    }
    let foreign = site.is_some_and(|site| site != "none");
    // Old browsers do not send the above, and none does over plain HTTP to another machine. But
    // each names the origin of a request that could change something.
    foreign || request.headers().contains_key(header::ORIGIN) && !has_own_origin(request)
}

/// Whether a user follows a link to the page, which is all that another website may cause.
fn is_page_navigation<B>(request: &Request<B>) -> bool {
    let is_page = request.uri().path() == "/"
        && [Method::GET, Method::HEAD].contains(request.method())
        && !request.headers().contains_key(header::ORIGIN);
    // Not in a frame.
    let in_a_tab = header(request, "sec-fetch-dest").is_none_or(|dest| dest == "document");
    is_page && in_a_tab && header(request, "sec-fetch-mode") == Some("navigate")
}

fn has_own_origin<B>(request: &Request<B>) -> bool {
    let origin = header(request, "origin").and_then(|origin| origin.split_once("://"));
    let host = header(request, "host");
    origin.is_some_and(|(_, at)| host.is_some_and(|host| host.eq_ignore_ascii_case(at)))
}

fn header<'a, B>(request: &'a Request<B>, name: &'static str) -> Option<&'a str> {
    // A browser sends no header that is not a text. Such a header must not count as absent.
    let value = request.headers().get(HeaderName::from_static(name))?;
    Some(value.to_str().unwrap_or("?"))
}

fn is_local_name(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let address = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost") || address.parse::<IpAddr>().is_ok()
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
