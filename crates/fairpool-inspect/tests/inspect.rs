//! The inspector answers each client, no matter what other clients do.

use std::error::Error;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use fairpool::{Pool, WeakPool};
use fairpool_inspect::{Inspector, ServeError, Server};
use fairpool_testing::stub::{self, Manager, WATCHDOG, builder, eventually, watched};
use serde_json::Value;

fn pool() -> Pool<Manager> {
    builder(2).name("orders").build(stub::Server::new().manager()).unwrap()
}

fn serve(pools: &[WeakPool]) -> Server {
    fairpool_inspect::serve("127.0.0.1:0", pools).unwrap()
}

/// Ends a load also when the test fails.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn of(bytes: &[u8]) -> Answer {
        let text = String::from_utf8_lossy(bytes);
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.unwrap_or_else(|| panic!("no answer: {text:?}"));
        Answer { status, head: head.to_ascii_lowercase(), body: body.to_string() }
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.body).expect("JSON")
    }
}

fn connect(addr: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect_timeout(&addr, WATCHDOG).expect("a connection");
    stream.set_read_timeout(Some(2 * WATCHDOG)).unwrap();
    stream.set_write_timeout(Some(2 * WATCHDOG)).unwrap();
    stream
}

/// For a client that soon has no room for more of its answer.
fn connect_with_little_room(addr: SocketAddr) -> TcpStream {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.connect(&addr.into()).unwrap();
    TcpStream::from(socket)
}

/// Sends this, and reads all that comes.
fn exchange(addr: SocketAddr, request: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = connect(addr);
    stream.write_all(request)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(answer)
}

fn ask(addr: SocketAddr, method: &str, path: &str) -> Answer {
    let request = format!("{method} {path} HTTP/1.1\r\nHost: {addr}\r\n\r\n");
    Answer::of(&exchange(addr, request.as_bytes()).expect("an answer"))
}

fn get(addr: SocketAddr, path: &str) -> Answer {
    ask(addr, "GET", path)
}

#[track_caller]
fn assert_serves(addr: SocketAddr) {
    assert_eq!(get(addr, "/snapshot.json").status, 200);
}

#[test]
fn the_page_brings_all_it_needs() {
    let pool = pool();
    let server = serve(&[pool.downgrade()]);
    let page = get(server.addr(), "/");
    assert_eq!(page.status, 200);
    assert!(page.head.contains("content-type: text/html"), "{}", page.head);
    let policy = page.head.lines().find(|line| line.starts_with("content-security-policy"));
    let policy = policy.expect("a policy");
    assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
    assert!(!page.body.contains("{{"), "all is filled in");
    for foreign in ["http://", "https://", "src=", "@import", "url("] {
        let places: Vec<_> = page.body.match_indices(foreign).map(|(at, _)| at).collect();
        let harmless = |&at: &usize| page.body[at..].starts_with("http://www.w3.org/2000/svg");
        assert!(places.iter().all(harmless), "{foreign}");
    }
    let nonce = |page: &Answer| page.body.split("nonce=\"").nth(1).unwrap()[..32].to_string();
    assert_ne!(nonce(&page), nonce(&get(server.addr(), "/")));
}

#[test]
fn the_snapshot_has_all_pools_with_who_holds_and_who_waits() {
    let (orders, reports) = (pool(), builder(5).name("reports"));
    let reports = reports.build(stub::Server::new().manager()).unwrap();
    let server = serve(&[orders.downgrade(), reports.downgrade()]);
    let (held, line) = (orders.request().label("a label").get().unwrap(), line!());
    eventually("the answer is of now", || {
        let answer = get(server.addr(), "/snapshot.json").json();
        answer["pools"][0]["snapshot"]["holders"][0]["label"] == "a label"
    });
    let answer = get(server.addr(), "/snapshot.json").json();
    let pools = answer["pools"].as_array().unwrap();
    assert_eq!((&pools[0]["name"], &pools[1]["name"]), (&"orders".into(), &"reports".into()));
    assert_eq!(pools[0]["gone"], false);
    let holder = &pools[0]["snapshot"]["holders"][0];
    let place = holder["location"].as_str().unwrap();
    assert!(place.starts_with(&format!("{}:{line}:", file!())), "{place}");
    assert_eq!(pools[1]["snapshot"]["stats"]["max_size"], 5);

    let dump = get(server.addr(), "/dump");
    assert!(dump.head.contains("text/plain"), "{}", dump.head);
    for part in ["pool 'orders'", "pool 'reports'", "a label", place] {
        assert!(dump.body.contains(part), "{part}: {}", dump.body);
    }
    drop(held);
}

