//! Threads that hold connections and wait for another.

use super::*;

#[test]
fn p9_a_thread_that_waits_for_itself_fails_at_once_if_asked_for() {
    let (pool, recorder) = pool(1, AT_ONCE);
    let asked = pool.clone();
    let (error, held_at, waits_at) = watched("a nested get", move || {
        let (held, held_at) = (used(&asked), line!());
        let (error, waits_at) = (asked.get().unwrap_err(), line!());
        drop(held);
        (error, held_at, waits_at)
    });
    assert_eq!(error.kind(), ErrorKind::SelfDeadlock);
    assert!(error.is_self_deadlock() && !error.is_timeout());
    assert!(error.waited() < WATCHDOG, "{error}");

    let [nested] = error.nested_gets() else { panic!("{error}") };
    assert_eq!(nested.holder().location().line(), held_at);
    assert_eq!(nested.waits_at().line(), waits_at);
    let text = error.to_string();
    let file = file!();
    for part in [format!("{file}:{held_at}:"), format!("waits for another at {file}:{waits_at}:")] {
        assert!(text.contains(&part), "{text}");
    }
    eventually("it is reported", || recorder.deadlocks() == 1);
    assert_eq!(pool.stats().self_deadlocks, 1);
    assert_eq!(pool.stats().timeouts, 0);
    assert_whole(&pool);
}

#[test]
fn p9_all_the_threads_that_wait_for_themselves_are_named() {
    const THREADS: usize = 4;
    let (pool, recorder) = pool(THREADS as u32, AT_ONCE);
    let all_hold = Arc::new(Barrier::new(THREADS));
    let results: Vec<_> = (0..THREADS)
        .map(|number| {
            let (pool, all_hold) = (pool.clone(), Arc::clone(&all_hold));
            named(&format!("nester-{number}"), move || {
                let _first = used(&pool);
                all_hold.wait();
                pool.get().map(drop)
            })
        })
        .collect();
    let results: Vec<Result<(), Error>> =
        results.iter().map(|result| result.recv_timeout(WATCHDOG).expect("an answer")).collect();
    let errors: Vec<&Error> = results.iter().filter_map(|result| result.as_ref().err()).collect();
    // The connection of the first that fails serves the others, one after another.
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert!(errors[0].is_self_deadlock());
    let mut names: Vec<_> =
        errors[0].nested_gets().iter().map(|nested| nested.holder().thread()).collect();
    names.sort_unstable();
    assert_eq!(names, ["nester-0", "nester-1", "nester-2", "nester-3"]);
    eventually("it is reported", || recorder.deadlocks() == 1);
    assert_whole(&pool);
}

#[test]
fn p9_by_default_it_is_a_warning_at_once_and_told_at_the_timeout() {
    let (pool, recorder) = pool(1, SelfDeadlock::default());
    let waiter = named("warned", {
        let pool = pool.clone();
        move || {
            let _held = used(&pool);
            pool.get_timeout(ms(400)).unwrap_err()
        }
    });
    eventually("it is reported", || recorder.deadlocks() == 1);
    assert_eq!(pool.stats().waiting, 1, "reported while it still waits");
    let error = waiter.recv_timeout(WATCHDOG).expect("an answer");
    assert!(error.is_timeout(), "{error}");
    assert!(error.to_string().contains("held by a thread that itself waits"), "{error}");
    assert_eq!(error.nested_gets().len(), 1);
    assert_eq!(recorder.deadlocks(), 1, "once");
    assert_whole(&pool);
}

#[test]
fn p9_another_caller_that_times_out_is_told_of_it_too() {
    let (pool, _) = pool(1, SelfDeadlock::Warn);
    let nested = named("nested", {
        let pool = pool.clone();
        move || {
            let _held = used(&pool);
            pool.get_timeout(ms(500)).unwrap_err()
        }
    });
    eventually("it waits", || pool.stats().self_deadlocks == 1);
    let error = pool.get_timeout(ms(1)).unwrap_err();
    assert_eq!(error.nested_gets()[0].holder().thread(), "nested");
    nested.recv_timeout(WATCHDOG).expect("an answer");
}

