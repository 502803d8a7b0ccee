//! Which holders wait for locks, and who has these.

use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use fairpool::{Pool, PooledConnection};
use fairpool_postgres::postgres::Error;
use fairpool_postgres::{AskError, Client, NoTls, ServerReport, who_waits};
use fairpool_servers::bouncer::Bouncer;
use fairpool_servers::cluster::{APP_PASSWORD, Cluster};

use crate::common::{
    Guard, LONG, Manager, PROMPT, backend, builder, database, kill, manager, manager_of, millis,
    named, own_database, psql, secs, session, shared, take_all, wait_until,
};

/// A database of its own with three rows, and a pool of this size.
fn pool_of(size: u32, name: &str, manager: Manager) -> Pool<Manager> {
    builder().name(name).max_size(size).build(manager.lock_timeout(LONG)).unwrap()
}

fn three_rows() {
    psql("CREATE TABLE orders (id int PRIMARY KEY); INSERT INTO orders VALUES (1), (2), (3)");
}

fn lock(client: &mut Client, row: i32) -> Result<(), Error> {
    client.batch_execute(&format!("SELECT FROM orders WHERE id = {row} FOR UPDATE"))
}

/// On a thread with this name, gets a connection, locks the first rows in a transaction, and then
/// wants the last one, if any. The thread ends once it has that row.
fn worker(
    pool: &Pool<Manager>,
    name: &str,
    locked: &[i32],
    wanted: i32,
) -> (JoinHandle<Result<(), Error>>, u32) {
    let (pool, locked) = (pool.clone(), locked.to_vec());
    let (ready, is_ready) = mpsc::channel();
    let work = move || {
        let (mut conn, line) = (pool.get().unwrap(), line!());
        conn.batch_execute("BEGIN").unwrap();
        locked.iter().for_each(|&row| lock(&mut conn, row).unwrap());
        ready.send(line).unwrap();
        lock(&mut conn, wanted)?;
        conn.batch_execute("ROLLBACK")
    };
    let thread = thread::Builder::new().name(name.to_owned()).spawn(work).unwrap();
    (thread, is_ready.recv_timeout(LONG).expect("it has its rows"))
}

/// Asks until the answer is as expected.
#[track_caller]
fn ask_until(
    ask: impl Fn() -> Result<ServerReport, AskError>,
    is_it: impl Fn(&ServerReport) -> bool,
) -> ServerReport {
    let begun = Instant::now();
    loop {
        let report = ask().expect("an answer");
        if is_it(&report) {
            return report;
        }
        assert!(begun.elapsed() < LONG, "{report}\n{report:#?}");
        thread::sleep(millis(5));
    }
}

