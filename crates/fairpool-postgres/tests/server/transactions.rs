//! Transactions that run again after a failure that may pass.

mod killed;
mod limits;
mod outcomes;

use std::cell::Cell;
use std::collections::BTreeSet;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use fairpool::Pool;
use fairpool_postgres::postgres::{self, IsolationLevel};
use fairpool_postgres::{Transaction, TransactionError, TransactionOptions, transaction};
use fairpool_servers::bouncer::Bouncer;
use fairpool_servers::pair::Pair;

use crate::common::{
    Manager, backend, builder, database, kill, manager, manager_of, named, own_database, psql,
    session, shared, take_all,
};
use crate::roles::{read_write, turn_read_only, two_primaries};

type Outcome<R> = Result<R, TransactionError<postgres::Error>>;

const RAISE_CONFLICT: &str =
    "DO $$ BEGIN RAISE EXCEPTION 'in the way' USING ERRCODE = '40001'; END $$";

fn options() -> TransactionOptions {
    TransactionOptions::new()
}

fn serializable() -> TransactionOptions {
    options().isolation_level(IsolationLevel::Serializable)
}

fn pool_of(size: u32, manager: Manager) -> Pool<Manager> {
    builder().max_size(size).build(manager).expect("a full pool")
}

fn pid(tx: &mut Transaction<'_>) -> i32 {
    tx.query_one("SELECT pg_backend_pid()", &[]).expect("a backend").get(0)
}

/// The tables of a test: a counter, and one for whatever is written.
fn create_tables() {
    psql(
        "CREATE TABLE counter (id int PRIMARY KEY, n int NOT NULL); \
         INSERT INTO counter VALUES (1, 0), (2, 0); CREATE TABLE item (n int PRIMARY KEY)",
    );
}

fn counters() -> String {
    psql("SELECT string_agg(n::text, ',' ORDER BY id) FROM counter")
}

fn items() -> String {
    psql("SELECT coalesce(string_agg(n::text, ',' ORDER BY n), 'none') FROM item")
}

/// Reads a counter and writes it, in two steps.
fn count_up(tx: &mut Transaction<'_>, between: impl FnOnce()) -> Result<(), postgres::Error> {
    let n: i32 = tx.query_one("SELECT n FROM counter WHERE id = 1", &[])?.get(0);
    between();
    tx.execute("UPDATE counter SET n = $1 WHERE id = 1", &[&(n + 1)]).map(drop)
}

/// Two threads count up, and meet at least once. Returns how many attempts there were.
fn two_count_up(pool: &Pool<Manager>, each: u32) -> u32 {
    let (attempts, both_have_read) = (AtomicU32::new(0), Barrier::new(2));
    // Who meets one that never pauses may need many.
    let options = serializable().max_attempts(u32::MAX);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let is_first = Cell::new(true);
                for _ in 0..each {
                    let counted = transaction(pool, options.clone(), |tx| {
                        attempts.fetch_add(1, Ordering::Relaxed);
                        count_up(tx, || {
                            if is_first.replace(false) {
                                both_have_read.wait();
                            }
                        })
                    });
                    counted.expect("a user sees no conflict");
                }
            });
        }
    });
    attempts.into_inner()
}

#[test]
fn transactions_that_conflict_are_retried_and_the_sum_is_exact() {
    let _own = own_database("tx_conflicts");
    create_tables();
    let pool = pool_of(2, manager());
    let attempts = two_count_up(&pool, 100);
    assert_eq!(counters(), "200,0");
    println!("figure: 2 threads, 200 serializable transactions on one row: {attempts} attempts");
    assert!(attempts > 200, "nobody met");
}

#[test]
fn transactions_through_a_transaction_pooler_are_retried_alike() {
    let _own = own_database("tx_bounced");
    create_tables();
    let bouncer = Bouncer::start_for(database(), shared().port(), 2, "transaction");
    let manager = Manager::new(bouncer.config(), fairpool_postgres::NoTls);
    let pool = pool_of(2, manager.transaction_pooler(true));
    let attempts = two_count_up(&pool, 30);
    assert_eq!(counters(), "60,0");
    assert!(attempts > 60, "nobody met");
    // A failure that the closure keeps for itself.
    let swallowed: Outcome<()> = transaction(&pool, options(), |tx| {
        tx.execute("INSERT INTO item VALUES (1)", &[])?;
        let _ = tx.execute("INSERT INTO item VALUES (1)", &[]);
        Ok(())
    });
    assert!(matches!(swallowed, Err(TransactionError::CommitRefused(_))), "{swallowed:?}");
    // A refusal of ours.
    let refused: Outcome<()> = transaction(&pool, options(), |tx| {
        tx.execute("INSERT INTO item VALUES (1)", &[])?;
        let _ = tx.batch_execute("LISTEN news");
        Ok(())
    });
    match refused {
        Err(TransactionError::CommitRefused(db)) if db.message().starts_with("fairpool: ") => {}
        other => panic!("{other:?}"),
    }
    assert_eq!(items(), "none");
    let read_only = transaction(&pool, options().read_only(true), |tx| {
        tx.query_one("SHOW transaction_read_only", &[]).map(|row| row.get::<_, String>(0))
    });
    assert_eq!(read_only.expect("a value"), "on");
}

