//! Mistakes of users, runtimes that end, and systems without threads.

use std::error::Error as _;
use std::panic::{self, AssertUnwindSafe};
use std::task::Poll;

use fairpool_testing::stub::{Does, Op, Server, StubError, builder, eventually};
use fairpool_tokio::{Error, Interact};
use tokio::runtime::Builder;

use crate::support::{await_waiting, joined, occupy, poll, runtime, with_one_blocking_thread};

#[track_caller]
fn text_of_panic(run: impl FnOnce()) -> String {
    let panic = panic::catch_unwind(AssertUnwindSafe(run)).expect_err("a panic");
    panic.downcast_ref::<&str>().expect("a text").to_string()
}

#[test]
fn a_future_that_is_polled_after_it_is_done_panics_with_a_clear_text() {
    let pool = builder(1).build(Server::new().manager()).unwrap();
    drop(pool.get().unwrap());
    let mut get = pool.get_async();
    assert!(poll(&mut get).is_ready());
    let text = text_of_panic(|| drop(poll(&mut get)));
    assert_eq!(text, "a GetAsync was polled after it was ready");

    let mut work = pool.interact(|_| ());
    runtime().block_on(&mut work).unwrap();
    let text = text_of_panic(|| drop(poll(&mut work)));
    assert_eq!(text, "an Interaction was polled after it was ready");
    assert_eq!(pool.stats().in_use, 0);
}

#[test]
fn outside_of_a_runtime_it_fails_before_it_waits() {
    let pool = builder(1).build(Server::new().manager()).unwrap();
    let mut work = pool.interact(|_| ());
    let Poll::Ready(Err(error)) = poll(&mut work) else { panic!("it did not fail") };
    assert!(matches!(error, Error::NoRuntime));
    assert!(error.to_string().starts_with("there is no tokio runtime here"), "{error}");
    assert!(error.source().is_none());
    assert_eq!((pool.stats().gets, pool.stats().waiting), (0, 0));
}

#[test]
fn it_runs_on_the_runtime_of_its_first_poll() {
    let pool = builder(1).build(Server::new().manager()).unwrap();
    let held = pool.get().unwrap();
    let runtime = runtime();
    let mut work = pool.interact(|conn| conn.id);
    {
        let _inside = runtime.enter();
        assert!(poll(&mut work).is_pending());
    }
    drop(held);
    let mut result = Poll::Pending;
    eventually("the closure has run", || {
        result = poll(&mut work);
        result.is_ready()
    });
    assert!(matches!(result, Poll::Ready(Ok(1))));
}

#[test]
fn p11_a_runtime_that_ends_while_tasks_wait_cancels_them_and_nothing_is_lost() {
    let pool = builder(1).build(Server::new().manager()).unwrap();
    let held = pool.get().unwrap();
    let runtime = runtime();
    for _ in 0..100 {
        let there = pool.clone();
        runtime.spawn(async move { there.interact(|_| ()).await });
        let there = pool.clone();
        runtime.spawn(async move { drop(there.get_async().await) });
    }
    await_waiting(&pool, 200);
    drop(runtime);
    assert_eq!(pool.stats().waiting, 0);
    drop(held);
    let stats = pool.stats();
    assert_eq!((stats.idle, stats.in_use, stats.cancelled), (1, 0, 200));
}

#[test]
fn p11_a_runtime_that_has_ended_runs_no_closure_and_the_connection_is_back() {
    let pool = builder(1).build(Server::new().manager()).unwrap();
    let held = pool.get().unwrap();
    let runtime = runtime();
    let mut work = pool.interact(|_| ());
    {
        let _inside = runtime.enter();
        assert!(poll(&mut work).is_pending());
    }
    drop(runtime);
    drop(held);
    let Poll::Ready(Err(error)) = poll(&mut work) else { panic!("it did not fail") };
    assert!(matches!(error, Error::ShutDown));
    assert!(error.to_string().starts_with("the tokio runtime was shut down"), "{error}");
    assert_eq!((pool.stats().idle, pool.stats().in_use), (1, 0));
}

#[test]
fn p11_a_runtime_that_ends_while_a_closure_is_queued_gives_the_connection_back() {
    let pool = builder(1).build(Server::new().manager()).unwrap();
    drop(pool.get().unwrap());
    let runtime = with_one_blocking_thread();
    let gate = occupy(&runtime);
    let mut work = pool.interact(|_| ());
    {
        let _inside = runtime.enter();
        assert!(poll(&mut work).is_pending());
    }
    assert_eq!(pool.stats().in_use, 1);
    runtime.shutdown_background();
    gate.open();
    // Although nobody polls it. Tokio may still run the closure, or drop it.
    eventually("the connection is back", || pool.stats().idle == 1);
    let mut result = Poll::Pending;
    eventually("it fails", || {
        result = poll(&mut work);
        result.is_ready()
    });
    assert!(matches!(result, Poll::Ready(Ok(()) | Err(Error::ShutDown))), "{result:?}");
}

#[test]
fn without_a_thread_it_fails_plainly_and_the_connection_is_back() {
    let pool = builder(1).build(Server::new().manager()).unwrap();
    // No system has so large a stack.
    let runtime = Builder::new_current_thread().thread_stack_size(1 << 60).build().unwrap();
    let error = runtime.block_on(pool.interact(|_| ())).unwrap_err();
    assert!(matches!(error, Error::NoThread(_)), "{error}");
    assert!(error.source().is_some_and(|source| source.to_string().contains("thread")));
    assert_eq!(format!("{error:#}"), format!("{error}: {}", error.source().unwrap()));
    assert_eq!((pool.stats().idle, pool.stats().in_use), (1, 0));
}

#[test]
fn p9_an_error_of_the_get_has_the_pools_text_and_the_drivers_error() {
    let server = Server::new();
    server.on(Op::Connect, Does::FailForGood);
    let pool = builder(1).min_idle(Some(0)).build_unchecked(server.manager());
    let runtime = runtime();
    let error = runtime.block_on(pool.interact(|_| ())).unwrap_err();
    let of_pool = error.get_error().expect("an error of the get");
    assert!(of_pool.is_connect(), "{error}");
    assert_eq!(error.to_string(), of_pool.to_string());
    assert_eq!(format!("{error:#}"), format!("{of_pool:#}"));
    let source = error.source().and_then(|source| source.downcast_ref::<StubError>());
    assert_eq!(source, Some(&StubError::WrongPassword));
    assert!(!error.is_timeout());

    let of_pool = pool.get().map(drop).unwrap_err();
    let text = of_pool.to_string();
    assert_eq!(Error::from(of_pool).to_string(), text);
}

#[test]
fn p11_a_closed_pool_fails_the_tasks_that_wait() {
    let pool = builder(1).build(Server::new().manager()).unwrap();
    let runtime = runtime();
    let held = pool.get().unwrap();
    let there = pool.clone();
    let work = runtime.spawn(async move { there.interact(|_| ()).await });
    await_waiting(&pool, 1);
    assert!(!pool.close(std::time::Instant::now()).is_complete());
    let error = joined(work).unwrap_err();
    assert!(error.get_error().is_some_and(fairpool::Error::is_closed), "{error}");
    drop(held);
}
