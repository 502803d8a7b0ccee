//! The application, served to many at once.

use std::time::Duration;

use diesel::prelude::*;
use diesel::sql_query;
use rocket::futures::future::join_all;
use rocket::http::Status;
use rocket::local::asynchronous::Client;
use rocket::tokio;

async fn client(file: &str, timeout: u32) -> Client {
    let mut setup = SqliteConnection::establish(file).expect("a file");
    sql_query("CREATE TABLE visits (number INTEGER PRIMARY KEY)")
        .execute(&mut setup)
        .expect("a table");
    Client::tracked(patched_rocket::application(file, timeout)).await.expect("an application")
}

#[rocket::async_test]
async fn p18_a_rocket_application_serves_many_at_once_on_fairpool() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("visits.db");
    let client = client(file.to_str().expect("a path"), 60).await;
    let visit = |_| async {
        let answer = client.get("/visit").dispatch().await;
        assert_eq!(answer.status(), Status::Ok);
        answer.into_string().await.expect("a text").parse::<u32>().expect("a number")
    };
    let mut seen = join_all((0..40).map(visit)).await;
    seen.sort_unstable();
    assert_eq!(seen, (1..=40).collect::<Vec<_>>());
}

#[rocket::async_test]
async fn p18_while_all_connections_are_kept_the_answer_is_503() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("visits.db");
    let client = client(file.to_str().expect("a path"), 1).await;
    // The visits before both are kept succeed.
    let refused = async {
        loop {
            let answer = client.get("/visit").dispatch().await;
            if answer.status() != Status::Ok {
                return answer;
            }
        }
    };
    let (one, two, three) = tokio::join!(
        client.get("/keep").dispatch(),
        client.get("/keep").dispatch(),
        tokio::time::timeout(Duration::from_secs(60), refused),
    );
    let three = three.expect("one that is refused");
    assert_eq!((one.status(), two.status()), (Status::Ok, Status::Ok));
    assert_eq!(three.status(), Status::ServiceUnavailable);
    assert_eq!(client.get("/visit").dispatch().await.status(), Status::Ok);
}
