//! The closure that gives credentials, and what it has answered.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use postgres::error::DbError;
use postgres::{Config, Error};

use super::{Credentials, WhyAsked, number_of_hosts};
use crate::manager::secrets;

/// A connect waits this long for the answer that another one has asked for, and then asks
/// itself: one ask that hangs must not hold up all connects.
const SHARED_FOR: Duration = Duration::from_secs(1);

/// With several hosts the driver reports only what the last one said. So credentials of this age
/// may be those that another host has refused, whatever the error is.
const SUSPECT_AFTER: Duration = Duration::from_secs(30);

/// Why the closure returned no credentials.
#[derive(Clone, Debug)]
struct NoCredentials(Arc<dyn StdError + Send + Sync>);

impl fmt::Display for NoCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("asking for credentials failed")
    }
}

impl StdError for NoCredentials {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&*self.0)
    }
}

type BoxError = Box<dyn StdError + Send + Sync>;
type Ask = dyn Fn(WhyAsked) -> Result<Credentials, BoxError> + Send + Sync;

/// The closure, and what it has answered. Shared by the clones of a manager.
pub(in crate::manager) struct Source {
    ask: Box<Ask>,
    asks: Mutex<Asks>,
    answered: Condvar,
}

#[derive(Default)]
struct Asks {
    begun: u64,
    running: usize,
    /// The number of the latest ask that has ended.
    ended: u64,
    /// Why it failed.
    failure: Option<NoCredentials>,
    /// The latest that were given.
    given: Option<Given>,
    /// Why those are not given again.
    doubt: Option<WhyAsked>,
}

#[derive(Clone)]
struct Given {
    number: u64,
    credentials: Arc<Credentials>,
    asked: Instant,
}

impl Given {
    fn is_valid(&self) -> bool {
        self.asked.elapsed() < self.credentials.valid_for
    }
}

impl Source {
    pub(in crate::manager) fn new(
        ask: impl Fn(WhyAsked) -> Result<Credentials, BoxError> + Send + Sync + 'static,
    ) -> Source {
        Source { ask: Box::new(ask), asks: Mutex::default(), answered: Condvar::new() }
    }

    /// Logs in with what the closure has given. If a server refuses that, asks once more, and
    /// tells the closure why. If one may have refused it, the next login asks.
    pub(in crate::manager) fn log_in<R>(
        &self,
        config: &Config,
        connect: impl Fn(&Config) -> Result<R, Error>,
    ) -> Result<R, Error> {
        let mut was_told = false;
        loop {
            let (given, tells) =
                self.get().map_err(|why| secrets::from_io(io::Error::other(why)))?;
            was_told |= tells;
            let mut config = config.clone();
            given.credentials.apply_to(&mut config);
            let result = connect(&config);
            let doubt = result.as_ref().err().and_then(|error| doubt(error, &config, given.asked));
            if let Some(why) = doubt {
                self.doubt(&given, why);
            }
            // What else fails may have taken most of the time that the pool allows, for each host
            // its share: the same again would not end in time to say why.
            if was_told || doubt != Some(WhyAsked::Refused) {
                return result;
            }
            was_told = true;
        }
    }

    /// Returns credentials, and whether they come from an ask of now that has told the closure of
    /// a refusal.
    fn get(&self) -> Result<(Given, bool), NoCredentials> {
        let mut asks = self.lock();
        if let Some(given) = asks.usable() {
            return Ok((given, false));
        }
        let why = asks.doubt.unwrap_or(WhyAsked::Due);
        let tells = why == WhyAsked::Refused;
        let seen = asks.ended;
        let is_awaited = |asks: &mut Asks| asks.running > 0 && asks.ended == seen;
        asks = self
            .answered
            .wait_timeout_while(asks, SHARED_FOR, is_awaited)
            .unwrap_or_else(PoisonError::into_inner)
            .0;
        if asks.ended != seen {
            let given = asks.latest();
            return given.map(|given| (given, tells));
        }
        asks.begun += 1;
        asks.running += 1;
        let number = asks.begun;
        drop(asks);
        self.ask(number, why).map(|given| (given, tells))
    }

    fn ask(&self, number: u64, why: WhyAsked) -> Result<Given, NoCredentials> {
        let asked = Instant::now();
        // The pool would log the text of a panic, which may hold a secret.
        let answer = catch_unwind(AssertUnwindSafe(|| (self.ask)(why)))
            .unwrap_or_else(|_| Err("the closure panicked".into()));
        let outcome = match answer {
            Ok(credentials) => Ok(Given { number, credentials: Arc::new(credentials), asked }),
            Err(error) => Err(NoCredentials(Arc::from(error))),
        };
        self.lock().end(number, outcome.clone());
        // Not lost: those that wait check under the same lock before they sleep.
        self.answered.notify_all();
        outcome
    }

    fn doubt(&self, doubted: &Given, why: WhyAsked) {
        let mut asks = self.lock();
        let is_latest = asks.given.as_ref().is_some_and(|given| given.number == doubted.number);
        // What is known stays known.
        if is_latest && asks.doubt != Some(WhyAsked::Refused) {
            asks.doubt = Some(why);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Asks> {
        self.asks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Asks {
    fn usable(&self) -> Option<Given> {
        self.given.clone().filter(|given| self.doubt.is_none() && given.is_valid())
    }

    fn end(&mut self, number: u64, outcome: Result<Given, NoCredentials>) {
        self.running -= 1;
        // A late answer may be older than what has come since.
        if number <= self.ended {
            return;
        }
        self.ended = number;
        match outcome {
            Ok(given) => (self.given, self.doubt, self.failure) = (Some(given), None, None),
            Err(failure) => self.failure = Some(failure),
        }
    }

    /// The outcome of the latest ask.
    fn latest(&self) -> Result<Given, NoCredentials> {
        match (&self.failure, &self.given) {
            (Some(failure), _) => Err(failure.clone()),
            (None, Some(given)) => Ok(given.clone()),
            (None, None) => unreachable!("BUG: an ask ended without an outcome"),
        }
    }
}

/// Whether this error of a login with credentials of this age is a reason to ask for others.
fn doubt(error: &Error, config: &Config, asked: Instant) -> Option<WhyAsked> {
    let is_old = || asked.elapsed() > SUSPECT_AFTER;
    if error.as_db_error().is_some_and(refuses_login) {
        Some(WhyAsked::Refused)
    } else {
        (number_of_hosts(config) > 1 && is_old()).then_some(WhyAsked::MaybeRefused)
    }
}

fn refuses_login(error: &DbError) -> bool {
    match error.code().code() {
        "28P01" | "28000" => true,
        // PgBouncer has one code for all causes.
        "08P01" => ["authentication failed", "no such user"]
            .iter()
            .any(|text| error.message().contains(text)),
        _ => false,
    }
}

#[cfg(test)]
mod tests;
