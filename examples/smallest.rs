//! The smallest honest use: eight threads share two connections to a database in memory.

use std::error::Error;
use std::thread;
use std::time::Duration;

use fairpool::Pool;
use fairpool::sqlite::SqliteConnectionManager;

fn main() -> Result<(), Box<dyn Error>> {
    let pool = Pool::builder()
        .max_size(2)
        .build(SqliteConnectionManager::memory())?;
    pool.get()?
        .execute_batch("CREATE TABLE visits (visitor INTEGER)")?;

    let visit = |visitor: u32| match pool.get_timeout(Duration::from_secs(1)) {
        // The end of `conn` gives it to the thread that has waited longest.
        Ok(conn) => conn
            .execute("INSERT INTO visits VALUES (?1)", [visitor])
            .map(drop),
        // The message says who holds the connections, since when and where.
        Err(timeout) => {
            eprintln!("visitor {visitor}: {timeout}");
            Ok(())
        }
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|i| scope.spawn(move || visit(i))).collect();
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().expect("visit does not panic"))
    })?;

    let count = "SELECT count(*) FROM visits";
    let visits: u32 = pool.get()?.query_row(count, [], |row| row.get(0))?;
    println!("{visits} visits; {}", pool.stats());
    Ok(())
}
