//! The contestants whose callers are tasks on a runtime: deadpool and bb8. A cell has as many
//! tasks as threads; the runtime has a worker for each core.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bb8_postgres::PostgresConnectionManager as Bb8Manager;
use bb8_postgres::bb8;
use crossbeam_utils::CachePadded;
use deadpool_postgres::tokio_postgres::{Config, Error, NoTls};
use fairpool_bench::cell::{Cell, Hold};
use fairpool_bench::pass::{Pass, Tally, voluntary_switches};
use fairpool_bench::rounds::Contestant;
use fairpool_servers::cluster::Cluster;
use tokio::runtime::{self, Runtime};
use tokio::sync::Barrier;

use crate::work::{ADD, ITEM, Own, QUERIES, READ, WRITE, Work, compute};

/// The runtime of all contestants here.
#[derive(Clone)]
pub struct Workers {
    runtime: Arc<Runtime>,
    /// Their folders in `/proc`.
    threads: Arc<Mutex<Vec<PathBuf>>>,
}

impl Workers {
    /// A worker for each core, as tokio has by default.
    pub fn start() -> Workers {
        let threads = Arc::new(Mutex::new(Vec::new()));
        let started = Arc::clone(&threads);
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let runtime = runtime::Builder::new_multi_thread()
            .worker_threads(cores)
            .enable_all()
            .on_thread_start(move || {
                let own = std::fs::read_link("/proc/thread-self").unwrap_or_default();
                started.lock().expect("no worker panicked").push(PathBuf::from("/proc").join(own));
            })
            .build()
            .expect("a runtime");
        Workers { runtime: Arc::new(runtime), threads }
    }

    fn switches(&self) -> u64 {
        self.threads
            .lock()
            .expect("no worker panicked")
            .iter()
            .map(|thread| voluntary_switches(thread))
            .sum()
    }
}

/// A pool whose `get` is awaited.
trait Pool: Clone + Send + Sync + 'static {
    type Conn: Send;

    fn get(&self) -> impl Future<Output = Self::Conn> + Send;

    fn run(
        conn: &mut Self::Conn,
        work: Work,
        own: &mut Own,
    ) -> impl Future<Output = Result<(), Error>> + Send;
}

/// deadpool keeps the statements that its users ask it to keep.
macro_rules! cached {
    ($client:ident, $sql:ident) => {
        &$client.prepare_cached($sql).await?
    };
}

/// With bb8 its users write what they write with a client: the text.
macro_rules! text {
    ($client:ident, $sql:ident) => {
        $sql
    };
}

/// The work of `threads.rs`, with `.await`.
macro_rules! works {
    ($statement:ident) => {
        async fn run(conn: &mut Self::Conn, work: Work, own: &mut Own) -> Result<(), Error> {
            match work {
                Work::ByKey => {
                    let row = conn.query_one($statement!(conn, ITEM), &[&own.key()]).await?;
                    row.try_get::<_, i64>(1)?;
                    Ok(())
                }
                Work::Transaction => {
                    let transaction = conn.transaction().await?;
                    let read = $statement!(transaction, READ);
                    let row = transaction.query_one(read, &[&own.row]).await?;
                    let value = row.try_get::<_, i64>(0)? + 1;
                    let write = $statement!(transaction, WRITE);
                    transaction.execute(write, &[&own.row, &value]).await?;
                    transaction.commit().await
                }
                Work::Request => {
                    for query in 0..QUERIES {
                        if query > 0 {
                            compute();
                        }
                        let row = conn.query_one($statement!(conn, ITEM), &[&own.key()]).await?;
                        row.try_get::<_, i64>(1)?;
                    }
                    let transaction = conn.transaction().await?;
                    let add = $statement!(transaction, ADD);
                    transaction.execute(add, &[&own.row, &1_i64]).await?;
                    transaction.commit().await
                }
                Work::Select => conn.simple_query("SELECT 1").await.map(drop),
                Work::Text => {
                    let transaction = conn.transaction().await?;
                    transaction.batch_execute(&own.update()).await?;
                    transaction.commit().await
                }
            }
        }
    };
}

