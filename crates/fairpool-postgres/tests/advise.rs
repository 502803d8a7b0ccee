//! Advice on a pool's settings, and who blocks others, on real servers.

#![cfg(feature = "postgres")]

#[allow(dead_code)]
#[path = "support/bouncer.rs"]
mod bouncer;
#[path = "support/cluster.rs"]
mod cluster;

use std::error::Error as _;
use std::sync::OnceLock;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use bouncer::Bouncer;
use cluster::{APP_PASSWORD, Cluster};
use fairpool_postgres::postgres::{self, Client};
use fairpool_postgres::{
    Advice, AdviseError, Blocker, NoTls, PostgresConnectionManager, advise, blockers,
};
use fairpool::{Builder, ErrorKind, Pool};
use fairpool::diagnosis::{FindingKind, Severity};

type Manager = PostgresConnectionManager<NoTls>;

const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Longer than anything here takes.
const LONG: Duration = secs(60);

/// 100 connections, of which 70 are for one service, and no test takes more than a few.
fn shared() -> &'static Cluster {
    static SHARED: OnceLock<Cluster> = OnceLock::new();
    SHARED.get_or_init(|| Cluster::start_with(&[("max_connections", "100")]))
}

/// With all timeouts; for those of the server itself see the tests.
fn good_manager(name: &str) -> Manager {
    Manager::new(shared().config(), NoTls)
        .application_name(name)
        .statement_timeout(secs(30))
        .lock_timeout(secs(2))
        .idle_in_transaction_session_timeout(secs(60))
}

/// Nothing is to be said about these settings.
fn good_builder() -> Builder<Manager> {
    Pool::builder()
        .name("orders")
        .max_size(5)
        .min_idle(Some(0))
        .max_waiters(Some(100))
        .max_lifetime(Some(secs(300)))
        .leak_threshold(Some(secs(30)))
        .connection_timeout(secs(20))
}

fn advice(builder: Builder<Manager>, manager: Manager, instances: u32) -> Advice {
    let pool = builder.build(manager).unwrap();
    advise(&pool, instances).unwrap()
}

/// Exactly this is said, and each of these parts with it.
#[track_caller]
fn assert_said(advice: &Advice, setting: &str, severity: Severity, parts: &[&str]) {
    let settings: Vec<_> = advice.recommendations.iter().map(|said| said.setting).collect();
    assert_eq!(settings, [setting], "{advice}");
    let said = advice.about(setting).unwrap();
    assert_eq!(said.severity, severity, "{advice}");
    let text = format!("{}; {}", said.reason, said.advice);
    parts.iter().for_each(|part| assert!(text.contains(part), "{part:?} is missing: {text}"));
    assert!(advice.to_string().contains(&format!("{setting}: ")), "{advice}");
}

#[test]
fn good_settings_need_no_advice() {
    let advice = advice(good_builder(), good_manager("good"), 2);
    assert!(advice.is_empty() && advice.unseen.is_empty(), "{advice}");
    let server = &advice.server;
    assert_eq!((server.max_connections, server.reserved), (100, 3));
    assert_eq!(server.port, shared().port());
    assert_eq!(server.statement_timeout, Some(secs(30)));
    assert_eq!(server.idle_session_timeout, None);
    let text = advice.to_string();
    let start = format!("advice for pool 'orders', one of 2, on PostgreSQL {}", server.version);
    assert!(text.starts_with(start.split('(').next().unwrap().trim_end()), "{text}");
    assert!(text.contains("nothing to change"), "{text}");
}

#[test]
fn all_instances_together_must_fit() {
    let fits = advice(good_builder(), good_manager("size"), 14);
    assert!(fits.is_empty(), "{fits}");
    let large = advice(good_builder(), good_manager("size"), 15);
    let parts = ["15 × 5 = 75 connections, more than 70, 70 % of", "set it to at most 4"];
    assert_said(&large, "max_size", Severity::Warning, &parts);
    let huge = advice(good_builder(), good_manager("size"), 1000);
    let said = huge.about("max_size").unwrap();
    assert_eq!(said.severity, Severity::Critical);
    assert!(said.advice.starts_with("run fewer instances"), "{said:?}");
}

