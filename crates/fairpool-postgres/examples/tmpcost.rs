use fairpool::{HandleUse, Pool, UseContext};
use fairpool_postgres::postgres::Error;
use fairpool_postgres::{Client, NoTls, PostgresConnectionManager as Manager, Reset};
use fairpool_servers::cluster::Cluster;
use std::time::{Duration, Instant};

#[derive(Debug)]
struct H {
    sql: bool,
    end: bool,
}
impl HandleUse<Client, Error> for H {
    fn begin(&self, c: &mut Client, x: &UseContext) -> Result<(), Error> {
        let t = x.get::<i32>().copied().unwrap_or(0);
        if self.sql { c.batch_execute(&format!("SET app.tenant = {t}")) } else { Ok(()) }
    }
    fn end(&self, c: &mut Client, _: &UseContext) -> Result<(), Error> {
        if self.sql { c.batch_execute("RESET app.tenant") } else { Ok(()) }
    }
    fn has_end(&self) -> bool {
        self.end
    }
}
fn main() {
    let cluster = Cluster::start();
    let median = |mut v: Vec<Duration>| {
        v.sort();
        v[v.len() / 2].as_nanos() as f64 / 1000.0
    };
    let run = |name: &str, reset: Reset, h: Option<H>, size: u32, set: bool, query: bool| {
        let mut b = Pool::builder().max_size(size);
        if let Some(h) = h {
            b = b.use_handler(Box::new(h));
        }
        let pool = b.build(Manager::new(cluster.config(), NoTls).reset_on_return(reset)).unwrap();
        let mut all = vec![];
        let mut gets = vec![];
        for n in 0..6000 {
            let t0 = Instant::now();
            let mut conn = pool.request().context(n % 7).get().unwrap();
            gets.push(t0.elapsed());
            if set {
                conn.batch_execute("SET app.tenant = 3").unwrap();
            }
            if query {
                conn.simple_query("SELECT 1").unwrap();
            }
            drop(conn);
            all.push(t0.elapsed());
        }
        let gets = gets.split_off(1000);
        let all = all.split_off(1000);
        println!("{name:58} get {:7.1} us, get+work+return {:7.1} us", median(gets), median(all));
    };
    for _ in 0..3 {
        run("no handler, SELECT 1", Reset::Session, None, 4, false, true);
        run("no handler, own SET, SELECT 1, Rollback", Reset::Rollback, None, 4, true, true);
        run("no handler, own SET, SELECT 1, Session", Reset::Session, None, 4, true, true);
        run(
            "handler without SQL, no end, SELECT 1",
            Reset::Session,
            Some(H { sql: false, end: false }),
            4,
            false,
            true,
        );
        run(
            "handler SET, no end, Rollback, SELECT 1",
            Reset::Rollback,
            Some(H { sql: true, end: false }),
            4,
            false,
            true,
        );
        run(
            "handler SET, no end, Session, SELECT 1",
            Reset::Session,
            Some(H { sql: true, end: false }),
            4,
            false,
            true,
        );
        run(
            "handler SET + end, Rollback, SELECT 1",
            Reset::Rollback,
            Some(H { sql: true, end: true }),
            4,
            false,
            true,
        );
        run(
            "handler SET, no end, Session, SELECT 1, 1 connection",
            Reset::Session,
            Some(H { sql: true, end: false }),
            1,
            false,
            true,
        );
        println!();
    }
}
