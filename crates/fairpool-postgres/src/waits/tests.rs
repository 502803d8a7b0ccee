use std::convert::Infallible;

use super::answer::{Lock, Row};
use super::*;
use crate::ServerSession;

struct Nothing;

impl ManageConnection for Nothing {
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
}

fn pool() -> Pool<Nothing> {
    Pool::builder().max_size(1).build(Nothing).unwrap()
}

#[test]
fn a_connection_that_changes_hands_is_not_taken_for_its_new_holders() {
    let pool = pool();
    let get = || pool.get().unwrap();
    let first = get();
    // Longer than a few ticks of the clock.
    thread::sleep(Duration::from_millis(40));
    let before = pool.holders().remove(0);
    assert!(is_same(&before, &pool.holders()[0]));
    drop(first);
    let again = get();
    assert!(!is_same(&before, &pool.holders()[0]), "it was returned and got again");
    drop(again);
    let _other = pool.get().unwrap();
    let young = pool.holders().remove(0);
    assert_eq!(young.connection_id(), before.connection_id());
    assert!(!is_same(&before, &young), "another line");
}

fn row(pid: i32, blockers: &[i32]) -> Row {
    let session = ServerSession { is_listed: true, ..ServerSession::unlisted(pid) };
    let lock = (!blockers.is_empty()).then(Lock::default);
    Row { session, lock, blockers: blockers.to_vec() }
}

fn lent(backend_id: u32, holder: Option<Holder>) -> Lent<'static> {
    Lent { pool: "orders", backend_id: Some(backend_id), holder }
}

fn report(lent: Vec<Lent<'_>>, rows: Vec<Row>) -> ServerReport {
    ServerReport::join("orders", lent, Answer(rows), Duration::MAX)
}

#[test]
fn what_has_been_returned_meanwhile_is_said_to_be() {
    let pool = pool();
    let _held = pool.get().unwrap();
    let holder = pool.holders().pop();
    let report = report(vec![lent(1, holder), lent(2, None)], vec![row(1, &[2]), row(2, &[])]);
    assert_eq!((report.holders, report.unknown, report.waits.len()), (1, 0, 1));
    let text = report.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
    let held = "held by a connection of pool 'orders', meanwhile returned: backend 2 (";
    assert!(text.contains(held), "{text}");
}

#[test]
fn a_wait_that_has_just_ended_is_none() {
    let mut ended = row(1, &[2]);
    ended.blockers.clear();
    assert!(report(vec![lent(1, None)], vec![ended, row(2, &[])]).waits.is_empty());
}

#[test]
fn chains_lead_to_their_ends_and_circles_to_none() {
    // 1 waits for 2, and that for 3 and 4; 5 and 6 wait for each other, and 7 for both them and 3.
    let rows =
        [(1, &[2][..]), (2, &[3, 4]), (3, &[]), (4, &[]), (5, &[6]), (6, &[5]), (7, &[5, 3])];
    let rows = rows.iter().map(|(pid, blockers)| row(*pid, blockers)).collect();
    let report = report(vec![lent(1, None)], rows);
    let pids =
        |parties: &[Party]| parties.iter().map(|party| party.session.pid).collect::<Vec<_>>();
    let ends: Vec<_> = report
        .waits
        .iter()
        .map(|wait| (wait.waiter.session.pid, wait.behind.clone(), pids(&wait.held_by)))
        .collect();
    let expected = [
        (1, vec![2], vec![3, 4]),
        (2, vec![3, 4], vec![3, 4]),
        (5, vec![6], vec![]),
        (6, vec![5], vec![]),
        (7, vec![3, 5], vec![3]),
    ];
    assert_eq!(ends, expected);
}

/// As many wait for each other in one line as a server may have.
#[test]
fn a_long_line_is_no_long_work_and_no_long_text() {
    let line: Vec<i32> = (1..=1000).collect();
    let rows = (0..1000).map(|n| row(n as i32 + 1, &line[..n])).collect();
    let report = report(Vec::new(), rows);
    assert_eq!(report.waits.len(), 999);
    assert!(report.waits.iter().all(|wait| wait.held_by.len() == 1));
    let text = report.to_string();
    assert!(text.lines().count() < 100 && text.contains("… and 979 more such lines"), "{text}");
}
