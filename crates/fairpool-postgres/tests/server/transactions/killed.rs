//! Transactions while their backends are killed all the time.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;

use fairpool_postgres::{TransactionError, transaction};

use super::{Outcome, options, pool_of, serializable};
use crate::common::{millis, named, own_database, psql};

const NAME: &str = "tx_load";
const THREADS: i32 = 4;
const ROUNDS: u32 = 30;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Said {
    Committed,
    Unknown,
    Not,
}

#[test]
fn transactions_under_kills_take_effect_exactly_as_they_say() {
    let _own = own_database(NAME);
    psql("CREATE TABLE item (thread int, n int)"); // without a key: it may be there twice
    let pool = pool_of(2, named(NAME));
    let (stop, attempts) = (AtomicBool::new(false), AtomicU32::new(0));
    let said = Mutex::new(BTreeMap::new());
    let work = |thread: i32| {
        for n in 0.. {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            let options = if n % 2 == 0 { options() } else { serializable() };
            let outcome: Outcome<()> = transaction(&pool, options, |tx| {
                attempts.fetch_add(1, Ordering::Relaxed);
                tx.query_one("SELECT count(*) FROM item WHERE thread = $1", &[&thread])?;
                tx.execute("INSERT INTO item VALUES ($1, $2)", &[&thread, &n])?;
                if n % 3 == 0 {
                    // So that the commit has to ask.
                    let _ = tx.query_one("SELECT 1 WHERE false", &[]);
                }
                Ok(())
            });
            let what = match outcome {
                Ok(()) => Said::Committed,
                Err(TransactionError::CommitUnknown(_)) => Said::Unknown,
                Err(TransactionError::Get(_) | TransactionError::Aborted(_)) => Said::Not,
                Err(other) => panic!("{other}: {other:?}"),
            };
            said.lock().unwrap().insert((thread, n), what);
        }
    };
    thread::scope(|scope| {
        for thread in 0..THREADS {
            scope.spawn(move || work(thread));
        }
        let kill = format!(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = '{NAME}'"
        );
        for _ in 0..ROUNDS {
            thread::sleep(millis(30)); // some transactions
            psql(&kill);
        }
        stop.store(true, Ordering::Relaxed);
    });
    let rows = psql("SELECT thread, n, count(*) FROM item GROUP BY thread, n");
    let mut found = BTreeMap::new();
    for row in rows.lines() {
        let numbers: Vec<i32> = row.split('|').map(|field| field.parse().unwrap()).collect();
        found.insert((numbers[0], numbers[1]), numbers[2]);
    }
    let said = said.into_inner().unwrap();
    let mut tally = [0; 3];
    for (key, what) in &said {
        tally[*what as usize] += 1;
        let count = found.remove(key).unwrap_or(0);
        let is_right = match what {
            Said::Committed => count == 1,
            Said::Unknown => count <= 1,
            Said::Not => count == 0,
        };
        assert!(is_right, "{key:?}: said {what:?}, and there are {count}");
    }
    assert!(found.is_empty(), "nobody wrote {found:?}");
    let [committed, unknown, not] = tally;
    let attempts = attempts.into_inner();
    println!(
        "figure: {ROUNDS} times all backends killed: {committed} committed, {unknown} unknown, \
         {not} not, in {attempts} attempts"
    );
    assert!(attempts as usize > said.len(), "no attempt met a kill");
}
