//! A get that waits is a span in its caller's trace; one that does not wait is none.
//!
//! In a process of its own, since it sets the global subscriber.

#![cfg(feature = "tracing")]

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, Once};
use std::thread;
use std::time::{Duration, Instant};

use fairpool::{CancelToken, Pool, PooledConnection};
use fairpool_testing::stub::{Manager, Server, WATCHDOG, builder, eventually, lock, silent_panic};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Subscriber, info_span, subscriber};
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{Layer, Registry};

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

#[derive(Clone, Debug, Default)]
struct Seen {
    name: &'static str,
    target: String,
    parent: Option<&'static str>,
    fields: BTreeMap<&'static str, String>,
    entered: usize,
    exited: usize,
    closed: bool,
}

impl Visit for Seen {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.fields.insert(field.name(), format!("{value:?}"));
    }
}

impl Seen {
    fn field(&self, name: &str) -> &str {
        self.fields.get(name).unwrap_or_else(|| panic!("without {name}: {self:?}"))
    }

    fn number(&self, name: &str) -> u64 {
        self.field(name).parse().unwrap_or_else(|_| panic!("{name} is no number: {self:?}"))
    }
}

/// The calls to a subscriber.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Call {
    New,
    Enter,
    Record,
    Exit,
    Close,
}

/// Records the spans of one test in the order in which they began, and panics on request.
#[derive(Clone, Default)]
struct Recorder(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    spans: Vec<(Id, Seen)>,
    panics_at: Option<Call>,
}

impl Recorder {
    /// Runs `run` with this as the thread's subscriber.
    fn around<R>(&self, run: impl FnOnce() -> R) -> R {
        subscriber::with_default(Registry::default().with(self.clone()), run)
    }

    /// The spans of the pool.
    fn gets(&self) -> Vec<Seen> {
        let all = lock(&self.0);
        all.spans
            .iter()
            .map(|(_, seen)| seen.clone())
            .filter(|seen| seen.name == "fairpool.get")
            .collect()
    }

    fn panic_at(&self, call: Call) {
        lock(&self.0).panics_at = Some(call);
    }