#[test]
fn connections_of_others_count_and_the_pools_own_do_not() {
    let cluster = Cluster::start_with(&[("max_connections", "20")]);
    let manager = |name: &str| {
        Manager::new(cluster.config(), NoTls)
            .application_name(name)
            .statement_timeout(secs(30))
            .lock_timeout(secs(2))
            .idle_in_transaction_session_timeout(secs(60))
    };
    // The pool is full, and another instance of the service is too.
    let pool = good_builder().max_size(5).min_idle(None).build(manager("orders")).unwrap();
    let twin = good_builder().max_size(5).min_idle(None).build(manager("orders")).unwrap();
    // Sessions that have just ended may still be listed.
    let advise_among = |clients: u64| {
        let start = Instant::now();
        loop {
            let advice = advise(&pool, 2).unwrap();
            if advice.server.clients == clients {
                return advice;
            }
            assert!(start.elapsed() < LONG, "{} clients", advice.server.clients);
            thread::sleep(Duration::from_millis(5));
        }
    };
    let alone = advise_among(10);
    assert_eq!(alone.server.others, 0, "{alone}");
    assert!(alone.is_empty(), "{alone}");

    let others: Vec<Client> = (0..8).map(|_| cluster.config().connect(NoTls).unwrap()).collect();
    let crowded = advise_among(18);
    assert_eq!(crowded.server.others, 8, "{crowded}");
    let parts = ["2 × 5 = 10 connections, but 9 are free: of 20, 3 are reserved and 8 taken by"];
    assert_said(&crowded, "max_size", Severity::Critical, &parts);
    let server = crowded.server.to_string();
    assert!(server.ends_with("(max_connections 20, 3 reserved, others use 8)"), "{server}");
    drop((others, twin));
}

#[test]
fn each_wait_in_the_server_should_have_a_deadline() {
    let bare = || Manager::new(shared().config(), NoTls).application_name("bare");
    let none = advice(good_builder(), bare(), 1);
    let warned: Vec<_> = none.recommendations.iter().map(|s| (s.setting, s.severity)).collect();
    let warning = Severity::Warning;
    assert_eq!(
        warned,
        [
            ("idle_in_transaction_session_timeout", warning),
            ("lock_timeout", warning),
            ("statement_timeout", warning),
        ],
    );
    let no_lock = advice(
        good_builder(),
        bare().statement_timeout(secs(30)).idle_in_transaction_session_timeout(secs(60)),
        1,
    );
    assert_said(&no_lock, "lock_timeout", Severity::Info, &["until statement_timeout (30s)"]);
    let no_statement = advice(
        good_builder(),
        bare().lock_timeout(secs(2)).idle_in_transaction_session_timeout(secs(60)),
        1,
    );
    assert_said(&no_statement, "statement_timeout", Severity::Warning, &["for ever"]);
    let open = advice(good_builder(), bare().lock_timeout(secs(2)).statement_timeout(secs(30)), 1);
    let setting = "idle_in_transaction_session_timeout";
    assert_said(&open, setting, Severity::Warning, &["keep locks"]);
}

#[test]
fn timeouts_that_the_role_brings_along_count_too() {
    let cluster = Cluster::start();
    for (name, value) in
        [("statement_timeout", "30s"), ("lock_timeout", "2s"), ("idle_session_timeout", "4min")]
    {
        cluster.psql(&format!("ALTER ROLE app SET {name} = '{value}'"));
    }
    // Not a superuser: no privilege is needed.
    let manager = Manager::new(cluster.app_config(APP_PASSWORD), NoTls)
        .idle_in_transaction_session_timeout(secs(60));
    let pool = good_builder().build(manager).unwrap();
    let said = advise(&pool, 1).unwrap();
    assert_eq!(said.server.lock_timeout, Some(secs(2)));
    let parts = ["up to 300s", "idle_session_timeout ends them after 240s", "less than 240s"];
    assert_said(&said, "idle_timeout", Severity::Warning, &parts);

    let manager = Manager::new(cluster.app_config(APP_PASSWORD), NoTls)
        .idle_in_transaction_session_timeout(secs(60));
    let checked = good_builder().keepalive(Some(secs(60))).build(manager).unwrap();
    assert!(advise(&checked, 1).unwrap().is_empty());
}

#[test]
fn the_pools_own_settings_are_judged() {
    let said = |builder: Builder<Manager>| advice(builder, good_manager("settings"), 1);
    use Severity::{Info, Warning};
    let patient = said(good_builder().connection_timeout(secs(45)));
    assert_said(&patient, "connection_timeout", Warning, &["up to 45s"]);
    let usual = said(good_builder().max_lifetime(Some(secs(1800))));
    assert_said(&usual, "max_lifetime", Info, &["up to 1800s", "300s find"]);
    let forever = said(good_builder().max_lifetime(None));
    assert_said(&forever, "max_lifetime", Warning, &["for ever"]);
    let together = said(good_builder().lifetime_jitter(0.0));
    assert_said(&together, "lifetime_jitter", Warning, &["end together"]);
    let many = said(good_builder().max_size(30));
    assert_said(&many, "max_idle", Info, &["up to 30 connections", "set it to 20"]);
    assert!(said(good_builder().max_size(30).max_idle(Some(20))).is_empty());
    let endless = said(good_builder().max_waiters(None));
    assert_said(&endless, "max_waiters", Info, &["only deadlines end the queue"]);
    let trusting = said(good_builder().leak_threshold(None));
    assert_said(&trusting, "leak_threshold", Info, &["set what no transaction takes"]);
}

