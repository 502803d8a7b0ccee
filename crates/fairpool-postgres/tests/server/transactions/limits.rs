//! How often and how long transactions are tried.

use std::error::Error as _;
use std::fmt::Debug;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use fairpool::{Error, Pool};
use fairpool_postgres::postgres;
use fairpool_postgres::postgres::error::{DbError, SqlState};
use fairpool_postgres::{Aborted, Transaction, TransactionError, transaction};

use super::{Outcome, RAISE_CONFLICT, create_tables, items, options, pid, pool_of};
use crate::common::{
    LONG, PROMPT, backend, kill, manager, millis, named, own_database, session, shared, wait_until,
};

/// Longer than any test.
const AGES: Duration = Duration::from_secs(1_000_000_000);

fn conflict(tx: &mut Transaction<'_>) -> Result<(), postgres::Error> {
    tx.batch_execute(RAISE_CONFLICT)
}

fn aborted<E: Debug>(outcome: Result<(), TransactionError<E>>) -> Aborted<E> {
    match outcome {
        Err(TransactionError::Aborted(aborted)) => aborted,
        other => panic!("not aborted: {other:?}"),
    }
}

#[test]
fn transactions_end_after_the_attempts_that_are_allowed_with_the_last_error() {
    let pool = pool_of(1, named("tx_attempts"));
    let mut runs = 0;
    let options = options().max_attempts(3).backoff(Duration::ZERO, Duration::ZERO);
    let outcome: Outcome<()> = transaction(&pool, options.clone(), |tx| {
        runs += 1;
        conflict(tx)
    });
    let aborted = aborted(outcome);
    assert_eq!((runs, aborted.attempts()), (3, 3));
    assert_eq!(aborted.code(), Some(&SqlState::T_R_SERIALIZATION_FAILURE));
    assert!(aborted.closure_error().is_some() && aborted.get_error().is_none());
    let error = TransactionError::Aborted(aborted);
    assert_eq!(
        error.to_string(),
        "the transaction was aborted after 3 attempts (no more are allowed): in the way (40001)",
    );
    let source = error.source().expect("the closure's error");
    assert!(source.is::<postgres::Error>());
    // The closure keeps it for itself.
    let outcome: Outcome<()> = transaction(&pool, options, |tx| {
        let _ = conflict(tx);
        Ok(())
    });
    let error = outcome.expect_err("conflicts");
    let source = error.source().expect("the server's error");
    assert!(source.is::<DbError>(), "{source:?}");
}

/// A transaction that would pause past its deadline ends at once.
#[test]
fn p1_transactions_do_not_pause_past_their_deadline() {
    let pool = pool_of(1, named("tx_pause"));
    let start = Instant::now();
    let options = options().timeout(LONG).backoff(AGES, AGES);
    let aborted = aborted(transaction(&pool, options, conflict));
    assert!(start.elapsed() < PROMPT, "{:?}", start.elapsed());
    assert_eq!(aborted.attempts(), 1);
    let text = aborted.to_string();
    assert!(text.contains("after 1 attempt (no time is left for another)"), "{text}");
}

#[test]
fn p1_transactions_begin_no_attempt_after_their_deadline() {
    let pool = pool_of(1, named("tx_late"));
    let mut runs = 0;
    let options = options().timeout(millis(50)).backoff(Duration::ZERO, Duration::ZERO);
    let outcome = transaction(&pool, options, |tx| {
        runs += 1;
        thread::sleep(millis(60));
        conflict(tx)
    });
    assert_eq!((aborted(outcome).attempts(), runs), (1, 1));
}

