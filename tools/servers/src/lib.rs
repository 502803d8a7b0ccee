//! Real servers for tests: PostgreSQL, PgBouncer, Prometheus, a proxy that misbehaves,
//! networks that lose packets, and a browser.

pub mod bouncer;
pub mod browser;
pub mod cluster;
pub mod netns;
pub mod prometheus;
pub mod proxy;
