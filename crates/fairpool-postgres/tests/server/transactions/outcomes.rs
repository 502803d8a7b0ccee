//! What is known of a transaction's end.

use std::error::Error as _;
use std::thread;

use fairpool_postgres::postgres::error::SqlState;
use fairpool_postgres::postgres::fallible_iterator::FallibleIterator;
use fairpool_postgres::postgres::{self, GenericClient};
use fairpool_postgres::{Reset, Transaction, TransactionError, transaction};
use fairpool_servers::proxy::{Flow, Proxy};

use super::{
    Outcome, RAISE_CONFLICT, counters, create_tables, items, options, pid, pool_of, serializable,
};
use crate::common::{
    Manager, database, kill, manager, millis, own_database, psql, session, shared, through,
};
use crate::roles::read_write;

fn assert_unknown(outcome: &Outcome<()>) {
    match outcome {
        Err(error @ TransactionError::CommitUnknown(_)) => {
            let text = error.to_string();
            assert!(
                text.starts_with("whether the transaction is committed is unknown: "),
                "{text}"
            );
            assert!(error.source().expect("a cause").is::<postgres::Error>());
        }
        other => panic!("not unknown: {other:?}"),
    }
}

fn assert_refused(outcome: &Outcome<()>, code: &SqlState) {
    match outcome {
        Err(error @ TransactionError::CommitRefused(db)) => {
            assert_eq!(db.code(), code, "{db}");
            let text = error.to_string();
            assert!(text.starts_with("the transaction was not committed: "), "{text}");
            assert!(text.ends_with(&format!("({})", code.code())), "{text}");
        }
        other => panic!("not refused: {other:?}"),
    }
}

/// The server commits, and its answer is lost.
#[test]
fn transactions_whose_commit_is_cut_after_it_arrived_are_unknown_and_not_retried() {
    let _own = own_database("tx_cut_after");
    create_tables();
    let proxy = Proxy::start(shared().port());
    let mut config = through(&proxy);
    config.dbname(database());
    let pool = pool_of(2, Manager::new(config, fairpool_postgres::NoTls));
    // The first is sure that nothing has failed, and the second asks.
    for n in [1, 2] {
        let mut runs = 0;
        let outcome: Outcome<()> = transaction(&pool, options(), |tx| {
            runs += 1;
            // No prepared statement, whose end the server would confirm before the COMMIT.
            tx.batch_execute(&format!("INSERT INTO item VALUES ({n})"))?;
            if n == 2 {
                let mut savepoint = tx.transaction()?;
                let _ = savepoint.batch_execute("SELECT 1/0");
            }
            // What the client sends arrives, and no byte comes back.
            proxy.set_existing(Flow::CutAfter(0));
            Ok(())
        });
        assert_unknown(&outcome);
        assert_eq!(runs, 1);
    }
    assert_eq!(items(), "1,2");
}

/// The COMMIT itself is lost.
#[test]
fn transactions_whose_commit_is_cut_before_it_arrived_are_unknown_and_not_retried() {
    let _own = own_database("tx_cut_before");
    create_tables();
    let proxy = Proxy::start(shared().port());
    let mut config = through(&proxy);
    config.dbname(database());
    let pool = pool_of(1, Manager::new(config, fairpool_postgres::NoTls));
    let mut runs = 0;
    thread::scope(|scope| {
        let outcome: Outcome<()> = transaction(&pool, options(), |tx| {
            runs += 1;
            tx.execute("INSERT INTO item VALUES (1)", &[])?;
            proxy.set_existing(Flow::Hold);
            scope.spawn(|| {
                // If it comes before the COMMIT, that is as good.
                thread::sleep(millis(50));
                proxy.set_existing(Flow::Reset);
            });
            Ok(())
        });
        assert_unknown(&outcome);
    });
    assert_eq!((runs, items().as_str()), (1, "none"));
}

/// The driver sends COMMIT without a look at what the server said before.
#[test]
fn transactions_whose_backend_ends_just_before_their_commit_are_unknown() {
    let _own = own_database("tx_killed_at_end");
    create_tables();
    let pool = pool_of(1, manager());
    let mut admin = session(shared());
    let mut runs = 0;
    let outcome: Outcome<()> = transaction(&pool, options(), |tx| {
        runs += 1;
        tx.execute("INSERT INTO item VALUES (1)", &[])?;
        let pid = pid(tx);
        kill(&mut admin, &[pid]);
        Ok(())
    });
    assert_unknown(&outcome);
    assert_eq!((runs, items().as_str()), (1, "none"));
}

