//! The inspector's page with two pools under a load that comes in waves. Now and then a
//! caller keeps its connection for too long.
//!
//! ```text
//! cargo run --release -p fairpool-inspect --example inspector -- --seconds 120
//! ```

use std::error::Error;
use std::io;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;
use fairpool::Pool;
use fairpool_sqlite::SqliteConnectionManager;

/// Two pools under a load, and a page that shows them.
#[derive(Parser)]
struct Options {
    /// How long to run
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// The address to serve on; port 0 chooses a free one
    #[arg(long, default_value = "127.0.0.1:7878")]
    addr: String,
}

type Connections = Pool<SqliteConnectionManager>;

const SHOPPERS: usize = 14;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let options = Options::parse();
    let orders = Pool::builder()
        .name("orders")
        .max_size(6)
        .connection_timeout(Duration::from_secs(2))
        .leak_threshold(Some(Duration::from_secs(5)))
        .build(SqliteConnectionManager::memory())?;
    let reports = Pool::builder()
        .name("reports")
        .max_size(4)
        .min_idle(Some(1))
        .build(SqliteConnectionManager::memory())?;
    orders.get()?.execute_batch("CREATE TABLE orders (price INTEGER)")?;

    let server =
        fairpool_inspect::serve(options.addr.as_str(), &[orders.downgrade(), reports.downgrade()])?;
    println!("http://{} for {} s", server.addr(), options.seconds);

    let (start, over) = (Instant::now(), AtomicBool::new(false));
    let running = || !over.load(Ordering::Relaxed);
    thread::scope(|scope| {
        for shopper in 0..SHOPPERS {
            let name = format!("shop-{shopper}");
            let shop = || shop(&orders, start, &running);
            thread::Builder::new().name(name).spawn_scoped(scope, shop)?;
        }
        let stock = || count_stock(&orders, &running);
        thread::Builder::new().name("stock-taking".to_string()).spawn_scoped(scope, stock)?;
        let report = || write_reports(&reports, &running);
        thread::Builder::new().name("reporter".to_string()).spawn_scoped(scope, report)?;
        nap(Duration::from_secs(options.seconds), &|| true);
        over.store(true, Ordering::Relaxed);
        Ok::<(), io::Error>(())
    })?;
    Ok(())
}

fn shop(pool: &Connections, start: Instant, running: &impl Fn() -> bool) {
    while running() {
        // The page shows what goes wrong.
        if let Ok(conn) = pool.request().label("place order").get() {
            let _ = conn.execute("INSERT INTO orders VALUES (100)", []);
            thread::sleep(Duration::from_millis(25));
        }
        // In busy times, all come at once.
        let calm = start.elapsed().as_secs() % 20 < 8;
        thread::sleep(Duration::from_millis(if calm { 60 } else { 2 }));
    }
}

/// The bug on display: it holds its connection while it does something else.
fn count_stock(pool: &Connections, running: &impl Fn() -> bool) {
    while running() {
        if let Ok(conn) = pool.request().label("count stock").get() {
            let _ = conn.query_row("SELECT count(*) FROM orders", [], |row| row.get::<_, i64>(0));
            nap(Duration::from_secs(12), running);
        }
        nap(Duration::from_secs(6), running);
    }
}

fn write_reports(pool: &Connections, running: &impl Fn() -> bool) {
    while running() {
        if let Ok(conn) = pool.request().label("sales report").get() {
            let _ = conn.query_row("SELECT 1", [], |row| row.get::<_, i64>(0));
            thread::sleep(Duration::from_millis(150));
        }
        nap(Duration::from_millis(400), running);
    }
}

/// Sleeps in short steps, so that it ends soon after `running` returns false.
fn nap(span: Duration, running: &impl Fn() -> bool) {
    let start = Instant::now();
    while running() && start.elapsed() < span {
        thread::sleep(Duration::from_millis(20).min(span));
    }
}
