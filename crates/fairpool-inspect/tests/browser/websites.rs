//! What other websites can do through the browser of a user who can reach the inspector.

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};

use fairpool_testing::stub::{eventually, lock, threads_named};
use serde_json::json;

use super::*;

/// Stands before an inspector, passes everything on, and notes what was asked and answered.
struct Witness {
    addr: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
}

#[derive(Clone, Debug)]
struct Seen {
    /// The first line of the request.
    asked: String,
    status: u16,
}

impl Witness {
    fn of(inspector: SocketAddr) -> Witness {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (addr, seen) = (listener.local_addr().unwrap(), Arc::<Mutex<Vec<Seen>>>::default());
        let witness = Witness { addr, seen: Arc::clone(&seen) };
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let seen = Arc::clone(&seen);
                thread::spawn(move || {
                    // The browser may have gone away.
                    if let Ok(Some(one)) = pass_on(client, inspector) {
                        lock(&seen).push(one);
                    }
                });
            }
        });
        witness
    }

    fn seen(&self) -> Vec<Seen> {
        lock(&self.seen).clone()
    }
}

/// Nobody sends a body.
fn head_of(client: &TcpStream) -> io::Result<String> {
    let mut head = String::new();
    let mut reader = BufReader::new(client);
    while reader.read_line(&mut head)? > 0 && !head.ends_with("\r\n\r\n") {}
    Ok(head)
}

fn pass_on(mut client: TcpStream, inspector: SocketAddr) -> io::Result<Option<Seen>> {
    let head = head_of(&client)?;
    let Some(asked) = head.lines().next() else { return Ok(None) };
    let mut server = TcpStream::connect(inspector)?;
    server.write_all(head.as_bytes())?;
    let mut answer = Vec::new();
    server.read_to_end(&mut answer)?;
    let status = String::from_utf8_lossy(&answer[..answer.len().min(12)]).into_owned();
    let status = status.split(' ').nth(1).and_then(|status| status.parse().ok());
    let _ = client.write_all(&answer);
    Ok(Some(Seen { asked: asked.to_string(), status: status.unwrap_or(0) }))
}

/// A website on another port. It sends all who ask for `/away?URL` to that URL.
fn website(host: &str) -> SocketAddr {
    let listener = TcpListener::bind((host, 0)).unwrap();
    let addr = listener.local_addr().unwrap();
    thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            // A browser also opens connections that it does not use.
            thread::spawn(move || give_page(client));
        }
    });
    addr
}

fn give_page(mut client: TcpStream) -> io::Result<()> {
    let head = head_of(&client)?;
    let path = head.split(' ').nth(1).unwrap_or("/");
    let (status, header, page) = match path.strip_prefix("/away?") {
        Some(url) => ("302 Found", format!("Location: {url}"), ""),
        None => {
            let page = "<!doctype html><title>website</title><body>a website</body>";
            ("200 OK", "Content-Type: text/html".to_string(), page)
        }
    };
    let length = page.len();
    write!(client, "HTTP/1.1 {status}\r\n{header}\r\nContent-Length: {length}\r\n\r\n{page}")
}

/// Scripts of a website that ask for `URL`.
const ATTACKS: [&str; 21] = [
    "location = 'URL'",
    "location = '/away?URL'",
    "add('iframe', { src: 'URL' })",
    "add('iframe', { src: '/away?URL' })",
    "add('iframe', { sandbox: 'allow-scripts', src: 'URL' })",
    "add('object', { data: 'URL', type: 'text/html' })",
    "add('embed', { src: 'URL', type: 'text/html' })",
    "add('img', { src: 'URL' })",
    "add('img', { src: '/away?URL' })",
    "add('script', { src: 'URL' })",
    "add('link', { rel: 'stylesheet', href: 'URL' })",
    "add('link', { rel: 'prefetch', href: 'URL' })",
    "add('video', { src: 'URL', preload: 'auto' })",
    "fetch('URL', { mode: 'no-cors' }).catch(() => 0), 0",
    "fetch('URL', { mode: 'no-cors', method: 'POST' }).catch(() => 0), 0",
    "fetch('URL', { method: 'PUT' }).catch(() => 0), 0",
    "navigator.sendBeacon('URL')",
    "send('GET')",
    "send('POST')",
    "new EventSource('URL'), 0",
    // The last, since it hides the website.
    "window.open('URL')",
];

/// Held by a test that records: the threads are counted in the whole process.
static RECORDS: Mutex<()> = Mutex::new(());