#[test]
fn a_size_that_was_changed_later_is_the_one_that_counts() {
    let pool = good_builder().build(good_manager("resized")).unwrap();
    assert!(advise(&pool, 1).unwrap().is_empty());
    pool.set_max_size(98).unwrap();
    let said = advise(&pool, 1).unwrap();
    let reason = &said.about("max_size").unwrap().reason;
    assert!(reason.starts_with("98 connections, but "), "{reason}");
}

#[test]
fn advice_that_cannot_be_given_is_an_error() {
    let pool = good_builder()
        .max_size(1)
        .connection_timeout(Duration::from_millis(50))
        .test_on_check_out(false)
        .build(good_manager("none"))
        .unwrap();
    let error = advise(&pool, 0).unwrap_err();
    assert_eq!(error.to_string(), "advise: instances must be at least 1, but is 0");
    assert!(matches!(&error, AdviseError::Pool(e) if e.kind() == ErrorKind::Config));

    let held = pool.get_timeout(LONG).unwrap();
    let error = advise(&pool, 1).unwrap_err();
    assert!(matches!(&error, AdviseError::Pool(e) if e.is_timeout()), "{error}");
    drop(held);

    // Inside a transaction that has failed, the server answers nothing.
    let mut conn = pool.get_timeout(LONG).unwrap();
    conn.batch_execute("BEGIN").unwrap();
    conn.batch_execute("SELECT 1/0").unwrap_err();
    drop(conn);
    let error = advise(&pool, 1).unwrap_err();
    assert!(matches!(error, AdviseError::Server(_)), "{error}");
    assert_eq!(error.to_string(), "the server cannot be asked for its settings");
    let source = error.source().expect("the server's error").to_string();
    assert!(source.contains("db error"), "{source}");
}

#[test]
fn whoever_asks_for_advice_is_seen_waiting_at_his_own_line() {
    let pool = good_builder().max_size(1).build(good_manager("line")).unwrap();
    let held = pool.get().unwrap();
    let asks = thread::spawn({
        let pool = pool.clone();
        move || (advise(&pool, 1), line!())
    });
    let start = Instant::now();
    let waits = loop {
        if let Some(waiter) = pool.waiters().first() {
            break waiter.location();
        }
        assert!(start.elapsed() < LONG, "nobody waits");
        thread::sleep(Duration::from_millis(1));
    };
    drop(held);
    let (advice, line) = asks.join().unwrap();
    assert!(advice.unwrap().is_empty());
    assert_eq!((waits.file(), waits.line()), (file!(), line));
}

#[test]
fn a_server_behind_something_else_is_not_judged_by_its_size() {
    let bouncer = Bouncer::start(shared().port(), 4);
    let manager = Manager::new(bouncer.config(), NoTls).application_name("bounced");
    let pool = good_builder().max_size(40).max_idle(Some(20)).build(manager).unwrap();
    let said = advise(&pool, 10).unwrap();
    assert!(said.about("max_size").is_none(), "{said}");
    assert!(said.about("statement_timeout").is_some(), "{said}");
    let [unseen] = &said.unseen[..] else { panic!("{said}") };
    let ports = format!(
        "whether 400 connections fit: the pool connects to port {}, and the server listens on {}",
        bouncer.config().get_ports()[0],
        shared().port(),
    );
    assert!(unseen.starts_with(&ports) && unseen.contains("PgBouncer"), "{unseen}");
    assert!(said.to_string().contains("not seen"), "{said}");
}

#[test]
fn a_unix_socket_is_the_server_itself() {
    let manager = Manager::new(shared().socket_config(), NoTls)
        .statement_timeout(secs(30))
        .lock_timeout(secs(2))
        .idle_in_transaction_session_timeout(secs(60));
    let said = advice(good_builder(), manager, 1);
    assert!(said.is_empty() && said.unseen.is_empty(), "{said}");
}

