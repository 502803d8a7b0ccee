//! The inspector answers each client, no matter what other clients do.

use std::error::Error;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use fairpool::{Pool, WeakPool};
use fairpool_inspect::{Inspector, ServeError, Server};
use fairpool_testing::stub::{
    self, Does, Gate, Manager, Op, WATCHDOG, builder, eventually, silent_panic, threads_named,
    watched,
};
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

/// Asks for a recording and does not wait for it.
fn begin_recording(mut client: TcpStream, seconds: u32) -> TcpStream {
    let addr = client.peer_addr().unwrap();
    write!(client, "PUT /trace?seconds={seconds} HTTP/1.1\r\nHost: {addr}\r\n\r\n").unwrap();
    client
}

/// There are few recordings at a time in the process: tests that make some take turns.
fn turn_to_record() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The same for questions.
fn turn_to_ask() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
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
    let _turn = turn_to_record();
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
        ask(addr, "PUT", "/trace?seconds=1")
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
        let answer = ask(server.addr(), "PUT", &format!("/trace?{query}"));
        assert_eq!(answer.status, 400, "{query}");
        assert!(answer.body.contains(why), "{query}: {}", answer.body);
    }
}

#[test]
fn so_many_recordings_at_once_in_the_process_and_no_more() {
    let _turn = turn_to_record();
    let pool = pool();
    let (server, another) = (serve(&[pool.downgrade()]), serve(&[pool.downgrade()]));
    let status = |server: &Server| ask(server.addr(), "PUT", "/trace?seconds=1").status;
    let first = begin_recording(connect(server.addr()), 60);
    let second = begin_recording(connect(another.addr()), 60);
    eventually("both record", || threads_named("fairpool-record") == 2);
    assert_eq!((status(&server), status(&another)), (429, 429));
    assert!(ask(another.addr(), "PUT", "/trace").body.contains("2 recordings are under way"));
    assert_serves(server.addr());
    // A client that disconnects makes room, long before its recording would have ended.
    drop(first);
    eventually("there is room", || status(&server) == 200);
    drop(second);
}

#[test]
fn a_client_that_goes_takes_its_recording_along() {
    let _turn = turn_to_record();
    let pool = pool();
    let server = serve(&[pool.downgrade()]);
    for _ in 0..20 {
        let client = begin_recording(connect(server.addr()), 60);
        eventually("it records", || threads_named("fairpool-record") > 0);
        drop(client);
        eventually("nobody records", || threads_named("fairpool-record") == 0);
    }
    eventually("there is room", || ask(server.addr(), "PUT", "/trace?seconds=1").status == 200);
}

#[test]
fn one_can_only_look() {
    let pool = pool();
    let server = serve(&[pool.downgrade()]);
    for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "NONSENSE"] {
        for path in
            ["/", "/healthz", "/readyz", "/metrics", "/snapshot.json", "/history.json", "/dump"]
        {
            let answer = ask(server.addr(), method, path);
            assert_eq!(answer.status, 405, "{method} {path}");
            assert!(answer.head.contains("allow: get, head"), "{}", answer.head);
        }
    }
    // A link, a form or an old program cannot start a recording.
    for method in ["GET", "HEAD", "POST", "DELETE", "PATCH", "OPTIONS", "NONSENSE"] {
        let answer = ask(server.addr(), method, "/trace?seconds=1");
        assert_eq!(answer.status, 405, "{method}");
        assert!(answer.head.contains("allow: put"), "{}", answer.head);
        let how = "curl -X PUT -o pools.trace.json 'http://ADDRESS/trace?seconds=5'";
        assert!(answer.body.contains(how) || method == "HEAD", "{}", answer.body);
    }
    for method in ["GET", "HEAD", "POST", "DELETE"] {
        let answer = ask(server.addr(), method, "/ask?pool=0");
        assert_eq!((answer.status, answer.head.contains("allow: put")), (405, true), "{method}");
    }
    let with_body =
        format!("PUT /trace HTTP/1.1\r\nHost: {}\r\nContent-Length: 5\r\n\r\n12345", server.addr());
    let answer = Answer::of(&exchange(server.addr(), with_body.as_bytes()).unwrap());
    assert_eq!((answer.status, answer.body.contains("no body")), (400, true));
    let head = ask(server.addr(), "HEAD", "/snapshot.json");
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    for path in ["/nothing", "/snapshot", "//", "/../etc/passwd", "/dump/", "/%2e%2e"] {
        let answer = get(server.addr(), path);
        assert_eq!(answer.status, 404, "{path}");
        assert!(answer.body.contains("/snapshot.json"), "{}", answer.body);
    }
}