#[test]
fn transactions_that_break_a_deferred_constraint_are_refused_and_not_retried() {
    let _own = own_database("tx_deferred");
    create_tables();
    psql("ALTER TABLE item ADD UNIQUE (n) DEFERRABLE INITIALLY DEFERRED");
    psql("ALTER TABLE item DROP CONSTRAINT item_pkey");
    let pool = pool_of(1, manager());
    let mut runs = 0;
    let outcome: Outcome<()> = transaction(&pool, serializable(), |tx| {
        runs += 1;
        tx.batch_execute("INSERT INTO item VALUES (4711), (4711)")
    });
    assert_refused(&outcome, &SqlState::UNIQUE_VIOLATION);
    let error = outcome.expect_err("refused");
    // The value is in the driver's own error only.
    assert!(!error.to_string().contains("4711"), "{error}");
    assert!(error.source().expect("the server's error").to_string().contains("4711"));
    assert_eq!((runs, items().as_str()), (1, "none"));
    // The connection is fit for the next one.
    let outcome: Outcome<()> =
        transaction(&pool, options(), |tx| tx.batch_execute("INSERT INTO item VALUES (1)"));
    outcome.expect("a commit");
    assert_eq!((items().as_str(), pool.stats().closed.total()), ("1", 0));
}

/// What COMMIT itself says, by the code of a trigger that comes with it.
#[test]
fn transactions_whose_commit_fails_are_told_apart_by_its_code() {
    let _own = own_database("tx_codes");
    create_tables();
    // What a sequence counts is not rolled back.
    psql(
        "CREATE SEQUENCE tries; CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ \
         BEGIN IF nextval('tries') = 1 THEN \
         RAISE EXCEPTION USING ERRCODE = TG_ARGV[0], MESSAGE = 'at the commit'; END IF; \
         RETURN NULL; END $$",
    );
    let pool = pool_of(2, manager());
    for code in ["08007", "40003", "57P01", "57014", "53100", "XX000", "40001", "40P01"] {
        psql(&format!(
            "DROP TRIGGER IF EXISTS fail ON item; TRUNCATE item; ALTER SEQUENCE tries RESTART; \
             CREATE CONSTRAINT TRIGGER fail AFTER INSERT ON item DEFERRABLE INITIALLY DEFERRED \
             FOR EACH ROW EXECUTE FUNCTION fail('{code}')"
        ));
        let mut runs = 0;
        let outcome: Outcome<()> = transaction(&pool, options(), |tx| {
            runs += 1;
            tx.batch_execute("INSERT INTO item VALUES (1)")
        });
        match code {
            "08007" | "40003" | "57P01" => assert_unknown(&outcome),
            "40001" | "40P01" => outcome.unwrap_or_else(|error| panic!("{code}: {error}")),
            _ => assert_refused(&outcome, &SqlState::from_code(code)),
        }
        let is_retried = code.starts_with("40") && code != "40003";
        let expected = if is_retried { (2, "1") } else { (1, "none") };
        assert_eq!((runs, items().as_str()), expected, "{code}");
    }
}