#[test]
fn ignored_means_that_nobody_is_told() {
    let (pool, recorder) = pool(1, SelfDeadlock::Ignore);
    let _held = used(&pool);
    let error = pool.get_timeout(ms(20)).unwrap_err();
    assert!(error.is_timeout() && error.nested_gets().is_empty(), "{error}");
    assert_eq!((recorder.deadlocks(), pool.stats().self_deadlocks), (0, 0));
}

#[test]
fn the_error_comes_after_the_span_asked_for() {
    let (pool, recorder) = pool(1, SelfDeadlock::Fail(ms(60)));
    let held = used(&pool);
    let error = pool.get().unwrap_err();
    assert!(error.is_self_deadlock(), "{error}");
    assert!((ms(60)..WATCHDOG).contains(&error.waited()), "{error}");
    eventually("it is reported", || recorder.deadlocks() == 1);
    drop(held);
    assert_whole(&pool);
}

#[test]
fn a_deadlock_that_ends_in_time_is_no_error() {
    let (pool, recorder) = pool(2, SelfDeadlock::Fail(ms(500)));
    let (first, second) = (used(&pool), used(&pool));
    let waiter = thread::spawn({
        let pool = pool.clone();
        move || pool.get().map(drop)
    });
    // This thread holds both and waits; then another thread returns one.
    let helper = thread::spawn({
        let recorder = recorder.clone();
        move || {
            eventually("it is reported", || recorder.deadlocks() == 1);
            drop(second);
        }
    });
    let third = pool.get().expect("the helper returns one");
    helper.join().unwrap();
    drop((first, third));
    waiter.join().unwrap().expect("served");
    assert_whole(&pool);
}

#[test]
fn a_guard_that_another_thread_uses_causes_no_error() {
    let (pool, recorder) = pool(1, AT_ONCE);
    let guard = used(&pool);
    let (used, is_used) = mpsc::channel();
    let user = thread::spawn(move || {
        guard.touch();
        used.send(()).unwrap();
        thread::sleep(ms(50));
        drop(guard);
    });
    is_used.recv().unwrap();
    drop(pool.get().expect("no deadlock: another thread has it"));
    user.join().unwrap();
    assert_eq!((recorder.deadlocks(), pool.stats().self_deadlocks), (0, 0));
    assert_whole(&pool);
}

#[test]
fn a_guard_that_lies_unused_for_less_than_the_span_causes_no_error() {
    let (pool, _) = pool(1, SelfDeadlock::Fail(LONG));
    let guard = used(&pool);
    let keeper = thread::spawn(move || {
        thread::sleep(ms(50));
        drop(guard);
    });
    drop(pool.get().expect("no deadlock: another thread has it"));
    keeper.join().unwrap();
    assert_whole(&pool);
}

#[test]
fn a_guard_that_is_used_within_the_span_causes_no_error() {
    let (pool, recorder) = pool(1, SelfDeadlock::Fail(ms(300)));
    let guard = used(&pool);
    let user = thread::spawn({
        let recorder = recorder.clone();
        move || {
            eventually("it looks like a deadlock", || recorder.deadlocks() == 1);
            guard.touch();
            thread::sleep(ms(600));
            drop(guard);
        }
    });
    drop(pool.get().expect("no deadlock: another thread uses it"));
    user.join().unwrap();
    assert_whole(&pool);
}

#[test]
fn a_guard_that_was_unbound_causes_no_error_and_no_warning() {
    let (pool, recorder) = pool(1, AT_ONCE);
    let guard = used(&pool);
    PooledConnection::unbind(&guard);
    let keeper = thread::spawn(move || {
        thread::sleep(ms(50));
        drop(guard);
    });
    drop(pool.get().expect("no deadlock: another thread has it"));
    keeper.join().unwrap();
    assert_eq!((recorder.deadlocks(), pool.stats().self_deadlocks), (0, 0));
    assert_whole(&pool);
}

