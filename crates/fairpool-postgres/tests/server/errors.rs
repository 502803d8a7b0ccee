//! Which errors of the driver are permanent, and which are fatal.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use fairpool::ManageConnection;
use fairpool_postgres::Client;
use fairpool_postgres::postgres::config::{SslMode, TargetSessionAttrs};
use fairpool_postgres::postgres::error::SqlState;
use fairpool_postgres::postgres::{Config, Error};
use fairpool_postgres::{NoTls, Reset};
use fairpool_servers::cluster::{APP_PASSWORD, Cluster};

use crate::common::{
    LONG, Manager, ask, backend, builder, manager, manager_of, millis, refusal, shared, signal,
    wait_until,
};

// ---- permanent or not ----

/// What can be put right while callers wait.
struct Passing {
    what: &'static str,
    manager: Manager,
    /// `None` if there are several, by version.
    code: Option<SqlState>,
    repair: Box<dyn Fn(&Cluster)>,
}

/// With these statements as the repair.
fn passing(
    what: &'static str,
    manager: Manager,
    code: &SqlState,
    repair: &'static [&'static str],
) -> Passing {
    let repair = Box::new(move |cluster: &Cluster| {
        for sql in repair {
            cluster.psql(sql);
        }
    });
    Passing { what, manager, code: Some(code.clone()), repair }
}

/// Makes the server ask this role for a password, or trust it, or refuse it.
fn set_access(cluster: &Cluster, role: &str, method: &str) {
    let file = cluster.folder().join("data/pg_hba.conf");
    let before = fs::read_to_string(&file).unwrap();
    fs::write(&file, format!("host all {role} all {method}\n{before}")).unwrap();
    cluster.psql("SELECT pg_reload_conf()");
}

/// Everything for which a server refuses, each with its repair.
fn all_that_passes(cluster: &Cluster) -> Vec<Passing> {
    for sql in [
        "CREATE ROLE rotated LOGIN PASSWORD 'old'",
        "CREATE ROLE barred NOLOGIN",
        "CREATE ROLE crowded LOGIN CONNECTION LIMIT 0",
        "CREATE ROLE refused LOGIN",
        "CREATE ROLE asked LOGIN",
        "CREATE DATABASE locked",
        "REVOKE CONNECT ON DATABASE locked FROM PUBLIC",
        "CREATE DATABASE shut ALLOW_CONNECTIONS false",
    ] {
        cluster.psql(sql);
    }
    for role in ["late", "barred", "crowded"] {
        set_access(cluster, role, "trust");
    }
    for role in ["rotated", "asked"] {
        set_access(cluster, role, "scram-sha-256");
    }
    set_access(cluster, "refused", "reject");
    // The server reads the file when it gets around to it.
    wait_until("the file is read", || {
        let count = "SELECT count(*) FROM pg_hba_file_rules WHERE auth_method = 'reject'";
        cluster.psql(count) == "1" && set_of(cluster, "refused", "postgres").connect().is_err()
    });
    let as_user = |user| set_of(cluster, user, "postgres");
    let in_database = |name| set_of(cluster, "postgres", name);
    let mut with_old_password = cluster.config();
    with_old_password.user("rotated").password("new");
    let mut all = vec![
        passing(
            "the password is rotated",
            Manager::new(with_old_password, NoTls),
            &SqlState::INVALID_PASSWORD,
            &["ALTER ROLE rotated PASSWORD 'new'"],
        ),
        passing(
            "the role is created",
            as_user("late"),
            &SqlState::INVALID_AUTHORIZATION_SPECIFICATION,
            &["CREATE ROLE late LOGIN"],
        ),
        passing(
            "the role may log in again",
            as_user("barred"),
            &SqlState::INVALID_AUTHORIZATION_SPECIFICATION,
            &["ALTER ROLE barred LOGIN"],
        ),
        passing(
            "the role may have more connections",
            as_user("crowded"),
            &SqlState::TOO_MANY_CONNECTIONS,
            &["ALTER ROLE crowded CONNECTION LIMIT -1"],
        ),
        passing(
            "the database is created",
            in_database("late"),
            &SqlState::INVALID_CATALOG_NAME,
            &["CREATE DATABASE late"],
        ),
        passing(
            "the database is renamed",
            in_database("renamed"),
            &SqlState::INVALID_CATALOG_NAME,
            &["CREATE DATABASE before", "ALTER DATABASE before RENAME TO renamed"],
        ),
        passing(
            "the right to connect is granted",
            {
                let mut config = cluster.app_config(APP_PASSWORD);
                config.dbname("locked");
                Manager::new(config, NoTls)
            },
            &SqlState::INSUFFICIENT_PRIVILEGE,
            &["GRANT CONNECT ON DATABASE locked TO PUBLIC"],
        ),
        passing(
            "the database is opened",
            in_database("shut"),
            &SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE,
            &["ALTER DATABASE shut ALLOW_CONNECTIONS true"],
        ),
    ];
    all.push(Passing {
        what: "the role of a session setting is created",
        manager: as_user("postgres").session_setting("role", "actor"),
        code: None,
        repair: Box::new(|cluster| drop(cluster.psql("CREATE ROLE actor"))),
    });
    all.push(Passing {
        what: "the server lets the role in",
        manager: as_user("refused"),
        code: Some(SqlState::INVALID_AUTHORIZATION_SPECIFICATION),
        repair: Box::new(|cluster| set_access(cluster, "refused", "trust")),
    });
    all.push(Passing {
        what: "the server no longer asks for a password",
        manager: as_user("asked"),
        code: None,
        repair: Box::new(|cluster| set_access(cluster, "asked", "trust")),
    });
    all
}

