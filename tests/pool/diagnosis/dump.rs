//! The dump of a snapshot, and the one instant that a snapshot shows.

use super::*;

#[test]
fn the_dump_of_an_exhausted_pool_says_who_holds_and_who_waits() {
    let server = Server::new();
    let pool = pool_of(&server, builder(3).name("orders"));
    let (held, line) = leak(&pool, "importer", 3);
    let callers = Callers::wait(&pool, 2);
    let snapshot = pool.snapshot();
    let dump = snapshot.to_string();
    let wait_line = callers.line;
    let id = snapshot.holders[0].connection_id();
    assert_contains(
        &dump,
        &[
            "pool 'orders' is healthy: 2 waiting, for ",
            "  connections: 3 of 3: 0 idle, 3 in use (0 in a check), 0 opening, 0 closing; 0 aband",
            "  gets: 3 served, 3 of them after a wait; 0 timed out, 0 refused, 0 cancelled",
            "  held (3), longest first:",
            &format!("connection {id}  importer  {HELPERS}:{line}:"),
            "  waiting (2), next first:",
            &format!("  priority 5  caller-0  {HELPERS}:{wait_line}:"),
            &format!("  priority 5  caller-1  {HELPERS}:{wait_line}:"),
        ],
    );
    assert_fits(&dump);
    // The columns of a list are aligned.
    let start = |row: &str| Some(row.split_once("importer")?.0.chars().count());
    let starts: HashSet<usize> = dump.lines().filter_map(start).collect();
    assert_eq!(starts.len(), 1, "{dump}");

    drop(held);
    callers.served();
    let dump = pool.snapshot().to_string();
    assert!(!dump.contains("held (") && !dump.contains("waiting ("), "{dump}");
}

fn assert_fits(dump: &str) {
    assert!(dump.lines().all(|line| line.chars().count() <= 100), "{dump}");
    assert!(dump.lines().count() <= 100, "{dump}");
}

#[test]
fn many_at_one_line_share_a_row_of_the_dump() {
    let pool = pool(40);
    let (held, line) = leak(&pool, "importer", 40);
    let callers = Callers::wait(&pool, 25);
    let dump = pool.snapshot().to_string();
    let wait_line = callers.line;
    assert_contains(
        &dump,
        &[
            "  held (40), longest first:",
            &format!("    × 40 at {HELPERS}:{line}:"),
            "importer, importer and 3",
            "  waiting (25), next first:",
            &format!("    × 25 at {HELPERS}:{wait_line}:"),
            "longest ",
        ],
    );
    assert_fits(&dump);
    drop(held);
    callers.served();
}

#[test]
fn a_long_label_is_cut_where_many_share_a_row() {
    const LABEL: &str = "the nightly report on everything that was ordered, paid, packed, sent, \
                         returned and refunded since the last one was made";
    let pool = pool(20);
    let held: Vec<Guard> = (0..20).map(|_| pool.request().label(LABEL).get().unwrap()).collect();
    let dump = pool.snapshot().to_string();
    assert_contains(&dump, &["    × 20 at ", " (the nightly report on ", "…), longest "]);
    assert_fits(&dump);
    drop(held);
}

#[test]
fn a_dump_of_very_many_lines_is_still_short() {
    let pool = pool(60);
    let one = |number: u32| pool.request().label(format!("job {number}")).get().unwrap();
    // The first thirty twice.
    let held: Vec<Guard> = (0..60).map(|number| one(number % 30)).collect();
    let dump = pool.snapshot().to_string();
    let row = format!("    × 2 at {}:", file!());
    assert_eq!(dump.matches(&row).count(), 20, "{dump}");
    assert_contains(&dump, &["    … and 20 more at 10 other lines"]);
    assert_fits(&dump);
    drop(held);
}