#[test]
fn advice_fits_a_terminal() {
    let manager = Manager::new(shared().config(), NoTls);
    let pool = Pool::builder().max_size(98).min_idle(Some(0)).build(manager).unwrap();
    let text = advise(&pool, 3).unwrap().to_string();
    assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
    let starts =
        ["  critical max_size: ", "  warning  lock_timeout: ", "  info     max_lifetime: "];
    starts.iter().for_each(|start| assert!(text.contains(start), "{start:?}: {text}"));
}

#[cfg(feature = "serde")]
#[test]
fn advice_is_json() {
    let said = advice(good_builder().max_lifetime(None), good_manager("json"), 2);
    let json = serde_json::to_value(&said).unwrap();
    assert_eq!((&json["pool"], &json["instances"]), (&"orders".into(), &2.into()));
    assert_eq!(json["server"]["max_connections"], 100);
    assert_eq!(json["server"]["lock_timeout"], 2.0);
    assert_eq!(json["recommendations"][0]["setting"], "max_lifetime");
    assert_eq!(json["recommendations"][0]["severity"], "warning");
}

// ---- who blocks others ----

fn session(cluster: &Cluster, name: &str) -> Client {
    let mut config = cluster.config();
    config.application_name(name).connect(NoTls).expect("a session")
}

fn pid(client: &mut Client) -> i32 {
    client.query_one("SELECT pg_backend_pid()", &[]).expect("a backend").get(0)
}

/// Asks until there are as many blockers, and they block so many in all.
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

/// A server with a row that many want; of its own, since blockers are of a server.
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
    let blocker_pid = pid(&mut forgetful);
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
    // Six in the server, though only the first of them waits for the holder itself;
    // the other four wait in the pool.
    let all = await_blocked(&mut observer, 1, 6);
    assert_eq!(pool.stats().in_use, 6);
    // The pool sees that nothing comes back, and to whom; the server knows why.
    let leak = loop {
        let diagnosis = pool.diagnose_over(Duration::from_millis(150)).unwrap();
        if let Some(leak) = diagnosis.finding(FindingKind::Leak) {
            break leak.clone();
        }
        assert!(asked.elapsed() < LONG, "{diagnosis}");
    };
    assert_eq!(leak.holders.len(), 6, "{leak}");
    let blocker = &all[0];
    assert_eq!((blocker.pid, blocker.blocked), (blocker_pid, 6));
    assert_eq!(blocker.state.as_deref(), Some("idle in transaction"));
    let query = "BEGIN; UPDATE orders SET n = 1 WHERE id = 12345";
    assert_eq!(blocker.query.as_deref(), Some(query));
    assert_eq!(blocker.user.as_deref(), Some("postgres"));
    assert_eq!(blocker.database.as_deref(), Some("postgres"));
    let (since, in_transaction) = (blocker.state_for.unwrap(), blocker.transaction_for.unwrap());
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
    let ends: Vec<_> = all.iter().map(|b| (b.application_name.as_deref(), b.blocked)).collect();
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
    let holder_pid = pid(&mut holder);
    holder.batch_execute("BEGIN; UPDATE orders SET n = 1 WHERE id = 12345").unwrap();
    let app = || cluster.app_config(APP_PASSWORD).connect(NoTls).expect("a session");
    let mut waiter = app();
    let waiter = thread::spawn(move || waiter.batch_execute(WANT));
    let mut observer = app();
    let all = await_blocked(&mut observer, 1, 1);
    assert_eq!((all[0].pid, all[0].application_name.as_deref()), (holder_pid, Some("holder")));
    assert_eq!((&all[0].state, &all[0].query, all[0].state_for), (&None, &None, None));
    assert!(all[0].to_string().contains("(state not visible"), "{}", all[0]);
    drop(holder);
    waiter.join().unwrap().unwrap();
}

#[test]
fn blockers_are_found_through_a_bouncer_too() {
    let cluster = contended();
    let bouncer = Bouncer::start(cluster.port(), 4);
    let mut holder = session(&cluster, "holder");
    let holder_pid = pid(&mut holder);
    holder.batch_execute("BEGIN; UPDATE orders SET n = 1 WHERE id = 12345").unwrap();
    let mut waiter = session(&cluster, "waiter");
    let waiter = thread::spawn(move || waiter.batch_execute(WANT));
    let mut observer: Client = bouncer.config().connect(NoTls).unwrap();
    for _ in 0..3 {
        assert_eq!(await_blocked(&mut observer, 1, 1)[0].pid, holder_pid);
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
    assert_eq!((all[0].pid, &all[0].state), (0, &None));
    assert!(all[0].to_string().starts_with("prepared transactions ("), "{}", all[0]);
    preparer.batch_execute("ROLLBACK PREPARED 'left'").unwrap();
    waiter.join().unwrap().unwrap();
}