impl Pool for deadpool_postgres::Pool {
    type Conn = deadpool_postgres::Object;

    async fn get(&self) -> Self::Conn {
        self.get().await.expect("a connection")
    }

    works!(cached);
}

impl Pool for bb8::Pool<Bb8Manager<NoTls>> {
    type Conn = bb8::PooledConnection<'static, Bb8Manager<NoTls>>;

    async fn get(&self) -> Self::Conn {
        self.get_owned().await.expect("a connection")
    }

    works!(text);
}

struct Tasks<P> {
    name: &'static str,
    pool: P,
    work: Work,
    workers: Workers,
}

impl<P: Pool> Contestant for Tasks<P> {
    fn name(&self) -> String {
        self.name.to_string()
    }

    /// Every pass is timed, because the work is a driver's.
    fn pass(&mut self, cell: &Cell, length: Duration, _timed: bool) -> Result<Pass, String> {
        let before = self.workers.switches();
        let (elapsed, tallies) = self.workers.runtime.block_on(self.tasks(cell, length));
        Ok(Pass::of(elapsed, &tallies, self.workers.switches() - before))
    }
}

impl<P: Pool> Tasks<P> {
    async fn tasks(&self, cell: &Cell, length: Duration) -> (Duration, Vec<Tally>) {
        let barrier = Arc::new(Barrier::new(cell.threads + 1));
        let stop = Arc::new(CachePadded::new(AtomicBool::new(false)));
        let spawn = |_| {
            let (barrier, stop) = (Arc::clone(&barrier), Arc::clone(&stop));
            tokio::spawn(one(self.pool.clone(), self.work, cell.hold, barrier, stop))
        };
        let tasks: Vec<_> = (0..cell.threads).map(spawn).collect();
        barrier.wait().await;
        let start = Instant::now();
        tokio::time::sleep(length).await;
        stop.store(true, Ordering::Relaxed);
        let mut tallies = Vec::new();
        for task in tasks {
            tallies.push(task.await.expect("a task panicked"));
        }
        (start.elapsed(), tallies)
    }
}

async fn one<P: Pool>(
    pool: P,
    work: Work,
    hold: Hold,
    barrier: Arc<Barrier>,
    stop: Arc<CachePadded<AtomicBool>>,
) -> Tally {
    let (mut tally, mut own) = (Tally::new(hold), Own::new());
    barrier.wait().await;
    while !stop.load(Ordering::Relaxed) {
        let start = Instant::now();
        let mut conn = pool.get().await;
        tally.got(start.elapsed());
        P::run(&mut conn, work, &mut own).await.expect("the server answers");
        drop(conn);
        tally.returned(start.elapsed());
    }
    tally
}

/// Over TCP, as the others.
fn config(cluster: &Cluster) -> Config {
    cluster.url().parse().expect("a legal URL")
}

pub fn deadpool(
    name: &'static str,
    cluster: &Cluster,
    connections: u32,
    work: Work,
    workers: &Workers,
) -> Box<dyn Contestant> {
    let manager = deadpool_postgres::Manager::new(config(cluster), NoTls);
    let builder = deadpool_postgres::Pool::builder(manager).max_size(connections as usize);
    let pool = builder.build().expect("legal settings");
    Box::new(Tasks { name, pool, work, workers: workers.clone() })
}

pub fn bb8(
    name: &'static str,
    cluster: &Cluster,
    connections: u32,
    work: Work,
    workers: &Workers,
) -> Box<dyn Contestant> {
    let builder = bb8::Pool::builder().max_size(connections);
    let built = builder.build(Bb8Manager::new(config(cluster), NoTls));
    let pool = workers.runtime.block_on(built).expect("the server answers");
    Box::new(Tasks { name, pool, work, workers: workers.clone() })
}