#[test]
fn transactions_in_a_deadlock_are_retried_and_both_take_effect() {
    let _own = own_database("tx_deadlocks");
    create_tables();
    let pool = pool_of(2, manager().session_setting("deadlock_timeout", "10ms"));
    let (attempts, both_have_one) = (AtomicU32::new(0), Barrier::new(2));
    thread::scope(|scope| {
        for (first, second) in [(1, 2), (2, 1)] {
            let (pool, attempts, both_have_one) = (&pool, &attempts, &both_have_one);
            scope.spawn(move || {
                let add = "UPDATE counter SET n = n + 1 WHERE id = $1";
                let is_first = Cell::new(true);
                let added = transaction(pool, options(), |tx| {
                    attempts.fetch_add(1, Ordering::Relaxed);
                    tx.execute(add, &[&first])?;
                    if is_first.replace(false) {
                        both_have_one.wait();
                    }
                    tx.execute(add, &[&second])
                });
                added.expect("a user sees no deadlock");
            });
        }
    });
    assert_eq!(counters(), "2,2");
    assert!(attempts.into_inner() >= 3, "no deadlock");
}

/// Of two transactions each reads what the other writes. The one that commits first is in time, and
/// the COMMIT of the other fails.
#[test]
fn transactions_that_fail_at_their_commit_are_retried() {
    let _own = own_database("tx_skew");
    create_tables();
    let pool = pool_of(2, manager());
    let mut attempts = 0;
    let sum = transaction(&pool, serializable(), |tx| -> Result<i64, postgres::Error> {
        attempts += 1;
        let sum = "SELECT sum(n) FROM counter";
        let before: i64 = tx.query_one(sum, &[])?.get(0);
        tx.execute("UPDATE counter SET n = 10 WHERE id = 1", &[])?;
        if attempts == 1 {
            let mut other = pool.get().expect("the second connection");
            other.batch_execute(&format!(
                "BEGIN ISOLATION LEVEL SERIALIZABLE; {sum}; \
                 UPDATE counter SET n = 5 WHERE id = 2; COMMIT"
            ))?;
        }
        Ok(before)
    });
    // The attempt that counts has read what the other has written.
    assert_eq!((sum.expect("a commit"), attempts, counters().as_str()), (5, 2, "10,5"));
}

/// How the closure treats the error of a connection that is dead.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Treats {
    Passes,
    Wraps,
    Swallows,
}

#[test]
fn transactions_whose_backend_is_killed_before_the_commit_take_effect_once() {
    let _own = own_database("tx_killed");
    create_tables();
    let pool = pool_of(2, manager());
    let mut admin = session(shared());
    for (n, treats) in [(1, Treats::Passes), (2, Treats::Wraps), (3, Treats::Swallows)] {
        let mut pids = Vec::new();
        let written = transaction(&pool, options(), |tx| {
            tx.execute("INSERT INTO item VALUES ($1)", &[&n]).map_err(|e| e.to_string())?;
            pids.push(pid(tx));
            if let [first] = pids[..] {
                kill(&mut admin, &[first]);
            }
            match tx.execute("SELECT 1", &[]) {
                Err(error) if treats == Treats::Passes => Err(error.to_string()),
                Err(_) if treats == Treats::Wraps => Err("something else".to_owned()),
                _ => Ok(()),
            }
        });
        written.unwrap_or_else(|error| panic!("{treats:?}: {error}"));
        let different: BTreeSet<i32> = pids.iter().copied().collect();
        assert_eq!((pids.len(), different.len()), (2, 2), "{treats:?}");
    }
    assert_eq!(items(), "1,2,3");
}

#[test]
fn transactions_that_find_a_dead_connection_at_their_begin_take_another() {
    let _own = own_database("tx_begin");
    create_tables();
    let pool = builder().max_size(2).skip_check_within(Duration::MAX).build(manager()).unwrap();
    let pids: Vec<i32> = take_all(&pool).iter_mut().map(|conn| backend(conn)).collect();
    kill(&mut session(shared()), &pids);
    let mut runs = 0;
    let written = transaction(&pool, options(), |tx| {
        runs += 1;
        tx.execute("INSERT INTO item VALUES (1)", &[])
    });
    written.expect("another connection");
    assert_eq!((runs, items().as_str()), (1, "1"));
    assert!(pool.stats().closed.total() >= 1, "no BEGIN failed: {}", pool.stats());
}

#[test]
fn transactions_whose_server_has_become_read_only_go_to_another() {
    let pair = two_primaries();
    let pool = pool_of(2, read_write(pair.config()));
    turn_read_only(pair.first());
    let mut ports = Vec::new();
    let written: Outcome<()> = transaction(&pool, options(), |tx| {
        ports.push(tx.query_one("SHOW port", &[])?.get::<_, String>(0));
        tx.execute("INSERT INTO item VALUES (1)", &[]).map(drop)
    });
    written.expect("the other server");
    assert_eq!(ports.last(), Some(&pair.second().port().to_string()), "{ports:?}");
    assert_eq!(pair.second().psql("SELECT count(*) FROM item"), "1");
}

