use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;

use fairpool::Pool;
use postgres::NoTls;
use socket2::{Domain, Socket, Type};

use super::*;
use crate::PostgresConnectionManager;
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

/// The texts of an error and its causes.
fn chain(error: &Error) -> Vec<String> {
    let mut chain = vec![error.to_string()];
    let mut next = error.source();
    while let Some(cause) = next {
        chain.push(cause.to_string());
        next = cause.source();
    }
    chain
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
    let chain = chain(&error);
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
fn a_closure_that_panics_has_failed_without_its_text_and_is_asked_again() {
    let number = AtomicUsize::new(0);
    let source = Source::new(move |_| {
        assert!(number.fetch_add(1, Ordering::SeqCst) > 0, "the password is hunter2");
        Ok(Credentials::new("1", "secret"))
    });
    let log_in = || source.log_in(&Config::new(), only(&["1"]));
    let chain = chain(&log_in().unwrap_err());
    assert!(chain.iter().all(|text| !text.contains("hunter2")), "{chain:?}");
    assert_eq!(chain.last().unwrap(), "the closure panicked");
    assert_eq!(log_in().unwrap(), "1");
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
        doubt(&error, &config, Instant::now()) == Some(WhyAsked::Refused)
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
    assert_eq!(doubt(&error(), &one, old), None);
    assert_eq!(doubt(&error(), &two, now), None);
    assert_eq!(doubt(&error(), &two, old), Some(WhyAsked::MaybeRefused));
}

/// An address that answers nobody, for as long as the sockets are there: its queue is full.
fn black_hole() -> (SocketAddr, Socket, Vec<TcpStream>) {
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    listener.listen(0).unwrap();
    let address = listener.local_addr().unwrap().as_socket().unwrap();
    let connect = || TcpStream::connect_timeout(&address, Duration::from_millis(200)).ok();
    let queued = std::iter::from_fn(connect).collect();
    (address, listener, queued)
}

/// In an outage nobody has refused the credentials, however old they are.
#[test]
fn p9_a_connect_to_hosts_that_do_not_answer_ends_in_time_and_blames_no_credentials() {
    let holes = [black_hole(), black_hole()];
    let [one, two] = [holes[0].0.port(), holes[1].0.port()];
    let url = format!("host=127.0.0.1,127.0.0.1 port={one},{two}");
    let (send, told) = mpsc::channel();
    let manager =
        PostgresConnectionManager::from_url(&url, NoTls).unwrap().credentials(counting(LONG, send));
    let source = Arc::clone(manager.credentials.as_ref().unwrap());
    source.get().unwrap();
    source.lock().given.as_mut().unwrap().asked -= SUSPECT_AFTER + Duration::from_secs(1);
    let all = Duration::from_secs(5);
    let pool = Pool::builder().max_size(1).min_idle(Some(0)).open_timeout(all);
    let pool = pool.connection_timeout(all * 4).build_unchecked(manager);

    let started = Instant::now();
    let error = pool.get_timeout(all * 3 / 2).unwrap_err();
    let stats = pool.stats();
    assert_eq!(told.recv().unwrap(), WhyAsked::Due);
    let next = told.recv_timeout(all * 4).unwrap();
    println!("figure: {next:?} after {:?}; {stats}: {error:#}", started.elapsed());
    assert_eq!(next, WhyAsked::MaybeRefused);
    assert_eq!(stats.abandoned, 0);
    assert!(format!("{error:#}").contains("connection timed out"), "{error:#}");
}
