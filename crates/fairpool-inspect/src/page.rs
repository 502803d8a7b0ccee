//! The page: one file that contains everything it needs. It fetches the pools' data as JSON.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};

use http_body_util::Full;
use hyper::Response;
use hyper::body::Bytes;
use hyper::header::{CONTENT_SECURITY_POLICY, HeaderValue};

use crate::response::with_type;

const HTML: &str = include_str!("page.html");
const CSS: &str = include_str!("page.css");
const JS: &str = include_str!("page.js");

pub(crate) fn answer() -> Response<Full<Bytes>> {
    let nonce = nonce();
    let page = HTML.replace("{{nonce}}", &nonce).replace("{{css}}", CSS).replace("{{js}}", JS);
    let mut answer = with_type("text/html; charset=utf-8", page);
    // The page runs only its own script, and fetches only from its own server.
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

/// Unpredictable: 128 bits from the random keys of hash maps.
fn nonce() -> String {
    let number = || RandomState::new().build_hasher().finish();
    format!("{:016x}{:016x}", number(), number())
}
