//! A trace is a file that its viewers can read, and shows what happened.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

use fairpool::event::EventKind;
use fairpool::health::HealthThresholds;
use fairpool::{CancelToken, ErrorKind, Pool, PooledConnection};
use fairpool_testing::stub::{
    Does, Gate, Manager, Op, Server, WATCHDOG, builder, eventually, threads_named, watched,
};
use fairpool_trace::{Recorder, StartError, Trace, record};
use serde_json::Value;

fn pool(size: u32) -> Pool<Manager> {
    builder(size).name("orders").build(Server::new().manager()).unwrap()
}

/// A file that was read back, and found to be in order.
struct File {
    events: Vec<Value>,
    /// By number.
    lanes: BTreeMap<u64, String>,
    processes: BTreeMap<u64, String>,
}

/// Nanoseconds of a number of microseconds.
fn nanos(value: &Value) -> i64 {
    (value.as_f64().expect("a number") * 1000.0).round() as i64
}

impl File {
    fn of(trace: &Trace) -> File {
        let mut text = Vec::new();
        trace.write(&mut text).unwrap();
        let whole: Value = serde_json::from_slice(&text).expect("JSON");
        let events = whole["traceEvents"].as_array().expect("a list of events").clone();
        let names = |what: &str, number: &str| {
            let named = events.iter().filter(|event| event["name"] == what);
            let entry = |event: &Value| {
                let name = event["args"]["name"].as_str().expect("a name").to_string();
                (event[number].as_u64().expect("a number"), name)
            };
            named.map(entry).collect()
        };
        let (lanes, processes) = (names("thread_name", "tid"), names("process_name", "pid"));
        let file = File { events, lanes, processes };
        file.check_form();
        file.check_nesting();
        file.check_arrows();
        file
    }

    /// What "Trace Event Format" asks of each kind of event.
    fn check_form(&self) {
        for event in &self.events {
            let ph = event["ph"].as_str().unwrap_or_else(|| panic!("no ph: {event}"));
            assert!(event["name"].is_string(), "{event}");
            assert!(event["pid"].is_u64() && event["tid"].is_u64(), "{event}");
            assert!(event["ts"].as_f64().is_some_and(|ts| ts >= 0.0), "{event}");
            assert!(self.processes.contains_key(&event["pid"].as_u64().unwrap()), "{event}");
            assert_eq!(event["dur"].is_number(), ph == "X", "{event}");
            let lane = event["tid"].as_u64().unwrap();
            match ph {
                "X" => assert!(event["dur"].as_f64().unwrap() >= 0.0, "{event}"),
                "i" => assert_eq!(event["s"], "t", "{event}"),
                "s" | "f" => assert!(event["id"].is_u64() && event["cat"].is_string(), "{event}"),
                "C" => assert!(event["args"].as_object().unwrap().values().all(Value::is_u64)),
                "M" => assert!(event["args"].is_object(), "{event}"),
                _ => panic!("an unknown kind: {event}"),
            }
            if ph == "f" {
                assert_eq!(event["bp"], "e", "{event}");
            }
            if ["X", "i", "s", "f"].contains(&ph) {
                assert!(self.lanes.contains_key(&lane), "a lane without a name: {event}");
            }
        }
    }

    /// Two slices on one lane never overlap partly.
    fn check_nesting(&self) {
        for lane in self.lanes.keys() {
            let mut slices: Vec<_> = self
                .slices()
                .filter(|slice| slice["tid"].as_u64() == Some(*lane))
                .map(|slice| (begin(slice), std::cmp::Reverse(end(slice))))
                .collect();
            slices.sort_unstable();
            let mut open: Vec<i64> = Vec::new();
            for (begin, std::cmp::Reverse(end)) in slices {
                open.retain(|&other| other > begin);
                assert!(open.iter().all(|&other| end <= other), "{begin} {end} in {open:?}");
                open.push(end);
            }
        }
    }

    /// Each begins inside a slice of a hold and ends where one begins, not earlier.
    fn check_arrows(&self) {
        for (from, to) in self.arrows() {
            let holds = |at: &Value| {
                let lane = at["tid"].clone();
                self.slices().filter(move |slice| slice["cat"] == "hold" && slice["tid"] == lane)
            };
            assert!(nanos(&from["ts"]) <= nanos(&to["ts"]), "{from} {to}");
            let (left, come) = (nanos(&from["ts"]), nanos(&to["ts"]));
            assert!(
                holds(from).any(|hold| begin(hold) <= left && left <= end(hold)),
                "from nowhere: {from}"
            );
            assert!(holds(to).any(|hold| begin(hold) == come), "to nowhere: {to}");
        }
    }

