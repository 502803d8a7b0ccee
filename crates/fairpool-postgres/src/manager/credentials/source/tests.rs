use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;

use super::*;
use crate::manager::secrets::from_server;

const LONG: Duration = Duration::from_secs(3600);

/// A closure that counts: the n-th answer has the user `n`.
fn counting(
    valid_for: Duration,
    told: mpsc::Sender<WhyAsked>,
) -> impl Fn(WhyAsked) -> Result<Credentials, BoxError> + Send + Sync {
    let number = AtomicUsize::new(0);
    move |why| {
        told.send(why).unwrap();
        let number = number.fetch_add(1, Ordering::SeqCst) + 1;
        Ok(Credentials::new(number.to_string(), "secret").valid_for(valid_for))
    }
}

/// A login that returns the user, or is refused.
fn only(users: &'static [&'static str]) -> impl Fn(&Config) -> Result<String, Error> {
    move |config| {
        let user = config.get_user().unwrap();
        let refused = || from_server(&[(b'S', "FATAL"), (b'C', "28P01"), (b'M', user)]);
        if users.contains(&user) { Ok(user.to_owned()) } else { Err(refused()) }
    }
}

fn code(result: Result<String, Error>) -> String {
    result.unwrap_err().code().expect("a code").code().to_owned()
}

#[test]
fn an_answer_is_used_until_its_time_is_over() {
    for (valid_for, users) in [(LONG, ["1", "1", "1"]), (Duration::ZERO, ["1", "2", "3"])] {
        let (send, told) = mpsc::channel();
        let source = Source::new(counting(valid_for, send));
        let log_in = || source.log_in(&Config::new(), only(&["1", "2", "3"])).unwrap();
        assert_eq!([log_in(), log_in(), log_in()], users);
        assert!(told.try_iter().all(|why| why == WhyAsked::Due));
    }
}

#[test]
fn a_refusal_asks_once_more_and_is_told() {
    let (send, told) = mpsc::channel();
    let source = Source::new(counting(LONG, send));
    assert_eq!(source.log_in(&Config::new(), only(&["1"])).unwrap(), "1");
    // The first is no longer accepted.
    assert_eq!(source.log_in(&Config::new(), only(&["2"])).unwrap(), "2");
    assert_eq!(source.log_in(&Config::new(), only(&["2"])).unwrap(), "2");
    assert_eq!(told.try_iter().collect::<Vec<_>>(), [WhyAsked::Due, WhyAsked::Refused]);
}

#[test]
fn what_is_refused_twice_has_failed_and_each_later_connect_logs_in_once() {
    let (send, told) = mpsc::channel();
    let source = Source::new(counting(LONG, send));
    let logins = AtomicUsize::new(0);
    let refused = |config: &Config| {
        logins.fetch_add(1, Ordering::SeqCst);
        only(&[])(config)
    };
    assert_eq!(code(source.log_in(&Config::new(), refused)), "28P01");
    assert_eq!(logins.swap(0, Ordering::SeqCst), 2);
    assert_eq!(told.try_iter().collect::<Vec<_>>(), [WhyAsked::Due, WhyAsked::Refused]);
    for _ in 0..3 {
        assert_eq!(code(source.log_in(&Config::new(), refused)), "28P01");
        assert_eq!(logins.swap(0, Ordering::SeqCst), 1);
        assert_eq!(told.try_iter().collect::<Vec<_>>(), [WhyAsked::Refused]);
    }
}

#[test]
fn a_connect_logs_in_twice_at_most_whoever_asks_in_between() {
    let (send, told) = mpsc::channel();
    let source = Source::new(counting(LONG, send));
    let logins = AtomicUsize::new(0);
    let refused = |config: &Config| {
        if logins.fetch_add(1, Ordering::SeqCst) == 0 {
            // Another connect is refused too, and asks.
            assert_eq!(source.log_in(&Config::new(), only(&["2"])).unwrap(), "2");
        }
        only(&[])(config)
    };
    assert_eq!(code(source.log_in(&Config::new(), refused)), "28P01");
    assert_eq!(logins.load(Ordering::SeqCst), 2);
    assert_eq!(told.try_iter().count(), 2);
}

#[test]
fn another_error_of_a_login_asks_for_nothing() {
    let (send, told) = mpsc::channel();
    let source = Source::new(counting(LONG, send));
    let starting = |_: &Config| Err(from_server(&[(b'S', "FATAL"), (b'C', "57P03"), (b'M', "")]));
    for _ in 0..3 {
        assert_eq!(code(source.log_in(&Config::new(), starting)), "57P03");
    }
    assert_eq!(told.try_iter().count(), 1);
}

#[test]
fn an_error_of_the_closure_is_the_cause_and_keeps_its_type() {
    let fails = |_| Err("the vault is sealed".into());
    let error = Source::new(fails).log_in(&Config::new(), only(&[])).unwrap_err();
    let mut chain = vec![error.to_string()];
    let mut next = StdError::source(&error);
    while let Some(cause) = next {
        chain.push(cause.to_string());
        next = cause.source();
    }
    assert!(chain.iter().any(|text| text == "asking for credentials failed"), "{chain:?}");
    assert!(chain.last().unwrap() == "the vault is sealed", "{chain:?}");
    assert!(!crate::manager::errors::is_permanent(&error));
}

