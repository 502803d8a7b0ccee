//! A soak test: many lives of several pools, whose driver, hooks and destructors fail, panic,
//! take long and hang at random, and whose users do everything that can be done with a pool.
//!
//! In a process of its own: it replaces the panic hook, and counts threads.
//!
//! `FAIRPOOL_SOAK_SECONDS` sets how long it runs (60), `FAIRPOOL_SEED` what happens.

mod lives;
mod users;

use std::panic;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use fairpool_testing::dice;
use fairpool_testing::hostile::{Call, FAULTS, Fault};
use fairpool_testing::stub::{eventually, from_env, threads_named};
use users::Tally;

/// How many pools run side by side.
const LANES: u64 = 4;
/// How long each of the two storms of a life lasts.
const STORM: Duration = Duration::from_millis(1200);
const PROGRESS: Duration = Duration::from_secs(10);
/// The limit for one life, which usually takes three seconds.
const STANDSTILL: Duration = Duration::from_secs(40);
/// A shorter soak need not see every kind of event.
const LONG: Duration = Duration::from_secs(45);

fn soak_time() -> Duration {
    Duration::from_secs(from_env("FAIRPOOL_SOAK_SECONDS").unwrap_or(60))
}

/// Panics that reached the panic hook. Scripted panics do not, so each of these is a defect:
/// a failed assertion of the pool or of the test.
static HEARD: AtomicUsize = AtomicUsize::new(0);

fn listen_for_panics() {
    let usual = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        HEARD.fetch_add(1, Ordering::SeqCst);
        usual(info);
    }));
}

#[test]
fn p1_to_p11_a_pool_keeps_its_promises_beside_a_hostile_driver() {
    let (seed, time) = (dice::seed(), soak_time());
    println!("FAIRPOOL_SEED={seed}");
    listen_for_panics();
    let tally: Arc<Tally> = Arc::default();
    let start = Instant::now();
    let (sender, receiver) = mpsc::channel();
    for lane in 0..LANES {
        let (tally, sender) = (tally.clone(), sender.clone());
        thread::spawn(move || {
            let lives = panic::catch_unwind(|| {
                for number in 0.. {
                    if start.elapsed() >= time {
                        return;
                    }
                    lives::live(lane, number, seed, STORM, &tally);
                    let heard = HEARD.load(Ordering::SeqCst);
                    assert_eq!(heard, 0, "a panic that is a defect");
                }
            });
            let _ = sender.send((lane, lives.is_ok()));
        });
    }
    let (mut ended, mut moved) = (0, (0, Instant::now()));
    while ended < LANES {
        // A deadlock of the pool may also block the thread that would report it.
        if moved.0 != tally.of("life") {
            moved = (tally.of("life"), Instant::now());
        }
        assert!(moved.1.elapsed() < STANDSTILL, "no life has ended since; FAIRPOOL_SEED={seed}");
        match receiver.recv_timeout(PROGRESS) {
            Ok((lane, well)) => {
                let took = start.elapsed();
                assert!(well, "pool {lane} failed after {took:.1?}; FAIRPOOL_SEED={seed}");
                ended += 1;
            }
            Err(_) => println!("{}", progress(&tally, start.elapsed())),
        }
    }
    eventually("no thread is left", || threads_named("fairpool-") == 0);
    report(&tally, start.elapsed());
    let counted = tally.counted();
    // The pool's clock starts earlier than the server's, by the time a thread takes to start:
    // sometimes more than half of a limit.
    assert!(
        counted.abandoned_early <= 20 + counted.beside_abandoned / 10,
        "calls are abandoned too early"
    );
    if time >= LONG {
        assert_everything_happened(&tally);
    }
}

fn gets(tally: &Tally) -> u64 {
    GETS.iter().map(|action| tally.of(action)).sum()
}

const GETS: [&str; 7] = [
    "get",
    "get_timeout",
    "get without end",
    "get with a deadline",
    "get with a priority",
    "get with a token",
    "try_get",
];

fn progress(tally: &Tally, time: Duration) -> String {
    format!(
        "soak: {:.0?}, {} lives, {} gets, {} timeouts, {} faults",
        time,
        tally.of("life"),
        gets(tally),
        tally.of("timed out"),
        FAULTS.iter().map(|&fault| tally.faults(fault)).sum::<u64>(),
    )
}

fn report(tally: &Tally, time: Duration) {
    let counted = tally.counted();
    println!("figure: soak of {:.1} s, {} lives", time.as_secs_f64(), tally.of("life"));
    println!("figure: {} gets, {} timeouts", gets(tally), tally.of("timed out"));
    let faults = FAULTS.map(|fault| format!("{} {fault:?}", tally.faults(fault)));
    println!("figure: faults by kind: {}", faults.join(", "));
    println!(
        "figure: {} connections opened and {} closed; at most {} calls abandoned at once; {} \
         connects began beside abandoned connections, {} of them early",
        counted.opened,
        counted.closed,
        counted.most_abandoned,
        counted.beside_abandoned,
        counted.abandoned_early
    );
    println!("figure: largest overshoot {:.1?}", tally.largest_overshoot());
    println!(
        "figure: longest recovery {:.1?} of {}; beside calls that hang on {:.1?} of {}",
        tally.longest_recovery(),
        tally.of("recovery"),
        tally.longest_recovery_beside_hung_calls(),
        tally.of("recovery beside hung calls"),
    );
    let actions: Vec<_> = tally.all().iter().map(|(action, n)| format!("{action} {n}")).collect();
    println!("deeds: {}", actions.join(", "));
    for call in Call::ALL {
        let (calls, faults) = (counted.calls[call as usize], counted.faults[call as usize]);
        println!("calls of {call:?}: {calls}; {FAULTS:?}: {faults:?}");
    }
}

/// A soak test proves nothing about an event that never happened.
fn assert_everything_happened(tally: &Tally) {
    let counted = tally.counted();
    for call in Call::ALL {
        let faults = counted.faults[call as usize];
        let happened = |fault: Fault| faults[fault as usize] > 0;
        assert!(!call.can_fail() || happened(Fault::Fail), "{call:?} never failed");
        for fault in [Fault::Panic, Fault::Slow, Fault::Hang] {
            assert!(happened(fault), "{call:?} never did {fault:?}");
        }
    }
    assert!(tally.faults(Fault::FailForGood) > 0);
    assert!(
        counted.most_abandoned > 0 && counted.beside_abandoned > 0,
        "nothing was ever abandoned"
    );
    let others = [
        "timed out",
        "closed",
        "queue full",
        "cancelled",
        "cannot connect",
        "use refused",
        "deadlock",
        "nested get",
        "panic with a connection",
        "detach",
        "discard",
        "mark_broken",
        "run",
        "run with an error",
        "run with a panic",
        "extension",
        "moved to another thread",
        "dropped on another thread",
        "held for long",
        "looked at",
        "set_max_size",
        "set_min_idle",
        "pause and resume",
        "refresh",
        "cancel",
        "release of all that hangs",
        "recovery",
        "recovery beside hung calls",
        "leaks",
        "self-deadlocks",
        "life ended by close",
        "life ended by close in a hook",
        "life ended by dropping the last handle",
        "life ended by dropping the last handle in a hook",
    ];
    for action in GETS.into_iter().chain(others) {
        assert!(tally.of(action) > 0, "it never came to this: {action}");
    }
}
