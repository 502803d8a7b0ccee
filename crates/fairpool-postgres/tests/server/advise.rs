//! Advice on a pool's settings.

use std::error::Error as _;
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use fairpool::diagnosis::Severity;
use fairpool::{Builder, Pool};
use fairpool_postgres::postgres::Client;
use fairpool_postgres::{Advice, AdviseError, NoTls, Reset, advise};
use fairpool_servers::bouncer::Bouncer;
use fairpool_servers::cluster::{APP_PASSWORD, Cluster};

use crate::common::{LONG, Manager, secs};

/// A server only for these tests, since the number of other clients matters here. 100
/// connections, of which 70 are for one service; no test takes more than a few.
fn shared() -> &'static Cluster {
    static SHARED: OnceLock<Cluster> = OnceLock::new();
    SHARED.get_or_init(|| Cluster::start_with(&[("max_connections", "100")]))
}

/// With all timeouts.
fn good_manager(name: &str) -> Manager {
    Manager::new(shared().config(), NoTls)
        .application_name(name)
        .statement_timeout(secs(30))
        .lock_timeout(secs(2))
        .idle_in_transaction_session_timeout(secs(60))
}

/// Settings without a recommendation.
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

/// Checks that this is the only recommendation, and that it has each of these parts.
#[track_caller]
fn assert_only(advice: &Advice, setting: &str, severity: Severity, parts: &[&str]) {
    let settings: Vec<_> = advice.recommendations.iter().map(|found| found.setting).collect();
    assert_eq!(settings, [setting], "{advice}");
    let found = advice.about(setting).unwrap();
    assert_eq!(found.severity, severity, "{advice}");
    let text = format!("{}; {}", found.reason, found.advice);
    parts.iter().for_each(|part| assert!(text.contains(part), "{part:?} is missing: {text}"));
    assert!(advice.to_string().contains(&format!("{setting}: ")), "{advice}");
}

#[test]
fn good_settings_need_no_advice() {
    let advice = advice(good_builder(), good_manager("good"), 2);
    assert!(advice.is_empty() && advice.unchecked.is_empty(), "{advice}");
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
    assert_only(&large, "max_size", Severity::Warning, &parts);
    let huge = advice(good_builder(), good_manager("size"), 1000);
    let found = huge.about("max_size").unwrap();
    assert_eq!(found.severity, Severity::Critical);
    assert!(found.advice.starts_with("run fewer instances"), "{found:?}");
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
    assert_only(&crowded, "max_size", Severity::Critical, &parts);
    let server = crowded.server.to_string();
    assert!(server.ends_with("(max_connections 20, 3 reserved, others use 8)"), "{server}");
    drop((others, twin));
}

