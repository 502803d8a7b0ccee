use std::thread;
use std::time::Instant;

use super::*;

/// Longer than anything here should take: a watchdog.
const LONG: Duration = Duration::from_secs(30);

fn driver() -> Connection {
    Connection::open_in_memory().unwrap()
}

fn siblings(limit: Duration, connections: usize) -> Siblings {
    let siblings = Siblings::default();
    siblings.limit_closes(limit);
    (0..connections).for_each(|_| siblings.opened());
    siblings
}

#[test]
fn a_close_that_hangs_holds_the_others_up_once_and_not_each() {
    let (turns, siblings) = (CloseTurns::default(), siblings(Duration::from_millis(200), 20));
    let hung = turns.turn.lock();
    let started = Instant::now();
    for _ in 0..20 {
        close(driver(), &turns, &siblings, false).unwrap();
    }
    // Half of the limit for the first one, and no time for the others.
    assert!(started.elapsed() >= Duration::from_millis(100));
    assert!(started.elapsed() < LONG, "{:?}", started.elapsed());
    assert!(turns.is_stuck.load(Ordering::Relaxed));
    drop(hung);
    close(driver(), &turns, &siblings, false).unwrap();
    assert!(!turns.is_stuck.load(Ordering::Relaxed), "closes go in turn again");
}

#[test]
fn a_close_waits_for_its_turn() {
    let (turns, siblings) = (CloseTurns::default(), siblings(LONG, 2));
    let turn = turns.turn.lock();
    thread::scope(|scope| {
        let closing = scope.spawn(|| close(driver(), &turns, &siblings, false));
        thread::sleep(Duration::from_millis(20));
        assert!(!closing.is_finished());
        drop(turn);
        closing.join().unwrap().unwrap();
    });
    assert_eq!(siblings.open.load(Ordering::SeqCst), 1);
}

#[test]
fn each_path_has_turns_of_its_own_which_are_dropped_after_use() {
    let one = CloseTurns::of("/a");
    assert!(Arc::ptr_eq(&one, &CloseTurns::of("/a")));
    assert!(!Arc::ptr_eq(&one, &CloseTurns::of("/b")));
    assert!(!Arc::ptr_eq(&CloseTurns::of(""), &CloseTurns::of("")), "no path, no file");
    let weak = Arc::downgrade(&one);
    drop(one);
    assert!(weak.upgrade().is_none());
    let _other = CloseTurns::of("/c");
    let is_kept = |path| TURNS.lock().as_ref().is_some_and(|all| all.contains_key(path));
    assert!(is_kept("/c") && !is_kept("/a"));
}
