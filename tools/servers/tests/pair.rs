//! A standby follows its primary, and the two change roles.

use fairpool_servers::cluster::APP_PASSWORD;
use fairpool_servers::pair::Pair;
use postgres::NoTls;
use postgres::config::TargetSessionAttrs;
use postgres::error::SqlState;

const COUNT: &str = "SELECT count(*) FROM t";

fn port_of(client: &mut postgres::Client) -> String {
    client.query_one("SHOW port", &[]).unwrap().get(0)
}

#[test]
fn a_standby_shows_what_its_primary_has_committed_and_refuses_to_write() {
    let pair = Pair::start_with(&[("work_mem", "1234kB")]);
    pair.first().psql("CREATE TABLE t (n int); INSERT INTO t SELECT generate_series(1, 1000)");
    pair.second().catch_up_with(pair.first());
    assert_eq!(pair.second().psql(COUNT), "1000");
    assert_eq!(pair.second().psql("SHOW work_mem"), "1234kB");
    assert!(pair.second().is_standby() && !pair.first().is_standby());

    let mut app = pair.second().app_config(APP_PASSWORD).connect(NoTls).unwrap();
    let error = app.batch_execute("CREATE TEMPORARY TABLE own (n int)").unwrap_err();
    assert_eq!(error.code(), Some(&SqlState::READ_ONLY_SQL_TRANSACTION));
}

#[test]
fn a_promoted_standby_writes_and_its_sessions_live_on() {
    let pair = Pair::start();
    pair.first().psql("CREATE TABLE t (n int)");
    pair.second().catch_up_with(pair.first());
    let mut session = pair.second().config().connect(NoTls).unwrap();
    pair.first().stop_at_once();
    pair.second().promote();
    session.batch_execute("INSERT INTO t VALUES (1)").unwrap();

    // The one that was killed comes back as a standby of the other, in spite of its own history.
    pair.first().follow(pair.second());
    pair.first().catch_up_with(pair.second());
    assert_eq!(pair.first().psql(COUNT), "1");
}

#[test]
fn a_pair_changes_roles_there_and_back_and_loses_nothing() {
    let pair = Pair::start();
    let mut config = pair.config();
    config.target_session_attrs(TargetSessionAttrs::ReadWrite);
    let ports = [pair.first(), pair.second()].map(|server| server.port().to_string());
    pair.first().psql("CREATE TABLE t (n int)");
    for round in 0..3 {
        let mut client = config.connect(NoTls).unwrap();
        assert_eq!(port_of(&mut client), ports[round % 2]);
        client.batch_execute("INSERT INTO t VALUES (1)").unwrap();
        pair.switch_over();
        assert!(client.batch_execute("SELECT 1").is_err(), "the old primary was stopped");
    }
    assert_eq!(pair.second().psql(COUNT), "3");
    pair.first().catch_up_with(pair.second());
    assert_eq!(pair.first().psql(COUNT), "3");
}

#[test]
fn a_frozen_standby_holds_up_nobody_but_its_clients() {
    let pair = Pair::start();
    let frozen = pair.second().freeze();
    pair.first().psql("CREATE TABLE t (n int)");
    drop(frozen);
    pair.second().catch_up_with(pair.first());
    assert_eq!(pair.second().psql(COUNT), "0");
}

#[test]
fn a_pair_leaves_nothing_also_when_its_test_fails() {
    let folders = std::thread::spawn(|| {
        let pair = Pair::start();
        let folders = [pair.first(), pair.second()].map(|server| server.folder().to_owned());
        assert!(folders.iter().all(|folder| folder.join("data").exists()));
        std::panic::panic_any(folders);
    });
    let folders = *folders.join().unwrap_err().downcast::<[std::path::PathBuf; 2]>().unwrap();
    assert!(folders.iter().all(|folder| !folder.exists()));
}