fn set_of(cluster: &Cluster, user: &str, database: &str) -> Manager {
    let mut config = cluster.config();
    config.user(user).dbname(database);
    Manager::new(config, NoTls)
}

#[test]
fn what_a_server_refuses_is_waited_for_until_it_is_put_right() {
    let cluster = Cluster::start();
    for Passing { what, manager, code, repair } in all_that_passes(&cluster) {
        let error = refusal(&manager);
        assert!(!manager.is_permanent(&error), "until {what}: {error:?}");
        if code.is_some() {
            assert_eq!(error.code(), code.as_ref(), "until {what}: {error:?}");
        }
        let pool = builder().max_size(1).connect_backoff(millis(5), millis(20));
        let pool = pool.build_unchecked(manager);
        thread::scope(|scope| {
            let waiter = scope.spawn(|| pool.get_timeout(LONG).map(drop));
            wait_until("attempts fail", || pool.stats().open_failures >= 2);
            assert!(!waiter.is_finished(), "until {what}: {:?}", waiter.join());
            repair(&cluster);
            let served = waiter.join().unwrap();
            served.unwrap_or_else(|error| panic!("although {what}: {error}"));
        });
    }
}

/// The state of the network or of the system, which passes.
#[test]
fn an_address_without_a_server_is_not_permanent() {
    for url in [
        "postgresql://u@no-such-host.invalid/d",
        "postgresql://u@%2Fno%2Fsuch%2Ffolder/d",
        // The system refuses this address.
        "postgresql://u@255.255.255.255/d",
    ] {
        let manager = Manager::from_url(url, NoTls).unwrap();
        let error = refusal(&manager);
        assert!(error.to_string().starts_with("error connecting"), "{url}: {error:?}");
        assert!(!manager.is_permanent(&error), "{url}: {error:?}");
        assert!(manager.is_fatal(&error), "{url}: {error:?}");
    }
}

#[test]
fn a_server_of_the_other_role_is_not_permanent() {
    let mut config = shared().config();
    config.target_session_attrs(TargetSessionAttrs::ReadOnly);
    let manager = Manager::new(config, NoTls);
    let error = refusal(&manager);
    assert!(!manager.is_permanent(&error), "{error:?}");
}

#[test]
fn a_value_that_cannot_be_sent_is_permanent() {
    let manager = manager().application_name("zero \0 byte");
    let error = refusal(&manager);
    assert!(manager.is_permanent(&error), "{error:?}");
}

