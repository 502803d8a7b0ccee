//! Tenants by a use handler: by a parameter, and by a role, with row-level security.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Instant;

use fairpool::{ErrorKind, HandleUse, Pool, PooledConnection, UseContext};
use fairpool_postgres::postgres::{Error, error::SqlState};
use fairpool_postgres::{Client, NoTls, Reset};
use fairpool_servers::bouncer::Bouncer;

use crate::common::{
    Guard, LONG, Manager, backend, builder, driver_error, kill, millis, own_database, secs,
    session, shared, wait_until,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Tenant(i32);

/// Orders of two tenants, 1 and 2. The pool's role sees those of the parameter `shop.tenant`; each
/// tenant's role sees its own.
const SCHEMA: &str = "
    CREATE TABLE orders (tenant int NOT NULL, item text NOT NULL);
    INSERT INTO orders SELECT 1 + n % 2, 'item ' || n FROM generate_series(0, 19) n;
    ALTER TABLE orders ENABLE ROW LEVEL SECURITY;
    CREATE POLICY by_parameter ON orders TO shop
        USING (tenant = nullif(current_setting('shop.tenant', true), '')::int);
    CREATE POLICY by_role_1 ON orders TO shop_1 USING (tenant = 1);
    CREATE POLICY by_role_2 ON orders TO shop_2 USING (tenant = 2);
    GRANT SELECT, INSERT, DELETE ON orders TO shop, shop_1, shop_2;";

const ROLES: &str = "
    DO $$ BEGIN
        IF to_regrole('shop') IS NULL THEN
            CREATE ROLE shop LOGIN NOINHERIT PASSWORD 'a password';
            CREATE ROLE shop_1;
            CREATE ROLE shop_2;
            GRANT shop_1, shop_2 TO shop;
        END IF;
    END $$";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    Parameter,
    Role,
}

#[derive(Clone, Copy, Debug)]
struct Tenants {
    by: By,
    /// Ends what the last use has left open.
    rolls_back: bool,
    ends: bool,
}

impl Tenants {
    const fn by(by: By) -> Tenants {
        Tenants { by, rolls_back: false, ends: false }
    }

    fn run(self, client: &mut Client, sql: &str) -> Result<(), Error> {
        let first = if self.rolls_back { "ROLLBACK; " } else { "" };
        client.batch_execute(&format!("{first}{sql}"))
    }
}

impl HandleUse<Client, Error> for Tenants {
    /// Without a tenant, nothing is to be seen.
    fn begin(&self, client: &mut Client, context: &UseContext) -> Result<(), Error> {
        let tenant = context.get::<Tenant>().map(|tenant| tenant.0);
        let sql = match (self.by, tenant) {
            (By::Parameter, None) => "SET shop.tenant = ''".to_string(),
            (By::Parameter, Some(id)) => format!("SET shop.tenant = {id}"),
            (By::Role, None) => "RESET ROLE".to_string(),
            (By::Role, Some(id)) => format!("SET ROLE shop_{id}"),
        };
        self.run(client, &sql)
    }

    fn end(&self, client: &mut Client, _: &UseContext) -> Result<(), Error> {
        let sql = match self.by {
            By::Parameter => "RESET shop.tenant",
            By::Role => "RESET ROLE",
        };
        self.run(client, sql)
    }

    fn has_end(&self) -> bool {
        self.ends
    }
}

/// A manager for the database of [`SCHEMA`], by a role that row-level security binds.
fn shop(database: &str) -> Manager {
    let mut config = shared().config();
    config.dbname(database).user("shop").password("a password");
    Manager::new(config, NoTls)
}

fn create(database: &'static str) {
    // Roles are the cluster's, and tests run side by side.
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| drop(shared().psql(ROLES)));
    let own = own_database(database);
    shared().psql_in(database, SCHEMA);
    drop(own);
}

