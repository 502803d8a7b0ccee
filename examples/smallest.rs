//! The smallest complete program: eight threads share two connections to a database in
//! memory.

use std::error::Error;
use std::thread;
use std::time::Duration;

use fairpool::Pool;
use fairpool_sqlite::SqliteConnectionManager;

fn main() -> Result<(), Box<dyn Error>> {
    let pool = Pool::builder().max_size(2).build(SqliteConnectionManager::memory())?;
    pool.get()?.execute_batch("CREATE TABLE visits (visitor INTEGER)")?;

    thread::scope(|scope| {
        for visitor in 0..8 {
            let pool = &pool;
            scope.spawn(move || match pool.get_timeout(Duration::from_secs(1)) {
                Ok(conn) => {
                    conn.execute("INSERT INTO visits VALUES (?1)", [visitor]).expect("a row");
                }
                // The message names who holds the connections, since when and where.
                Err(timeout) => eprintln!("visitor {visitor}: {timeout}"),
            });
        }
    });

    let visits: u32 = pool.get()?.query_row("SELECT count(*) FROM visits", [], |row| row.get(0))?;
    println!("{visits} visits; {}", pool.stats());
    Ok(())
}
