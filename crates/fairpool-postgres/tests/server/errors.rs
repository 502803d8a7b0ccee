//! Which errors of the driver are permanent, and which are fatal.

use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use fairpool::ManageConnection;
use fairpool_postgres::Client;
use fairpool_postgres::postgres::config::SslMode;
use fairpool_postgres::postgres::error::SqlState;
use fairpool_postgres::postgres::{Config, Error};
use fairpool_postgres::{NoTls, Reset};
use fairpool_servers::cluster::{APP_PASSWORD, Cluster};

use crate::common::{
    Manager, ask, backend, manager, manager_of, refusal, shared, signal, wait_until,
};

// ---- permanent or not ----

#[test]
fn wrong_password_is_permanent() {
    let cluster = shared();
    let wrong = Manager::new(cluster.app_config("wrong"), NoTls);
    let error = refusal(&wrong);
    assert_eq!(error.code(), Some(&SqlState::INVALID_PASSWORD));
    assert!(wrong.is_permanent(&error));

    let right = Manager::new(cluster.app_config(APP_PASSWORD), NoTls);
    assert!(right.connect().is_ok());
}

#[test]
fn a_missing_password_is_permanent() {
    let mut config = shared().config();
    config.user("app");
    let manager = Manager::new(config, NoTls);
    let error = refusal(&manager);
    assert_eq!(error.code(), None);
    assert!(manager.is_permanent(&error), "{error:?}");
}

#[test]
fn an_unknown_role_is_permanent() {
    let mut config = shared().config();
    config.user("nobody_like_that").password("any");
    let manager = Manager::new(config, NoTls);
    let error = refusal(&manager);
    assert!(manager.is_permanent(&error), "{error:?}");
}

#[test]
fn an_unknown_database_is_permanent() {
    let mut config = shared().config();
    config.dbname("no_such_database");
    let manager = Manager::new(config, NoTls);
    let error = refusal(&manager);
    assert_eq!(error.code(), Some(&SqlState::INVALID_CATALOG_NAME));
    assert!(manager.is_permanent(&error));
}

#[test]
fn a_database_without_the_right_to_connect_is_permanent() {
    let cluster = shared();
    cluster.psql("CREATE DATABASE locked");
    cluster.psql("REVOKE CONNECT ON DATABASE locked FROM PUBLIC");
    let mut config = cluster.app_config(APP_PASSWORD);
    config.dbname("locked");
    let manager = Manager::new(config, NoTls);
    let error = refusal(&manager);
    assert_eq!(error.code(), Some(&SqlState::INSUFFICIENT_PRIVILEGE));
    assert!(manager.is_permanent(&error));
}

#[test]
fn a_configuration_without_a_host_is_permanent() {
    let manager = Manager::new(Config::new(), NoTls);
    let error = refusal(&manager);
    assert!(manager.is_permanent(&error), "{error:?}");
}

#[test]
fn required_tls_on_a_server_without_tls_is_permanent() {
    let mut config = shared().config();
    config.ssl_mode(SslMode::Require);
    let manager = Manager::new(config, NoTls);
    let error = refusal(&manager);
    assert!(manager.is_permanent(&error), "{error:?}");
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
