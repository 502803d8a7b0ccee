//! The contestants whose callers are threads: fairpool, r2d2, and a client for each thread.

use std::cell::RefCell;
use std::marker::PhantomData;
use std::ops::DerefMut;
use std::sync::{Mutex, MutexGuard};

use fairpool_bench::cell::Hold;
use fairpool_bench::pass::Source;
use fairpool_bench::rounds::{Contestant, local};
use fairpool_postgres::{PostgresConnectionManager as Manager, Reset};
use fairpool_servers::cluster::Cluster;
use postgres::{Error, NoTls, Statement};
use r2d2_postgres::PostgresConnectionManager as R2d2Manager;

use crate::work::{ADD, ITEM, Own, QUERIES, READ, WRITE, Work, compute};

thread_local! {
    static OWN: RefCell<Own> = RefCell::new(Own::new());
}

/// What a client is given: texts, or statements that it has prepared.
#[derive(Clone, Copy)]
struct Queries<'a, S: ?Sized> {
    item: &'a S,
    read: &'a S,
    write: &'a S,
    add: &'a S,
}

const TEXTS: Queries<'static, str> = Queries { item: ITEM, read: READ, write: WRITE, add: ADD };

/// A client of either kind. The code is the same for both.
trait Client<S: ?Sized> {
    fn run(&mut self, work: Work, queries: Queries<'_, S>, own: &mut Own) -> Result<(), Error>;
}

macro_rules! client {
    ($client:ty, $statement:ty) => {
        impl Client<$statement> for $client {
            fn run(
                &mut self,
                work: Work,
                queries: Queries<'_, $statement>,
                own: &mut Own,
            ) -> Result<(), Error> {
                match work {
                    Work::ByKey => {
                        self.query_one(queries.item, &[&own.key()])?.try_get::<_, i64>(1)?;
                        Ok(())
                    }
                    Work::Transaction => {
                        let mut transaction = self.transaction()?;
                        let row = transaction.query_one(queries.read, &[&own.row])?;
                        let value = row.try_get::<_, i64>(0)? + 1;
                        transaction.execute(queries.write, &[&own.row, &value])?;
                        transaction.commit()
                    }
                    Work::Request => {
                        for query in 0..QUERIES {
                            if query > 0 {
                                compute();
                            }
                            self.query_one(queries.item, &[&own.key()])?.try_get::<_, i64>(1)?;
                        }
                        let mut transaction = self.transaction()?;
                        transaction.execute(queries.add, &[&own.row, &1_i64])?;
                        transaction.commit()
                    }
                    Work::Select => self.simple_query("SELECT 1").map(drop),
                    Work::Text => {
                        let mut transaction = self.transaction()?;
                        transaction.batch_execute(&own.update())?;
                        transaction.commit()
                    }
                }
            }
        }
    };
}

client!(postgres::Client, str);
client!(postgres::Client, Statement);
client!(fairpool_postgres::Client, str);

/// A pool, by its `get`.
struct Pooled<F, C> {
    get: F,
    work: Work,
    client: PhantomData<fn() -> C>,
}

impl<C, F> Source for Pooled<F, C>
where
    C: DerefMut<Target: Client<str>> + 'static,
    F: Fn() -> C + Sync,
{
    type Conn<'a>
        = C
    where
        Self: 'a;

    fn get(&self) -> C {
        (self.get)()
    }

    fn work(&self, conn: &mut C, _: Hold) {
        let result = OWN.with_borrow_mut(|own| conn.run(self.work, TEXTS, own));
        result.expect("the server answers");
    }
}

/// A pool of fairpool with its defaults, unless `change` changes them.
pub fn fairpool(
    name: &str,
    cluster: &Cluster,
    connections: u32,
    work: Work,
    reset: Reset,
    change: impl FnOnce(fairpool::Builder<Manager<NoTls>>) -> fairpool::Builder<Manager<NoTls>>,
) -> Box<dyn Contestant> {
    let builder = change(fairpool::Pool::builder().max_size(connections));
    let manager = Manager::new(cluster.config(), NoTls).reset_on_return(reset);
    let pool = builder.build(manager).expect("the server answers");
    let get = move || pool.get().expect("a connection");
    local(name, Pooled { get, work, client: PhantomData })
}

pub fn r2d2(
    name: &str,
    cluster: &Cluster,
    connections: u32,
    work: Work,
    ping: bool,
) -> Box<dyn Contestant> {
    let builder = r2d2::Pool::builder().max_size(connections).test_on_check_out(ping);
    let manager = R2d2Manager::new(cluster.config(), NoTls);
    let pool = builder.build(manager).expect("the server answers");
    let get = move || pool.get().expect("a connection");
    local(name, Pooled { get, work, client: PhantomData })
}

/// A client with its prepared statements.
struct Prepared {
    client: postgres::Client,
    item: Statement,
    read: Statement,
    write: Statement,
    add: Statement,
}

/// As many clients as threads: each thread has its own. The lock is never waited for.
struct Bare {
    clients: Vec<Mutex<Prepared>>,
    work: Work,
}

impl Source for Bare {
    type Conn<'a> = MutexGuard<'a, Prepared>;

    fn get(&self) -> MutexGuard<'_, Prepared> {
        // The threads of a pass have consecutive numbers.
        let number = OWN.with_borrow(|own| own.row as usize);
        self.clients[number % self.clients.len()].lock().expect("no thread panicked")
    }

    fn work(&self, conn: &mut MutexGuard<'_, Prepared>, _: Hold) {
        let Prepared { client, item, read, write, add } = &mut **conn;
        let queries = Queries { item: &*item, read: &*read, write: &*write, add: &*add };
        let result = OWN.with_borrow_mut(|own| client.run(self.work, queries, own));
        result.expect("the server answers");
    }
}

/// What is left if nothing is shared: the limit for a pool.
pub fn bare(name: &str, cluster: &Cluster, threads: usize, work: Work) -> Box<dyn Contestant> {
    let client = || -> Result<Prepared, Error> {
        let mut client = cluster.config().connect(NoTls)?;
        let (item, read) = (client.prepare(ITEM)?, client.prepare(READ)?);
        let (write, add) = (client.prepare(WRITE)?, client.prepare(ADD)?);
        Ok(Prepared { client, item, read, write, add })
    };
    let clients = (0..threads).map(|_| Mutex::new(client().expect("the server answers")));
    local(name, Bare { clients: clients.collect(), work })
}