    fn arrows(&self) -> Vec<(&Value, &Value)> {
        let ends = |ph: &'static str| self.events.iter().filter(move |event| event["ph"] == ph);
        assert_eq!(ends("s").count(), ends("f").count());
        let arrow = |from: &'_ Value| {
            let mut to = ends("f").filter(|to| to["id"] == from["id"]);
            let pair = to.next().unwrap_or_else(|| panic!("without an end: {from}"));
            assert!(to.next().is_none(), "two ends: {from}");
            pair
        };
        ends("s").map(|from| (from, arrow(from))).collect()
    }

    fn slices(&self) -> impl Iterator<Item = &Value> {
        self.events.iter().filter(|event| event["ph"] == "X")
    }

    fn marks(&self) -> impl Iterator<Item = &Value> {
        self.events.iter().filter(|event| event["ph"] == "i")
    }

    fn lane(&self, event: &Value) -> &str {
        &self.lanes[&event["tid"].as_u64().unwrap()]
    }

    /// The slices of this kind on lanes of this name, in order.
    fn on(&self, lane: &str, cat: &str) -> Vec<&Value> {
        let mut found: Vec<_> =
            self.slices().filter(|slice| slice["cat"] == cat && self.lane(slice) == lane).collect();
        found.sort_by_key(|slice| (begin(slice), end(slice)));
        found
    }

    #[track_caller]
    fn mark(&self, name: &str) -> &Value {
        let found = self.marks().find(|mark| mark["name"] == name);
        let names = || self.marks().map(|mark| mark["name"].to_string()).collect::<Vec<_>>();
        found.unwrap_or_else(|| panic!("no mark {name:?} among {:?}", names()))
    }

    fn counter(&self, name: &str) -> Vec<u64> {
        let mut points: Vec<_> = self
            .events
            .iter()
            .filter(|event| event["ph"] == "C" && event["name"] == name)
            .map(|event| (nanos(&event["ts"]), event["args"][name].as_u64().unwrap()))
            .collect();
        points.sort_unstable();
        points.into_iter().map(|point| point.1).collect()
    }
}

fn begin(slice: &Value) -> i64 {
    nanos(&slice["ts"])
}

fn end(slice: &Value) -> i64 {
    begin(slice) + nanos(&slice["dur"])
}

/// Opens the gate also when the test fails: a thread waits there.
struct OpenInTheEnd<'a>(&'a Gate);

impl Drop for OpenInTheEnd<'_> {
    fn drop(&mut self) {
        self.0.open();
    }
}

/// A thread with a name that holds a connection until the test lets it go.
fn holder<'scope>(
    scope: &'scope thread::Scope<'scope, '_>,
    name: &str,
    pool: &'scope Pool<Manager>,
    gate: &Gate,
) {
    let gate = gate.clone();
    let body = move || {
        let conn = pool.request().label("a label".to_string()).get().expect("a connection");
        gate.pass();
        drop(conn);
    };
    thread::Builder::new().name(name.to_string()).spawn_scoped(scope, body).expect("a thread");
}