#[test]
fn the_dump_tells_of_driver_calls_and_errors() {
    let (server, gate) = (Server::new(), Gate::new());
    let pool = pool_of(&server, builder(3).max_closers(1).close_timeout(LONG));
    server.on(Op::Close, Does::Hang(gate.clone()));
    let (held, _) = leak(&pool, "user", 2);
    held.into_iter().for_each(PooledConnection::discard);
    gate.await_entered(1);
    server.on(Op::Connect, Does::Fail);
    let callers = Callers::wait(&pool, 1);
    eventually("connecting fails", || pool.snapshot().failing_for.is_some());
    let dump = pool.snapshot().to_string();
    assert_contains(
        &dump,
        &[
            "  last error, ",
            "was refused",
            "  connecting has failed for ",
            "driver calls (",
            "  close of connection ",
            ", waits for a closer",
        ],
    );
    assert_fits(&dump);
    gate.open();
    server.on(Op::Connect, Does::Succeed);
    callers.served();
}

/// Names, labels and errors may contain anything.
const HOSTILE: &str = "\u{1b}[2J\"quoted\"\n\\ <b>ü\u{202e}";

#[test]
fn the_dump_and_the_report_send_nothing_to_the_terminal_that_it_acts_on() {
    let pool = pool_of(&Server::new(), builder(1).name(HOSTILE));
    let held = thread::Builder::new().name("\u{1b}]0;x\u{7}".into());
    let held = held.spawn({
        let pool = pool.clone();
        move || pool.request().label(HOSTILE.to_string()).get().unwrap()
    });
    let held = held.unwrap().join().unwrap();
    let callers = Callers::wait(&pool, 1);
    let dump = pool.snapshot().to_string();
    let report = found(&pool, &[Leak, Queue]).to_string();
    for text in [&dump, &report] {
        let acts = |c: char| c != '\n' && (c.is_control() || c == '\u{202e}');
        assert!(!text.contains(acts), "{text:?}");
        assert_contains(text, &[r"\u{1b}[2J", r"\u{1b}]0;x\u{7}"]);
    }
    drop(held);
    callers.served();
}

#[cfg(feature = "serde")]
mod json {
    use super::*;
    use serde_json::Value;

    fn json_of(snapshot: &Snapshot) -> Value {
        // Through text, as a reader gets it.
        serde_json::from_str(&serde_json::to_string(snapshot).unwrap()).unwrap()
    }

    fn assert_seconds(value: &Value, range: std::ops::Range<f64>) {
        let seconds = value.as_f64().unwrap_or_else(|| panic!("{value} is no number"));
        assert!(range.contains(&seconds), "{seconds}");
    }

    #[test]
    fn a_snapshot_is_json_with_seconds_as_numbers() {
        let server = Server::new();
        let settings = builder(2).name(HOSTILE).leak_threshold(Some(ms(5500)));
        let pool = pool_of(&server, settings);
        let conn = pool.request().label(HOSTILE.to_string()).priority(3).get().unwrap();
        let line = line!() - 1;
        let other = pool.get().unwrap();
        let callers = Callers::wait(&pool, 1);
        let json = json_of(&pool.snapshot());

        assert_eq!(json["pool"], HOSTILE);
        assert_seconds(&json["taken_at"], 1.7e9..1e11);
        assert_seconds(&json["uptime"], 0.0..60.0);
        assert_eq!((&json["paused"], &json["closed"]), (&false.into(), &false.into()));
        assert_eq!(json["settings"]["leak_threshold"], 5.5);
        assert_eq!(json["settings"]["connection_timeout"], 60.0);
        assert_eq!(json["settings"]["max_waiters"], Value::Null);
        assert_eq!(json["settings"]["health_thresholds"]["wait_warning"], 0.1);
        assert_eq!(json["stats"]["in_use"], 2);
        assert_seconds(&json["stats"]["time_waited"], 0.0..60.0);
        assert_eq!(json["stats"]["closed"]["broken"], 0);
        assert_eq!(json["health"]["level"], "healthy");
        assert_seconds(&json["health"]["mean_wait"], 0.0..60.0);
        let holders = json["holders"].as_array().unwrap();
        let mine = holders.iter().find(|holder| holder["label"] == HOSTILE).unwrap();
        assert_eq!(mine["priority"], 3);
        assert_seconds(&mine["held_for"], 0.0..60.0);
        assert!(mine["connection_id"].as_u64().unwrap() > 0);
        let location = mine["location"].as_str().unwrap();
        assert!(location.starts_with(&format!("{}:{line}:", file!())), "{location}");
        assert_eq!(json["waiters"][0]["thread"], "caller-0");
        assert_seconds(&json["waiters"][0]["waited"], 0.0..60.0);
        assert_eq!(json["nested_gets"], Value::Array(Vec::new()));
        assert_eq!((&json["last_error"], &json["failing_for"]), (&Value::Null, &Value::Null));
        drop((conn, other));
        callers.served();
    }