    fn on(&self, call: Call, id: &Id, change: impl FnOnce(&mut Seen)) {
        let mut state = lock(&self.0);
        let State { spans, panics_at } = &mut *state;
        // Ids are reused: the last one counts.
        let Some((_, seen)) = spans.iter_mut().rev().find(|(other, _)| other == id) else { return };
        change(seen);
        if seen.name == "fairpool.get" && *panics_at == Some(call) {
            *panics_at = None;
            drop(state);
            silent_panic();
        }
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Recorder {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let metadata = attributes.metadata();
        let mut seen = Seen {
            name: metadata.name(),
            target: metadata.target().to_string(),
            parent: context.span(id).and_then(|span| Some(span.parent()?.name())),
            ..Seen::default()
        };
        attributes.record(&mut seen);
        lock(&self.0).spans.push((id.clone(), seen));
        self.on(Call::New, id, |_| ());
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, _: Context<'_, S>) {
        self.on(Call::Record, id, |seen| values.record(seen));
    }

    fn on_enter(&self, id: &Id, _: Context<'_, S>) {
        self.on(Call::Enter, id, |seen| seen.entered += 1);
    }

    fn on_exit(&self, id: &Id, _: Context<'_, S>) {
        self.on(Call::Exit, id, |seen| seen.exited += 1);
    }

    fn on_close(&self, id: Id, _: Context<'_, S>) {
        self.on(Call::Close, &id, |seen| seen.closed = true);
    }
}

fn pool() -> Pool<Manager> {
    // `tracing` caches per process whether a span is enabled. A thread without a subscriber
    // that reaches the span first would disable it for all.
    static GLOBAL: Once = Once::new();
    GLOBAL.call_once(|| subscriber::set_global_default(Registry::default()).unwrap());
    let pool = builder(1).name("orders").max_waiters(Some(1)).build(Server::new().manager());
    let pool = pool.unwrap();
    drop(pool.get().unwrap());
    pool
}

/// Returns a connection once a caller waits for it.
fn give_back_later(
    pool: &Pool<Manager>,
    held: PooledConnection<Manager>,
) -> thread::JoinHandle<()> {
    let pool = pool.clone();
    thread::spawn(move || {
        eventually("a caller waits", || pool.stats().waiting == 1);
        thread::sleep(ms(20));
        drop(held);
    })
}

#[test]
fn a_get_that_waits_is_a_span_within_its_callers() {
    let (pool, recorder) = (pool(), Recorder::default());
    let mut events = Vec::new();
    let receiver = pool.subscribe(100).unwrap();
    let held = pool.get().unwrap();
    let id = PooledConnection::info(&held).id;
    let giver = give_back_later(&pool, held);
    let line = recorder.around(|| {
        let _request = info_span!("request").entered();
        let (conn, line) = (pool.request().label("report").priority(3).get().unwrap(), line!());
        assert_eq!(tracing::Span::current().metadata().map(|it| it.name()), Some("request"));
        drop(conn);
        line
    });
    giver.join().unwrap();
    let [get] = &recorder.gets()[..] else { panic!("{:?}", recorder.gets()) };
    assert_eq!((get.target.as_str(), get.parent), ("fairpool", Some("request")));
    assert_eq!((get.entered, get.exited, get.closed), (1, 1, true));
    assert_eq!((get.field("pool"), get.field("label")), ("\"orders\"", "\"report\""));
    assert_eq!((get.number("priority"), get.number("connection_id")), (3, id));
    assert!(get.field("location").starts_with(&format!("{}:{line}:", file!())), "{get:?}");
    assert!(get.number("waited_ms") >= 20, "{get:?}");
    assert_eq!(get.field("outcome"), "\"checked_out\"");

    // The id is the same as in the events.
    let enqueued = loop {
        let event = receiver.recv_timeout(WATCHDOG).unwrap();
        if let fairpool::event::EventKind::Enqueued { get_id, .. } = event.kind {
            break get_id;
        }
        events.push(event);
    };
    assert_eq!(get.number("get_id"), enqueued, "{events:?}");
}

#[test]
fn a_span_keeps_its_fields_on_one_line() {
    let hostile = "a\u{1b}[2J\nb\u{202e}";
    let pool = builder(1).name(hostile).build(Server::new().manager()).unwrap();
    let recorder = Recorder::default();
    let giver = give_back_later(&pool, pool.get().unwrap());
    recorder.around(|| drop(pool.request().label(hostile.to_string()).get().unwrap()));
    giver.join().unwrap();
    let [get] = &recorder.gets()[..] else { panic!("{:?}", recorder.gets()) };
    let plain = format!("{:?}", r"a\u{1b}[2J\nb\u{202e}");
    assert_eq!((get.field("pool"), get.field("label")), (plain.as_str(), plain.as_str()));
}

#[test]
fn a_get_at_once_is_none() {
    let (pool, recorder) = (pool(), Recorder::default());
    recorder.around(|| {
        let conn = pool.get().unwrap();
        // A get that fails without a wait is no span either.
        pool.get_timeout(Duration::ZERO).unwrap_err();
        assert!(pool.try_get().is_none());
        let token = CancelToken::new();
        token.cancel();
        pool.request().cancel(&token).get().unwrap_err();
        drop(conn);
        assert!(pool.close(Instant::now() + WATCHDOG).is_complete());
        pool.get().unwrap_err();
    });
    assert!(recorder.gets().is_empty(), "{:?}", recorder.gets());
}

#[test]
fn the_span_says_how_a_wait_ended() {
    let (pool, recorder) = (pool(), Recorder::default());
    let held = pool.get().unwrap();
    recorder.around(|| pool.get_timeout(ms(20)).map(drop).unwrap_err());
    let token = CancelToken::new();
    thread::scope(|scope| {
        scope.spawn(|| {
            eventually("a caller waits", || pool.stats().waiting == 1);
            token.cancel();
        });
        recorder.around(|| pool.request().cancel(&token).get().map(drop).unwrap_err());
    });
    thread::scope(|scope| {
        scope.spawn(|| {
            eventually("a caller waits", || pool.stats().waiting == 1);
            let _ = pool.close(Instant::now());
        });
        recorder.around(|| pool.get().map(drop).unwrap_err());
    });
    drop(held);
    let gets = recorder.gets();
    let outcomes: Vec<&str> = gets.iter().map(|get| get.field("outcome")).collect();
    assert_eq!(outcomes, ["timeout", "cancelled", "closed"]);
    assert!(gets[0].number("waited_ms") >= 20, "{gets:?}");
    for get in &gets {
        assert!(!get.fields.contains_key("connection_id") && get.parent.is_none(), "{get:?}");
        assert_eq!((get.entered, get.exited, get.closed), (1, 1, true));
    }
}

/// A subscriber is code of the application: whatever it does, neither the connection nor the
/// caller's place in the queue is lost.
#[test]
fn a_subscriber_that_panics_loses_nothing() {
    for call in [Call::New, Call::Enter, Call::Record, Call::Exit, Call::Close] {
        let (pool, recorder) = (pool(), Recorder::default());
        let giver = give_back_later(&pool, pool.get().unwrap());
        recorder.panic_at(call);
        let got = recorder.around(|| pool.get());
        assert!(lock(&recorder.0).panics_at.is_none(), "it did not panic at {call:?}");
        drop(got.unwrap());
        giver.join().unwrap();
        let stats = pool.stats();
        assert_eq!((stats.idle, stats.in_use, stats.waiting), (1, 0, 0), "{call:?}");
        drop(recorder.around(|| pool.get().unwrap()));
    }
}