#[test]
fn a_question_about_a_pool_is_asked_when_somebody_asks_it() {
    let _turn = turn_to_ask();
    let (orders, reports) = (pool(), pool_named("reports"));
    let asked = Arc::new(AtomicUsize::new(0));
    let counts = Arc::clone(&asked);
    let question = move || match counts.fetch_add(1, Ordering::Relaxed) {
        0 => "two wait <b>for</b> a row\n".to_string(),
        _ => silent_panic(),
    };
    let pools = [orders.downgrade(), reports.downgrade()];
    let inspector = Inspector::new().question(&pools[1], || panic!("replaced"));
    let server = inspector.question(&pools[1], question).serve("127.0.0.1:0", &pools).unwrap();
    let addr = server.addr();
    let shown = get(addr, "/snapshot.json").json();
    let asks = |pool: usize| shown["pools"][pool]["asks"].as_bool();
    assert_eq!((asks(0), asks(1)), (Some(false), Some(true)));
    assert_eq!(asked.load(Ordering::Relaxed), 0, "nobody has asked");

    let answer = ask(addr, "PUT", "/ask?pool=1");
    assert_eq!((answer.status, answer.body.as_str()), (200, "two wait <b>for</b> a row\n"));
    assert!(answer.head.contains("content-type: text/plain"), "{}", answer.head);
    for (query, status, why) in [
        ("", 404, "there is no question about pool 0"),
        ("?pool=0", 404, "there is no question about pool 0"),
        ("?pool=2", 404, "there is no question about pool 2"),
        ("?pool=x", 400, "pool must be a whole number"),
        ("?pools=1", 400, "the only parameter is pool, not 'pools'"),
        ("?pool=1", 500, "the question has panicked"),
    ] {
        let answer = ask(addr, "PUT", &format!("/ask{query}"));
        assert_eq!(answer.status, status, "{query}: {}", answer.body);
        assert!(answer.body.contains(why), "{query}: {}", answer.body);
    }
    assert_eq!(asked.load(Ordering::Relaxed), 2);

    let about = pool_named("another").downgrade();
    let refused = Inspector::new().question(&about, String::new).serve("127.0.0.1:0", &pools);
    let why = "inspect: a question is about pool 'another', which is not shown";
    assert_eq!(refused.unwrap_err().to_string(), why);
}