#[test]
fn the_metrics_are_those_of_the_pools() {
    let pool = pool();
    let server = serve(&[pool.downgrade()]);
    drop(pool.get().unwrap());
    let answer = get(server.addr(), "/metrics");
    assert_eq!(answer.status, 200);
    assert!(answer.head.contains("content-type: text/plain; version=0.0.4"), "{}", answer.head);
    let gets = r#"fairpool_gets_total{db_client_connection_pool_name="orders"} 1"#;
    assert!(answer.body.lines().any(|line| line == gets), "{}", answer.body);
}

#[test]
fn snapshots_are_shared_by_those_who_ask_at_about_the_same_time() {
    let pool = pool();
    let server = serve(&[pool.downgrade()]);
    let taken = || get(server.addr(), "/snapshot.json").json()["taken_at"].as_f64().unwrap();
    let mut all: Vec<f64> = (0..200).map(|_| taken()).collect();
    let span = all[199] - all[0];
    all.dedup();
    // At most one each 100 ms.
    assert!((all.len() - 1) as f64 * 0.1 <= span + 0.01, "{} in {span} s", all.len());
}

#[test]
fn the_history_grows_by_the_second() {
    let pool = pool();
    let server = serve(&[pool.downgrade()]);
    let samples = |after: u64| {
        let answer = get(server.addr(), &format!("/history.json?after={after}")).json();
        answer["pools"][0]["samples"].as_array().unwrap().clone()
    };
    eventually("there are two", || {
        drop(pool.get().unwrap());
        samples(0).len() >= 2
    });
    let all = samples(0);
    assert_eq!((&all[0]["number"], &all[1]["number"]), (&1.into(), &2.into()));
    assert_eq!(samples(1)[0]["number"], 2);
    assert!(all.iter().any(|sample| sample["gets"].as_u64() > Some(0)), "{all:?}");
    assert!(all.iter().any(|sample| sample["p99"].is_number()), "{all:?}");
    assert!(samples(u64::MAX).is_empty());
    assert_eq!(get(server.addr(), "/history.json?after=-1").status, 400);
}

#[test]
fn what_is_wrong_is_said() {
    let driver = stub::Server::new();
    let pool = builder(1).connection_timeout(6 * WATCHDOG).build(driver.manager()).unwrap();
    let server = serve(&[pool.downgrade()]);
    let finding = || {
        let answer = get(server.addr(), "/snapshot.json").json();
        answer["pools"][0]["findings"].as_array().unwrap().first().cloned()
    };
    assert_eq!(finding(), None);
    let (held, line) = (pool.get().unwrap(), line!());
    thread::scope(|scope| {
        scope.spawn(|| drop(pool.get().unwrap()));
        eventually("the leak is found", || finding().is_some_and(|found| found["kind"] == "leak"));
        let found = finding().unwrap().to_string();
        assert!(found.contains(&format!("{}:{line}:", file!())), "{found}");
        drop(held);
    });
    eventually("all is well again", || finding().is_none());
}

#[test]
fn a_recording_is_a_trace() {
    let pool = pool();
    let server = serve(&[pool.downgrade()]);
    let (addr, over) = (server.addr(), AtomicBool::new(false));
    let answer = thread::scope(|scope| {
        let _over = Over(&over);
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                drop(pool.get().unwrap());
                thread::yield_now();
            }
        });
        get(addr, "/trace?seconds=1")
    });
    assert_eq!(answer.status, 200);
    assert!(answer.head.contains("attachment"), "{}", answer.head);
    let events = answer.json()["traceEvents"].as_array().unwrap().clone();
    assert!(events.iter().any(|event| event["cat"] == "hold"));
}

