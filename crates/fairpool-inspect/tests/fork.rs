//! What watches a parent's pool, in a child: it ends, and shows nothing.
#![cfg(unix)]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use fairpool::Pool;
use fairpool_children::{alone, in_child};
use fairpool_prometheus::PrometheusCollector;
use fairpool_testing::StubManager;
use fairpool_trace::Recorder;

#[test]
fn what_watches_a_pool_hangs_in_no_child_and_works_on_in_the_parent() {
    let _alone = alone();
    let pool = Pool::builder().max_size(2).build(StubManager).expect("a stub");
    let pools = [pool.downgrade()];
    let server = fairpool_inspect::serve("127.0.0.1:0", &pools).expect("a server");
    let addr = server.addr();
    let collector = PrometheusCollector::new(pools.clone());
    let mut of_parent = Some((server, Recorder::start(&pools).expect("a recorder")));
    drop(pool.get().expect("a connection"));
    thread::sleep(Duration::from_millis(100));

    fairpool_children::fork(|| {
        let (server, recorder) = of_parent.take().expect("copies");
        drop(server);
        let mut file = Vec::new();
        recorder.stop().write(&mut file).expect("into memory");
        assert!(!String::from_utf8_lossy(&file).contains("checked out"), "the trace is empty");
    })
    .join();
    in_child(|| {
        let text = collector.text();
        assert!(!text.contains("fairpool_gets_total{"), "figures of the parent's pool: {text}");
    });

    let mut stream = TcpStream::connect(addr).expect("the server still listens");
    stream.write_all(b"GET /snapshot.json HTTP/1.0\r\nHost: localhost\r\n\r\n").expect("a request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    assert!(answer.contains("200 OK"), "{answer}");
    let (_server, recorder) = of_parent.take().expect("the parent's own");
    let mut file = Vec::new();
    recorder.stop().write(&mut file).expect("into memory");
    assert!(file.len() > 100, "the parent's trace has events");
    assert!(collector.text().contains("fairpool_gets_total{"));
}
