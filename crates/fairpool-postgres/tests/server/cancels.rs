//! Cancels: they end with the use that they were meant for.

use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use fairpool_postgres::NoTls;
use fairpool_postgres::postgres::error::SqlState;

use crate::common::{backend, builder, named};

#[test]
fn a_cancel_during_the_use_stops_the_query_and_retires_the_connection() {
    let pool = builder().max_size(1).build(named("cancelled")).unwrap();
    let mut conn = pool.get().unwrap();
    let before = backend(&mut conn);
    let token = conn.cancel_token();
    let canceller = thread::spawn(move || {
        let mut sent = 0;
        // The first may come before the query.
        while sent < 100 && token.cancel_query(NoTls).unwrap() {
            sent += 1;
            thread::sleep(std::time::Duration::from_millis(5));
        }
    });
    let error = conn.batch_execute("SELECT pg_sleep(60)").unwrap_err();
    assert_eq!(error.code(), Some(&SqlState::QUERY_CANCELED));
    drop(conn);
    assert_ne!(backend(&mut pool.get().unwrap()), before);
    canceller.join().unwrap();
    assert_eq!(pool.stats().closed.broken, 1);
}

#[test]
fn a_cancel_after_the_return_does_nothing_and_says_so() {
    let pool = builder().max_size(1).build(named("late")).unwrap();
    let mut conn = pool.get().unwrap();
    let before = backend(&mut conn);
    let mut transaction = conn.transaction().unwrap();
    let (token, other) = (transaction.cancel_token(), conn_token(&mut transaction));
    drop(transaction);
    drop(conn);
    assert!(!token.cancel_query(NoTls).unwrap() && !other.cancel_query(NoTls).unwrap());
    let mut conn = pool.get().unwrap();
    assert_eq!(backend(&mut conn), before, "the connection was kept");
    // Nor does the old token reach the next use.
    assert!(!token.cancel_query(NoTls).unwrap());
    conn.batch_execute("SELECT pg_sleep(0.05)").unwrap();
    drop(conn);
    assert_eq!(pool.stats().closed.total(), 0);
}

fn conn_token(
    transaction: &mut fairpool_postgres::Transaction<'_>,
) -> fairpool_postgres::CancelToken {
    transaction.cancel_token().clone()
}

#[test]
fn a_late_cancel_never_reaches_the_next_holder() {
    const TRIES: usize = 300;
    let pool = builder().max_size(1).build(named("hammered")).unwrap();
    let (sent, refused) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let mut killed = 0;
    for attempt in 0..TRIES {
        let conn = pool.get().unwrap();
        let token = conn.cancel_token();
        let start = Barrier::new(2);
        thread::scope(|scope| {
            scope.spawn(|| {
                start.wait();
                // Sometimes first, sometimes last, mostly at once.
                for _ in 0..attempt % 4 * 100 {
                    std::hint::spin_loop();
                }
                let counter = if token.cancel_query(NoTls).unwrap() { &sent } else { &refused };
                counter.fetch_add(1, Ordering::SeqCst);
            });
            start.wait();
            for _ in 0..attempt % 5 * 100 {
                std::hint::spin_loop();
            }
            drop(conn);
            let mut next = pool.get().unwrap();
            killed += usize::from(next.batch_execute("SELECT pg_sleep(0.002)").is_err());
        });
    }
    let (sent, refused) = (sent.into_inner(), refused.into_inner());
    println!(
        "figure: of {TRIES} cancels beside returns: {sent} sent, {refused} too late, {killed} hit the next holder"
    );
    assert_eq!(killed, 0);
    assert_eq!(sent + refused, TRIES);
    assert!(sent > 0 && refused > 0, "both orders occur: {sent}, {refused}");
    assert_eq!(pool.stats().closed.broken as usize, sent, "each sent one retires its connection");
}

#[test]
fn the_drivers_own_token_does_reach_the_next_holder() {
    // This shows that the test above can fail.
    let pool = builder().max_size(1).build(named("raw")).unwrap();
    let mut killed = 0;
    for _ in 0..300 {
        let conn = pool.get().unwrap();
        let token = (**conn).cancel_token();
        thread::scope(|scope| {
            scope.spawn(|| token.cancel_query(NoTls).unwrap());
            drop(conn);
            let mut next = pool.get().unwrap();
            killed += usize::from(next.batch_execute("SELECT pg_sleep(0.002)").is_err());
        });
    }
    println!("figure: the driver's own token hit the next holder in {killed} of 300");
    assert!(killed > 0);
}