#[test]
fn a_recording_that_cannot_be_is_refused() {
    let pool = pool();
    let server = serve(&[pool.downgrade()]);
    for (query, why) in [
        ("seconds=0", "seconds must be a whole number from 1 to 60, but is '0'"),
        ("seconds=61", "seconds must be a whole number from 1 to 60, but is '61'"),
        ("seconds=-1", "but is '-1'"),
        ("seconds=1.5", "but is '1.5'"),
        ("seconds=99999999999999999999", "but is '99999999999999999999'"),
        ("seconds=", "but is ''"),
        ("seconds", "but is ''"),
        ("second=5", "the only parameter is seconds, not 'second'"),
    ] {
        let answer = get(server.addr(), &format!("/trace?{query}"));
        assert_eq!(answer.status, 400, "{query}");
        assert!(answer.body.contains(why), "{query}: {}", answer.body);
    }
}

#[test]
fn so_many_recordings_at_once_and_no_more() {
    let pool = pool();
    let server = serve(&[pool.downgrade()]);
    let addr = server.addr();
    let begin = || {
        let mut stream = connect(addr);
        write!(stream, "GET /trace?seconds=60 HTTP/1.1\r\nHost: {addr}\r\n\r\n").unwrap();
        stream
    };
    let first = begin();
    let _second = begin();
    eventually("a third is refused", || get(addr, "/trace?seconds=1").status == 429);
    assert_serves(addr);
    // A client that disconnects makes room.
    drop(first);
    eventually("there is room", || get(addr, "/trace?seconds=1").status == 200);
    drop(server);
}

#[test]
fn one_can_only_look() {
    let pool = pool();
    let server = serve(&[pool.downgrade()]);
    for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "NONSENSE"] {
        for path in ["/", "/metrics", "/snapshot.json", "/history.json", "/dump", "/trace"] {
            let answer = ask(server.addr(), method, path);
            assert_eq!(answer.status, 405, "{method} {path}");
            assert!(answer.head.contains("allow: get, head"), "{}", answer.head);
        }
    }
    let head = ask(server.addr(), "HEAD", "/snapshot.json");
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    for path in ["/nothing", "/snapshot", "//", "/../etc/passwd", "/dump/", "/%2e%2e"] {
        let answer = get(server.addr(), path);
        assert_eq!(answer.status, 404, "{path}");
        assert!(answer.body.contains("/snapshot.json"), "{}", answer.body);
    }
}

#[test]
fn other_names_for_this_machine_are_turned_away_unless_allowed() {
    let pool = pool();
    let asked_as = |addr, host: &str| {
        let request = format!("GET /dump HTTP/1.1\r\nHost: {host}\r\n\r\n");
        Answer::of(&exchange(addr, request.as_bytes()).unwrap())
    };
    let server = serve(&[pool.downgrade()]);
    for (host, status) in
        [("localhost:1", 200), ("127.0.0.1", 200), ("evil.example", 403), ("127.0.0.1.evil", 403)]
    {
        let answer = asked_as(server.addr(), host);
        assert_eq!(answer.status, status, "{host}");
        assert_eq!(answer.body.contains("pool 'orders'"), status == 200, "{host}");
    }
    let open =
        Inspector::new().allow_remote(true).serve("127.0.0.1:0", &[pool.downgrade()]).unwrap();
    assert_eq!(asked_as(open.addr(), "monitor.example").status, 200);
}

/// It could not read the answer, but have recordings made all the time.
#[test]
fn a_website_cannot_have_anything_made() {
    let pool = pool();
    let server = serve(&[pool.downgrade()]);
    let addr = server.addr();
    let asked_by = |site: &str, mode: &str| {
        let request = format!(
            "HEAD /trace HTTP/1.1\r\nHost: {addr}\r\nSec-Fetch-Site: {site}\r\n\
             Sec-Fetch-Mode: {mode}\r\n\r\n"
        );
        Answer::of(&exchange(addr, request.as_bytes()).unwrap()).status
    };
    assert_eq!(asked_by("cross-site", "no-cors"), 403);
    assert_eq!(asked_by("cross-site", "cors"), 403);
    // A user follows a link or types the address; and the page itself.
    assert_eq!(asked_by("cross-site", "navigate"), 200);
    assert_eq!(asked_by("none", "navigate"), 200);
    assert_eq!(asked_by("same-origin", "cors"), 200);
}