/// How many asks four connects make that start while the first one asks. Whether they are in time
/// for that is up to the machine.
fn asks_of_four(fails: bool) -> usize {
    let (asked, was_asked) = mpsc::channel();
    let (answer, answers) = mpsc::channel::<()>();
    let answers = Mutex::new(answers);
    let source = Source::new(move |_| {
        asked.send(()).unwrap();
        // An error once the sender is gone: then all go on.
        let _ = answers.lock().unwrap().recv();
        if fails { Err("sealed".into()) } else { Ok(Credentials::new("1", "secret")) }
    });
    thread::scope(|scope| {
        let log_in = || source.log_in(&Config::new(), only(&["1"])).is_ok();
        let first = scope.spawn(log_in);
        was_asked.recv().unwrap();
        let others: Vec<_> = (0..3).map(|_| scope.spawn(log_in)).collect();
        thread::sleep(Duration::from_millis(50));
        drop(answer);
        let all = others.into_iter().chain([first]);
        assert!(all.map(|one| one.join().unwrap()).all(|worked| worked != fails));
    });
    1 + was_asked.try_iter().count()
}

#[test]
fn connects_that_start_during_an_ask_share_its_answer_or_its_error() {
    for fails in [false, true] {
        let is_shared_at_once = |_| {
            let start = Instant::now();
            asks_of_four(fails) == 1 && start.elapsed() < SHARED_FOR
        };
        assert!((0..30).any(is_shared_at_once), "fails: {fails}");
    }
}

#[test]
fn an_ask_that_hangs_holds_nobody_up_for_long_and_its_late_answer_replaces_no_newer_one() {
    let (end, hang) = mpsc::channel::<()>();
    let hang = Mutex::new(Some(hang));
    let (asked, was_asked) = mpsc::channel();
    let number = AtomicUsize::new(0);
    let source = Source::new(move |_| {
        let number = number.fetch_add(1, Ordering::SeqCst) + 1;
        asked.send(()).unwrap();
        if number == 1 {
            let hang = hang.lock().unwrap().take().unwrap();
            hang.recv().unwrap();
        }
        Ok(Credentials::new(number.to_string(), "secret").valid_for(LONG))
    });
    let log_in = || source.log_in(&Config::new(), only(&["1", "2"])).unwrap();
    thread::scope(|scope| {
        let first = scope.spawn(log_in);
        was_asked.recv().unwrap();
        assert_eq!(log_in(), "2");
        end.send(()).unwrap();
        assert_eq!(first.join().unwrap(), "1");
    });
    assert_eq!(log_in(), "2");
}

#[test]
fn a_closure_that_panics_is_asked_again() {
    let number = AtomicUsize::new(0);
    let source = Source::new(move |_| {
        assert!(number.fetch_add(1, Ordering::SeqCst) > 0, "as planned");
        Ok(Credentials::new("1", "secret"))
    });
    let log_in = || source.log_in(&Config::new(), only(&["1"])).unwrap();
    thread::scope(|scope| assert!(scope.spawn(log_in).join().is_err()));
    assert_eq!(log_in(), "1");
    assert_eq!(source.lock().running, 0);
}

#[test]
fn hosts_are_tried_after_those_of_the_configuration_each_with_its_port() {
    let ports = |text: &str| {
        let mut config: Config = text.parse().unwrap();
        let credentials = Credentials::new("u", "p").host("x", 1).host("y", 2);
        credentials.apply_to(&mut config);
        (config.get_hosts().len(), config.get_ports().to_vec())
    };
    assert_eq!(ports("user=u"), (2, vec![1, 2]));
    assert_eq!(ports("host=a"), (3, vec![5432, 1, 2]));
    assert_eq!(ports("host=a,b port=7"), (4, vec![7, 7, 1, 2]));
    assert_eq!(ports("host=a,b port=7,8"), (4, vec![7, 8, 1, 2]));
}

#[test]
fn what_a_server_and_pgbouncer_say_of_a_refused_login_is_known() {
    let config: Config = "host=a".parse().unwrap();
    let refused = |code, text| {
        let error = from_server(&[(b'S', "FATAL"), (b'C', code), (b'M', text)]);
        is_refusal(&error, &config, Instant::now())
    };
    assert!(refused("28P01", "password authentication failed for user \"a\""));
    assert!(refused("28000", "role \"a\" is not permitted to log in"));
    assert!(refused("08P01", "SASL authentication failed"));
    assert!(refused("08P01", "no such user: a"));
    assert!(!refused("08P01", "no such database: a"));
    assert!(!refused("3D000", "database \"a\" does not exist"));
}

/// With several hosts, the last one's error hides what another has said.
#[test]
fn with_several_hosts_only_an_old_answer_is_in_question() {
    let (one, two): (Config, Config) = ("host=a".parse().unwrap(), "host=a,b".parse().unwrap());
    let error = || from_server(&[(b'S', "FATAL"), (b'C', "57P03"), (b'M', "")]);
    let now = Instant::now();
    let Some(old) = now.checked_sub(SUSPECT_AFTER * 2) else { return };
    assert!(!is_refusal(&error(), &one, old));
    assert!(!is_refusal(&error(), &two, now));
    assert!(is_refusal(&error(), &two, old));
}