/// The driver asks for the mode, and a standby cannot have it.
#[test]
fn transactions_that_the_server_refuses_to_begin_are_not_retried() {
    let pair = Pair::start();
    let pool = pool_of(1, manager_of(pair.second()));
    let outcome: Outcome<()> =
        transaction(&pool, options().read_only(false), |_| panic!("it has begun"));
    match outcome {
        Err(error @ TransactionError::Begin(_)) => {
            let text = error.to_string();
            assert!(text.starts_with("the transaction did not begin: cannot set "), "{text}");
        }
        other => panic!("{other:?}"),
    }
}

/// A conflict counts as long as it is the reason why the transaction has failed.
#[test]
fn transactions_that_go_on_after_a_savepoint_are_not_retried_for_its_conflict() {
    let _own = own_database("tx_savepoints");
    create_tables();
    let pool = pool_of(1, manager());
    let mut runs = 0;
    let conflict = |tx: &mut Transaction<'_>| {
        let mut savepoint = tx.transaction().expect("a savepoint");
        savepoint.batch_execute(RAISE_CONFLICT).expect_err("a conflict");
    };
    let written: Outcome<()> = transaction(&pool, options(), |tx| {
        runs += 1;
        conflict(tx);
        tx.execute("INSERT INTO item VALUES (1)", &[]).map(drop)
    });
    written.expect("a commit");
    let refused = transaction(&pool, options(), |tx| -> Result<(), &str> {
        runs += 1;
        conflict(tx);
        Err("not today")
    });
    assert!(matches!(refused, Err(TransactionError::Closure("not today"))), "{refused:?}");
    assert_eq!((runs, items().as_str()), (2, "1"));
    // By a text, and without going on.
    let retried: Outcome<()> = transaction(&pool, options(), |tx| {
        runs += 1;
        tx.batch_execute("SAVEPOINT before")?;
        if runs == 3 {
            let _ = tx.batch_execute(RAISE_CONFLICT);
        }
        Ok(())
    });
    retried.expect("a commit");
    assert_eq!(runs, 4);
}

#[test]
fn transactions_whose_closure_refuses_are_rolled_back_and_not_retried() {
    let _own = own_database("tx_refused");
    create_tables();
    let pool = pool_of(1, manager());
    let mut runs = 0;
    let refused = transaction(&pool, options(), |tx| -> Result<(), i32> {
        runs += 1;
        tx.execute("INSERT INTO item VALUES (1)", &[]).map_err(|_| 0)?;
        Err(7)
    });
    assert!(matches!(refused, Err(TransactionError::Closure(7))), "{refused:?}");
    // An error of the database that no retry cures.
    let failed: Outcome<u64> = transaction(&pool, options(), |tx| {
        runs += 1;
        tx.execute("INSERT INTO item VALUES (1)", &[])?;
        tx.execute("INSERT INTO item VALUES (1)", &[])
    });
    assert!(matches!(failed, Err(TransactionError::Closure(_))), "{failed:?}");
    assert_eq!((runs, items().as_str()), (2, "none"));
    assert_eq!(pool.stats().closed.total(), 0);
}

#[test]
fn transactions_show_the_callers_line_and_label() {
    let pool = pool_of(1, named("tx_line"));
    let mut runs = 0;
    let mut holder = None;
    let line = line!() + 1;
    let done: Outcome<()> = transaction(&pool, options().label("transfer"), |tx| {
        runs += 1;
        if runs == 1 {
            return tx.batch_execute(RAISE_CONFLICT);
        }
        holder = pool.holders().into_iter().next();
        Ok(())
    });
    done.expect("a commit");
    let holder = holder.expect("a holder in the second attempt");
    assert_eq!((holder.location().file(), holder.location().line()), (file!(), line));
    assert_eq!(holder.label(), Some("transfer"));
}

#[test]
fn transactions_reach_the_server_with_their_options() {
    let pool = pool_of(1, named("tx_options"));
    let shown = |options| {
        let names = ["transaction_isolation", "transaction_read_only", "transaction_deferrable"];
        let shown: Outcome<Vec<String>> = transaction(&pool, options, |tx| {
            names
                .iter()
                .map(|name| tx.query_one(&format!("SHOW {name}"), &[]).map(|r| r.get(0)))
                .collect()
        });
        shown.expect("values").join(" ")
    };
    assert_eq!(shown(options()), "read committed off off");
    assert_eq!(shown(serializable().read_only(true).deferrable(true)), "serializable on on");
    let repeatable = options().isolation_level(IsolationLevel::RepeatableRead);
    assert_eq!(shown(repeatable.read_only(false).deferrable(false)), "repeatable read off off");
    // The session is as it was.
    assert_eq!(shown(options()), "read committed off off");
}
