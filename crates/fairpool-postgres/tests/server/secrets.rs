//! A value that may be a secret is printed nowhere: in no error, log record, snapshot, event
//! or advice.

use std::error::Error as _;
use std::io;

use fairpool::{LoggingErrorHandler, Pool};
use fairpool_postgres::postgres::Config;
use fairpool_postgres::{Credentials, NoTls, Reset, advise};

use crate::common::{LONG, Manager, builder, logged, millis, shared, start_log, wait_until};

/// Everything that can be printed about a pool that uses this manager.
fn everything_about(manager: Manager, works: bool) -> Vec<String> {
    let mut texts = vec![format!("{manager:?} {manager:#?}")];
    let settings = builder()
        .name("secrets")
        .max_size(1)
        .connection_timeout(millis(300))
        .error_handler(Box::new(LoggingErrorHandler));
    texts.push(format!("{settings:?}"));
    let pool: Pool<Manager> = settings.build_unchecked(manager);
    let events = pool.subscribe(1000).unwrap();
    match pool.get_timeout(if works { LONG } else { millis(500) }) {
        Ok(conn) => {
            assert!(works, "{texts:#?}");
            drop(conn);
        }
        Err(error) => {
            assert!(!works, "{error}");
            wait_until("an attempt has failed", || pool.stats().open_failures > 0);
            texts.push(format!("{error} {error:?} {error:#?}"));
            let mut next = error.source();
            while let Some(source) = next {
                texts.push(format!("{source} {source:?}"));
                next = source.source();
            }
        }
    }
    match advise(&pool, 2) {
        Ok(advice) => texts.push(format!("{advice} {advice:?}")),
        Err(error) => texts.push(format!("{error} {error:?}")),
    }
    let snapshot = pool.snapshot();
    texts.push(format!("{snapshot} {snapshot:?} {pool:?}"));
    let diagnosis = pool.diagnose_over(millis(50)).unwrap();
    texts.push(format!("{diagnosis} {diagnosis:?}"));
    texts.extend(events.try_iter().map(|event| format!("{event:?}")));
    texts
}

#[test]
fn a_value_that_may_be_a_secret_is_printed_nowhere() {
    start_log();
    let long = "x".repeat(100); // longer than the server keeps a name
    let set = |name: &str, value: String| {
        Manager::new(shared().config(), NoTls).session_setting(name, value)
    };
    let with_options = |options: String| {
        let mut config = shared().config();
        config.options(&options);
        Manager::new(config, NoTls)
    };
    let of_url = |user: &str, rest: String| {
        let url = format!("postgresql://{user}:{rest}127.0.0.1:{}/postgres", shared().port());
        Manager::from_url(&url, NoTls).unwrap()
    };
    let of_closure = |user: &'static str, password: String| {
        let give = move |_| Ok::<_, io::Error>(Credentials::new(user, password.as_str()));
        Manager::new(shared().config(), NoTls).credentials(give)
    };
    type Make<'a> = Box<dyn Fn(&str) -> Manager + 'a>;
    let cases: [(&str, bool, Make<'_>); 15] = [
        ("a number", false, Box::new(|s| set("work_mem", s.into()))),
        ("a word of a list", false, Box::new(|s| set("DateStyle", format!("ISO, {s}")))),
        ("a role", false, Box::new(|s| set("role", format!("{s}{long}")))),
        ("a tablespace", false, Box::new(|s| set("default_tablespace", s.into()))),
        ("a zero byte", false, Box::new(|s| set("app.secret", format!("{s}\0")))),
        ("an accepted setting", true, Box::new(|s| set("app.secret", s.into()))),
        (
            "a setting that is applied again",
            true,
            Box::new(|s| set("app.secret", s.into()).reset_on_return(Reset::Session)),
        ),
        ("options", false, Box::new(|s| with_options(format!("-c work_mem={s}")))),
        ("other options", false, Box::new(|s| with_options(format!("--role={s}{long}")))),
        ("accepted options", true, Box::new(|s| with_options(format!("-c app.secret={s}")))),
        ("a password", false, Box::new(|s| of_url("app", format!("{s}@")))),
        ("an encoded password", false, Box::new(|s| of_url("app", format!("%40{s}@")))),
        ("a password that is asked for", false, Box::new(|s| of_closure("app", s.into()))),
        ("an accepted one", true, Box::new(|s| of_closure("postgres", s.into()))),
        ("a torn password", false, Box::new(|s| of_url("app", format!("p@{s}@")))),
    ];
    for (number, (what, works, make)) in cases.into_iter().enumerate() {
        let secret = format!("zz{number}secret");
        let mark = format!("zz{number}s");
        for text in everything_about(make(&secret), works) {
            assert!(!text.contains(&mark), "{what}: {text}");
        }
        assert_eq!(logged(&mark), [], "{what}");
    }
    // The log has what a user needs, and the driver's part of it was not off.
    assert!(!logged("session_setting work_mem").is_empty());
    assert!(!logged("options work_mem").is_empty());
    assert!(!logged("tokio_postgres").is_empty());
}

#[test]
fn the_server_lists_no_value_of_a_setting_among_its_activity() {
    let manager = Manager::new(shared().config(), NoTls)
        .application_name("discreet")
        .session_setting("app.secret", "zzsecret");
    let pool = builder().max_size(1).build(manager).unwrap();
    let sql = "SELECT query FROM pg_stat_activity WHERE application_name = 'discreet'";
    let query = shared().psql(sql);
    assert!(query.contains("set_config") && !query.contains("zzsecret"), "{query}");
    drop(pool);
}

/// A configuration that a user has parsed is shown like one from a URL.
#[test]
fn a_parsed_configuration_is_shown_without_its_secrets() {
    let config: Config =
        "host=h user=u password=zzsecret options='-c a.b=zzsecret'".parse().unwrap();
    let shown = format!("{:?}", Manager::new(config, NoTls));
    assert!(shown.contains("\"h\"") && !shown.contains("zzsecret"), "{shown}");
}