#[test]
fn nonsense_is_answered_with_an_error_and_harms_nobody() {
    let pool = pool();
    let server = serve(&[pool.downgrade()]);
    let addr = server.addr();
    let giant = format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(1 << 20));
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(2000));
    let path = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(1 << 20));
    let garbage: Vec<u8> = (0..4096u32).map(|i| (i * 131 % 251) as u8).collect();
    let requests: [&[u8]; 9] = [
        b"\r\n\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET / HTTP/1.1\r\nHost: \xff\xfe\r\n\r\n",
        &garbage,
        giant.as_bytes(),
        many.as_bytes(),
        path.as_bytes(),
    ];
    for request in requests {
        // It may also cut off a client that keeps sending.
        if let Ok(answer) = exchange(addr, request) {
            let ok = answer.starts_with(b"HTTP/1.1 4") || answer.is_empty();
            assert!(ok, "{}", String::from_utf8_lossy(&answer));
        }
        assert_serves(addr);
    }
}

#[test]
fn who_says_nothing_is_sent_away() {
    let pool = pool();
    let server = serve(&[pool.downgrade()]);
    for start in ["", "GET /snapshot.json HTTP/1.1\r\nHost: local"] {
        let mut stream = connect(server.addr());
        stream.write_all(start.as_bytes()).unwrap();
        let mut answer = Vec::new();
        // Returns when the server closes.
        let _ = stream.read_to_end(&mut answer);
        assert!(!answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
    }
}

#[test]
fn who_speaks_a_letter_at_a_time_is_sent_away_too() {
    let pool = pool();
    let server = serve(&[pool.downgrade()]);
    let mut stream = connect(server.addr());
    stream.write_all(b"GET / HTTP/1.1\r\nX: ").unwrap();
    eventually("it is sent away", || {
        thread::sleep(Duration::from_millis(50));
        stream.write_all(b"x").is_err()
    });
}

#[test]
fn who_does_not_read_is_sent_away() {
    let pool = pool();
    let server = serve(&[pool.downgrade()]);
    let addr = server.addr();
    let mut stream = connect_with_little_room(addr);
    write!(stream, "GET /trace?seconds=2 HTTP/1.1\r\nHost: {addr}\r\n\r\n").unwrap();
    let start = Instant::now();
    // Once the server has closed, the system refuses what it is sent.
    while stream.write_all(b"\r").is_ok() {
        assert!(start.elapsed() < 6 * WATCHDOG, "it still waits for its reader");
        // Makes a file that is larger than what the system keeps for a reader.
        if start.elapsed() < Duration::from_secs(2) {
            (0..200).for_each(|_| drop(pool.get().unwrap()));
        }
        thread::sleep(Duration::from_millis(5));
    }
    assert_serves(addr);
}

/// It is kept in memory until then.
#[test]
fn a_recording_counts_until_it_is_fetched() {
    let pool = pool();
    let server = serve(&[pool.downgrade()]);
    let (addr, over) = (server.addr(), AtomicBool::new(false));
    let goes_on = || !over.load(Ordering::Relaxed);
    let fetch_slowly = |begun: mpsc::Sender<()>| {
        let mut stream = connect_with_little_room(addr);
        write!(stream, "GET /trace?seconds=1 HTTP/1.1\r\nHost: {addr}\r\n\r\n").unwrap();
        while goes_on() && stream.read(&mut [0; 100]).unwrap() > 0 {
            let _ = begun.send(());
            thread::sleep(Duration::from_millis(20));
        }
    };
    thread::scope(|scope| {
        let _over = Over(&over);
        // Makes files that are larger than what the system keeps for a reader.
        scope.spawn(|| {
            while goes_on() {
                (0..200).for_each(|_| drop(pool.get().unwrap()));
                thread::sleep(Duration::from_millis(5));
            }
        });
        let fetch_slowly = &fetch_slowly;
        let begun = [(); 2].map(|()| {
            let (begun, has_begun) = mpsc::channel();
            scope.spawn(move || fetch_slowly(begun));
            has_begun
        });
        begun.iter().for_each(|begun| begun.recv_timeout(6 * WATCHDOG).expect("an answer"));
        assert_eq!(get(addr, "/trace?seconds=1").status, 429);
    });
}

#[test]
fn hundreds_of_slow_clients_do_not_lock_out_a_good_one() {
    let pool = pool();
    let server = serve(&[pool.downgrade()]);
    let addr = server.addr();
    // More than it serves at once: some are disconnected.
    let slow: Vec<TcpStream> = (0..400)
        .map(|number| {
            let mut stream = connect(addr);
            if number % 2 == 0 {
                let _ = stream.write_all(b"GET /snapshot.json HTTP/1.1\r\nHost: ");
            }
            stream
        })
        .collect();
    let answers: Vec<u16> = (0..20).map(|_| get(addr, "/snapshot.json").status).collect();
    assert!(answers.iter().all(|&status| status == 200), "{answers:?}");
    drop(slow);
}

#[test]
fn hundreds_are_served_at_once() {
    let pool = pool();
    let server = serve(&[pool.downgrade()]);
    let addr = server.addr();
    let paths = ["/", "/snapshot.json", "/history.json", "/dump"];
    thread::scope(|scope| {
        let clients: Vec<_> = (0..200)
            .map(|number| scope.spawn(move || get(addr, paths[number % paths.len()]).status))
            .collect();
        for client in clients {
            assert_eq!(client.join().unwrap(), 200);
        }
    });
}

#[test]
fn a_pool_that_is_gone_is_shown_as_gone() {
    let (orders, reports) = (pool(), pool());
    let server = serve(&[orders.downgrade(), reports.downgrade()]);
    let watch = orders.downgrade();
    drop(orders);
    eventually("it is gone", || watch.stats().is_none());
    eventually("it is shown as gone", || {
        let answer = get(server.addr(), "/snapshot.json").json();
        answer["pools"][0]["gone"] == true && answer["pools"][0]["snapshot"].is_null()
    });
    let answer = get(server.addr(), "/snapshot.json").json();
    assert_eq!(answer["pools"][1]["gone"], false);
    assert!(get(server.addr(), "/dump").body.contains("pool 'orders' is gone"));
    for path in ["/", "/metrics", "/history.json", "/trace?seconds=1"] {
        assert_eq!(get(server.addr(), path).status, 200, "{path}");
    }
}

#[test]
fn an_inspector_keeps_no_pool_alive() {
    let driver = stub::Server::new();
    let pool = builder(1).build(driver.manager()).unwrap();
    let server = serve(&[pool.downgrade()]);
    drop(pool.get().unwrap());
    assert_serves(server.addr());
    drop(pool);
    eventually("its connection is closed", || driver.live() == 0);
}

#[test]
fn a_stopped_inspector_has_gone_at_once() {
    let pool = pool();
    let server = serve(&[pool.downgrade()]);
    let addr = server.addr();
    let waiting = connect(addr);
    watched("the stop", move || server.stop());
    TcpListener::bind(addr).expect("the port is free");
    drop(waiting);

    // A recording under way does not delay it.
    let server = serve(&[pool.downgrade()]);
    let mut stream = connect(server.addr());
    write!(stream, "GET /trace?seconds=60 HTTP/1.1\r\nHost: {addr}\r\n\r\n").unwrap();
    assert_serves(server.addr());
    watched("the drop", move || drop(server));
}

#[test]
fn addresses_that_will_not_do_are_named() {
    let pool = pool();
    let refused = |addr: &str| {
        let error = fairpool_inspect::serve(addr, &[pool.downgrade()]).unwrap_err();
        let remote = matches!(error, ServeError::Remote(_));
        assert_eq!(error.source().is_none(), remote, "{error:?}");
        error.to_string()
    };
    let text = refused("0.0.0.0:0");
    assert!(text.contains("0.0.0.0:0 can be reached from other machines"), "{text}");
    assert!(text.contains("allow_remote"), "{text}");
    assert!(refused("[::]:0").contains("[::]:0 can be reached"), "{}", refused("[::]:0"));
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    let text = refused(&addr);
    assert!(text.contains(&format!("cannot listen on {addr}: ")), "{text}");
    assert!(refused("nonsense").starts_with("inspect: the address cannot be resolved: "));

    let error = fairpool_inspect::serve("127.0.0.1:0", &[]).unwrap_err();
    assert!(matches!(error, ServeError::NoPools), "{error:?}");
    assert_eq!(error.to_string(), "inspect: there is no pool to show");

    let server =
        Inspector::new().allow_remote(true).serve("0.0.0.0:0", &[pool.downgrade()]).unwrap();
    assert_serves(SocketAddr::from(([127, 0, 0, 1], server.addr().port())));
}