#[test]
fn a_connection_that_was_moved_is_at_home_again_with_its_next_holder() {
    let (pool, _) = pool(1, AT_ONCE);
    let guard = used(&pool);
    thread::spawn(move || guard.touch()).join().unwrap();
    let held = used(&pool);
    assert!(pool.get().unwrap_err().is_self_deadlock());
    drop(held);
    assert_whole(&pool);
}

#[test]
fn a_get_that_does_not_wait_is_no_deadlock() {
    let (pool, recorder) = pool(1, AT_ONCE);
    let _held = used(&pool);
    assert!(pool.get_timeout(Duration::ZERO).unwrap_err().is_timeout());
    assert!(pool.try_get().is_none());
    assert_eq!((recorder.deadlocks(), pool.stats().self_deadlocks), (0, 0));
}

#[test]
fn holders_of_another_pool_are_no_deadlock() {
    let (here, recorder) = pool(1, AT_ONCE);
    let (elsewhere, _) = pool(1, AT_ONCE);
    let held = here.get().unwrap();
    let waiter = named("holds elsewhere", {
        let here = here.clone();
        move || {
            let _other = used(&elsewhere);
            here.get().map(drop)
        }
    });
    eventually("it waits", || here.stats().waiting == 1);
    drop(held);
    waiter.recv_timeout(WATCHDOG).expect("an answer").expect("a connection");
    assert_eq!((recorder.deadlocks(), here.stats().self_deadlocks), (0, 0));
}

#[test]
fn one_holder_that_does_not_wait_is_no_deadlock() {
    let (pool, recorder) = pool(2, AT_ONCE);
    let free = pool.get().unwrap();
    let nested = named("nested", {
        let pool = pool.clone();
        move || {
            let _held = used(&pool);
            pool.get().map(drop)
        }
    });
    eventually("it waits", || pool.stats().waiting == 1);
    thread::sleep(ms(20));
    drop(free);
    nested.recv_timeout(WATCHDOG).expect("an answer").expect("a connection");
    assert_eq!((recorder.deadlocks(), pool.stats().self_deadlocks), (0, 0));
}

#[test]
fn a_pool_that_shrinks_to_what_its_waiters_hold_is_a_deadlock() {
    let (pool, recorder) = pool(2, AT_ONCE);
    let free = pool.get().unwrap();
    let nested = named("nested", {
        let pool = pool.clone();
        move || {
            let _held = used(&pool);
            pool.get().map(drop)
        }
    });
    eventually("it waits", || pool.stats().waiting == 1);
    pool.set_max_size(1).unwrap();
    drop(free); // closed as excess
    let error = nested.recv_timeout(WATCHDOG).expect("an answer").unwrap_err();
    assert!(error.is_self_deadlock(), "{error}");
    eventually("it is reported", || recorder.deadlocks() == 1);
}

/// One thread gets connections, and others use them. It may wait at once.
fn gets_and_sends_elsewhere(on_self_deadlock: SelfDeadlock) {
    let (pool, recorder) = pool(1, on_self_deadlock);
    let guard = pool.get().unwrap();
    let user = named("uses it", {
        let pool = pool.clone();
        move || {
            eventually("the first thread waits", || pool.stats().waiting == 1);
            thread::sleep(ms(50));
            guard.touch();
        }
    });
    drop(pool.get().expect("no deadlock: the guard was not used here"));
    user.recv_timeout(WATCHDOG).expect("it ends");
    assert_eq!((recorder.deadlocks(), pool.stats().self_deadlocks), (0, 0));
    assert_whole(&pool);
}

#[test]
fn a_guard_got_here_and_sent_elsewhere_unused_raises_no_self_deadlock() {
    gets_and_sends_elsewhere(AT_ONCE);
}

#[test]
fn a_guard_got_here_and_sent_elsewhere_unused_raises_no_warning() {
    gets_and_sends_elsewhere(SelfDeadlock::Warn);
}

/// What says nothing about the connection itself is no use of it.
#[test]
fn who_only_looks_at_a_guard_has_not_used_it() {
    let (pool, _) = pool(1, AT_ONCE);
    let mut guard = pool.get().unwrap();
    assert_eq!(PooledConnection::info(&guard).times_used, 1);
    PooledConnection::extensions_mut(&mut guard).insert("a tag");
    assert!(!format!("{guard:?}").is_empty());
    let error = pool.get_timeout(ms(20)).unwrap_err();
    assert!(error.is_timeout() && error.nested_gets().is_empty(), "{error}");
}

