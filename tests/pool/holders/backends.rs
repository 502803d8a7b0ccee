//! The server's number of a connection is shown with whoever holds it.

use std::convert::Infallible;
use std::sync::Mutex;
use std::thread::{self, ThreadId};

use fairpool::event::{AcquireEvent, EventKind};
use fairpool::{HandleEvent, ManageConnection, Pool, PooledConnection};
use fairpool_testing::stub::{WATCHDOG, lock, silent_panic};

use crate::support::ms;

/// Gives its connections these numbers, one after the other.
struct Numbers {
    left: Mutex<Vec<Option<u32>>>,
    asked_on: Mutex<Vec<ThreadId>>,
}

fn numbers(given: &[Option<u32>]) -> Numbers {
    let left = given.iter().rev().copied().collect();
    Numbers { left: Mutex::new(left), asked_on: Mutex::default() }
}

impl ManageConnection for Numbers {
    type Connection = ();
    type Error = Infallible;

    fn connect(&self) -> Result<(), Infallible> {
        Ok(())
    }

    fn is_valid(&self, (): &mut ()) -> Result<(), Infallible> {
        Ok(())
    }

    fn has_broken(&self, (): &mut ()) -> bool {
        false
    }

    fn backend_id(&self, (): &mut ()) -> Option<u32> {
        lock(&self.asked_on).push(thread::current().id());
        let number = lock(&self.left).pop();
        number.unwrap_or_else(|| silent_panic())
    }
}

#[derive(Debug)]
struct Acquired(std::sync::mpsc::Sender<Option<u32>>);

impl HandleEvent for Acquired {
    fn handle_acquire(&self, event: AcquireEvent) {
        self.0.send(event.backend_id()).unwrap();
    }
}

#[test]
fn p9_the_servers_number_of_a_connection_is_shown_with_its_holder() {
    let (acquired, acquired_as) = std::sync::mpsc::channel();
    let pool = Pool::builder()
        .max_size(1)
        .min_idle(Some(0))
        .leak_threshold(Some(ms(1)))
        .event_handler(Box::new(Acquired(acquired)))
        .build(numbers(&[Some(4711)]))
        .unwrap();
    let feed = pool.subscribe(100).unwrap();
    let conn = pool.request().label("a report").get().unwrap();
    assert_eq!(acquired_as.recv_timeout(WATCHDOG), Ok(Some(4711)));
    assert_eq!(PooledConnection::info(&conn).backend_id, Some(4711));

    let snapshot = pool.snapshot();
    assert_eq!(snapshot.holders[0].backend_id(), Some(4711));
    let text = snapshot.holders[0].to_string();
    assert!(text.ends_with(" (backend 4711)"), "{text}");
    let id = PooledConnection::info(&conn).id;
    let row = format!("connection {id}, backend 4711  ");
    assert!(snapshot.to_string().contains(&row), "{snapshot}");
    #[cfg(feature = "serde")]
    {
        let json = serde_json::to_value(&snapshot).unwrap();
        assert_eq!(json["holders"][0]["backend_id"], 4711);
    }

    let error = pool.get_timeout(ms(1)).unwrap_err();
    assert_eq!(error.longest_holder().unwrap().backend_id(), Some(4711));
    assert!(error.to_string().contains("(a report) for "), "{error}");
    assert!(error.to_string().contains("s (backend 4711)"), "{error}");

    let (scene, _) = pool.follow(1).unwrap();
    assert_eq!(scene.connections[0].backend_id, Some(4711));
    let mut seen = Vec::new();
    while seen.len() < 4 {
        let event = feed.recv_timeout(WATCHDOG).expect("an event");
        match event.kind {
            EventKind::Moved { from, to, backend_id, .. } => {
                seen.push((format!("{from} to {to}"), backend_id));
            }
            EventKind::CheckedOut { backend_id, .. } => seen.push(("got".into(), backend_id)),
            EventKind::Leak(holder) => seen.push(("leak".into(), holder.backend_id())),
            _ => {}
        }
    }
    let seen: Vec<_> = seen.iter().map(|(what, id)| (what.as_str(), *id)).collect();
    let expected = [
        ("gone to opening", None),
        ("got", Some(4711)),
        ("opening to busy", Some(4711)),
        ("leak", Some(4711)),
    ];
    assert_eq!(seen, expected);
}

#[test]
fn a_connection_is_asked_for_its_number_once_and_not_by_its_caller() {
    let pool = Pool::builder().max_size(1).min_idle(Some(0)).build(numbers(&[Some(5)])).unwrap();
    for _ in 0..3 {
        let conn = pool.get().unwrap();
        assert_eq!(PooledConnection::info(&conn).backend_id, Some(5));
    }
    let asked_on = lock(&pool.manager().asked_on);
    assert_eq!(asked_on.len(), 1);
    assert_ne!(asked_on[0], thread::current().id(), "a worker connects");
}

#[test]
fn a_number_that_is_not_known_is_not_shown() {
    // None, zero, and a panic.
    for given in [&[None][..], &[Some(0)], &[]] {
        let pool = Pool::builder().max_size(1).min_idle(Some(0)).build(numbers(given)).unwrap();
        let _conn = pool.get().expect("a connection all the same");
        let snapshot = pool.snapshot();
        assert_eq!(snapshot.holders[0].backend_id(), None);
        let text = format!("{snapshot}{}", snapshot.holders[0]);
        assert!(!text.contains("backend "), "{text}");
    }
}
