//! Tasks that get a connection in one closure and use it in another, with few threads for both.

use std::time::{Duration, Instant};

use fairpool::{Error, Pool, PooledConnection};
use fairpool_bench::growth::{Growth, Unit};
use fairpool_testing::StubManager;
use tokio::task::{JoinSet, spawn_blocking};

use crate::crowd::two_workers;

const TASKS: u32 = 200;
const THREADS: usize = 16;
const CONNECTIONS: u32 = 4;
const USE: Duration = Duration::from_millis(1);

type Guard = PooledConnection<StubManager>;

/// How many are served and how long that takes, with the get that blocks and with the other.
pub fn measure(rounds: u32, timeout: Duration) -> Vec<Growth> {
    let mut figures = figures("get blocks a thread");
    figures.extend(self::figures("get_async"));
    for _ in 0..rounds {
        let blocking = |pool: Pool<StubManager>| async move {
            spawn_blocking(move || pool.get()).await.expect("no panic")
        };
        let waiting = |pool: Pool<StubManager>| async move { pool.get_async().await };
        let rows = [serve(timeout, blocking), serve(timeout, waiting)];
        for (figure, row) in figures.iter_mut().zip(rows.as_flattened()) {
            figure.rounds.push(*row);
        }
    }
    figures
}

fn figures(how: &str) -> Vec<Growth> {
    let figure = |what, unit| Growth {
        subject: format!("two closures, {how}: {what}"),
        size: TASKS,
        unit,
        rounds: Vec::new(),
    };
    vec![figure("served", Unit::Callers), figure("last one done after", Unit::Nanos)]
}

fn serve<G>(timeout: Duration, get: impl Fn(Pool<StubManager>) -> G) -> [f64; 2]
where
    G: Future<Output = Result<Guard, Error>> + Send + 'static,
{
    let builder = Pool::builder().max_size(CONNECTIONS).connection_timeout(timeout);
    let pool = builder.build(StubManager).expect("the stub never fails");
    let runtime = two_workers(THREADS);
    let began = Instant::now();
    let mut tasks = JoinSet::new();
    for _ in 0..TASKS {
        let conn = get(pool.clone());
        let task = async {
            let conn = conn.await?;
            let work = spawn_blocking(move || {
                std::thread::sleep(USE);
                drop(conn);
            });
            work.await.expect("no panic");
            Ok::<(), Error>(())
        };
        tasks.spawn_on(task, runtime.handle());
    }
    let results = runtime.block_on(tasks.join_all());
    let served = results.iter().filter(|result| result.is_ok()).count();
    [served as f64, began.elapsed().as_nanos() as f64]
}
