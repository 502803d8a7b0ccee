//! More clients than connections.

use std::collections::HashSet;
use std::sync::mpsc;
use std::thread;

use postgres::{Client, NoTls};

use crate::service::{CLUSTER, Program, Service, WATCHDOG, new_database, until};

pub const CONNECTIONS: u64 = 8;
const CLIENTS: u64 = 100;

/// Writes and reads orders, from more clients than there are connections and waiters.
pub fn p18_every_request_of_many_clients_is_answered(program: Program) {
    let url = new_database(&CLUSTER);
    let service = Service::start(program, &url);
    until("it is ready", || service.get("/ready").status == 200);
    let work = |client: u32| {
        let mut ids = Vec::new();
        for number in 0..20 {
            let item = format!("{client}/{number}");
            let added = service.post(&item);
            if !added.is(201) {
                continue;
            }
            let order = added.json();
            assert_eq!(order["item"], item);
            ids.push(order["id"].as_i64().expect("a number"));
            let found = service.get(&format!("/orders/{}", order["id"]));
            if found.is(200) {
                assert_eq!(found.json(), order);
            }
        }
        ids
    };
    let ids: Vec<i64> = thread::scope(|scope| {
        let clients = (0..64).map(|client| scope.spawn(move || work(client)));
        let clients: Vec<_> = clients.collect();
        clients.into_iter().flat_map(|client| client.join().expect("no panic")).collect()
    });
    println!("{}: {} of {} orders, the others 503", program.0, ids.len(), 64 * 20);
    assert!(!ids.is_empty());
    assert_eq!(ids.iter().collect::<HashSet<_>>().len(), ids.len());
    // No connection was lost: 503 means that nothing was written.
    let mut client = Client::connect(&url, NoTls).expect("a server");
    let rows: i64 = client.query_one("SELECT count(*) FROM orders", &[]).expect("a row").get(0);
    assert_eq!(rows as usize, ids.len());

    assert_eq!(service.get("/orders/999999").status, 404);
    assert_eq!(service.connections(""), CONNECTIONS);
    assert!(service.metric("fairpool_gets_total{") >= ids.len() as u64);
    let content_type = service.get("/metrics").header("content-type").map(str::to_owned);
    assert!(content_type.is_some_and(|value| value.starts_with("text/plain; version=0.0.4")));
}

/// All connections are in use, and everybody else waits for one: that others are answered
/// meanwhile shows that no thread does.
pub fn p18_under_overload_who_gets_no_connection_is_told_so_and_nothing_else_waits(
    program: Program,
) {
    let url = new_database(&CLUSTER);
    let service = Service::start(program, &url);
    service.await_connections();
    assert_eq!(service.post("tea").status, 201);
    let threads = service.threads();
    thread::scope(|scope| {
        let mut blocker = lock(&url);
        let (answers, answered) = mpsc::channel();
        for _ in 0..CLIENTS {
            let (answers, service) = (answers.clone(), &service);
            scope.spawn(move || answers.send(service.get("/orders/1")));
        }
        drop(answers);
        for _ in 0..CLIENTS - CONNECTIONS {
            let answer = answered.recv_timeout(WATCHDOG).expect("an answer");
            answer.assert_unavailable();
            assert_eq!(service.get("/ready").status, 200);
        }
        // One for each connection, and some of the pool's own; none for the 32 that waited. (They
        // stay for seconds when they have nothing to do.)
        let more = service.threads().saturating_sub(threads);
        assert!(more < CONNECTIONS as usize + 16, "{more} threads more");
        blocker.batch_execute("COMMIT").expect("no more lock");
        let served = answered.iter().filter(|answer| answer.is(200)).count();
        assert!(served > 0);
    });
    assert!(service.metric("fairpool_refused_total{") > 0);
    assert!(service.metric("db_client_connection_timeouts_total{") > 0);
}

/// A session that keeps everybody from the table.
pub fn lock(url: &str) -> Client {
    let mut client = Client::connect(url, NoTls).expect("a server");
    client.batch_execute("BEGIN; LOCK TABLE orders").expect("a lock");
    client
}