#[test]
fn each_thread_and_each_connection_has_a_lane() {
    const ROUNDS: usize = 50;
    let pool = pool(2);
    let recorder = Recorder::start(&[pool.downgrade()]).unwrap();
    let together = Barrier::new(5);
    thread::scope(|scope| {
        for number in 0..5 {
            let (pool, together) = (&pool, &together);
            let body = move || {
                together.wait();
                for _ in 0..ROUNDS {
                    let conn = pool.get().unwrap();
                    thread::yield_now();
                    drop(conn);
                }
            };
            let name = format!("worker-{number}");
            thread::Builder::new().name(name).spawn_scoped(scope, body).unwrap();
        }
    });
    let file = File::of(&recorder.stop());
    assert_eq!(file.processes.values().collect::<Vec<_>>(), ["orders"]);
    for number in 0..5 {
        let holds = file.on(&format!("worker-{number}"), "hold");
        assert_eq!(holds.len(), ROUNDS);
        let args = &holds[0]["args"];
        assert!(
            args["location"].as_str().unwrap().starts_with("crates/fairpool-trace/tests/trace.rs:"),
            "{args}"
        );
        assert!(args["waited"].is_string(), "{args}");
    }
    let busy: usize = (0..2)
        .map(|slot| file.on(&format!("connection slot {slot}"), "connection"))
        .map(|states| states.iter().filter(|state| state["name"] == "busy").count())
        .sum();
    assert_eq!(busy, 5 * ROUNDS);
    let waits = file.slices().filter(|slice| slice["cat"] == "wait").count();
    assert_eq!(waits as u64, pool.stats().gets_waited);
    // A return woke each waiter, except two for which connections were opened.
    assert!(file.arrows().len() + 2 >= waits, "{} of {waits}", file.arrows().len());

    let (waiting, in_use) = (file.counter("waiting"), file.counter("in use"));
    assert_eq!((waiting.last(), in_use.last()), (Some(&0), Some(&0)));
    assert!(in_use.iter().all(|&count| count <= 2), "{in_use:?}");
    assert!(waiting.iter().all(|&count| count <= 5), "{waiting:?}");
}

#[test]
fn tasks_that_wait_at_once_are_drawn_side_by_side() {
    let pool = pool(1);
    let held = pool.get().unwrap();
    let recorder = Recorder::start(&[pool.downgrade()]).unwrap();
    let mut context = Context::from_waker(Waker::noop());
    let mut gets = [pool.get_async(), pool.get_async()];
    for get in &mut gets {
        assert!(Pin::new(get).poll(&mut context).is_pending());
    }
    drop(held);
    for get in &mut gets {
        let Poll::Ready(got) = Pin::new(get).poll(&mut context) else { panic!("it waits") };
        drop(got.unwrap());
    }
    let file = File::of(&recorder.stop());
    let of = |cat: &str| {
        let all = file.slices().filter(|slice| slice["cat"] == cat);
        let mut lanes: Vec<_> = all.map(|slice| file.lane(slice)).collect();
        lanes.retain(|lane| *lane == "task" || lane.starts_with("task ("));
        lanes.sort_unstable();
        lanes
    };
    assert_eq!(of("wait"), ["task", "task (2)"]);
    assert_eq!(of("hold").len(), 2);
}

#[test]
fn an_arrow_leads_from_the_return_to_the_one_who_waited() {
    let pool = pool(1);
    let (first, second) = (Gate::new(), Gate::new());
    second.open();
    let recorder = Recorder::start(&[pool.downgrade()]).unwrap();
    thread::scope(|scope| {
        holder(scope, "giver", &pool, &first);
        first.await_entered(1);
        holder(scope, "taker", &pool, &second);
        eventually("it waits", || pool.stats().waiting == 1);
        first.open();
    });
    let file = File::of(&recorder.stop());
    let (waits, gave) = (file.on("taker", "wait"), file.on("giver", "hold"));
    let took = file.on("taker", "hold");
    assert_eq!((waits.len(), gave.len(), took.len()), (1, 1, 1));
    assert_eq!(waits[0]["args"]["result"], "checked_out");
    assert_eq!(waits[0]["args"]["label"], "a label");
    assert_eq!(end(waits[0]), begin(took[0]));
    let arrows = file.arrows();
    let [(from, to)] = arrows[..] else { panic!("{arrows:?}") };
    assert_eq!((file.lane(from), file.lane(to)), ("giver", "taker"));
    assert!((end(gave[0]) - nanos(&from["ts"])).abs() <= 1, "{from} {gave:?}");
    assert_eq!(nanos(&to["ts"]), begin(took[0]));
    assert_eq!(gave[0]["name"], took[0]["name"], "the same connection");
}

#[test]
fn what_begins_before_the_trace_or_ends_after_it_is_there() {
    let pool = pool(1);
    let (gate, later) = (Gate::new(), Gate::new());
    later.open();
    thread::scope(|scope| {
        let _open = OpenInTheEnd(&gate);
        holder(scope, "holder", &pool, &gate);
        gate.await_entered(1);
        holder(scope, "waiter", &pool, &later);
        eventually("it waits", || pool.stats().waiting == 1);
        let trace = record(&[pool.downgrade()], Duration::from_millis(20)).unwrap();
        let file = File::of(&trace);
        for (lane, cat) in
            [("holder", "hold"), ("waiter", "wait"), ("connection slot 0", "connection")]
        {
            let slices = file.on(lane, cat);
            assert_eq!(slices.len(), 1, "{lane}");
            let args = &slices[0]["args"];
            assert_eq!(args["end"], "after the end of the trace", "{args}");
            assert!(args["before the trace"].is_string(), "{args}");
            assert_eq!(begin(slices[0]), 0);
            assert!(end(slices[0]) >= 20_000_000, "{}", slices[0]);
        }
        assert_eq!(file.counter("waiting"), [1]);
        assert_eq!(file.counter("in use"), [1]);
    });
}