#[test]
fn a_configuration_without_a_host_is_permanent() {
    let manager = Manager::new(Config::new(), NoTls);
    let error = refusal(&manager);
    assert!(manager.is_permanent(&error), "{error:?}");
}

/// A reload may switch TLS on.
#[test]
fn required_tls_on_a_server_without_tls_is_not_permanent() {
    let mut config = shared().config();
    config.ssl_mode(SslMode::Require);
    let manager = Manager::new(config, NoTls);
    let error = refusal(&manager);
    assert!(!manager.is_permanent(&error), "{error:?}");
}

#[test]
fn required_tls_with_a_client_without_tls_is_permanent() {
    let (port, server) = server_that_answers(b"S");
    let url = format!("postgresql://u@127.0.0.1:{port}/d?sslmode=require");
    let manager = Manager::from_url(&url, NoTls).unwrap();
    let error = refusal(&manager);
    assert!(manager.is_permanent(&error), "{error:?}");
    drop(server.join().unwrap());
}

#[test]
fn a_server_that_hangs_up_is_not_permanent_and_fatal() {
    let (port, server) = server_that_answers(b"");
    let hang_up = thread::spawn(move || drop(server.join().unwrap()));
    let url = format!("postgresql://u@127.0.0.1:{port}/d?sslmode=disable");
    let manager = Manager::from_url(&url, NoTls).unwrap();
    let error = refusal(&manager);
    hang_up.join().unwrap();
    assert!(!manager.is_permanent(&error), "{error:?}");
    assert!(manager.is_fatal(&error), "{error:?}");
}

/// Answers the first packet of its one client and returns the connection.
fn server_that_answers(answer: &'static [u8]) -> (u16, thread::JoinHandle<TcpStream>) {
    use std::io::{Read, Write};
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.read(&mut [0; 1024]).unwrap();
        stream.write_all(answer).unwrap();
        stream
    });
    (port, server)
}

#[test]
fn a_refused_connection_is_not_permanent() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let url = format!("postgresql://u@127.0.0.1:{port}/d");
    let manager = Manager::from_url(&url, NoTls).unwrap();
    let error = refusal(&manager);
    assert!(!manager.is_permanent(&error), "{error:?}");
    assert!(manager.is_fatal(&error), "{error:?}");
}

#[test]
fn too_many_connections_is_not_permanent() {
    let cluster = Cluster::start_with(&[
        ("max_connections", "3"),
        ("superuser_reserved_connections", "1"),
        ("max_wal_senders", "0"),
    ]);
    let manager = Manager::new(cluster.app_config(APP_PASSWORD), NoTls);
    let held: Vec<Client> = (0..2).map(|_| manager.connect().unwrap()).collect();
    let error = refusal(&manager);
    assert_eq!(error.code(), Some(&SqlState::TOO_MANY_CONNECTIONS));
    assert!(!manager.is_permanent(&error));
    assert!(manager.is_fatal(&error));
    drop(held);
}

#[test]
fn a_server_that_shuts_down_or_is_away_is_not_permanent_and_may_come_back() {
    let cluster = Cluster::start();
    let manager = manager_of(&cluster);

    // A "smart" shutdown lets old sessions stay and refuses new ones.
    let mut client = manager.connect().unwrap();
    signal("-TERM", cluster.pid());
    wait_until("shutdown", || cluster.log().contains("smart shutdown"));
    let error = refusal(&manager);
    assert_eq!(error.code(), Some(&SqlState::CANNOT_CONNECT_NOW));
    assert!(!manager.is_permanent(&error));
    manager.is_valid(&mut client).unwrap();

    cluster.stop();
    let error = refusal(&manager);
    assert!(!manager.is_permanent(&error), "{error:?}");
    let error = manager.is_valid(&mut client).unwrap_err();
    assert!(manager.is_fatal(&error), "{error:?}");

    cluster.start_again();
    let mut client = manager.connect().unwrap();
    manager.is_valid(&mut client).unwrap();
}

// ---- fatal or not ----

