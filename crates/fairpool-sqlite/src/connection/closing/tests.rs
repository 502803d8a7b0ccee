use std::thread;
use std::time::Instant;

use super::*;

/// Longer than anything here should take: a watchdog.
const LONG: Duration = Duration::from_secs(30);

fn driver() -> Connection {
    Connection::open_in_memory().unwrap()
}

fn home(limit: Duration, connections: usize) -> Home {
    let home = Home::default();
    home.limit_closes(limit);
    (0..connections).for_each(|_| home.opened());
    home
}

#[test]
fn a_close_that_hangs_holds_the_others_up_once_and_not_each() {
    let (file, home) = (File::default(), home(Duration::from_millis(200), 20));
    let hung = file.turn.lock();
    let started = Instant::now();
    for _ in 0..20 {
        close(driver(), &file, &home, false).unwrap();
    }
    // Half of the limit for the first one, and no time for the others.
    assert!(started.elapsed() >= Duration::from_millis(100));
    assert!(started.elapsed() < LONG, "{:?}", started.elapsed());
    assert!(file.is_stuck.load(Ordering::Relaxed));
    drop(hung);
    close(driver(), &file, &home, false).unwrap();
    assert!(!file.is_stuck.load(Ordering::Relaxed), "closes go in turn again");
}

#[test]
fn a_close_waits_for_its_turn() {
    let (file, home) = (File::default(), home(LONG, 2));
    let turn = file.turn.lock();
    thread::scope(|scope| {
        let closing = scope.spawn(|| close(driver(), &file, &home, false));
        thread::sleep(Duration::from_millis(20));
        assert!(!closing.is_finished());
        drop(turn);
        closing.join().unwrap().unwrap();
    });
    assert_eq!(home.open.load(Ordering::SeqCst), 1);
}

#[test]
fn files_are_told_apart_by_their_path_and_forgotten() {
    let one = File::of("/a");
    assert!(Arc::ptr_eq(&one, &File::of("/a")));
    assert!(!Arc::ptr_eq(&one, &File::of("/b")));
    assert!(!Arc::ptr_eq(&File::of(""), &File::of("")), "no path, no file");
    let weak = Arc::downgrade(&one);
    drop(one);
    assert!(weak.upgrade().is_none());
}