/// How a failure stays unseen by the closure's own result.
type Swallow = fn(&mut Transaction<'_>);

const DUPLICATE: &str = "INSERT INTO item VALUES (1)";

fn in_a_call(tx: &mut Transaction<'_>) {
    let _ = tx.execute(DUPLICATE, &[]);
}

fn before_other_calls(tx: &mut Transaction<'_>) {
    let _ = tx.execute(DUPLICATE, &[]);
    let _ = tx.execute("INSERT INTO item VALUES (2)", &[]);
    // Answered with success even now.
    tx.batch_execute("-- nothing").expect("an empty statement");
}

fn in_a_savepoint_that_is_kept(tx: &mut Transaction<'_>) {
    let mut savepoint = tx.transaction().expect("a savepoint");
    let _ = savepoint.execute(DUPLICATE, &[]);
    let _ = savepoint.commit();
}

fn among_rows(tx: &mut Transaction<'_>) {
    let mut rows = tx.query_raw("SELECT 1 / (2 - g) FROM generate_series(1, 3) g", [0; 0]).unwrap();
    while let Ok(Some(_)) = rows.next() {}
}

fn among_unread_rows(tx: &mut Transaction<'_>) {
    let _ = tx.query_raw("SELECT 1 / (2 - g) FROM generate_series(1, 3) g", [0; 0]).unwrap();
    // With this answer all are read.
    tx.batch_execute("-- nothing").expect("an empty statement");
}

fn in_a_copy(tx: &mut Transaction<'_>) {
    use std::io::Write;
    let mut copy = tx.copy_in("COPY item FROM STDIN").unwrap();
    copy.write_all(b"1\n").unwrap();
    let _ = copy.finish();
}

fn in_a_refused_copy(tx: &mut Transaction<'_>) {
    let _ = tx.copy_in("COPY item (nothing) FROM STDIN");
}

fn lent(tx: &mut Transaction<'_>) {
    fn insert(client: &mut impl GenericClient) {
        let _ = client.execute(DUPLICATE, &[]);
    }
    insert(&mut **tx);
}

#[test]
fn transactions_that_had_failed_are_never_said_to_be_committed() {
    let _own = own_database("tx_swallowed");
    create_tables();
    let cases: [(&str, Swallow, &SqlState); 8] = [
        ("in a call", in_a_call, &SqlState::UNIQUE_VIOLATION),
        ("before other calls", before_other_calls, &SqlState::IN_FAILED_SQL_TRANSACTION),
        ("in a savepoint", in_a_savepoint_that_is_kept, &SqlState::UNIQUE_VIOLATION),
        ("among rows", among_rows, &SqlState::DIVISION_BY_ZERO),
        ("among unread rows", among_unread_rows, &SqlState::IN_FAILED_SQL_TRANSACTION),
        ("in a COPY", in_a_copy, &SqlState::IN_FAILED_SQL_TRANSACTION),
        ("in a refused COPY", in_a_refused_copy, &SqlState::UNDEFINED_COLUMN),
        ("lent", lent, &SqlState::IN_FAILED_SQL_TRANSACTION),
    ];
    for level in [Reset::Session, Reset::Off] {
        let pool = pool_of(2, manager().reset_on_return(level));
        for (what, swallow, code) in cases {
            let mut runs = 0;
            let outcome: Outcome<()> = transaction(&pool, options(), |tx| {
                runs += 1;
                tx.execute("INSERT INTO item VALUES (1)", &[])?;
                swallow(tx);
                Ok(())
            });
            println!("{what}: {outcome:?}");
            assert_refused(&outcome, code);
            assert_eq!((runs, items().as_str()), (1, "none"), "{what}");
        }
    }
}

/// The question for the role of the server begins another transaction.
#[test]
fn transactions_in_which_a_write_was_refused_are_never_said_to_be_committed() {
    let _own = own_database("tx_read_only");
    create_tables();
    let mut config = shared().config();
    config.dbname(database());
    let pool = pool_of(1, read_write(config));
    for swallows in [true, false] {
        let mut runs = 0;
        let outcome: Outcome<()> = transaction(&pool, options(), |tx| {
            runs += 1;
            tx.batch_execute("INSERT INTO item VALUES (1); SET TRANSACTION READ ONLY")?;
            let refused = tx.batch_execute("INSERT INTO item VALUES (2)");
            if swallows { Ok(()) } else { refused }
        });
        match outcome {
            Err(TransactionError::Closure(_)) if !swallows => {}
            outcome => assert_refused(&outcome, &SqlState::READ_ONLY_SQL_TRANSACTION),
        }
        assert_eq!((runs, items().as_str()), (1, "none"));
    }
    // In a savepoint it is no failure of the whole.
    let outcome: Outcome<()> = transaction(&pool, options(), |tx| {
        tx.batch_execute("INSERT INTO item VALUES (1)")?;
        let mut savepoint = tx.transaction()?;
        let _ = savepoint.batch_execute("SET TRANSACTION READ ONLY; INSERT INTO item VALUES (2)");
        Ok(())
    });
    outcome.expect("a commit");
    assert_eq!((items().as_str(), pool.stats().closed.total()), ("1", 0));
}

/// What looks like a failure and is none.
#[test]
fn transactions_that_have_recovered_are_committed() {
    let _own = own_database("tx_recovered");
    create_tables();
    let pool = pool_of(1, manager());
    let cases: [Swallow; 4] = [
        |tx| {
            let mut savepoint = tx.transaction().unwrap();
            savepoint.batch_execute("SELECT 1/0").unwrap_err();
        },
        |tx| {
            tx.batch_execute("SAVEPOINT before").unwrap();
            tx.batch_execute("SELECT 1/0").unwrap_err();
            tx.batch_execute("ROLLBACK TO before").unwrap();
        },
        // An error of the client itself.
        |tx| drop(tx.query_one("SELECT 1 WHERE false", &[]).unwrap_err()),
        // Lent, and nothing happened.
        |tx| drop((**tx).query_one("SELECT 1", &[]).unwrap()),
    ];
    for (n, case) in (1..).zip(cases) {
        let outcome: Outcome<()> = transaction(&pool, options(), |tx| {
            tx.execute("INSERT INTO item VALUES ($1)", &[&n])?;
            case(tx);
            Ok(())
        });
        outcome.unwrap_or_else(|error| panic!("case {n}: {error}"));
    }
    assert_eq!((items().as_str(), pool.stats().closed.total()), ("1,2,3,4", 0));
}

/// A conflict that the closure keeps for itself is retried.
#[test]
fn transactions_that_swallow_a_conflict_are_retried() {
    let _own = own_database("tx_swallowed_conflict");
    create_tables();
    let pool = pool_of(1, manager());
    let mut runs = 0;
    let outcome: Outcome<()> = transaction(&pool, options(), |tx| {
        runs += 1;
        tx.execute("UPDATE counter SET n = n + 1 WHERE id = 1", &[])?;
        if runs == 1 {
            let _ = tx.batch_execute(RAISE_CONFLICT);
            // Fails with 25P02, which is not the reason.
            let _ = tx.batch_execute("SELECT 1");
        }
        Ok(())
    });
    outcome.expect("a commit");
    assert_eq!((runs, counters().as_str()), (2, "1,0"));
}

/// What a closure must not do.
#[test]
fn transactions_that_their_closure_ends_are_neither_retried_nor_said_to_be_committed() {
    let _own = own_database("tx_ended");
    create_tables();
    for level in [Reset::Session, Reset::Off] {
        let pool = pool_of(1, manager().reset_on_return(level));
        for (sql, is_lent) in [("COMMIT", false), ("ROLLBACK", false), ("ROLLBACK", true)] {
            let outcome: Outcome<()> = transaction(&pool, options(), |tx| match is_lent {
                true => (**tx).batch_execute(sql),
                false => tx.batch_execute(sql),
            });
            let is_told = matches!(outcome, Err(TransactionError::EndedByClosure));
            assert!(is_told, "{sql}, lent: {is_lent}: {outcome:?}");
        }
        // What comes after the closure's own COMMIT may fail, and is not run again.
        for swallows in [false, true] {
            let mut runs = 0;
            let outcome: Outcome<()> = transaction(&pool, options(), |tx| {
                runs += 1;
                tx.batch_execute("COMMIT; BEGIN")?;
                let failed = tx.batch_execute(RAISE_CONFLICT);
                if swallows { Ok(()) } else { failed }
            });
            match outcome {
                Err(TransactionError::EndedByClosure) if swallows => {}
                Err(TransactionError::Closure(_)) if !swallows => {}
                other => panic!("{other:?}"),
            }
            assert_eq!(runs, 1);
        }
    }
}

#[test]
fn a_rollback_in_a_text_that_cannot_be_read_is_not_called_a_commit() {
    let _database = own_database("outcomes_unreadable");
    psql("CREATE TABLE written (n int)");
    let pool = pool_of(1, manager());
    // Where this string ends depends on a setting of the server.
    let text = r"SELECT 'a\'; ROLLBACK; SELECT 'a\'";
    let end = transaction(&pool, options(), |tx| {
        tx.execute("INSERT INTO written VALUES (1)", &[])?;
        tx.batch_execute(text)
    });
    assert!(matches!(end, Err(TransactionError::EndedByClosure)), "{end:?}");
    assert_eq!(psql("SELECT count(*) FROM written"), "0");
    // And one that leaves the transaction as it is.
    let end = transaction(&pool, options(), |tx| {
        tx.execute("INSERT INTO written VALUES (1)", &[])?;
        tx.batch_execute(r"SELECT 'a\'")
    });
    assert!(end.is_ok(), "{end:?}");
    assert_eq!(psql("SELECT count(*) FROM written"), "1");
}