fn tenants_seen(client: &mut Client) -> Result<Vec<i32>, Error> {
    let rows = client.query("SELECT tenant FROM orders", &[])?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// What a use does with its connection. Most leave something, or fail.
fn work(mut conn: Guard, tenant: Tenant, step: u32) -> Result<(), Error> {
    let Tenant(id) = tenant;
    let sees_own = |client: &mut Client| -> Result<(), Error> {
        let seen = tenants_seen(client)?;
        assert!(seen.len() >= 10 && seen.iter().all(|&it| it == id), "{tenant:?} sees {seen:?}");
        Ok(())
    };
    let add = format!("INSERT INTO orders VALUES ({id}, 'more')");
    sees_own(&mut conn)?;
    match step {
        0 => conn.batch_execute("BEGIN").and_then(|()| sees_own(&mut conn))?,
        1 => conn.batch_execute(&format!("BEGIN; {add}"))?,
        2 => drop(conn.batch_execute("BEGIN; SELECT 1 / 0")),
        3 => drop(conn.query("SELECT no_such_column", &[])),
        4 => {
            let mut transaction = conn.transaction()?;
            transaction.batch_execute(&add)?;
            resume_unwind(Box::new("a user, on purpose"));
        }
        5 => {
            let mut transaction = conn.transaction()?;
            transaction.batch_execute(&add)?;
            transaction.commit()?;
            conn.batch_execute("DELETE FROM orders WHERE item = 'more'")?;
        }
        6 => conn.batch_execute("CREATE TEMPORARY TABLE left_behind (id int)").or(Ok(()))?,
        // So the server ends the session.
        7 => drop(conn.query("SELECT pg_terminate_backend(pg_backend_pid())", &[])),
        8 => conn.batch_execute("BEGIN; SAVEPOINT here").and_then(|()| sees_own(&mut conn))?,
        // As the last use left it, if that is still open.
        9 => conn.batch_execute("ROLLBACK")?,
        10 => PooledConnection::mark_broken(&mut conn),
        _ => sees_own(&mut conn)?,
    }
    if step != 7 && step != 2 {
        sees_own(&mut conn)?;
    }
    Ok(())
}

fn nobody_reads_what_is_anothers(database: &str, reset: Reset, handler: Tenants) {
    const THREADS: u32 = 16;
    const ROUNDS: u32 = 40;
    let pool = builder()
        .max_size(4)
        .use_handler(Box::new(handler))
        .build(shop(database).reset_on_return(reset))
        .expect("a pool");
    let (worked, left) = (AtomicU32::new(0), AtomicU32::new(0));
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let (pool, worked, left) = (&pool, &worked, &left);
            scope.spawn(move || {
                let tenant = Tenant(1 + (thread % 2) as i32);
                for round in 0..ROUNDS {
                    let step = (7 * thread + 5 * round) % 24;
                    // Some have no time, and leave while their use begins.
                    let timeout = if step == 23 { millis(1) } else { LONG };
                    let request = pool.request().context(tenant).timeout(timeout);
                    let conn = match request.get() {
                        Ok(conn) => conn,
                        Err(error) if error.is_timeout() && step == 23 => {
                            left.fetch_add(1, Ordering::Relaxed);
                            continue;
                        }
                        Err(error) => panic!("{reset:?}, {handler:?}: {error:#}"),
                    };
                    let work = AssertUnwindSafe(|| work(conn, tenant, step));
                    match catch_unwind(work) {
                        Ok(worked) => worked.expect("no error but those on purpose"),
                        Err(payload) if payload.is::<&str>() && step == 4 => {}
                        Err(payload) => resume_unwind(payload),
                    }
                    worked.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    let (worked, left) = (worked.into_inner(), left.into_inner());
    println!("figure: {reset:?}, {handler:?}: {worked} uses, {left} gets that had no time");
    assert!(worked + left == THREADS * ROUNDS && worked > THREADS * ROUNDS * 9 / 10);
    // Without a tenant there is nothing.
    let mut conn = pool.get().expect("a connection");
    let seen = tenants_seen(&mut conn);
    let denied = |error: &Error| error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE);
    assert!(seen.as_ref().map_or_else(denied, Vec::is_empty), "no tenant sees {seen:?}");
}

#[test]
fn next_borrower_never_sees_the_last_tenant() {
    create("tenants");
    let (by_parameter, by_role) = (Tenants::by(By::Parameter), Tenants::by(By::Role));
    let nobody_reads = |reset, handler| nobody_reads_what_is_anothers("tenants", reset, handler);
    nobody_reads(Reset::Session, by_parameter);
    nobody_reads(Reset::Always, by_role);
    nobody_reads(Reset::Rollback, by_parameter);
    // An end that may find a failed transaction must end that.
    nobody_reads(Reset::Session, Tenants { ends: true, rolls_back: true, ..by_role });
    nobody_reads(Reset::Rollback, Tenants { ends: true, rolls_back: true, ..by_role });
    // Nobody else ends what is open: a later ROLLBACK would bring back the tenant before.
    nobody_reads(Reset::Off, Tenants { rolls_back: true, ..by_parameter });
}

fn pool_of_roles(database: &'static str, size: u32) -> Pool<Manager> {
    create(database);
    let handler = Box::new(Tenants::by(By::Role));
    builder().max_size(size).use_handler(handler).build(shop(database)).expect("a pool")
}

#[test]
fn a_tenant_without_a_role_is_refused_and_nobody_else_notices() {
    let pool = pool_of_roles("tenants_refused", 2);
    let error = pool.request().context(Tenant(3)).get().expect_err("there is no such role");
    assert_eq!(error.kind(), ErrorKind::UseHandler);
    assert_eq!(driver_error(&error).code(), Some(&SqlState::INVALID_PARAMETER_VALUE));
    let mut conn = pool.request().context(Tenant(2)).get().expect("a connection");
    assert!(tenants_seen(&mut conn).expect("rows").iter().all(|&tenant| tenant == 2));
    wait_until("it is closed", || pool.stats().closed.use_handler == 1);
}

#[test]
fn p13_a_session_that_died_while_idle_costs_its_caller_no_error() {
    let pool = pool_of_roles("tenants_killed", 2);
    let mut conns = [1, 2].map(|id| pool.request().context(Tenant(id)).get().expect("one"));
    let pids: Vec<i32> = conns.iter_mut().map(|conn| backend(conn)).collect();
    drop(conns);
    wait_until("both are idle", || pool.state().idle_connections == 2);
    kill(&mut session(shared()), &pids);
    let mut conn = pool.request().context(Tenant(1)).get().expect("a new connection");
    assert!(tenants_seen(&mut conn).expect("rows").iter().all(|&tenant| tenant == 1));
    assert!(!pids.contains(&backend(&mut conn)));
}

#[test]
fn p1_a_begin_that_hangs_on_the_server_keeps_nobody_past_the_deadline() {
    #[derive(Debug)]
    struct Sleeps;
    impl HandleUse<Client, Error> for Sleeps {
        fn begin(&self, client: &mut Client, context: &UseContext) -> Result<(), Error> {
            match context.get::<Tenant>() {
                Some(_) => client.batch_execute("SELECT pg_sleep(1)"),
                None => Ok(()),
            }
        }
    }
    let pool = builder()
        .max_size(1)
        .use_handler(Box::new(Sleeps))
        .build(crate::common::named("sleeps"))
        .expect("a pool");
    let started = Instant::now();
    let request = pool.request().context(Tenant(1)).timeout(millis(50));
    assert!(request.get().expect_err("it sleeps").is_timeout());
    assert!(started.elapsed() < millis(900), "as long as it sleeps");
    let mut conn = pool.get_timeout(secs(30)).expect("afterwards");
    backend(&mut conn);
}

/// Behind a PgBouncer that pools transactions, the use is one transaction.
#[test]
fn behind_a_transaction_pooler_a_use_is_a_transaction() {
    #[derive(Debug)]
    struct InTransaction;
    impl HandleUse<Client, Error> for InTransaction {
        fn begin(&self, client: &mut Client, context: &UseContext) -> Result<(), Error> {
            let tenant = context.get().map_or(String::new(), |Tenant(id)| id.to_string());
            client.batch_execute(&format!("BEGIN; SET LOCAL shop.tenant = '{tenant}'"))
        }
        fn end(&self, client: &mut Client, _: &UseContext) -> Result<(), Error> {
            client.batch_execute("COMMIT")
        }
    }
    let bouncer = Bouncer::start(shared().port(), 2);
    let manager = Manager::new(bouncer.config(), NoTls).transaction_pooler(true);
    let pool = builder().max_size(4).use_handler(Box::new(InTransaction)).build(manager);
    let pool = pool.expect("a pool");
    let tenant_of = |conn: &mut Guard| -> String {
        conn.query_one("SELECT current_setting('shop.tenant')", &[]).expect("a tenant").get(0)
    };
    thread::scope(|scope| {
        for id in 1..=8 {
            let pool = &pool;
            scope.spawn(move || {
                for _ in 0..25 {
                    let mut conn = pool.request().context(Tenant(id)).get().expect("a connection");
                    assert_eq!(tenant_of(&mut conn), id.to_string());
                }
            });
        }
    });
    assert_eq!(tenant_of(&mut pool.get().expect("a connection")), "");
    assert_eq!(pool.stats().check_failures, 0);
}