/// The pool's own time limit holds if there is no other.
#[test]
fn p1_transactions_wait_for_connections_no_longer_than_their_deadline() {
    let pool = Pool::builder().max_size(1).connection_timeout(millis(40));
    // A get without time takes no connection that needs a check.
    let pool = pool.skip_check_within(Duration::MAX).build_unchecked(named("tx_full"));
    let held = pool.get_timeout(LONG).unwrap();
    for options in [options(), options().timeout(millis(40)), options().timeout(Duration::ZERO)] {
        let outcome: Outcome<()> = transaction(&pool, options, |_| panic!("no connection"));
        match outcome {
            Err(error @ TransactionError::Get(_)) => {
                let text = error.to_string();
                assert!(text.contains("0 idle, 1 in use") && text.contains(file!()), "{text}");
            }
            other => panic!("{other:?}"),
        }
    }
    drop(held);
    // Without time there is one attempt.
    wait_until("idle", || pool.stats().idle == 1);
    let mut runs = 0;
    let outcome = transaction(&pool, options().timeout(Duration::ZERO), |tx| {
        runs += 1;
        conflict(tx)
    });
    assert_eq!((aborted(outcome).attempts(), runs), (1, 1));
    let unlimited: Outcome<()> = transaction(&pool, options().timeout(Duration::MAX), |_| Ok(()));
    unlimited.expect("a commit");
}

/// The pause is without a connection, and the next attempt waits for one in the queue.
#[test]
fn transactions_that_pause_leave_their_connection_to_others() {
    let pool = pool_of(1, named("tx_fair"));
    let order = Mutex::new(Vec::new());
    let note = |who| order.lock().unwrap().push(who);
    thread::scope(|scope| {
        let waiter = || {
            let _conn = pool.get().expect("the connection");
            note("waiter");
        };
        let mut runs = 0;
        let done: Outcome<()> = transaction(&pool, options(), |tx| {
            runs += 1;
            note("attempt");
            if runs == 2 {
                return Ok(());
            }
            scope.spawn(waiter);
            wait_until("somebody waits", || pool.stats().waiting == 1);
            conflict(tx)
        });
        done.expect("a commit");
    });
    assert_eq!(order.into_inner().unwrap(), ["attempt", "waiter", "attempt"]);
}

#[test]
fn transactions_without_a_connection_for_another_attempt_say_both() {
    let pool = pool_of(1, named("tx_gone"));
    let mut admin = session(shared());
    let outcome: Outcome<()> = transaction(&pool, options(), |tx| {
        let pid = pid(tx);
        kill(&mut admin, &[pid]);
        let _ = pool.close(Instant::now());
        tx.batch_execute("SELECT 1")
    });
    let aborted = aborted(outcome);
    assert!(aborted.get_error().is_some_and(Error::is_closed), "{aborted}");
    // The server's last words may be lost.
    assert!(aborted.code().is_none_or(|code| code == &SqlState::ADMIN_SHUTDOWN), "{aborted}");
    let text = aborted.to_string();
    println!("{text}");
    assert!(text.contains("after 1 attempt (no connection for another: "), "{text}");
    assert!(!text.contains('\n'), "{text}");
}

#[test]
fn p10_transactions_whose_closure_panics_are_rolled_back_and_keep_their_connection() {
    let _own = own_database("tx_panics");
    create_tables();
    let pool = pool_of(1, manager());
    let before = backend(&mut pool.get().unwrap());
    let panics = || -> Outcome<()> {
        transaction(&pool, options(), |tx| {
            tx.execute("INSERT INTO item VALUES (1)", &[])?;
            panic!("in the closure")
        })
    };
    let payload = catch_unwind(AssertUnwindSafe(panics));
    let payload = payload.expect_err("the closure's panic");
    assert_eq!(payload.downcast_ref::<&str>(), Some(&"in the closure"));
    assert_eq!(items(), "none");
    let mut conn = pool.get().unwrap();
    assert_eq!(backend(&mut conn), before);
    conn.batch_execute("INSERT INTO item VALUES (2)").unwrap();
    drop(conn);
    assert_eq!((items().as_str(), pool.stats().closed.total()), ("2", 0));
}
