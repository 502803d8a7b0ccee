//! The inspector's page, seen with a browser.

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use fairpool::Pool;
use fairpool::health::HealthThresholds;
use fairpool_inspect::Server;
use fairpool_servers::browser::Browser;
use fairpool_testing::stub::{self, Gate, Manager, builder};

mod websites;

fn server_of(pools: &[&Pool<Manager>]) -> (Server, String) {
    let watches: Vec<_> = pools.iter().map(|pool| pool.downgrade()).collect();
    let server = fairpool_inspect::serve("127.0.0.1:0", &watches).unwrap();
    let url = format!("http://{}/", server.addr());
    (server, url)
}

fn pool(name: &str, size: u32) -> Pool<Manager> {
    let server = stub::Server::new();
    let mut thresholds = HealthThresholds::default();
    thresholds.waiters_warning = 3;
    thresholds.waiters_critical = 30;
    thresholds.wait_critical = Duration::from_secs(30);
    builder(size)
        .name(name)
        .leak_threshold(Some(Duration::from_secs(2)))
        .connection_timeout(Duration::from_secs(60))
        .health_thresholds(thresholds)
        .build(server.manager())
        .unwrap()
}

/// Ends the load also when the test fails.
struct Over<'a>(&'a AtomicBool, &'a Gate);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
        self.1.open();
    }
}

/// Threads that use the pool all the time; others join them in waves, more than it has
/// connections for.
fn load<'scope>(
    scope: &'scope thread::Scope<'scope, '_>,
    pool: &'scope Pool<Manager>,
    over: &'scope AtomicBool,
    threads: usize,
) {
    let start = Instant::now();
    for number in 0..threads {
        let work = move || {
            while !over.load(Ordering::Relaxed) {
                if number >= 4 && start.elapsed().as_secs() % 19 >= 11 {
                    thread::sleep(Duration::from_millis(20));
                    continue;
                }
                let conn = match number % 3 {
                    0 => pool.request().label("place order").get(),
                    1 => pool.request().label("list orders").get(),
                    _ => pool.request().label("update stock").get(),
                };
                thread::sleep(Duration::from_millis(18 + number as u64));
                drop(conn);
            }
        };
        let name = format!("http-worker-{number}");
        thread::Builder::new().name(name).spawn_scoped(scope, work).unwrap();
    }
}

fn assert_quiet(browser: &mut Browser, url: &str) {
    let complaints = browser.complaints();
    assert!(complaints.is_empty(), "{complaints:#?}");
    let requests = browser.requests();
    assert!(requests.len() >= 3, "{requests:?}");
    let foreign: Vec<_> = requests
        .iter()
        .filter(|asked| !asked.starts_with(url) && !asked.starts_with("data:"))
        .filter(|asked| *asked != "about:blank")
        .collect();
    assert!(foreign.is_empty(), "{foreign:?}");
}

#[test]
fn a_leak_is_on_the_page_with_its_place() {
    let (orders, reports) = (pool("orders", 6), pool("reports", 2));
    let (_server, url) = server_of(&[&orders, &reports]);
    let (over, gate) = (AtomicBool::new(false), Gate::new());
    let mut browser = Browser::start();
    browser.look_like(1120, 1240, false);
    thread::scope(|scope| {
        let _over = Over(&over, &gate);
        load(scope, &orders, &over, 11);
        browser.go_to(&url);
        browser.eventually("it lists holders", |browser| browser.text().contains("place order"));

        let (send, taken) = std::sync::mpsc::channel();
        let (pool, waits) = (&orders, gate.clone());
        let leaker = move || {
            let (leaked, line) = (pool.request().label("nightly export").get(), line!());
            send.send(line).unwrap();
            waits.pass();
            drop(leaked);
        };
        thread::Builder::new().name("exporter".to_string()).spawn_scoped(scope, leaker).unwrap();
        let place = format!("{}:{}:", file!(), taken.recv().unwrap());
        let start = Instant::now();
        browser.eventually("it shows the leak", |browser| browser.text().contains(&place));
        println!("a leak is on the page after {:.2?}", start.elapsed());

        // Long enough for the curves to be something.
        let enough = "document.querySelector('.first').getAttribute('d').split('L').length > 4";
        browser.eventually("it draws", |browser| browser.eval(enough) == true);
        let marked = "document.querySelector('tr.long')?.textContent ?? ''";
        browser.eventually("the leak is marked", |browser| {
            browser.eval(marked).as_str().is_some_and(|row| row.contains(&place))
        });
        browser.eventually("it shows what is wrong", |browser| {
            browser.eval("document.querySelectorAll('.notes li b').length > 0") == true
        });
        let text = browser.text();
        for part in ["orders", "exporter", "nightly export", "http-worker-", "Waiters"] {
            assert!(text.contains(part), "{part} is not in:\n{text}");
        }
        assert_quiet(&mut browser, &url);
        take_picture(&mut browser);
    });
}

#[test]
fn on_a_phone_nothing_sticks_out() {
    let long = "a-name-that-is-much-longer-than-any-phone-is-wide-and-has-no-place-to-break-it";
    let pool = pool(long, 2);
    let (_server, url) = server_of(&[&pool]);
    let (over, gate) = (AtomicBool::new(false), Gate::new());
    let mut browser = Browser::start();
    thread::scope(|scope| {
        let _over = Over(&over, &gate);
        load(scope, &pool, &over, 4);
        for dark in [false, true] {
            browser.look_like(375, 812, dark);
            browser.go_to(&url);
            browser.eventually("it lists waiters", |browser| {
                browser.eval("document.querySelectorAll('tbody tr').length > 2") == true
            });
            let open = "document.querySelectorAll('details').forEach((part) => part.open = true)";
            browser.eval(open);
            let width = "document.documentElement.scrollWidth";
            assert_eq!(browser.eval(width), 375, "dark: {dark}");
            let ground = browser.eval("getComputedStyle(document.body).backgroundColor");
            let expected = if dark { "rgb(16, 19, 23)" } else { "rgb(246, 247, 248)" };
            assert_eq!(ground, expected);
        }
        assert_quiet(&mut browser, &url);
    });
}