    #[test]
    fn a_diagnosis_is_json_with_its_findings() {
        let pool = pool_of(&Server::new(), builder(1).name(HOSTILE));
        let held = pool.request().label(HOSTILE.to_string()).get().unwrap();
        let line = line!() - 1;
        let callers = Callers::wait(&pool, 1);
        let diagnosis = found(&pool, &[Leak, Queue]);
        let text = serde_json::to_string(&diagnosis).unwrap();
        let json: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(json["pool"], HOSTILE);
        assert_seconds(&json["span"], 0.15..60.0);
        assert_seconds(&json["taken_at"], 1.7e9..1e11);
        let leak = &json["findings"][0];
        assert_eq!((&leak["kind"], &leak["severity"]), (&"leak".into(), &"critical".into()));
        assert!(leak["summary"].as_str().unwrap().contains("nothing comes back"));
        assert!(leak["advice"].as_str().is_some());
        let place = format!("1 connection was got at {}:{line}:", file!());
        assert!(leak["evidence"][0].as_str().unwrap().starts_with(&place), "{leak}");
        assert_eq!(leak["holders"][0]["label"], HOSTILE);
        assert_eq!(json["findings"][1]["kind"], "queue");
        assert_eq!(json["snapshot"]["stats"]["in_use"], 1);
        if cfg!(target_os = "linux") {
            assert!(json["memory"]["resident"].as_u64().unwrap() > 0);
            assert!(json["memory"]["peak"].as_u64().unwrap() > 0);
        }
        drop(held);
        callers.served();
    }

    #[test]
    fn errors_and_driver_calls_are_json_too() {
        let (server, gate) = (Server::new(), Gate::new());
        let pool = pool_of(&server, builder(2).max_closers(1));
        server.on(Op::Close, Does::Hang(gate.clone()));
        PooledConnection::discard(pool.get().unwrap());
        gate.await_entered(1);
        server.on(Op::Connect, Does::Fail);
        let callers = Callers::wait(&pool, 1);
        eventually("connecting fails", || pool.snapshot().last_error.is_some());
        let json = json_of(&pool.snapshot());
        let calls = json["calls"].as_array().unwrap();
        let close = calls.iter().find(|call| call["kind"] == "close").unwrap();
        assert_seconds(&close["running_for"], 0.0..60.0);
        assert_eq!((&close["queued"], &close["abandoned"]), (&false.into(), &false.into()));
        assert!(json["last_error"]["text"].as_str().unwrap().contains("was refused"));
        assert_seconds(&json["last_error"]["age"], 0.0..60.0);
        assert_seconds(&json["failing_for"], 0.0..60.0);
        gate.open();
        server.on(Op::Connect, Does::Succeed);
        callers.served();
    }
}

