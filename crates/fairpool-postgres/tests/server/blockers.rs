//! The sessions whose locks others wait for.

use std::sync::OnceLock;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use fairpool::Pool;
use fairpool::diagnosis::FindingKind;
use fairpool_postgres::{Blocker, NoTls, blockers};
use fairpool_postgres::{Client, postgres};
use fairpool_servers::bouncer::Bouncer;
use fairpool_servers::cluster::{APP_PASSWORD, Cluster};

use crate::common::{LONG, Manager, backend};

fn session(cluster: &Cluster, name: &str) -> Client {
    let mut config = cluster.config();
    config.application_name(name).connect(NoTls).expect("a session").into()
}

/// Polls until there are this many blockers, which block this many sessions in total.
#[track_caller]
fn await_blocked(client: &mut Client, number: usize, blocked: u64) -> Vec<Blocker> {
    let start = Instant::now();
    loop {
        let all = blockers(client).expect("an answer");
        let total: u64 = all.iter().map(|blocker| blocker.blocked).sum();
        if all.len() == number && total == blocked {
            return all;
        }
        assert!(start.elapsed() < LONG, "{all:?}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// A new server, since blockers belong to a server, with some rows to lock.
fn contended() -> Cluster {
    let cluster = Cluster::start();
    cluster.psql(
        "CREATE TABLE orders (id int PRIMARY KEY, n int); \
         INSERT INTO orders VALUES (12345, 0), (2, 0), (3, 0); GRANT ALL ON orders TO app",
    );
    cluster
}

const WANT: &str = "SELECT * FROM orders WHERE id = 12345 FOR UPDATE";

#[test]
fn the_backend_at_which_a_whole_pool_waits_is_named() {
    let cluster = contended();
    let mut observer = session(&cluster, "observer");
    assert_eq!(blockers(&mut observer).unwrap(), [], "nobody waits");

    let mut forgetful = session(&cluster, "forgetful\u{1b}[2J");
    let blocker_pid = backend(&mut forgetful);
    forgetful.batch_execute("BEGIN; UPDATE orders SET n = 1 WHERE id = 12345").unwrap();
    assert_eq!(blockers(&mut observer).unwrap(), [], "nobody waits yet");

    let manager = Manager::new(cluster.config(), NoTls).application_name("waiters");
    let pool = Pool::builder().max_size(6).build(manager).unwrap();
    let (done, is_done) = mpsc::channel();
    let asked = Instant::now();
    for _ in 0..10 {
        let (pool, done) = (pool.clone(), done.clone());
        thread::spawn(move || {
            let mut conn = pool.get_timeout(LONG).unwrap();
            done.send(conn.batch_execute(WANT)).unwrap();
        });
    }
    // Six wait in the server, though only the first waits for the holder itself; the
    // other four wait in the pool.
    let all = await_blocked(&mut observer, 1, 6);
    assert_eq!(pool.stats().in_use, 6);
    // The pool knows who holds the connections; the server knows why.
    let leak = loop {
        let diagnosis = pool.diagnose_over(Duration::from_millis(150)).unwrap();
        if let Some(leak) = diagnosis.finding(FindingKind::Leak) {
            break leak.clone();
        }
        assert!(asked.elapsed() < LONG, "{diagnosis}");
    };
    assert_eq!(leak.holders.len(), 6, "{leak}");
    let blocker = &all[0];
    assert_eq!((blocker.session.pid, blocker.blocked), (blocker_pid, 6));
    assert_eq!(blocker.session.state.as_deref(), Some("idle in transaction"));
    let query = "BEGIN; UPDATE orders SET n = 1 WHERE id = 12345";
    assert_eq!(blocker.session.query.as_deref(), Some(query));
    assert_eq!(blocker.session.user.as_deref(), Some("postgres"));
    assert_eq!(blocker.session.database.as_deref(), Some("postgres"));
    let (since, in_transaction) =
        (blocker.session.state_for.unwrap(), blocker.session.transaction_for.unwrap());
    assert!(since <= in_transaction && in_transaction < LONG, "{blocker:?}");
    let text = blocker.to_string();
    assert!(
        text.starts_with(&format!("backend {blocker_pid} (idle in transaction for ")),
        "{text}"
    );
    assert!(text.contains(") blocks 6 others; its last statement: BEGIN; UPDATE"), "{text}");
    // The server replaces such characters in names; in statements it does not.
    assert!(!text.contains('\u{1b}'), "{text:?}");

    forgetful.batch_execute("ROLLBACK").unwrap();
    for _ in 0..10 {
        is_done.recv_timeout(LONG).expect("an answer").expect("the row");
    }
    assert_eq!(await_blocked(&mut observer, 0, 0), []);
}

#[test]
fn a_chain_of_waits_is_followed_to_its_end_and_two_ends_are_told_apart() {
    let cluster = contended();
    let mut observer = session(&cluster, "observer");
    // The first blocks the second, and that the third; the fourth blocks the fifth.
    let mut first = session(&cluster, "first");
    first.batch_execute("BEGIN; UPDATE orders SET n = 1 WHERE id = 2").unwrap();
    let mut fourth = session(&cluster, "fourth");
    fourth.batch_execute("BEGIN; UPDATE orders SET n = 1 WHERE id = 12345").unwrap();
    let mut second = session(&cluster, "second");
    second.batch_execute("BEGIN; UPDATE orders SET n = 1 WHERE id = 3").unwrap();
    let update = |mut client: Client, id: i32| {
        let update = format!("UPDATE orders SET n = 2 WHERE id = {id}");
        thread::spawn(move || client.batch_execute(&update))
    };
    let second = update(second, 2);
    let third = update(session(&cluster, "third"), 3);
    let fifth = update(session(&cluster, "fifth"), 12345);

    let all = await_blocked(&mut observer, 2, 3);
    let ends: Vec<_> =
        all.iter().map(|b| (b.session.application_name.as_deref(), b.blocked)).collect();
    assert_eq!(ends, [(Some("first"), 2), (Some("fourth"), 1)]);

    drop((first, fourth));
    second.join().unwrap().unwrap();
    // Its session has ended, and with it its transaction.
    third.join().unwrap().unwrap();
    fifth.join().unwrap().unwrap();
}

#[test]
fn a_role_without_privileges_sees_who_but_not_what() {
    let cluster = contended();
    let mut holder = session(&cluster, "holder");
    let holder_pid = backend(&mut holder);
    holder.batch_execute("BEGIN; UPDATE orders SET n = 1 WHERE id = 12345").unwrap();
    let app = || cluster.app_config(APP_PASSWORD).connect(NoTls).expect("a session");
    let mut waiter = app();
    let waiter = thread::spawn(move || waiter.batch_execute(WANT));
    let mut observer = Client::from(app());
    let all = await_blocked(&mut observer, 1, 1);
    assert_eq!(
        (all[0].session.pid, all[0].session.application_name.as_deref()),
        (holder_pid, Some("holder"))
    );
    assert_eq!(
        (&all[0].session.state, &all[0].session.query, all[0].session.state_for),
        (&None, &None, None)
    );
    assert!(all[0].to_string().contains("(state not visible"), "{}", all[0]);
    drop(holder);
    waiter.join().unwrap().unwrap();
}

#[test]
fn blockers_are_found_through_a_bouncer_too() {
    let cluster = contended();
    let bouncer = Bouncer::start(cluster.port(), 4);
    let mut holder = session(&cluster, "holder");
    let holder_pid = backend(&mut holder);
    holder.batch_execute("BEGIN; UPDATE orders SET n = 1 WHERE id = 12345").unwrap();
    let mut waiter = session(&cluster, "waiter");
    let waiter = thread::spawn(move || waiter.batch_execute(WANT));
    let mut observer: Client = bouncer.config().connect(NoTls).unwrap().into();
    for _ in 0..3 {
        assert_eq!(await_blocked(&mut observer, 1, 1)[0].session.pid, holder_pid);
    }
    drop(holder);
    let result: Result<(), postgres::Error> = waiter.join().unwrap();
    result.unwrap();
}

#[test]
fn a_prepared_transaction_blocks_without_a_process() {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    let cluster = CLUSTER.get_or_init(|| {
        let cluster = Cluster::start_with(&[("max_prepared_transactions", "2")]);
        cluster.psql("CREATE TABLE t (id int); INSERT INTO t VALUES (1)");
        cluster
    });
    let mut preparer = session(cluster, "preparer");
    preparer.batch_execute("BEGIN; UPDATE t SET id = 2; PREPARE TRANSACTION 'left'").unwrap();
    let mut waiter = session(cluster, "waiter");
    let waiter = thread::spawn(move || waiter.batch_execute("UPDATE t SET id = 3"));
    let all = await_blocked(&mut session(cluster, "observer"), 1, 1);
    assert_eq!((all[0].session.pid, &all[0].session.state), (0, &None));
    assert!(all[0].to_string().starts_with("prepared transactions ("), "{}", all[0]);
    preparer.batch_execute("ROLLBACK PREPARED 'left'").unwrap();
    waiter.join().unwrap().unwrap();
}