/// On one line, however it was wrapped.
fn one_line(report: &ServerReport) -> String {
    report.to_string().split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn p9_who_waits_for_whom_is_told_with_both_lines_also_by_a_dry_pool() {
    let _database = own_database("waits_lines");
    three_rows();
    let orders = pool_of(1, "orders", manager());
    let reports = pool_of(1, "reports", manager());
    let (mut report, line) = (reports.request().label("sales report").get().unwrap(), line!());
    let begun = Instant::now();
    report.batch_execute("BEGIN").unwrap();
    lock(&mut report, 2).unwrap();
    let (waiter, waiters_line) = worker(&orders, "worker-3", &[], 2);
    assert!(orders.try_get().is_none(), "the pool is dry");

    let ask = || who_waits(&orders).with(&reports).idle_after(LONG).ask();
    let answer = ask_until(ask, |report| report.waits.len() == 1);
    let wait = &answer.waits[0];
    assert_eq!(wait.waiter.holder.as_ref().unwrap().location().line(), waiters_line);
    assert_eq!(
        (wait.waiter.pool.as_deref(), wait.lock.as_str()),
        (Some("orders"), "transactionid")
    );
    assert_eq!(
        (wait.mode.as_str(), wait.relation.as_deref()),
        ("ShareLock", Some("public.orders"))
    );
    assert!(wait.waited.unwrap() <= begun.elapsed(), "{wait:?}");
    assert_eq!(wait.held_by.len(), 1, "{wait:?}");
    let party = &wait.held_by[0];
    assert_eq!(party.pool.as_deref(), Some("reports"));
    assert_eq!(party.holder.as_ref().unwrap().location().line(), line);
    assert_eq!(party.session.pid, backend(&mut report));
    assert_eq!(party.session.state.as_deref(), Some("idle in transaction"));
    assert_eq!((answer.holders, answer.unknown), (2, 0));

    // It was asked in between.
    let answer = ask_until(ask, |report| report.waits.len() == 1);
    let (text, file) = (one_line(&answer), file!());
    let head =
        "pool 'orders' at its server: 1 of 2 holders waits for a lock - thread 'worker-3' at ";
    assert!(text.starts_with(&format!("{head}{file}:{waiters_line}:")), "{text}");
    assert!(text.contains(") waits for a row of public.orders for "), "{text}");
    assert!(text.contains(", held by thread '"), "{text}");
    assert!(text.contains(&format!("at {file}:{line}:")), "{text}");
    assert!(text.contains(" (sales report) for "), "{text}");
    let pid = answer.waits[0].held_by[0].session.pid;
    assert!(
        text.contains(&format!(" (backend {pid}) of pool 'reports', idle in transaction for "))
    );
    assert!(!text.contains("SELECT"), "no statement: {text}");

    report.batch_execute("ROLLBACK").unwrap();
    waiter.join().unwrap().unwrap();
    let answer = who_waits(&orders).with(&reports).idle_after(LONG).ask().unwrap();
    assert!(answer.waits.is_empty(), "{answer}");
    assert!(one_line(&answer).contains("none of 1 holder waits for a lock"), "{answer}");
}

#[test]
fn p9_a_stranger_that_has_the_lock_is_described_and_statements_only_on_request() {
    let _database = own_database("waits_stranger");
    three_rows();
    let mut config = shared().config();
    let mut stranger: Client =
        config.dbname(database()).application_name("psql").connect(NoTls).unwrap().into();
    stranger.batch_execute("BEGIN").unwrap();
    stranger
        .batch_execute("SELECT /* \u{1b}[2J secret */ FROM orders WHERE id = 1 FOR UPDATE")
        .unwrap();
    let pool = pool_of(1, "orders", manager());
    let (waiter, _) = worker(&pool, "waiter", &[], 1);

    let answer = ask_until(|| who_waits(&pool).ask(), |report| report.waits.len() == 1);
    let pid = answer.waits[0].held_by[0].session.pid;
    let text = one_line(&answer);
    let held = format!(", held by backend {pid} (idle in transaction for ");
    assert!(
        text.contains(&held) && text.contains(", application 'psql', user 'postgres')"),
        "{text}"
    );
    assert!(!format!("{answer}{answer:?}").contains("secret"), "{answer:?}");

    let asked = who_waits(&pool).statements(true).ask().unwrap();
    let text = one_line(&asked);
    assert!(text.contains("secret */ FROM orders WHERE id = 1 FOR UPDATE]"), "{text}");
    assert!(text.contains(") [SELECT FROM orders WHERE id = 1 FOR UPDATE] waits for "), "{text}");
    assert!(!asked.to_string().contains('\u{1b}'), "{asked:?}");
    drop(stranger);
    waiter.join().unwrap().unwrap();
}

#[test]
fn a_chain_of_waits_is_followed_through_holders_and_strangers() {
    let _database = own_database("waits_chain");
    three_rows();
    let pool = pool_of(3, "orders", manager());
    let mut last = pool.get().unwrap();
    last.batch_execute("BEGIN").unwrap();
    lock(&mut last, 3).unwrap();
    // The stranger has the second row and wants the third.
    let mut config = shared().config();
    let stranger = config.dbname(database()).application_name("between").connect(NoTls).unwrap();
    let mut stranger = Client::from(stranger);
    stranger.batch_execute("BEGIN").unwrap();
    lock(&mut stranger, 2).unwrap();
    let stranger = thread::spawn(move || lock(&mut stranger, 3));
    let (second, _) = worker(&pool, "second", &[1], 2);
    let (first, _) = worker(&pool, "first", &[], 1);

    let ask = || who_waits(&pool).ask();
    let answer = ask_until(ask, |report| report.waits.len() == 3);
    let thread_of = |party: &fairpool_postgres::Party| {
        party.holder.as_ref().map(|holder| holder.thread().to_owned())
    };
    let here = PooledConnection::info(&last).backend_id.unwrap() as i32;
    let ends: Vec<_> = answer.waits.iter().map(|wait| wait.held_by[0].session.pid).collect();
    assert_eq!(ends, [here; 3], "{answer}");
    let of = |name: &str| {
        let is_it = |wait: &&_| {
            let wait: &fairpool_postgres::LockWait = wait;
            thread_of(&wait.waiter).as_deref() == Some(name)
        };
        answer.waits.iter().find(is_it).unwrap_or_else(|| panic!("{name}: {answer}"))
    };
    assert_eq!(of("first").behind, [of("second").waiter.session.pid]);
    let between = &answer.waits[2].waiter;
    assert_eq!(of("second").behind, [between.session.pid], "strangers come last");
    let name = between.session.application_name.as_deref();
    assert_eq!((thread_of(between), name), (None, Some("between")));
    let text = one_line(&answer);
    assert!(text.contains("2 of 3 holders wait for locks"), "{text}");
    assert!(text.contains("; 1 other session waits before it"), "{text}");

    last.batch_execute("ROLLBACK").unwrap();
    stranger.join().unwrap().unwrap();
    second.join().unwrap().unwrap();
    first.join().unwrap().unwrap();
}

#[test]
fn a_circle_of_waits_is_told_as_a_deadlock() {
    let _database = own_database("waits_circle");
    three_rows();
    let patient = manager().session_setting("deadlock_timeout", "10min");
    let pool = pool_of(2, "orders", patient);
    let (give, take) = mpsc::channel::<()>();
    let mut one = pool.get().unwrap();
    one.batch_execute("BEGIN").unwrap();
    lock(&mut one, 1).unwrap();
    let (other, _) = worker(&pool, "other", &[2], 1);
    ask_until(|| who_waits(&pool).ask(), |report| report.waits.len() == 1);
    let one = thread::spawn(move || {
        let result = lock(&mut one, 2);
        take.recv().unwrap();
        drop(one);
        result
    });
    let answer = ask_until(|| who_waits(&pool).ask(), |report| report.waits.len() == 2);
    for wait in &answer.waits {
        assert!(wait.held_by.is_empty() && wait.behind.len() == 1, "{answer:?}");
    }
    let text = one_line(&answer);
    assert_eq!(text.matches(", which waits too: a deadlock, which the server ends ").count(), 2);
    let pid = answer
        .waits
        .iter()
        .find(|wait| wait.waiter.holder.as_ref().is_some_and(|holder| holder.thread() == "other"));
    psql(&format!("SELECT pg_cancel_backend({})", pid.unwrap().waiter.session.pid));
    other.join().unwrap().expect_err("cancelled");
    give.send(()).unwrap();
    one.join().unwrap().unwrap();
}

#[test]
fn p9_holders_that_ask_the_server_nothing_are_told() {
    let _database = own_database("waits_idle");
    let pool = pool_of(3, "orders", manager());
    drop(take_all(&pool));
    thread::sleep(millis(60));
    let unused = pool.get().unwrap();
    let mut used = pool.get().unwrap();
    thread::sleep(millis(60));
    backend(&mut used);
    let mut forgotten = pool.get().unwrap();
    forgotten.batch_execute("BEGIN").unwrap();
    let answer = who_waits(&pool).idle_after(LONG).ask().unwrap();
    assert!(answer.idle.is_empty(), "{answer}");
    let ask = || who_waits(&pool).idle_after(millis(40)).ask();
    let answer = ask_until(ask, |report| report.idle.len() == 3);
    let text = one_line(&answer);
    let of = |guard: &Guard| PooledConnection::info(guard).backend_id.unwrap();
    let unused = format!("(backend {}) has asked the server nothing since it got its", of(&unused));
    let used = format!("(backend {}) has asked the server nothing for ", of(&used));
    let forgotten = format!("(backend {}) is idle in transaction for ", of(&forgotten));
    for part in [&unused, &used, &forgotten] {
        assert!(text.contains(part.as_str()), "{part}: {text}");
    }
}

#[test]
fn p9_a_holder_whose_backend_was_killed_is_told() {
    let pool = pool_of(1, "orders", manager());
    let mut conn = pool.get().unwrap();
    let pid = backend(&mut conn);
    kill(&mut session(shared()), &[pid]);
    let answer = who_waits(&pool).ask().unwrap();
    assert_eq!(answer.ended.len(), 1, "{answer}");
    let text = one_line(&answer);
    assert!(text.contains(&format!("(backend {pid}) has no session on the server")), "{text}");
}

#[test]
fn an_ordinary_role_is_told_who_but_not_what() {
    let cluster = Cluster::start();
    cluster.psql(
        "CREATE TABLE orders (id int); INSERT INTO orders VALUES (1); \
                  GRANT ALL ON orders TO app",
    );
    let mut stranger = session(&cluster);
    stranger.batch_execute("BEGIN").unwrap();
    lock(&mut stranger, 1).unwrap();
    let pool = pool_of(1, "orders", Manager::new(cluster.app_config(APP_PASSWORD), NoTls));
    let (waiter, _) = worker(&pool, "waiter", &[], 1);
    let ask = || who_waits(&pool).statements(true).ask();
    let answer = ask_until(ask, |report| report.waits.len() == 1);
    let wait = &answer.waits[0];
    assert!(wait.waited.is_some() && wait.relation.as_deref() == Some("public.orders"), "{wait:?}");
    assert_eq!(wait.waiter.session.state.as_deref(), Some("active"), "its own");
    let other = &wait.held_by[0].session;
    assert_eq!((&other.state, &other.query, other.state_for), (&None, &None, None));
    assert!(one_line(&answer).contains(" (state not visible, user 'postgres')"), "{answer}");
    drop(stranger);
    waiter.join().unwrap().unwrap();
}

#[test]
fn p1_the_answer_of_a_silent_server_is_waited_for_no_longer_than_the_limit() {
    let cluster = Cluster::start();
    let pool = pool_of(1, "orders", manager_of(&cluster));
    let _held = pool.get().unwrap();
    who_waits(&pool).ask().expect("an answer");
    let frozen = cluster.freeze();
    for _ in 0..4 {
        let begun = Instant::now();
        let error = who_waits(&pool).within(millis(100)).ask().expect_err("no answer");
        assert!(matches!(error, AskError::TimedOut(_)), "{error:?}");
        assert_eq!(error.to_string(), "the server did not say within 100.0ms who waits");
        assert!(begun.elapsed() >= millis(100) && begun.elapsed() < PROMPT);
    }
    let error = who_waits(&pool).within(LONG).ask().expect_err("too many");
    assert!(matches!(error, AskError::TooMany), "{error:?}");
    drop(frozen);
    wait_until("the threads have ended", || who_waits(&pool).ask().is_ok());
    cluster.stop_at_once();
    let error = who_waits(&pool).ask().expect_err("no server");
    assert!(matches!(error, AskError::Connect(_)), "{error:?}");
    assert!(format!("{error:#}").starts_with("cannot connect to ask the server who waits: "));
}

/// The pool's connections were opened while there was room.
#[test]
fn a_server_without_room_for_the_question_is_told() {
    let cluster =
        Cluster::start_with(&[("max_connections", "4"), ("superuser_reserved_connections", "0")]);
    let pool = pool_of(4, "orders", manager_of(&cluster));
    let _all = take_all(&pool);
    let error = who_waits(&pool).within(secs(5)).ask().expect_err("no room");
    assert!(format!("{error:#}").contains("too many clients"), "{error:#}");
}

#[test]
fn behind_a_transaction_pooler_no_session_is_known() {
    let bouncer = Bouncer::start(shared().port(), 2);
    let manager = Manager::new(bouncer.config(), NoTls).transaction_pooler(true);
    let pool = builder().name("bounced").max_size(1).build(manager).unwrap();
    let conn = pool.get().unwrap();
    assert_eq!(PooledConnection::info(&conn).backend_id, None);
    let answer = who_waits(&pool).ask().unwrap();
    assert_eq!((answer.holders, answer.unknown), (1, 1));
    assert!(one_line(&answer).ends_with("- the sessions of 1 holder are not known"), "{answer}");
}

#[test]
fn nobody_asks_a_server_for_a_pool_that_is_at_rest() {
    let pool = builder().max_size(1).min_idle(Some(0)).build(named("at_rest")).unwrap();
    let answer = who_waits(&pool).within(Duration::ZERO).ask().expect("nothing to ask");
    assert!(one_line(&answer).ends_with("no connection is held"), "{answer}");
}

#[cfg(feature = "serde")]
#[test]
fn a_report_serialises() {
    let pool = pool_of(1, "orders", manager());
    let _unused = pool.get().unwrap();
    let ask = || who_waits(&pool).idle_after(millis(1)).ask();
    let answer = ask_until(ask, |report| report.idle.len() == 1);
    let json = serde_json::to_value(&answer).unwrap();
    let pid = answer.idle[0].session.pid;
    assert_eq!(json["idle"][0]["session"]["pid"], pid);
    assert_eq!(json["idle"][0]["holder"]["backend_id"], pid);
    assert!(json["idle"][0]["session"]["state_for"].as_f64().unwrap() < LONG.as_secs_f64());
}