/// The lists agree with the counts and are in their documented order.
fn assert_consistent(snapshot: &Snapshot) {
    let stats = &snapshot.stats;
    assert_eq!(snapshot.holders.len() as u32 + stats.checking, stats.in_use, "{snapshot:?}");
    assert_eq!(snapshot.waiters.len() as u32, stats.waiting, "{snapshot:?}");
    assert_eq!(stats.open, stats.idle + stats.in_use, "{snapshot:?}");
    assert_eq!(snapshot.health.waiting, stats.waiting, "{snapshot:?}");
    assert!(stats.open + stats.opening + stats.closing <= stats.max_size, "{snapshot:?}");
    let calls = stats.opening + stats.checking + stats.closing + stats.abandoned;
    assert_eq!(snapshot.calls.len() as u32, calls, "{snapshot:?}");

    let waiting: HashSet<u64> = snapshot.waiters.iter().map(|waiter| waiter.get_id()).collect();
    assert_eq!(waiting.len(), snapshot.waiters.len(), "{snapshot:?}");
    let held: HashSet<u64> = snapshot.holders.iter().map(|holder| holder.connection_id()).collect();
    assert_eq!(held.len(), snapshot.holders.len(), "{snapshot:?}");
    let sorted = snapshot.holders.is_sorted_by(|a, b| a.held_for() >= b.held_for());
    assert!(sorted, "{snapshot:?}");
    // By priority and age: each level counts as a second, here far more than any wait.
    let in_order = snapshot.waiters.is_sorted_by_key(|waiter| (waiter.priority(), waiter.get_id()));
    assert!(in_order, "{snapshot:?}");
    // Callers read the clock before they join the queue, so that the first of a priority
    // may be some microseconds younger than the next.
    let oldest = snapshot.health.oldest_wait;
    let is_one_of_them = snapshot.waiters.iter().any(|waiter| waiter.waited() == oldest);
    assert!(is_one_of_them || snapshot.waiters.is_empty() && oldest.is_zero(), "{snapshot:?}");
}

/// What a thread does with the pool; `number` selects it.
fn use_pool(pool: &Pool<Manager>, number: u64) {
    let request = pool.request().priority([4, 5, 6][(number % 3) as usize]).label("hammer");
    let got = request.timeout(Duration::from_micros(number % 3000)).get();
    let Ok(conn) = got else { return };
    let _: &Conn = &conn;
    match number % 11 {
        0 => PooledConnection::discard(conn),
        1 => thread::sleep(Duration::from_micros(300)),
        2 => drop(pool.try_get()),
        _ => {}
    }
}

#[test]
fn each_of_many_snapshots_of_a_busy_pool_is_consistent() {
    let server = Server::new();
    let settings = builder(4).test_on_check_out(true).priority_ageing(Duration::from_secs(30));
    let pool = pool_of(&server, settings);
    let (stop, seen) = (Arc::new(AtomicBool::new(false)), AtomicUsize::new(0));
    thread::scope(|scope| {
        for thread in 0..12_u64 {
            let (pool, stop) = (&pool, &stop);
            scope.spawn(move || {
                let mut number = thread + 1;
                while !stop.load(Ordering::Relaxed) {
                    // Numerical Recipes' generator; the upper bits are the better ones.
                    number = number
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(1_442_695_040_888_963_407);
                    use_pool(pool, number >> 33);
                }
            });
        }
        let looks = scope.spawn(|| {
            let enough = |seen: usize| seen >= 300;
            let start = Instant::now();
            let (mut with_waiters, mut with_holders) = (0, 0);
            while !(enough(with_waiters) && enough(with_holders)) {
                assert!(start.elapsed() < WATCHDOG, "{with_waiters} and {with_holders} seen");
                let snapshot = pool.snapshot();
                assert_consistent(&snapshot);
                with_waiters += usize::from(snapshot.waiters.len() > 1);
                with_holders += usize::from(snapshot.holders.len() > 1);
                seen.fetch_add(1, Ordering::Relaxed);
            }
        });
        let result = looks.join();
        stop.store(true, Ordering::Relaxed);
        result.unwrap();
    });
    assert!(seen.load(Ordering::Relaxed) >= 300);
    eventually("all is back", || pool.snapshot().holders.is_empty());
    assert_consistent(&pool.snapshot());
    server.check();
}