#[test]
fn holds_that_overlap_have_lanes_of_their_own() {
    let pool = pool(2);
    let recorder = Recorder::start(&[pool.downgrade()]).unwrap();
    let body = || {
        let first = pool.get().unwrap();
        let second = pool.get().unwrap();
        drop(first);
        drop(second);
    };
    thread::scope(|scope| {
        thread::Builder::new().name("both".to_string()).spawn_scoped(scope, body).unwrap();
    });
    let file = File::of(&recorder.stop());
    assert_eq!(file.on("both", "hold").len() + file.on("both (2)", "hold").len(), 2);
    assert_eq!(file.on("both (2)", "hold").len(), 1);
}

#[test]
fn threads_of_one_name_have_lanes_of_their_own() {
    let pool = pool(2);
    let gate = Gate::new();
    let recorder = Recorder::start(&[pool.downgrade()]).unwrap();
    thread::scope(|scope| {
        holder(scope, "twin", &pool, &gate);
        holder(scope, "twin", &pool, &gate);
        gate.await_entered(2);
        gate.open();
    });
    let file = File::of(&recorder.stop());
    let holds = file.on("twin", "hold");
    assert_eq!(holds.len(), 2);
    assert_ne!(holds[0]["tid"], holds[1]["tid"]);
}

#[test]
fn a_connections_end_has_its_reason() {
    let pool = pool(1);
    let recorder = Recorder::start(&[pool.downgrade()]).unwrap();
    PooledConnection::discard(pool.get().unwrap());
    eventually("it is closed", || pool.stats().closing == 0);
    let file = File::of(&recorder.stop());
    let states: Vec<_> = file.on("connection slot 0", "connection");
    let names: Vec<_> = states.iter().map(|state| state["name"].as_str().unwrap()).collect();
    assert_eq!(names[0], "opening");
    assert!(names.contains(&"busy") && names.contains(&"retired: broken"), "{names:?}");
    assert_eq!(*names.last().unwrap(), "closing");
    assert!(states.last().unwrap()["args"].get("end").is_none(), "it has ended");
}

#[test]
fn leaks_timeouts_and_health_leave_marks() {
    let mut thresholds = HealthThresholds::default();
    thresholds.waiters_warning = 1;
    thresholds.calm_for = Duration::ZERO;
    let pool = builder(1)
        .name("orders")
        .leak_threshold(Some(Duration::from_millis(20)))
        .health_thresholds(thresholds)
        .max_waiters(Some(1))
        .build(Server::new().manager())
        .unwrap();
    let events = pool.subscribe(1000).unwrap();
    let recorder = Recorder::start(&[pool.downgrade()]).unwrap();
    let gate = Gate::new();
    let token = CancelToken::new();
    thread::scope(|scope| {
        let _open = OpenInTheEnd(&gate);
        holder(scope, "leaker", &pool, &gate);
        gate.await_entered(1);
        let waiter = scope.spawn(|| pool.request().cancel(&token).get().unwrap_err().kind());
        eventually("it waits", || pool.stats().waiting == 1);
        let refused = pool.get().unwrap_err();
        assert!(refused.is_queue_full());
        assert!(!pool.health().is_healthy());
        eventually("the leak is noticed", || pool.stats().leaks == 1);
        token.cancel();
        assert_eq!(waiter.join().unwrap(), ErrorKind::Cancelled);
        let error = pool.get_timeout(Duration::from_millis(1)).unwrap_err();
        assert!(error.is_timeout());
        eventually("subscribers know of the leak", || {
            events.try_iter().any(|event| matches!(event.kind, EventKind::Leak(_)))
        });
    });
    let file = File::of(&recorder.stop());
    assert_eq!(file.lane(file.mark("leak")), "leaker");
    assert_eq!(file.mark("leak")["args"]["label"], "a label");
    assert_eq!(file.lane(file.mark("health: warning")), "pool");
    file.mark("cancelled");
    file.mark("timeout");
    file.mark("queue_full");
}

