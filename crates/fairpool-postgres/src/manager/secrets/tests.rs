//! Odd connection strings and settings, each with a secret of its own that nothing prints.

use super::*;
use crate::PostgresConnectionManager;

/// `{}` is the secret. Some of them are mistakes; what the driver takes them for differs.
const ODD: [&str; 38] = [
    "postgresql://user:{}@host/db",
    "postgresql://user:p%40{}@host/db",
    "postgresql://user:p@{}@host/db",
    "postgresql://user:p@ss{}@host:5433/db",
    "postgresql://user:p@x/{}@host/db",
    "postgresql://user:p@x:1234/{}@host/db",
    "postgresql://user:p@x,{}@host/db",
    "postgresql://user:p@[{}]@host/db",
    "postgresql://user:pa/{}@host/db",
    "postgresql://user:pa?{}@host/db",
    "postgresql://user:pa#{}@host/db",
    "postgresql://user:pa:{}@host/db",
    "postgresql://user:p@s?{}=x@host/db",
    "postgresql://user:p@s?x={}@host/db",
    "postgresql://user:p@s?{}@host/db",
    "postgresql://user%3A{}@host/db",
    "postgresql://user:{}",
    "postgresql://user:%zz{}@host",
    "postgresql://user:p@1.2.3.4:{}/db",
    "postgresql://host/db?user=u&password={}",
    "postgresql://host/db?password=a&{}=b",
    "postgresql://host/db?options=-c%20x%3D{}",
    "postgresql://host/db?sslpassword={}",
    "Postgresql://user:{}@host/db?sslmode=require",
    " postgresql://user:{}@host/db?sslmode=require",
    "\"postgresql://user:{}@host/db?sslmode=require\"",
    "postgres:/user:{}@host/db?a=b",
    "jdbc:postgresql://host/db?user=u&password={}",
    "host=h password={}",
    "host=h password='it''s {}'",
    "host=h password=my {}",
    "host=h password=my {}=x",
    "host=h password='my {}",
    r"host=h password=a\ {} user=u",
    "host=h options='-c x={}'",
    r"host=h options='-c a.b=x\\ {}=d'",
    "host=h passfile=/home/{}",
    "host=h port={}",
];

fn texts_of(error: &Error) -> Vec<String> {
    let mut texts = vec![error.to_string(), format!("{error:?}"), format!("{error:#?}")];
    let mut next = error.source();
    while let Some(source) = next {
        texts.extend([source.to_string(), format!("{source:?}")]);
        next = source.source();
    }
    texts
}

#[test]
fn no_secret_of_an_odd_connection_string_is_printed() {
    let (mut parsed, mut refused) = (0, 0);
    for (number, odd) in ODD.iter().enumerate() {
        let secret = format!("zz{number}secret");
        let url = odd.replace("{}", &secret);
        let texts = match PostgresConnectionManager::from_url(&url, NoTls) {
            Ok(manager) => {
                parsed += 1;
                let manager = manager.session_setting("app.key", &secret);
                vec![format!("{manager:?}"), format!("{manager:#?}")]
            }
            Err(error) => {
                refused += 1;
                texts_of(&error)
            }
        };
        for text in texts {
            assert!(!text.contains(&secret), "{url}: {text}");
            // A part of it, as of `pass word`.
            assert!(!text.contains(&format!("zz{number}")), "{url}: {text}");
        }
    }
    assert!(parsed > 10 && refused > 10, "{parsed} parsed, {refused} refused");
}

#[test]
fn what_a_user_needs_is_shown() {
    let url = "postgresql://ann:x@db1:5433,10.0.0.7/shop?application_name=billing&options=-c%20a=b";
    let manager = PostgresConnectionManager::from_url(url, NoTls).unwrap();
    let shown = format!("{:?}", manager.session_setting("work_mem", "64MB"));
    for part in ["ann", "db1", "10.0.0.7", "5433", "shop", "billing", "work_mem"] {
        assert!(shown.contains(&format!("\"{part}\"")) || part == "5433", "{part}: {shown}");
    }
    assert!(shown.contains("5433"), "{shown}");
    assert!(shown.contains("password: Some(_)") && shown.contains("options: Some(_)"), "{shown}");
    let torn = PostgresConnectionManager::from_url("postgresql://u:p@s@host/db", NoTls).unwrap();
    assert!(format!("{torn:?}").contains("%40"), "{torn:?}");
}

#[test]
fn an_unknown_option_is_named_unless_it_may_be_a_secret() {
    let text = |url: &str| {
        let error = PostgresConnectionManager::from_url(url, NoTls).unwrap_err();
        format!("{error}: {}", error.source().unwrap())
    };
    for (url, expected) in [
        ("postgresql://u:secret@h/db?conect_timeout=3", "unknown option `conect_timeout`"),
        ("host=h password=secret sslrootcert=ca.pem", "unknown option `sslrootcert`"),
        ("host=h conect_timeout=3", "unknown option `conect_timeout`"),
        ("host=h connect_timeout=x", "invalid value for option `connect_timeout`"),
        ("host=h password=a b=c", "not shown"),
    ] {
        let text = text(url);
        assert!(text.starts_with("invalid connection string: "), "{text}");
        assert!(text.contains(expected), "{url}: {text}");
    }
}

#[test]
fn the_names_in_options_are_found_and_no_part_of_a_value() {
    assert_eq!(names_in("-c a=b --c.d=e -cf=g"), ["a", "c.d", "f"]);
    assert_eq!(names_in(r"-c a=b\ c=d -c e=f\ --g=h"), ["a", "e"]);
    assert!(names_in("stray a=b -x").is_empty());
}

#[test]
fn an_error_without_the_servers_words_keeps_their_meaning() {
    let fields = [
        (b'S', "FEHLER"),
        (b'V', "ERROR"),
        (b'C', "22023"),
        (b'M', "falscher Wert für Parameter \"work_mem\": \"geheim\""),
        (b'D', "geheim"),
        (b'H', "geheim"),
    ];
    let settings = [("work_mem", "geheim"), ("jit", "off")];
    let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let error = of_settings(from_server(&fields), &settings);
    let db = error.as_db_error().unwrap();
    assert_eq!((db.severity(), db.code().code()), ("FEHLER", "22023"));
    assert_eq!(db.parsed_severity(), Some(postgres::error::Severity::Error));
    assert!(db.message().starts_with("the server rejects session_setting work_mem ("), "{db}");
    assert!(texts_of(&error).iter().all(|text| !text.contains("geheim")), "{error:?}");

    // What is not about a setting is told in the server's words.
    for code in ["08006", "53200", "57P01", "58030", "XX000"] {
        let fields = [(b'S', "ERROR"), (b'C', code), (b'M', "why")];
        let error = of_settings(from_server(&fields), &settings);
        assert_eq!(error.as_db_error().unwrap().message(), "why", "{code}");
    }
    let mut config = Config::new();
    config.options("-c a=geheim -c jit=off");
    for (code, words) in [
        ("22023", "the server rejects options a, jit ("),
        ("42704", "the server rejects options a, jit ("),
        ("42501", "why"),
        ("28P01", "why"),
        ("3D000", "why"),
        ("08P01", "why"),
        ("57P03", "why"),
    ] {
        let fields = [(b'S', "FATAL"), (b'C', code), (b'M', "why")];
        let error = of_connect(from_server(&fields), &config);
        let db = error.as_db_error().unwrap();
        assert!(db.message().starts_with(words) && db.code().code() == code, "{db:?}");
    }
}
