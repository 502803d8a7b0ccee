//! Real servers for tests: PostgreSQL, also a primary with a standby, PgBouncer, MariaDB, redis,
//! memcached, Prometheus, a proxy with faults, networks that lose packets, and a browser.
//!
//! Everything is started for one test program, listens on loopback or on a private
//! network, and is removed when the program ends. That holds even if the program is
//! killed: the parent of each server is a shell script, the *keeper*, which reads from a
//! pipe. When the pipe ends, the keeper stops the server and removes its files.
//!
//! The programs themselves must be installed. A test panics with the name of the package
//! if one is missing.
//!
//! # Examples
//!
//! ```no_run
//! use fairpool_servers::cluster::Cluster;
//! use fairpool_servers::proxy::{Flow, Proxy};
//!
//! let cluster = Cluster::start();
//! let proxy = Proxy::start(cluster.port());
//! // From here on, nothing that a client sends through `proxy.port()` arrives.
//! proxy.set(Flow::Hold);
//! ```

pub mod bouncer;
pub mod browser;
pub mod cluster;
mod daemon;
mod host;
mod keeper;
pub mod mariadb;
pub mod memcached;
pub mod netns;
pub mod pair;
pub mod prometheus;
pub mod proxy;
pub mod redis;