#[test]
fn outages_and_abandoned_calls_leave_marks() {
    let server = Server::new();
    let hang = Gate::new();
    server.next(Op::Connect, Does::Hang(hang.clone()));
    server.next(Op::Connect, Does::Fail);
    let pool = builder(1)
        .name("orders")
        .open_timeout(Duration::from_millis(20))
        .build(server.manager())
        .unwrap();
    let recorder = Recorder::start(&[pool.downgrade()]).unwrap();
    let events = pool.subscribe(1000).unwrap();
    drop(pool.get_timeout(WATCHDOG).unwrap());
    eventually("the outage has ended", || {
        events.try_iter().any(|event| matches!(event.kind, EventKind::OutageEnded { .. }))
    });
    let file = File::of(&recorder.stop());
    for name in ["connect abandoned", "connecting fails", "connecting succeeds again"] {
        assert_eq!(file.lane(file.mark(name)), "pool", "{name}");
    }
    hang.open();
}

#[test]
fn lost_events_are_shown_with_their_number() {
    let pool = pool(1);
    let events = pool.subscribe(4).unwrap();
    let mut expected = 0;
    let mut trace = Trace::new();
    for _ in 0..2 {
        let before = pool.stats().events_lost;
        for _ in 0..50 {
            drop(pool.get().unwrap());
        }
        eventually("some are lost", || pool.stats().events_lost > before);
        for event in events.try_iter() {
            expected += event.lost_before;
            trace.add(&event);
        }
    }
    assert!(expected > 0);
    let file = File::of(&trace);
    let lost: u64 = file.marks().filter_map(|mark| mark["args"]["lost"].as_u64()).sum();
    assert_eq!(lost, expected);
    assert!(file.marks().any(|mark| mark["name"].as_str().unwrap().ends_with("events lost")));
}

#[test]
fn a_trace_forgets_the_oldest_but_not_what_lasts() {
    let pool = pool(2);
    let gate = Gate::new();
    let recorder = Recorder::start_with(&[pool.downgrade()], Trace::with_limit(60)).unwrap();
    thread::scope(|scope| {
        let _open = OpenInTheEnd(&gate);
        holder(scope, "leaker", &pool, &gate);
        gate.await_entered(1);
        for _ in 0..500 {
            drop(pool.get().unwrap());
        }
        let trace = recorder.stop();
        assert!(trace.forgotten() > 900, "{trace:?}");
        let file = File::of(&trace);
        assert!(file.slices().count() <= 60 + 3);
        assert_eq!(file.on("leaker", "hold").len(), 1);
        let mark = file.mark("earlier slices were forgotten");
        assert_eq!(mark["args"]["forgotten"], trace.forgotten());
        assert!(file.counter("in use").iter().all(|&count| count == 1 || count == 2));
    });
}

#[test]
fn pools_of_one_name_are_processes_of_their_own() {
    let (one, other) = (pool(1), pool(1));
    let recorder = Recorder::start(&[one.downgrade(), other.downgrade()]).unwrap();
    drop(one.get().unwrap());
    drop(other.get().unwrap());
    let file = File::of(&recorder.stop());
    assert_eq!(file.processes.values().collect::<Vec<_>>(), ["orders", "orders"]);
    let holds: Vec<_> = file.slices().filter(|slice| slice["cat"] == "hold").collect();
    assert_eq!(holds.len(), 2);
    assert_ne!(holds[0]["pid"], holds[1]["pid"]);
}

#[test]
fn names_are_text_whatever_they_contain() {
    let name = "\"<b>\\ \u{1}ü\u{2028}";
    let pool = builder(1).name(name).build(Server::new().manager()).unwrap();
    let recorder = Recorder::start(&[pool.downgrade()]).unwrap();
    thread::scope(|scope| {
        let body = || drop(pool.get().unwrap());
        thread::Builder::new().name(name.to_string()).spawn_scoped(scope, body).unwrap();
    });
    let file = File::of(&recorder.stop());
    assert_eq!(file.processes.values().collect::<Vec<_>>(), [name]);
    assert_eq!(file.on(name, "hold").len(), 1);
}