#[test]
fn each_wait_in_the_server_should_have_a_deadline() {
    let bare = || Manager::new(shared().config(), NoTls).application_name("bare");
    let none = advice(good_builder(), bare(), 1);
    let warnings: Vec<_> = none.recommendations.iter().map(|s| (s.setting, s.severity)).collect();
    let warning = Severity::Warning;
    assert_eq!(
        warnings,
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
    assert_only(&no_lock, "lock_timeout", Severity::Info, &["until statement_timeout (30s)"]);
    let no_statement = advice(
        good_builder(),
        bare().lock_timeout(secs(2)).idle_in_transaction_session_timeout(secs(60)),
        1,
    );
    assert_only(&no_statement, "statement_timeout", Severity::Warning, &["for ever"]);
    let open = advice(good_builder(), bare().lock_timeout(secs(2)).statement_timeout(secs(30)), 1);
    let setting = "idle_in_transaction_session_timeout";
    assert_only(&open, setting, Severity::Warning, &["keeps its locks"]);
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
    let found = advise(&pool, 1).unwrap();
    assert_eq!(found.server.lock_timeout, Some(secs(2)));
    let parts = ["up to 300s", "idle_session_timeout ends them after 240s", "less than 240s"];
    assert_only(&found, "idle_timeout", Severity::Warning, &parts);

    let manager = Manager::new(cluster.app_config(APP_PASSWORD), NoTls)
        .idle_in_transaction_session_timeout(secs(60));
    let checked = good_builder().keepalive(Some(secs(60))).build(manager).unwrap();
    assert!(advise(&checked, 1).unwrap().is_empty());
}

#[test]
fn the_pools_own_settings_are_judged() {
    let judge = |builder: Builder<Manager>| advice(builder, good_manager("settings"), 1);
    use Severity::{Info, Warning};
    let patient = judge(good_builder().connection_timeout(secs(45)));
    assert_only(&patient, "connection_timeout", Warning, &["up to 45s"]);
    let usual = judge(good_builder().max_lifetime(Some(secs(1800))));
    assert_only(&usual, "max_lifetime", Info, &["up to 1800s", "set 300s"]);
    let forever = judge(good_builder().max_lifetime(None));
    assert_only(&forever, "max_lifetime", Warning, &["for ever"]);
    let together = judge(good_builder().lifetime_jitter(0.0));
    assert_only(&together, "lifetime_jitter", Warning, &["end together"]);
    let many = judge(good_builder().max_size(30));
    assert_only(&many, "max_idle", Info, &["up to 30 of 30", "set it to 20"]);
    assert!(judge(good_builder().max_size(30).max_idle(Some(20))).is_empty());
    let endless = judge(good_builder().max_waiters(None));
    assert_only(&endless, "max_waiters", Info, &["only deadlines limit the queue"]);
    let trusting = judge(good_builder().leak_threshold(None));
    assert_only(&trusting, "leak_threshold", Info, &["longest that a transaction takes"]);
}

#[test]
fn a_size_that_was_changed_later_is_the_one_that_counts() {
    let pool = good_builder().build(good_manager("resized")).unwrap();
    assert!(advise(&pool, 1).unwrap().is_empty());
    pool.set_max_size(98).unwrap();
    let found = advise(&pool, 1).unwrap();
    let reason = &found.about("max_size").unwrap().reason;
    assert!(reason.starts_with("98 connections, but "), "{reason}");
}

#[test]
fn advice_that_cannot_be_given_is_an_error() {
    let pool = good_builder()
        .max_size(1)
        .connection_timeout(Duration::from_millis(50))
        .test_on_check_out(false)
        .build(good_manager("none").reset_on_return(Reset::Off))
        .unwrap();
    let error = advise(&pool, 0).unwrap_err();
    assert_eq!(error.to_string(), "instances must be at least 1, but is 0");
    assert!(matches!(error, AdviseError::NoInstances));

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
    assert_eq!(error.to_string(), "cannot query the server's settings");
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
    let found = advise(&pool, 10).unwrap();
    assert!(found.about("max_size").is_none(), "{found}");
    assert!(found.about("statement_timeout").is_some(), "{found}");
    let [unchecked] = &found.unchecked[..] else { panic!("{found}") };
    let ports = format!(
        "whether 400 connections fit: the pool connects to port {}, but the server listens on {}",
        bouncer.config().get_ports()[0],
        shared().port(),
    );
    assert!(unchecked.starts_with(&ports) && unchecked.contains("PgBouncer"), "{unchecked}");
    assert!(found.to_string().contains("  unchecked "), "{found}");
}

#[test]
fn a_unix_socket_is_the_server_itself() {
    let manager = Manager::new(shared().socket_config(), NoTls)
        .statement_timeout(secs(30))
        .lock_timeout(secs(2))
        .idle_in_transaction_session_timeout(secs(60));
    let found = advice(good_builder(), manager, 1);
    assert!(found.is_empty() && found.unchecked.is_empty(), "{found}");
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
    let found = advice(good_builder().max_lifetime(None), good_manager("json"), 2);
    let json = serde_json::to_value(&found).unwrap();
    assert_eq!((&json["pool"], &json["instances"]), (&"orders".into(), &2.into()));
    assert_eq!(json["server"]["max_connections"], 100);
    assert_eq!(json["server"]["lock_timeout"], 2.0);
    assert_eq!(json["recommendations"][0]["setting"], "max_lifetime");
    assert_eq!(json["recommendations"][0]["severity"], "warning");
}
