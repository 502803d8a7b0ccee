//! A service is told to stop. Some of its requests have connections, others wait for one.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;

use crate::load::{CONNECTIONS, lock};
use crate::service::{Answer, CLUSTER, Program, Service, WATCHDOG, new_database, until};

/// A request that waits for a connection also ends after a second, by its timeout. On a busy machine that
/// may come first.
const ROUNDS: usize = 5;
const WAITING: usize = 4;

pub fn p18_at_sigterm_requests_are_finished_and_the_pool_is_closed(program: Program) {
    assert!((0..ROUNDS).any(|_| serves_all_until_it_ends("TERM", program)));
}

pub fn p18_at_ctrl_c_requests_are_finished_and_the_pool_is_closed(program: Program) {
    assert!((0..ROUNDS).any(|_| serves_all_until_it_ends("INT", program)));
}

/// Returns whether the requests that wait for a connection get one. Those that have one are served
/// in any case.
fn serves_all_until_it_ends(signal: &str, program: Program) -> bool {
    let url = new_database(&CLUSTER);
    let service = Service::start(program, &url);
    service.await_connections();
    assert_eq!(service.post("tea").status, 201);
    let _idle = idle_client(service.port);

    let are_served = thread::scope(|scope| {
        let mut blocker = lock(&url);
        let get = || scope.spawn(|| service.get("/orders/1"));
        let running: Vec<_> = (0..CONNECTIONS).map(|_| get()).collect();
        until("the requests run", || service.connections("used") == CONNECTIONS);
        let waiting: Vec<_> = (0..WAITING).map(|_| get()).collect();
        until("others wait", || {
            service.metric("db_client_connection_pending_requests{") == WAITING as u64
                || waiting.iter().any(|request| request.is_finished())
        });
        service.signal(signal);
        let address = ("127.0.0.1", service.port);
        until("it listens no more", || TcpStream::connect(address).is_err());
        blocker.batch_execute("COMMIT").expect("no more lock");
        let served = |requests: Vec<thread::ScopedJoinHandle<'_, Answer>>| {
            let answers = requests.into_iter().map(|request| request.join().expect("no panic"));
            answers.filter(|answer| answer.is(200)).count()
        };
        assert_eq!(served(running), CONNECTIONS as usize);
        served(waiting) == WAITING
    });
    let (status, output) = service.end();
    assert!(status.success(), "{status}");
    assert!(output.starts_with("closed in "), "{output}");
    are_served
}

/// A client that has its answer and keeps its connection.
fn idle_client(port: u16) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
    stream.set_read_timeout(Some(WATCHDOG)).expect("a timeout");
    stream.write_all(b"GET /ready HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("it reads");
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\nready") {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("an answer");
        answer.push(byte[0]);
    }
    stream
}