#[test]
fn a_guard_that_was_used_by_run_counts() {
    let (pool, _) = pool(1, AT_ONCE);
    let mut guard = pool.get().unwrap();
    PooledConnection::run(&mut guard, |_| Ok(())).unwrap();
    assert!(pool.get().unwrap_err().is_self_deadlock());
}

/// Guards that it used, and that others use or have dropped, count for a thread no more. So
/// one that it then sends away unused raises nothing.
#[test]
fn guards_that_have_left_do_not_count_for_their_first_thread() {
    for used_there in [true, false] {
        let (pool, recorder) = pool(1, AT_ONCE);
        for _ in 0..3 {
            let guard = used(&pool);
            let there = move || {
                if used_there {
                    guard.touch();
                }
                drop(guard);
            };
            thread::spawn(there).join().unwrap();
        }
        let guard = pool.get().unwrap();
        let keeper = named("keeps it", {
            let pool = pool.clone();
            move || {
                eventually("the first thread waits", || pool.stats().waiting == 1);
                thread::sleep(ms(20));
                drop(guard);
            }
        });
        drop(pool.get().expect("no deadlock"));
        keeper.recv_timeout(WATCHDOG).expect("it ends");
        assert_eq!((recorder.deadlocks(), pool.stats().self_deadlocks), (0, 0));
        // What it uses itself still counts.
        let held = used(&pool);
        assert!(pool.get().unwrap_err().is_self_deadlock());
        drop(held);
        assert_whole(&pool);
    }
}

/// A web service that gets connections in one task for blocking work and uses them in another:
/// each task runs on any of a few threads, which may wait for a connection while one that they
/// got before is on its way to its user.
#[test]
fn three_hundred_gets_in_one_blocking_task_and_uses_in_another_fail_never() {
    const GETS: usize = 300;
    for reaction in [SelfDeadlock::Fail(ms(5)), SelfDeadlock::Warn] {
        let (pool, recorder) = pool(4, reaction);
        // As many tasks for gets as there are threads would leave none for uses.
        let (to_get, asked) = mpsc::channel();
        let (to_use, got) = mpsc::channel();
        let (asked, got) = (Arc::new(Mutex::new(asked)), Arc::new(Mutex::new(got)));
        (0..GETS).for_each(|number| to_get.send(number).unwrap());
        drop(to_get);
        let getters: Vec<_> = (0..8)
            .map(|_| {
                let (pool, asked, to_use) = (pool.clone(), Arc::clone(&asked), to_use.clone());
                thread::spawn(move || {
                    loop {
                        let Ok(_) = lock(&asked).try_recv() else { return };
                        to_use.send(pool.get().map_err(|error| error.to_string())).unwrap();
                    }
                })
            })
            .collect();
        drop(to_use);
        let users: Vec<_> = (0..4)
            .map(|_| {
                let got = Arc::clone(&got);
                thread::spawn(move || {
                    let mut failed = Vec::new();
                    let mut served = 0;
                    while let Ok(conn) = { lock(&got).recv() } {
                        // Its way to its user takes longer than `Fail`.
                        thread::sleep(ms(7));
                        match conn {
                            Ok(conn) => {
                                conn.touch();
                                served += 1;
                            }
                            Err(error) => failed.push(error),
                        }
                    }
                    (served, failed)
                })
            })
            .collect();
        getters.into_iter().for_each(|getter| getter.join().unwrap());
        let (served, failed): (Vec<usize>, Vec<Vec<String>>) =
            users.into_iter().map(|user| user.join().unwrap()).unzip();
        assert_eq!((served.iter().sum::<usize>(), failed.concat()), (GETS, Vec::new()));
        assert_eq!((recorder.deadlocks(), pool.stats().self_deadlocks), (0, 0));
        assert_whole(&pool);
    }
}
