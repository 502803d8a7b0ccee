//! The manager, advice and blockers on real servers, in one program: a PostgreSQL cluster
//! takes a second to start, and most tests share one.
//!
//! The tests of `faults` and `closes` print what they measured, one line each. For exact
//! figures run one at a time:
//!
//! ```sh
//! cargo test -p fairpool-postgres --test server faults -- --nocapture --test-threads=1 | grep figure
//! ```

mod advise;
mod blockers;
mod cancels;
mod closes;
mod common;
mod credentials;
mod driver;
mod errors;
mod faults;
mod forks;
mod kept_meaning;
mod kept_statements;
mod left_behind;
mod limits;
mod marks;
mod names;
mod own_checks;
mod pgbouncer;
mod pool;
mod recovery;
mod refused_writes;
mod returns;
mod roles;
mod secrets;
mod stampede;
mod statements;
mod states;
mod tenants;
mod transactions;
mod unmarked;
mod waits;
mod words;
