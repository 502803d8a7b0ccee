//! A Rocket application that counts its visits in SQLite, through a pool of rocket_sync_db_pools.

use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::BigInt;
use rocket::figment::util::map;
use rocket::figment::value::{Map, Value};
use rocket::{Build, Config, Rocket, get, routes};
use rocket_sync_db_pools::database;

#[database("visits")]
pub struct Visits(diesel::SqliteConnection);

#[derive(QueryableByName)]
struct Count {
    #[diesel(sql_type = BigInt)]
    count: i64,
}

/// Notes a visit, and answers how many there were.
#[get("/visit")]
async fn visit(visits: Visits) -> String {
    let count = visits.run(|conn| {
        conn.immediate_transaction(|conn| {
            sql_query("INSERT INTO visits DEFAULT VALUES").execute(conn)?;
            sql_query("SELECT count(*) AS count FROM visits").get_result::<Count>(conn)
        })
    });
    count.await.expect("an answer of SQLite").count.to_string()
}

/// Keeps a connection.
#[get("/keep")]
async fn keep(visits: Visits) -> &'static str {
    rocket::tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    drop(visits);
    "kept"
}

/// The application, with two connections to this file, for which requests wait so many seconds.
pub fn application(file: &str, timeout: u32) -> Rocket<Build> {
    let visits: Map<_, Value> = map! {
        "url" => file.into(),
        "pool_size" => 2.into(),
        "timeout" => timeout.into(),
    };
    let figment = Config::figment().merge(("databases", map!["visits" => visits]));
    rocket::custom(figment).mount("/", routes![visit, keep]).attach(Visits::fairing())
}
