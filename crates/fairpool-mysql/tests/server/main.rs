//! The manager on real servers, in one program: a MariaDB server takes some seconds to start, and
//! most tests share one.

mod common;
mod errors;
mod faults;
mod left_behind;
mod limits;
mod pool;
mod roles;
mod rows;
mod sessions;
mod statements;
