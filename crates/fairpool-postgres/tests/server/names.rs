//! Whose backend it is: the server's number of a connection, and what a use tells the server of
//! itself.

use fairpool::{ManageConnection, Pool, PooledConnection};
use fairpool_postgres::postgres::fallible_iterator::FallibleIterator;
use fairpool_postgres::postgres::types::{ToSql, Type};
use fairpool_postgres::postgres::{Error, SimpleQueryMessage};
use fairpool_postgres::{Client, NoTls, Reset};
use fairpool_servers::bouncer::Bouncer;
use fairpool_servers::cluster::Cluster;

use crate::common::{
    Manager, ask, backend, builder, manager, named, own_database, psql, shared, show,
};

/// The text of the statement that asks this.
const MYSELF: &str = "SELECT query FROM pg_stat_activity WHERE pid = pg_backend_pid()";

fn pool_with(manager: Manager) -> Pool<Manager> {
    builder().max_size(1).build(manager).unwrap()
}

fn with_comment(comment: &str) -> String {
    format!("{MYSELF} /*{comment}*/")
}

/// The same text, as each method that takes a text sends it.
fn sent(client: &mut Client) -> Vec<String> {
    let none: &[&(dyn ToSql + Sync)] = &[];
    let mut sent = vec![
        client.query(MYSELF, none).unwrap()[0].get(0),
        client.query_one(MYSELF, none).unwrap().get(0),
        client.query_opt(MYSELF, none).unwrap().unwrap().get(0),
        client.query_typed(MYSELF, &[]).unwrap()[0].get(0),
        client.query_typed_one(MYSELF, &[]).unwrap().get(0),
        client.query_typed_opt(MYSELF, &[]).unwrap().unwrap().get(0),
    ];
    let mut rows = client.query_raw(MYSELF, none.iter().copied()).unwrap();
    sent.push(rows.next().unwrap().unwrap().get(0));
    drop(rows);
    let typed: [(&(dyn ToSql + Sync), Type); 0] = [];
    let mut rows = client.query_typed_raw(MYSELF, typed).unwrap();
    sent.push(rows.next().unwrap().unwrap().get(0));
    drop(rows);
    sent.extend(client.simple_query(MYSELF).unwrap().iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    }));
    let mut transaction = client.transaction().unwrap();
    sent.push(transaction.query_one(MYSELF, &[]).unwrap().get(0));
    transaction.commit().unwrap();
    sent
}

#[test]
fn the_number_of_a_backend_is_known_at_open() {
    let with_settings = || manager().session_setting("jit", "off");
    for manager in [manager(), with_settings()] {
        let pool = pool_with(manager);
        let mut conn = pool.get().unwrap();
        let known = PooledConnection::info(&conn).backend_id;
        assert_eq!(known.map(|id| id as i32), Some(backend(&mut conn)));
        assert_eq!(conn.backend_id(), known);
        assert_eq!(pool.holders()[0].backend_id(), known);
    }
    // PgBouncer has numbers of its own, which the login gives.
    let bouncer = Bouncer::start_with_mode(shared().port(), 2, "session");
    let pool = pool_with(Manager::new(bouncer.config(), NoTls));
    let mut conn = pool.get().unwrap();
    let known = PooledConnection::info(&conn).backend_id;
    assert_eq!(known.map(|id| id as i32), Some(backend(&mut conn)));
}

#[test]
fn the_number_costs_one_round_trip_and_none_with_settings() {
    let cluster = Cluster::start_with(&[("log_statement", "all")]);
    let statements = || {
        let log = cluster.log();
        let is_ours = |line: &&str| line.contains("pg_backend_pid") || line.contains("set_config");
        let lines = log.lines().filter(is_ours);
        lines.filter(|line| line.contains("execute <unnamed>: ")).count()
    };
    let plain = Manager::new(cluster.config(), NoTls);
    let set = plain.clone().session_setting("jit", "off").session_setting("geqo", "off");
    let mut client = plain.connect().unwrap();
    assert_eq!((statements(), client.backend_id()), (1, Some(backend(&mut client) as u32)));
    let before = statements();
    let mut client = set.connect().unwrap();
    assert_eq!(statements() - before, 1);
    assert_eq!((show(&mut client, "jit"), show(&mut client, "geqo")), ("off".into(), "off".into()));
    assert!(client.backend_id().is_some());
}

