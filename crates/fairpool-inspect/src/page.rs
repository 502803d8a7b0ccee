//! The page: one file with all that it needs. What it shows of the pools it asks for
//! itself, as JSON.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};

use http_body_util::Full;
use hyper::Response;
use hyper::body::Bytes;
use hyper::header::{CONTENT_SECURITY_POLICY, HeaderValue};

use super::routes::with_type;

const HTML: &str = include_str!("page.html");
const CSS: &str = include_str!("page.css");
const JS: &str = include_str!("page.js");

pub(super) fn answer() -> Response<Full<Bytes>> {
    let nonce = nonce();
    let page = HTML.replace("{{nonce}}", &nonce).replace("{{css}}", CSS).replace("{{js}}", JS);
    let mut answer = with_type("text/html; charset=utf-8", page);
    // Nothing runs, and nothing is fetched, but what this page brings with it and the
    // figures from where it came.
    let policy = format!(
        "default-src 'none'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; \
         connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'none'"
    );
    if let Ok(policy) = HeaderValue::try_from(policy) {
        answer.headers_mut().insert(CONTENT_SECURITY_POLICY, policy);
    }
    answer
}

/// Different each time: 128 bits from the keys with which the system seeds hash maps.
fn nonce() -> String {
    let number = || RandomState::new().build_hasher().finish();
    format!("{:016x}{:016x}", number(), number())
}