#[test]
fn what_comes_from_a_pool_is_text() {
    const EVIL: &str = "<img src=x onerror=\"document.title='owned'\"><b class=evil>";
    let driver = stub::Server::new();
    let pool = builder(1).name(EVIL).build(driver.manager()).unwrap();
    let (_server, url) = server_of(&[&pool]);
    let (gate, over) = (Gate::new(), AtomicBool::new(false));
    let mut browser = Browser::start();
    thread::scope(|scope| {
        let _over = Over(&over, &gate);
        let hold = || {
            let held = pool.request().label(EVIL.to_string()).get();
            gate.pass();
            drop(held);
        };
        thread::Builder::new().name("<i>thread</i>".to_string()).spawn_scoped(scope, hold).unwrap();
        browser.go_to(&url);
        browser
            .eventually("it shows the thread", |browser| browser.text().contains("<i>thread</i>"));
        let text = browser.text();
        assert!(text.matches(EVIL).count() >= 2, "as a name and as a label:\n{text}");
        assert_eq!(browser.eval("document.querySelectorAll('.evil, img, td i').length"), 0);
        assert_eq!(browser.eval("document.title"), "fairpool");
        assert_quiet(&mut browser, &url);
    });
}

#[test]
fn another_pool_can_be_chosen_and_one_may_go() {
    let (orders, reports) = (pool("orders", 2), pool("reports", 7));
    let (_server, url) = server_of(&[&orders, &reports]);
    let mut browser = Browser::start();
    browser.go_to(&url);
    let title = "document.querySelector('h2')?.textContent";
    browser.eventually("it shows the first", |browser| browser.eval(title) == "orders");
    browser.eval("document.querySelectorAll('nav button')[1].click()");
    assert_eq!(browser.eval(title), "reports");
    assert!(browser.text().contains("of 7"), "{}", browser.text());
    drop(reports);
    browser.eventually("it is gone", |browser| {
        browser.text().contains("The pool does not exist any more.")
    });
    browser.eval("document.querySelectorAll('nav button')[0].click()");
    assert!(browser.text().contains("of 2"), "{}", browser.text());
    assert_quiet(&mut browser, &url);
}

/// The service is started again, at the same address: the page stays open.
#[test]
fn the_page_goes_on_with_the_next_server_at_its_address() {
    let (before, after) = (pool("orders", 2), pool("orders", 7));
    let (server, url) = server_of(&[&before]);
    let addr = server.addr();
    let mut browser = Browser::start();
    browser.go_to(&url);
    // The page may not have come yet.
    let sizes = "typeof state === 'undefined' ? '' \
        : JSON.stringify(state.history[0]?.map((sample) => sample.max_size) ?? [])";
    browser.eventually("it has some samples", |browser| {
        browser.eval(sizes).as_str().is_some_and(|sizes| sizes.starts_with("[2,2"))
    });
    server.stop();
    let _server = fairpool_inspect::serve(addr, &[after.downgrade()]).unwrap();
    browser.eventually("it has those of the next server, and no others", |browser| {
        browser.eval(sizes).as_str().is_some_and(|sizes| sizes.starts_with("[7,7"))
    });
}

/// `FAIRPOOL_PICTURE=docs/inspector.png` renews the README's picture.
fn take_picture(browser: &mut Browser) {
    let Some(file) = std::env::var_os("FAIRPOOL_PICTURE") else { return };
    thread::sleep(Duration::from_secs(100));
    if std::env::var_os("FAIRPOOL_DARK").is_some() {
        browser.look_like(1120, 1240, true);
    }
    let mut decode = Command::new("base64")
        .arg("--decode")
        .stdin(Stdio::piped())
        .stdout(std::fs::File::create(file).unwrap())
        .spawn()
        .unwrap();
    let picture = browser.picture();
    std::io::Write::write_all(decode.stdin.as_mut().unwrap(), picture.as_bytes()).unwrap();
    drop(decode.stdin.take());
    assert!(decode.wait().unwrap().success());
}

#[test]
fn what_the_server_says_is_on_the_page_when_it_was_asked_for() {
    let (orders, reports) = (pool("orders", 2), pool("reports", 2));
    let shown = [orders.downgrade(), reports.downgrade()];
    let said = || "worker-3 waits for <img src=x> and <b>worker-9</b>\n".to_string();
    let inspector = fairpool_inspect::Inspector::new().question(&shown[1], said);
    let server = inspector.serve("127.0.0.1:0", &shown).unwrap();
    let url = format!("http://{}/", server.addr());
    let mut browser = Browser::start();
    let hidden = "document.querySelector('.ask')?.hidden";
    browser.go_to(&url);
    browser.eventually("no button for the first pool", |browser| browser.eval(hidden) == true);
    browser.eval("document.querySelectorAll('nav button')[1].click()");
    browser.eventually("a button for the second", |browser| browser.eval(hidden) == false);
    browser.eval("document.querySelector('.ask').click()");
    let text = "worker-3 waits for <img src=x> and <b>worker-9</b>";
    browser.eventually("it says so", |browser| browser.text().contains(text));
    browser.eval("document.querySelectorAll('nav button')[0].click()");
    browser.eventually("the other pool has none", |browser| !browser.text().contains(text));
    assert_quiet(&mut browser, &url);
}