#[test]
fn a_comment_is_sent_with_each_text_of_the_use_and_ends_with_it() {
    let pool = pool_with(manager());
    let traceparent = "00-5bd66ef5095369c7b0d1f8f4bd33716a-c532cb4098ac3dd2-01";
    let mut conn = pool.get().unwrap();
    let prepared = {
        conn.set_comment(&[("traceparent", traceparent), ("label", "GET /orders")]);
        let comment = format!("label='GET%20%2Forders',traceparent='{traceparent}'");
        let sent = sent(&mut conn);
        assert_eq!(sent, vec![with_comment(&comment); 10]);
        conn.prepare(MYSELF).unwrap()
    };
    let asked: String = conn.query_one(&prepared, &[]).unwrap().get(0);
    assert_eq!(asked, MYSELF, "a prepared statement outlives the use");
    let own = format!("{MYSELF} -- mine");
    assert_eq!(ask(&mut conn, &own), own, "it has one already");
    drop(conn);

    let mut conn = pool.get().unwrap();
    assert_eq!(sent(&mut conn), vec![MYSELF; 10]);
    conn.set_comment(&[("label", "b")]);
    conn.set_comment(&[]);
    assert_eq!(ask(&mut conn, MYSELF), MYSELF);
    assert_eq!(pool.stats().opened, 1);
}

#[test]
fn a_comment_costs_no_round_trip_and_no_reset() {
    let pool = pool_with(manager().reset_on_return(Reset::Off));
    pool.get().unwrap().set_comment(&[("label", "a")]);
    let conn = pool.try_get();
    let mut conn = conn.expect("at once, since no reset follows");
    assert_eq!(ask(&mut conn, MYSELF), MYSELF, "it ends without a reset too");
    let pool = pool_with(manager());
    pool.get().unwrap().set_comment(&[("label", "a")]);
    assert!(pool.try_get().is_some(), "at once, since no reset follows");
}

#[test]
fn no_label_breaks_out_of_its_comment() {
    let _database = own_database("hostile_labels");
    psql("CREATE TABLE victims (id int); INSERT INTO victims VALUES (1)");
    let pool = pool_with(manager());
    let every_byte: String = (0..=255).map(char::from).collect();
    let hostile = [
        "*/ DROP TABLE victims; /*",
        "'*/; DROP TABLE victims; --",
        "\\'*/ DROP TABLE victims",
        "\r\n*/ DROP TABLE victims; --\n",
        "%2A%2F DROP TABLE victims",
        "/* /* nested",
        "täglich \u{202e} \u{1f980}",
        "$$ $1 $tag$ \"",
        "\0",
        &every_byte,
    ];
    for text in hostile {
        let mut conn = pool.get().unwrap();
        conn.set_comment(&[(text, text), ("label", text)]);
        let count = "SELECT count(*) FROM victims WHERE id = $1";
        assert_eq!(conn.query_one(count, &[&1]).unwrap().get::<_, i64>(0), 1, "{text:?}");
        conn.batch_execute("SELECT 1; SELECT 2").unwrap();
        // Not cut off, as in `pg_stat_activity`.
        let myself = "SELECT current_query()";
        let seen = ask(&mut conn, myself);
        let comment = seen.strip_prefix(myself).unwrap();
        assert_eq!((comment.matches("/*").count(), comment.matches("*/").count()), (1, 1));
        assert!(comment.is_ascii() && comment.ends_with("'*/"), "{comment}");
        let value = comment.split("label='").nth(1).unwrap().split('\'').next().unwrap();
        assert_eq!(decoded(value), text);
    }
    assert_eq!(pool.stats().opened, 1);
}

/// Percent-decoded, as a reader of the server's log would.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let mut digit = || char::from(rest.next().unwrap()).to_digit(16).unwrap() as u8;
        bytes.push(if byte == b'%' { digit() * 16 + digit() } else { byte });
    }
    String::from_utf8(bytes).unwrap()
}