const TOOLS: &str = "
    window.add = (name, attributes) => {
        const node = document.createElement(name);
        Object.entries(attributes).forEach(([key, value]) => node.setAttribute(key, value));
        document.body.append(node);
        return 0;
    };
    window.send = (method) => {
        add('iframe', { name: 'target' });
        add('form', { method, action: 'URL', target: 'target' });
        if (method === 'GET') {
            const field = document.createElement('input');
            Object.assign(field, { name: 'seconds', value: '1' });
            document.forms[0].append(field);
        }
        document.forms[0].submit();
    };
    document.title";

#[test]
fn no_website_starts_a_recording_or_shows_anything_of_the_inspector() {
    let pool = pool("orders", 2);
    let (server, _) = server_of(&[&pool]);
    let witness = Witness::of(server.addr());
    let here = format!("http://{}", witness.addr);
    let mut browser = Browser::start();
    // Another port, another address of this machine, and another name.
    let (port, address) = (website("127.0.0.1"), website("127.0.0.2"));
    let name = format!("localhost:{}", port.port());
    for site in [port.to_string(), address.to_string(), name] {
        for path in ["/trace?seconds=1", "/"] {
            let url = format!("{here}{path}");
            for attack in ATTACKS {
                // A link to the page may be followed.
                if path == "/"
                    && !["iframe", "object", "img", "fetch"]
                        .iter()
                        .any(|kind| attack.contains(kind))
                {
                    continue;
                }
                let before = witness.seen().len();
                go_to_website(&mut browser, &site);
                browser.eval(&TOOLS.replace("URL", &url));
                let script = attack.replace("URL", &url);
                browser
                    .call("Runtime.evaluate", json!({ "expression": script, "userGesture": true }));
                let start = Instant::now();
                let news = || witness.seen().split_off(before.min(witness.seen().len()));
                while news().is_empty() {
                    assert!(
                        start.elapsed() < Duration::from_secs(20),
                        "{site}: no effect: {attack}"
                    );
                    thread::sleep(Duration::from_millis(5));
                }
                for one in news() {
                    assert_eq!(one.status, 403, "{site}: {attack}: {one:?}");
                }
            }
        }
    }
    let nobody_else = lock(&RECORDS);
    assert_eq!(threads_named("fairpool-record"), 0, "nobody records");
    drop(nobody_else);
    let seen = witness.seen();
    assert!(seen.iter().all(|one| one.status == 403 && !one.asked.starts_with("PUT")), "{seen:#?}");
}

fn go_to_website(browser: &mut Browser, site: &str) {
    browser.call("Page.bringToFront", json!({}));
    browser.go_to(&format!("http://{site}/"));
    let title = "document.readyState === 'complete' ? `${location.host} ${document.title}` : ''";
    browser.eventually("the website", |browser| browser.eval(title) == format!("{site} website"));
}

#[test]
fn a_link_from_a_website_opens_the_page_which_works_and_its_user_can_record() {
    let pool = pool("orders", 2);
    let (server, _) = server_of(&[&pool]);
    let witness = Witness::of(server.addr());
    let mut browser = Browser::start();
    for away in ["", "/away?"] {
        go_to_website(&mut browser, &website("127.0.0.2").to_string());
        browser.eval(&format!("location = '{away}http://{}/', 0", witness.addr));
        browser.eventually("the page is live", |browser| browser.text().contains("live"));
    }

    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("recorded-by-a-user");
    let _ = fs::remove_dir_all(&folder);
    let allow = json!({ "behavior": "allow", "downloadPath": folder });
    browser.call("Page.setDownloadBehavior", allow);
    let words = "document.getElementById('record').textContent";
    assert_eq!(browser.eval(words), "record 5 s for Perfetto");
    let records = lock(&RECORDS);
    browser.eval("document.getElementById('record').click()");
    assert_eq!(browser.eval(words), "recording …");
    eventually("it records", || threads_named("fairpool-record") > 0);
    drop(pool.get().unwrap());
    let file = folder.join("pools.trace.json");
    let start = Instant::now();
    let recorded = loop {
        let text = fs::read_to_string(&file).unwrap_or_default();
        if let Ok(recorded) = serde_json::from_str::<serde_json::Value>(&text) {
            break recorded;
        }
        assert!(start.elapsed() < Duration::from_secs(30), "no file: {:?}", witness.seen());
        thread::sleep(Duration::from_millis(20));
    };
    let rows = recorded["traceEvents"].as_array().unwrap();
    assert!(rows.iter().any(|row| row["cat"] == "hold"), "the get is in it");
    browser.eventually("it can record again", |browser| {
        browser.eval(words) == "record 5 s for Perfetto"
    });
    eventually("its thread has ended", || threads_named("fairpool-record") == 0);
    drop(records);
    let complaints = browser.complaints();
    assert!(complaints.is_empty(), "{complaints:#?}");
}