#[test]
fn a_pool_may_go_while_it_is_recorded() {
    let pool = pool(1);
    let recorder = Recorder::start(&[pool.downgrade()]).unwrap();
    drop(pool.get().unwrap());
    let watch = pool.downgrade();
    assert!(pool.close(Instant::now() + WATCHDOG).is_complete());
    drop(pool);
    eventually("it is gone", || watch.stats().is_none());
    let file = File::of(&recorder.stop());
    let states = file.on("connection slot 0", "connection");
    assert_eq!(states.last().unwrap()["name"], "closing");

    // Of one that is gone from the start, there is nothing to say.
    let trace = record(&[watch], Duration::ZERO).unwrap();
    assert_eq!(File::of(&trace).slices().count(), 0);
}

#[test]
fn a_list_without_pools_is_refused() {
    let error = Recorder::start(&[]).unwrap_err();
    assert!(matches!(error, StartError::NoPools), "{error:?}");
    assert_eq!(error.to_string(), "trace: there is no pool to record");
}

/// Ends a load also when the test fails.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn stop_ends_under_a_load_that_never_pauses() {
    let pool = pool(2);
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let _over = Over(&over);
        for _ in 0..3 {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    drop(pool.get().unwrap());
                }
            });
        }
        let trace = Trace::with_limit(1000);
        let recorder = Recorder::start_with(&[pool.downgrade()], trace).unwrap();
        let gets = pool.stats().gets;
        eventually("there is a load", || pool.stats().gets > gets + 10_000);
        let trace = watched("the stop", || recorder.stop());
        assert!(File::of(&trace).slices().any(|slice| slice["cat"] == "hold"));
    });
}

#[test]
fn a_dropped_recorder_ends_its_thread_and_its_subscription() {
    let pool = pool(1);
    // The system keeps 15 bytes of a name. Recorders of other tests may run, too.
    let threads = || threads_named("fairpool-record");
    let recorders: Vec<_> =
        (0..20).map(|_| Recorder::start(&[pool.downgrade()]).unwrap()).collect();
    eventually("they record", || threads() >= 20);
    drop(recorders);
    eventually("their threads end", || threads() < 10);
    // Nothing is delivered any more, so nothing can be lost.
    let lost = pool.stats().events_lost;
    (0..100_000).for_each(|_| drop(pool.get().unwrap()));
    assert_eq!(pool.stats().events_lost, lost);
}

/// A server's number for each connection.
struct Numbered;

impl fairpool::ManageConnection for Numbered {
    type Connection = ();
    type Error = std::convert::Infallible;

    fn connect(&self) -> Result<(), Self::Error> {
        Ok(())
    }

    fn is_valid(&self, (): &mut ()) -> Result<(), Self::Error> {
        Ok(())
    }

    fn has_broken(&self, (): &mut ()) -> bool {
        false
    }

    fn backend_id(&self, (): &mut ()) -> Option<u32> {
        Some(4711)
    }
}

#[test]
fn holds_and_states_have_the_servers_number_of_the_connection() {
    let builder = Pool::builder().max_size(1).min_idle(Some(0));
    let pool = builder.leak_threshold(Some(Duration::from_millis(1))).build(Numbered).unwrap();
    let recorder = Recorder::start(&[pool.downgrade()]).unwrap();
    let held = pool.get().unwrap();
    let snapshot = pool.snapshot();
    assert_eq!(snapshot.holders[0].backend_id(), Some(4711));
    eventually("it is a leak", || pool.stats().leaks == 1);
    drop(held);
    // What the connection is when the recording begins is known as well.
    let again = Recorder::start(&[pool.downgrade()]).unwrap();
    drop(pool.get().unwrap());
    for (file, opens) in [(File::of(&again.stop()), false), (File::of(&recorder.stop()), true)] {
        let of = |name: &str| {
            let mut slices = file.slices().filter(|slice| slice["name"] == name);
            slices.next().map(|slice| slice["args"]["backend"].clone())
        };
        let hold = file.slices().find(|slice| slice["cat"] == "hold").expect("a hold");
        assert_eq!(hold["args"]["backend"], 4711);
        assert_eq!((of("busy"), of("idle")), (Some(4711.into()), Some(4711.into())));
        assert_eq!(of("opening").is_some(), opens);
        if opens {
            assert_eq!(file.mark("leak")["args"]["backend"], 4711);
        }
    }
}