#[test]
fn a_comment_goes_through_a_transaction_pooler() {
    let bouncer = Bouncer::start(shared().port(), 2);
    let pool = pool_with(Manager::new(bouncer.config(), NoTls).transaction_pooler(true));
    let sql = format!("{MYSELF} AND $1 > 0");
    for n in 1..=3 {
        let mut conn = pool.get().unwrap();
        conn.set_comment(&[("n", &n.to_string())]);
        let seen: String = conn.query_one(&sql, &[&n]).unwrap().get(0);
        assert_eq!(seen, format!("{sql} /*n='{n}'*/"));
        let statement = conn.prepare(&sql).unwrap();
        let seen: String = conn.query_one(&statement, &[&n]).unwrap().get(0);
        assert_eq!(seen, format!("{sql} /*n='{n}'*/"), "there it has no name, and goes as text");
    }
    let error = pool.get().unwrap().set_application_name("x").expect_err("no session of its own");
    assert!(error.to_string().contains("db error"), "{error}");
}

#[test]
fn copies_and_statements_that_return_nothing_have_the_comment_too() {
    use std::io::{Read, Write};
    let pool = pool_with(manager());
    let mut conn = pool.get().unwrap();
    conn.set_comment(&[("label", "copy")]);
    conn.batch_execute("CREATE TEMP TABLE texts (text text)").unwrap();
    let insert = |client: &mut Client, how: fn(&mut Client, &str) -> Result<(), Error>| {
        how(client, &format!("INSERT INTO texts {MYSELF}")).unwrap();
        ask(client, "DELETE FROM texts RETURNING text")
    };
    let expected = format!("INSERT INTO texts {}", with_comment("label='copy'"));
    let execute = |client: &mut Client, sql: &str| client.execute(sql, &[]).map(drop);
    let typed = |client: &mut Client, sql: &str| client.execute_typed(sql, &[]).map(drop);
    let batch = |client: &mut Client, sql: &str| client.batch_execute(sql);
    assert_eq!(insert(&mut conn, execute), expected);
    assert_eq!(insert(&mut conn, typed), expected);
    assert_eq!(insert(&mut conn, batch), expected);
    let mut text = String::new();
    let copy = format!("COPY ({MYSELF}) TO STDOUT");
    conn.copy_out(&copy).unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(text, format!("{copy} /*label='copy'*/\n"));
    conn.batch_execute("CREATE TEMP TABLE seen (line text DEFAULT current_query(), n int)")
        .unwrap();
    let copy = "COPY seen (n) FROM STDIN";
    let mut writer = conn.copy_in(copy).unwrap();
    writer.write_all(b"1\n").unwrap();
    writer.finish().unwrap();
    assert_eq!(ask(&mut conn, "SELECT line FROM seen"), format!("{copy} /*label='copy'*/"));
}

#[test]
fn an_application_name_ends_with_the_use() {
    let pool = pool_with(named("billing"));
    for _ in 0..2 {
        let mut conn = pool.get().unwrap();
        assert_eq!(show(&mut conn, "application_name"), "billing");
        conn.set_comment(&[("label", "a")]);
        conn.set_application_name("billing: GET /orders").unwrap();
        let seen = "SELECT application_name FROM pg_stat_activity WHERE pid = pg_backend_pid()";
        assert_eq!(ask(&mut conn, seen), "billing: GET /orders");
        conn.set_application_name("'; DROP TABLE x; --").unwrap();
        assert_eq!(ask(&mut conn, seen), "'; DROP TABLE x; --");
    }
    assert_eq!(show(&mut pool.get().unwrap(), "application_name"), "billing");
    assert_eq!(pool.stats().opened, 1);

    // Also one that was set by the manager's settings.
    let pool = pool_with(manager().session_setting("application_name", "set"));
    pool.get().unwrap().set_application_name("other").unwrap();
    assert_eq!(show(&mut pool.get().unwrap(), "application_name"), "set");

    let pool = pool_with(named("kept").reset_on_return(Reset::Rollback));
    pool.get().unwrap().set_application_name("other").unwrap();
    let after = show(&mut pool.get().unwrap(), "application_name");
    assert_eq!(after, "other", "as documented: no parameters are reset");
}
