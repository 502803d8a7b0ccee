//! P2: threads and tasks in one queue.

use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::thread;
use std::time::Duration;

use fairpool::{Fairness, Pool};
use fairpool_testing::stub::{Manager, Server, builder, lock};
use fairpool_tokio::Interact;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

use crate::support::{await_waiting, joined, ms, poll, runtime, within_a_grant};

type Order = Arc<Mutex<Vec<usize>>>;

enum Caller {
    Thread(thread::JoinHandle<()>),
    Task(JoinHandle<()>),
}

impl Caller {
    /// Threads, tasks that hold guards, and tasks with `interact`, in turns.
    fn start(
        runtime: &Runtime,
        pool: &Pool<Manager>,
        number: usize,
        priority: u8,
        order: &Order,
    ) -> Caller {
        let (pool, order) = (pool.clone(), Arc::clone(order));
        match number % 3 {
            0 => Caller::Thread(thread::spawn(move || {
                let conn = pool.request().priority(priority).get().expect("served");
                lock(&order).push(number);
                drop(conn);
            })),
            1 => Caller::Task(runtime.spawn(async move {
                let conn = pool.request().priority(priority).get_async().await.expect("served");
                lock(&order).push(number);
                drop(conn);
            })),
            _ => Caller::Task(runtime.spawn(async move {
                let request = pool.request().priority(priority);
                request.interact(move |_| lock(&order).push(number)).await.expect("served");
            })),
        }
    }

    fn join(self) {
        match self {
            Caller::Thread(thread) => thread.join().expect("no panic"),
            Caller::Task(task) => joined(task),
        }
    }
}

/// Callers with these priorities come while the connection is held. Returns the order in which
/// they were served; `None` if the machine stopped for so long that a task was polled too late to
/// have what it was granted. That counts as one get more.
fn try_served(fairness: Fairness, priorities: &[u8]) -> Option<Vec<usize>> {
    let server = Server::new();
    let pool = builder(1)
        .fairness(fairness)
        .priority_ageing(Duration::from_secs(60))
        .build(server.manager())
        .unwrap();
    let runtime = runtime();
    let order = Order::default();
    let held = pool.get().unwrap();
    let mut callers = Vec::new();
    for (number, &priority) in priorities.iter().enumerate() {
        callers.push(Caller::start(&runtime, &pool, number, priority, &order));
        await_waiting(&pool, number as u32 + 1);
    }
    thread::sleep(ms(10)); // past the bound
    drop(held);
    callers.into_iter().for_each(Caller::join);
    server.check();
    let order = lock(&order).clone();
    (pool.stats().gets as usize == 1 + priorities.len()).then_some(order)
}

fn served(fairness: Fairness, priorities: &[u8]) -> Vec<usize> {
    let mut attempts = (0..100).filter_map(|_| try_served(fairness, priorities));
    attempts.next().expect("one attempt of a hundred without a stop")
}

#[test]
fn p2_threads_and_tasks_are_served_in_the_order_of_their_arrival() {
    for fairness in [Fairness::default(), Fairness::Strict] {
        for _ in 0..5 {
            let order = served(fairness, &[5; 12]);
            assert!(order.is_sorted(), "{fairness:?}: {order:?}");
        }
    }
}

#[test]
fn p2_smaller_priorities_are_served_first_be_they_of_threads_or_of_tasks() {
    let priorities = [9, 5, 0, 5, 9, 255, 0, 5, 1];
    let mut expected: Vec<usize> = (0..priorities.len()).collect();
    expected.sort_by_key(|&number| priorities[number]);
    for _ in 0..5 {
        assert_eq!(served(Fairness::Strict, &priorities), expected);
    }
}

#[test]
fn p2_no_newcomer_takes_a_connection_past_a_task() {
    // A task may be slow to come: so it is never nudged, but granted its connection.
    let pool = builder(1)
        .fairness(Fairness::Bounded(Duration::from_secs(60)))
        .build(Server::new().manager())
        .unwrap();
    let seen = within_a_grant(|| {
        let held = pool.get().unwrap();
        let mut get = pool.get_async();
        assert!(poll(&mut get).is_pending());
        drop(held);
        let thread_waits = pool.try_get().is_none();
        let task_waits = poll(&mut pool.get_async()).is_pending();
        (thread_waits, task_waits, matches!(poll(&mut get), Poll::Ready(Ok(_))))
    });
    assert_eq!(seen, (true, true, true), "no newcomer is served, and the task is");
}

#[test]
fn p2_no_task_takes_a_connection_past_a_thread_that_has_waited_for_the_bound() {
    let pool = builder(1).fairness(Fairness::Strict).build(Server::new().manager()).unwrap();
    for _ in 0..50 {
        let held = pool.get().unwrap();
        let there = pool.clone();
        let waiter = thread::spawn(move || there.get().map(|conn| (conn, thread::sleep(ms(1)))));
        await_waiting(&pool, 1);
        drop(held);
        assert!(poll(&mut pool.get_async()).is_pending(), "a newcomer took the thread's");
        drop(waiter.join().unwrap().expect("a connection"));
    }
}
