//! Moving from `r2d2`: all code down to `main` was written for `r2d2`, and only the crate's name
//! in the imports was changed. Comments with "fairpool:" explain what is different now.
//!
//! It needs no server: a flag stands for one.

use std::error::Error as _;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fairpool::event::{CheckinEvent, CheckoutEvent, ReleaseEvent, TimeoutEvent};
use fairpool::{CustomizeConnection, HandleError, HandleEvent, ManageConnection, Pool};

/// What the manager connects to.
#[derive(Debug)]
struct Server {
    up: AtomicBool,
}

struct Session {
    greeting: &'static str,
}

/// fairpool: an error must be `Send + Sync`, so that every caller that waited in vain gets it as
/// the cause.
#[derive(Debug)]
struct Refused;

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the server refused the connection")
    }
}

impl std::error::Error for Refused {}

struct Manager(Arc<Server>);

/// fairpool: a panic here costs no connection, and a call that hangs is
/// abandoned after its limit; in `r2d2` either loses the slot for good.
impl ManageConnection for Manager {
    type Connection = Session;
    type Error = Refused;

    fn connect(&self) -> Result<Session, Refused> {
        self.0.up.load(Ordering::Relaxed).then_some(Session { greeting: "" }).ok_or(Refused)
    }

    /// fairpool: runs on a thread of the pool, so that the caller can leave at
    /// its deadline. `r2d2` called it for each checkout, on the caller's thread
    /// and for as long as it took.
    fn is_valid(&self, _: &mut Session) -> Result<(), Refused> {
        self.0.up.load(Ordering::Relaxed).then_some(()).ok_or(Refused)
    }

    fn has_broken(&self, _: &mut Session) -> bool {
        !self.0.up.load(Ordering::Relaxed)
    }
}

#[derive(Debug)]
struct Greeter;

impl CustomizeConnection<Session, Refused> for Greeter {
    fn on_acquire(&self, session: &mut Session) -> Result<(), Refused> {
        session.greeting = "hello";
        Ok(())
    }

    /// fairpool: runs on a closer thread. A close that hangs blocks no caller.
    fn on_release(&self, _: Session) {
        println!("  a session ends");
    }
}

#[derive(Debug)]
struct Complain;

impl HandleError<Refused> for Complain {
    fn handle_error(&self, error: Refused) {
        println!("  cannot connect: {error:#}");
    }

    /// fairpool: new and optional. It borrows the error, which then becomes the typed cause of
    /// the callers' timeouts.
    fn inspect_error(&self, error: &Refused) -> bool {
        println!("  cannot connect: {error:#}");
        true
    }
}

#[derive(Debug)]
struct Trace;

/// fairpool: all of these run outside the pool's locks and may use the pool.
impl HandleEvent for Trace {
    fn handle_release(&self, event: ReleaseEvent) {
        println!("  connection {} leaves, {:.0?} old", event.connection_id(), event.age());
    }

    fn handle_checkout(&self, event: CheckoutEvent) {
        println!("  connection {} out after {:.0?}", event.connection_id(), event.duration());
    }

    fn handle_checkin(&self, event: CheckinEvent) {
        println!("  connection {} back after {:.0?}", event.connection_id(), event.duration());
    }

    fn handle_timeout(&self, event: TimeoutEvent) {
        println!("  no connection within {:?}", event.timeout());
    }
}

fn main() -> Result<(), fairpool::Error> {
    let server = Arc::new(Server { up: AtomicBool::new(true) });
    let pool = Pool::builder()
        .max_size(1)
        .connection_customizer(Box::new(Greeter))
        .error_handler(Box::new(Complain))
        .event_handler(Box::new(Trace))
        .build(Manager(Arc::clone(&server)))?;

    println!("the server is up:");
    let session = pool.get()?;
    println!("  the session says {}", session.greeting);

    println!("the server goes down while the session is in use:");
    server.up.store(false, Ordering::Relaxed);
    drop(session);
    match pool.get_timeout(Duration::from_millis(200)) {
        Ok(_) => println!("  got a connection to a server that is down?"),
        // fairpool: the text counts the connections and the waiters and names who
        // holds one; the cause is a value, not a text.
        Err(error) => {
            println!("  {error:#}");
            let cause = error.source().is_some_and(|cause| cause.is::<Refused>());
            println!("  timed out: {}, because of Refused: {cause}", error.is_timeout());
        }
    }

    // fairpool has more than `get` and `get_timeout`: `pool.request()` starts a
    // request with a priority, a deadline or a token that cancels it, and
    // `pool.close(…)` ends a pool in an orderly way, where `r2d2` can only drop it.
    Ok(())
}
