//! A service is told to stop.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;

use crate::load::lock;
use crate::service::{CLUSTER, Program, Service, WATCHDOG, new_database, until};

pub fn p18_at_sigterm_running_requests_are_finished_and_the_pool_is_closed(program: Program) {
    stop_by("TERM", program);
}

pub fn p18_at_ctrl_c_running_requests_are_finished_and_the_pool_is_closed(program: Program) {
    stop_by("INT", program);
}

fn stop_by(signal: &str, program: Program) {
    let url = new_database(&CLUSTER);
    let service = Service::start(program, &url);
    until("it is ready", || service.get("/ready").status == 200);
    assert_eq!(service.post("tea").status, 201);
    let _idle = idle_client(service.port);

    const RUNNING: u64 = 4;
    thread::scope(|scope| {
        let mut blocker = lock(&url);
        let get = || scope.spawn(|| service.get("/orders/1"));
        let running: Vec<_> = (0..RUNNING).map(|_| get()).collect();
        let used = "db_client_connection_count{db_client_connection_pool_name=\"orders\",\
                    db_client_connection_state=\"used\"}";
        until("the requests run", || service.metric(used) == RUNNING);
        service.signal(signal);
        let address = ("127.0.0.1", service.port);
        until("it listens no more", || TcpStream::connect(address).is_err());
        blocker.batch_execute("COMMIT").expect("no more lock");
        for request in running {
            let answer = request.join().expect("no panic");
            assert_eq!(answer.status, 200, "{answer:?}");
        }
    });
    let (status, output) = service.end();
    assert!(status.success(), "{status}");
    assert!(output.starts_with("closed in "), "{output}");
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
