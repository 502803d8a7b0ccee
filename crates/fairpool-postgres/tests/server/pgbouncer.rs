//! A pool on a PgBouncer that pools transactions.

use std::thread;
use std::time::{Duration, Instant};

use fairpool::{ErrorKind, ManageConnection, Pool};
use fairpool_postgres::postgres::{self, Config, SimpleQueryMessage};
use fairpool_postgres::{Client, NoTls, Reset};
use fairpool_servers::bouncer::Bouncer;

use crate::common::{Manager, builder, driver_error, millis, refused, shared, take_all};

/// The value of an answer with one row. Uses simple queries, because a PgBouncer that pools
/// transactions may not know a prepared statement the next time.
fn simple(client: &mut Client, sql: &str) -> Result<String, postgres::Error> {
    let answer = client.simple_query(sql)?;
    let value = answer.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0),
        _ => None,
    });
    Ok(value.expect("a value").to_owned())
}

fn manager(config: Config, name: &str) -> Manager {
    Manager::new(config, NoTls).application_name(name)
}

#[test]
fn through_pgbouncer_threads_pools_and_transactions_keep_apart() {
    let bouncer = Bouncer::start(shared().port(), 3);
    shared().psql("CREATE TABLE bounced (n int)");
    let manager = manager(bouncer.config(), "bounced").reset_on_return(Reset::Rollback);
    let pool = builder().max_size(8).skip_check_within(Duration::ZERO).build(manager).unwrap();
    let work = |worker: usize| {
        for n in 0..20 {
            let mut conn = pool.get().expect("a connection");
            let sum = simple(&mut conn, &format!("SELECT {worker} * 1000 + {n}"));
            assert_eq!(sum.unwrap(), (worker * 1000 + n).to_string());
            let mut transaction = conn.transaction().unwrap();
            let insert = "INSERT INTO bounced VALUES (1)";
            transaction.batch_execute(insert).unwrap();
            if n % 2 == 0 {
                transaction.commit().unwrap();
            } else {
                drop(transaction);
            }
            if n % 5 == 0 {
                // Left open, it would occupy a connection of PgBouncer.
                conn.batch_execute(&format!("BEGIN; {insert}")).unwrap();
            }
        }
    };
    thread::scope(|scope| {
        for worker in 0..16 {
            scope.spawn(move || work(worker));
        }
    });
    assert_eq!(shared().psql("SELECT count(*) FROM bounced"), "160");
    let stats = pool.stats();
    assert_eq!((stats.opened, stats.closed.total()), (8, 0), "{stats:?}");
}

#[test]
fn through_pgbouncer_a_restart_of_it_is_survived() {
    let mut bouncer = Bouncer::start(shared().port(), 3);
    let pool = builder()
        .max_size(4)
        .skip_check_within(Duration::ZERO)
        .build(manager(bouncer.config(), "restarted"))
        .unwrap();
    drop(take_all(&pool));
    bouncer.stop();
    let error = refused(pool.get_timeout(millis(1500)));
    assert!(error.is_timeout(), "{error}");
    driver_error(&error);
    bouncer.start_again();
    let start = Instant::now();
    let mut conn = pool.get().unwrap();
    assert_eq!(simple(&mut conn, "SELECT 1").unwrap(), "1");
    println!("PgBouncer is back: served in {:.1?}", start.elapsed());
}

#[test]
fn through_pgbouncer_an_error_in_connecting_is_typed() {
    let bouncer = Bouncer::start(shared().port(), 3);
    let mut config = bouncer.config();
    config.dbname("no_such_database");
    let manager = manager(config, "unknown");
    let permanent = {
        let error = manager.connect().err().expect("a refusal");
        println!("PgBouncer says {:?}: {error}", error.code());
        manager.is_permanent(&error)
    };
    let pool = Pool::builder().connection_timeout(millis(800));
    let error = pool.build(manager).unwrap_err();
    assert!(driver_error(&error).code().is_some(), "{error}");
    let expected = if permanent { ErrorKind::Connect } else { ErrorKind::Timeout };
    assert_eq!(error.kind(), expected, "{error}");
}