#[test]
fn questions_that_hang_hold_nobody_up_and_are_few() {
    let _turn = turn_to_ask();
    let pool = pool();
    let gate = Gate::new();
    let (hangs, pools) = (gate.clone(), [pool.downgrade()]);
    let question = move || {
        hangs.pass();
        String::new()
    };
    let inspector = Inspector::new().question(&pools[0], question);
    let server = inspector.serve("127.0.0.1:0", &pools).unwrap();
    let addr = server.addr();
    let begin = || {
        let mut client = connect(addr);
        write!(client, "PUT /ask HTTP/1.1\r\nHost: {addr}\r\n\r\n").unwrap();
        client
    };
    let (first, second) = (begin(), begin());
    eventually("both ask", || threads_named("fairpool-questi") == 2);
    let third = ask(addr, "PUT", "/ask");
    assert_eq!((third.status, third.body.contains("2 questions are under way")), (429, true));
    assert_serves(addr);
    drop((first, second));
    // The threads go on until they are let through, and hold up no stop.
    server.stop();
    gate.open();
    eventually("they have ended", || threads_named("fairpool-questi") == 0);
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

/// Each of these is what a browser sends. `SELF` and `PORT` stand for the server's address and
/// port.
#[test]
fn a_website_reaches_nothing_but_the_page_itself() {
    let pool = pool();
    let server = serve(&[pool.downgrade()]);
    let open =
        Inspector::new().allow_remote(true).serve("127.0.0.1:0", &[pool.downgrade()]).unwrap();
    let asked_by = |addr: SocketAddr, method: &str, path: &str, headers: &str| {
        let headers = headers.replace("SELF", &addr.to_string());
        let headers: String = headers.split("; ").map(|one| format!("{one}\r\n")).collect();
        let request = format!("{method} {path} HTTP/1.1\r\nHost: {addr}\r\n{headers}\r\n");
        Answer::of(&exchange(addr, request.as_bytes()).unwrap()).status
    };
    let navigates =
        "Sec-Fetch-Site: cross-site; Sec-Fetch-Mode: navigate; Sec-Fetch-Dest: document";
    let framed = "Sec-Fetch-Site: cross-site; Sec-Fetch-Mode: navigate; Sec-Fetch-Dest: iframe";
    let embedded = "Sec-Fetch-Site: cross-site; Sec-Fetch-Mode: navigate; Sec-Fetch-Dest: object";
    let image = "Sec-Fetch-Site: cross-site; Sec-Fetch-Mode: no-cors; Sec-Fetch-Dest: image";
    let other_port =
        "Sec-Fetch-Site: same-site; Sec-Fetch-Mode: navigate; Sec-Fetch-Dest: document";
    let fetches = "Origin: http://evil.example; Sec-Fetch-Site: cross-site; Sec-Fetch-Mode: cors";
    let sends_form = "Origin: http://evil.example; Sec-Fetch-Site: cross-site; \
                      Sec-Fetch-Mode: navigate; Sec-Fetch-Dest: document";
    let old_browser = "Origin: http://evil.example";
    let hidden = "Origin: null";
    let other_scheme_and_port = "Origin: http://127.0.0.1:1";
    let own_script = "Origin: http://SELF; Sec-Fetch-Site: same-origin; Sec-Fetch-Mode: cors";
    let own_old_script = "Origin: http://SELF";
    let behind_a_proxy = "Origin: https://proxy.example; Sec-Fetch-Site: same-origin";
    let typed = "Sec-Fetch-Site: none; Sec-Fetch-Mode: navigate; Sec-Fetch-Dest: document";
    // Wrong seconds, so that what is let through is told from what is not, and nothing is made.
    const TRACE: &str = "/trace?seconds=0";
    for addr in [server.addr(), open.addr()] {
        let asked_by = |method, path, headers| asked_by(addr, method, path, headers);
        for website in [
            navigates,
            framed,
            embedded,
            image,
            other_port,
            fetches,
            sends_form,
            old_browser,
            hidden,
            other_scheme_and_port,
        ] {
            for path in ["/metrics", "/snapshot.json", "/history.json", "/dump", TRACE, "/x"] {
                for method in ["GET", "HEAD", "POST", "PUT", "OPTIONS"] {
                    assert_eq!(asked_by(method, path, website), 403, "{method} {path} {website}");
                }
            }
            let is_link = [navigates, other_port].contains(&website);
            let expected = if is_link { 200 } else { 403 };
            assert_eq!(asked_by("GET", "/", website), expected, "/ {website}");
            assert_eq!(asked_by("POST", "/", website), 403, "POST / {website}");
        }
        for user in [own_script, own_old_script, behind_a_proxy, typed] {
            assert_eq!(asked_by("GET", "/", user), 200, "{user}");
            assert_eq!(asked_by("GET", "/dump", user), 200, "{user}");
            assert_eq!(asked_by("PUT", TRACE, user), 400, "{user}");
        }
    }
}

#[test]
fn no_answer_can_be_shown_in_a_frame() {
    let pool = pool();
    let server = serve(&[pool.downgrade()]);
    let addr = server.addr();
    let asked = |line: &str, headers: &str| {
        exchange(addr, format!("{line}\r\n{headers}\r\n").as_bytes()).unwrap()
    };
    let host = format!("Host: {addr}\r\n");
    let many = "X: y\r\n".repeat(200);
    let mut answers: Vec<(u16, Vec<u8>)> = vec![
        (403, asked("GET / HTTP/1.1", "Host: evil.example\r\n")),
        (403, asked("GET / HTTP/1.1", &format!("{host}Sec-Fetch-Site: cross-site\r\n"))),
        (404, asked("GET /x HTTP/1.1", &host)),
        (405, asked("POST / HTTP/1.1", &host)),
        (405, asked("GET /trace HTTP/1.1", &host)),
        (400, asked("PUT /trace?seconds=0 HTTP/1.1", &host)),
        // These the server's library answers by itself.
        (400, asked("NONSENSE", "")),
        (400, asked("GET / HTTP/9.9", "")),
        (431, asked("GET / HTTP/1.1", &many)),
    ];
    for path in ["/", "/healthz", "/metrics", "/snapshot.json", "/history.json", "/dump"] {
        answers.push((200, asked(&format!("GET {path} HTTP/1.1"), &host)));
    }
    for (status, answer) in answers {
        let answer = Answer::of(&answer);
        assert_eq!(answer.status, status, "{}", answer.head);
        for part in ["x-frame-options: deny", "frame-ancestors 'none'", "nosniff"] {
            assert!(answer.head.contains(part), "{status}: {part}: {}", answer.head);
        }
    }
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
    let _turn = turn_to_record();
    let pool = pool();
    let server = serve(&[pool.downgrade()]);
    let addr = server.addr();
    let mut stream = begin_recording(connect_with_little_room(addr), 2);
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
    let _turn = turn_to_record();
    let pool = pool();
    let server = serve(&[pool.downgrade()]);
    let (addr, over) = (server.addr(), AtomicBool::new(false));
    let goes_on = || !over.load(Ordering::Relaxed);
    let fetch_slowly = |begun: mpsc::Sender<()>| {
        let mut stream = begin_recording(connect_with_little_room(addr), 1);
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
        assert_eq!(ask(addr, "PUT", "/trace?seconds=1").status, 429);
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
    let _turn = turn_to_record();
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
    for path in ["/", "/metrics", "/history.json"] {
        assert_eq!(get(server.addr(), path).status, 200, "{path}");
    }
    assert_eq!(ask(server.addr(), "PUT", "/trace?seconds=1").status, 200);
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
    let _turn = turn_to_record();
    let pool = pool();
    let server = serve(&[pool.downgrade()]);
    let addr = server.addr();
    let waiting = connect(addr);
    watched("the stop", move || server.stop());
    TcpListener::bind(addr).expect("the port is free");
    drop(waiting);

    // A recording under way does not delay it.
    let server = serve(&[pool.downgrade()]);
    let _stream = begin_recording(connect(server.addr()), 60);
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
        // Who prints the chain prints the cause once.
        let cause = error.source().map(ToString::to_string).unwrap_or_default();
        assert!(cause.is_empty() || !error.to_string().contains(&cause), "{error}: {cause}");
        error.to_string()
    };
    let text = refused("0.0.0.0:0");
    assert!(text.contains("0.0.0.0:0 can be reached from other machines"), "{text}");
    assert!(text.contains("allow_remote"), "{text}");
    assert!(refused("[::]:0").contains("[::]:0 can be reached"), "{}", refused("[::]:0"));
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    let text = refused(&addr);
    assert!(text.ends_with(&format!("cannot listen on {addr}")), "{text}");
    assert_eq!(refused("nonsense"), "inspect: the address cannot be resolved");

    let error = fairpool_inspect::serve("127.0.0.1:0", &[]).unwrap_err();
    assert!(matches!(error, ServeError::NoPools), "{error:?}");
    assert_eq!(error.to_string(), "inspect: there is no pool to show");

    let server =
        Inspector::new().allow_remote(true).serve("0.0.0.0:0", &[pool.downgrade()]).unwrap();
    assert_serves(SocketAddr::from(([127, 0, 0, 1], server.addr().port())));
}

#[test]
fn probes_are_told_whether_the_process_lives_and_whether_its_pools_are_ready() {
    let database = stub::Server::new();
    let orders = builder(2).name("orders").build(database.manager()).unwrap();
    let users = pool_named("users");
    let server = serve(&[orders.downgrade(), users.downgrade()]);
    let alive = || {
        let answer = get(server.addr(), "/healthz");
        assert_eq!((answer.status, answer.body.as_str()), (200, "ok\n"));
    };
    let ready = || {
        let answer = get(server.addr(), "/readyz");
        (answer.status, answer.body)
    };
    // The question makes an empty pool connect.
    eventually("both are ready", || ready() == (200, "ready\n".to_string()));
    users.pause();
    assert_eq!(ready(), (503, "users: paused\n".to_string()));
    drop(users);
    eventually("a pool that is gone is missed by nobody", || ready().0 == 200);

    database.on(Op::Connect, Does::Fail);
    fairpool::PooledConnection::discard(orders.get().unwrap());
    eventually("one has none and cannot open any", || {
        let (status, body) = ready();
        status == 503 && body.starts_with("orders: connecting has failed for ")
    });
    let (_, body) = ready();
    assert!(!body.contains("refused"), "the cause may be a secret: {body}");
    alive();
    drop(orders);
    eventually("all are gone", || ready() == (503, "all pools are gone\n".to_string()));
    alive();
}

fn pool_named(name: &str) -> Pool<Manager> {
    builder(2).name(name).build(stub::Server::new().manager()).unwrap()
}