#[test]
fn errors_of_the_client_and_of_statements_are_not_fatal() {
    type Attempt = fn(&mut Client) -> Result<(), Error>;
    let attempts: [(&str, Attempt); 11] = [
        ("a column of another type", |client| {
            let row = client.query_one("SELECT 'text'", &[])?;
            row.try_get::<_, i32>(0).map(drop)
        }),
        ("an unexpected NULL", |client| {
            let row = client.query_one("SELECT NULL::int", &[])?;
            row.try_get::<_, i32>(0).map(drop)
        }),
        ("an unknown column", |client| {
            let row = client.query_one("SELECT 1", &[])?;
            row.try_get::<_, i32>("db error").map(drop)
        }),
        ("a parameter of another type", |client| {
            client.execute("SELECT $1::int", &[&"text"]).map(drop)
        }),
        ("too few parameters", |client| client.execute("SELECT $1::int", &[]).map(drop)),
        ("no row", |client| client.query_one("SELECT 1 WHERE false", &[]).map(drop)),
        ("too many rows", |client| {
            let sql = "SELECT generate_series(1, 10000)";
            client.query_opt(sql, &[]).map(drop)
        }),
        ("a zero byte in a statement", |client| client.batch_execute("SELECT '\0'")),
        ("a syntax error", |client| client.batch_execute("SELEKT")),
        ("a violated constraint", |client| {
            client.batch_execute(
                "CREATE TEMP TABLE IF NOT EXISTS one (n int CHECK (n = 1)); \
                 INSERT INTO one VALUES (2)",
            )
        }),
        ("an internal error", |client| {
            client.batch_execute(
                "DO $$ BEGIN RAISE EXCEPTION 'bad shape' USING ERRCODE = 'XX000'; END $$",
            )
        }),
    ];
    let manager = manager();
    let mut client = manager.connect().unwrap();
    for (what, attempt) in attempts {
        let error = attempt(&mut client).expect_err(what);
        assert!(!manager.is_fatal(&error), "{what}: {error:?}");
        // The connection still works.
        assert_eq!(ask(&mut client, "SELECT 'fine'"), "fine", "after {what}");
    }
}

#[test]
fn a_killed_backend_is_fatal_whenever_it_is_noticed() {
    let manager = manager();
    let mut client = manager.connect().unwrap();
    let pid = backend(&mut client);
    shared().psql(&format!("SELECT pg_terminate_backend({pid}, 20000)"));
    let error = client.batch_execute("SELECT 1").unwrap_err();
    assert!(manager.is_fatal(&error), "{error:?}");

    let mut client = manager.connect().unwrap();
    let error = client
        .batch_execute("SELECT pg_terminate_backend(pg_backend_pid()), pg_sleep(20)")
        .unwrap_err();
    assert!(manager.is_fatal(&error), "{error:?}");
    // The second call on the dead client has no message from the server.
    let error = client.batch_execute("SELECT 1").unwrap_err();
    assert!(manager.is_fatal(&error), "{error:?}");
    wait_until("has_broken", || {
        let _ = client.batch_execute("SELECT 1");
        manager.has_broken(&mut client)
    });
    assert!(!manager.reset_on_return(Reset::Session).needs_reset(&mut client));
}

#[test]
fn a_session_that_the_server_ends_for_idling_is_fatal() {
    let manager = manager().idle_in_transaction_session_timeout(Duration::from_millis(1));
    let mut client = manager.connect().unwrap();
    let pid = backend(&mut client);
    // The server may be so fast that even this statement fails.
    let begun = client.batch_execute("BEGIN");
    wait_until("the server ends it", || {
        shared().psql(&format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {pid}")) == "0"
    });
    let error = begun.and_then(|()| client.batch_execute("SELECT 1")).unwrap_err();
    assert!(manager.is_fatal(&error), "{error:?}");
}

#[test]
fn a_timeout_of_a_lock_or_a_statement_is_not_fatal() {
    let manager = manager().statement_timeout(Duration::from_millis(20));
    let mut client = manager.connect().unwrap();
    let error = client.batch_execute("SELECT pg_sleep(20)").unwrap_err();
    assert_eq!(error.code(), Some(&SqlState::QUERY_CANCELED));
    assert!(!manager.is_fatal(&error));
    manager.is_valid(&mut client).unwrap();
}
