use mysql::OptsBuilder;

use super::*;

const SECRET: &str = "s3cr3t";

#[test]
fn no_part_of_a_mistaken_url_is_shown() {
    let mut refused = 0;
    for url in [
        "mysql://app:s3cr3t@127.0.0.1/shop",
        "mysql://app:one@s3cr3t@127.0.0.1/shop",
        "mysql://app:one?s3cr3t@127.0.0.1/shop",
        "mysql://app:one?s3cr3t=1@127.0.0.1/shop",
        "mysql://app:one#s3cr3t@127.0.0.1/shop",
        "mysql://app:one/s3cr3t@127.0.0.1/shop",
        "mysql://app:one:s3cr3t@127.0.0.1/shop",
        "mysql://app:%s3cr3t@127.0.0.1/shop",
        "mysql://app@127.0.0.1/shop?prefer_socket=s3cr3t",
        "mysql://app@127.0.0.1/shop?s3cr3t=1",
        "mysql://app@127.0.0.1:s3cr3t/shop",
        "s3cr3t://app@127.0.0.1/shop",
        "s3cr3t",
    ] {
        match parse(url) {
            Ok(opts) => {
                let shown = format!("{:?}", Shown(&opts));
                assert!(!shown.contains(SECRET) || is_name(&opts), "{url}: {shown}");
            }
            Err(error) => {
                refused += 1;
                let shown = format!("{error} {error:?}");
                assert!(!shown.contains(SECRET), "{url}: {shown}");
            }
        }
    }
    assert!(refused >= 6, "{refused}");
}

/// A host or database by that name is what the URL says.
fn is_name(opts: &Opts) -> bool {
    opts.get_ip_or_hostname() == SECRET
}

/// The digits are then taken for a port, so that the URL is valid, or the driver quotes the rest.
#[test]
fn a_password_of_digits_and_more_is_refused_and_not_shown() {
    for rest in ["4711/s3cr3t", "4711?s3cr3t", "4711#s3cr3t", "4711?s3cr3t=1", "4711/a?s3cr3t#b"] {
        let url = format!("mysql://app:{rest}@127.0.0.1/shop");
        assert!(Opts::from_url(&url).is_ok() || rest.contains('?'), "{url}: the driver takes it");
        let error = parse(&url).expect_err(&url);
        let shown = format!("{error} {error:?}");
        assert!(shown.contains("must be escaped") && shown.contains("%40"), "{url}: {shown}");
        assert!(!shown.contains(SECRET) && !shown.contains("4711"), "{url}: {shown}");
    }
    let escaped = parse("mysql://app:4711%2Fs3cr3t@127.0.0.1/shop%40home").expect("a valid URL");
    assert_eq!(escaped.get_pass(), Some("4711/s3cr3t"));
    assert_eq!(escaped.get_db_name(), Some("shop@home"));
}

#[test]
fn no_value_of_the_options_is_shown() {
    let opts = OptsBuilder::new()
        .user(Some("app"))
        .pass(Some(SECRET))
        .init(vec![format!("SET @key = '{SECRET}'")])
        .connect_attrs(Some([("token".to_owned(), SECRET.to_owned())].into()));
    let shown = format!("{:?}", Shown(&opts.into()));
    assert!(!shown.contains(SECRET), "{shown}");
    assert!(shown.contains("app"), "{shown}");
}

#[test]
fn a_rejected_setting_is_named_without_its_value() {
    let settings =
        [("sql_mode".to_owned(), SECRET.to_owned()), ("time_zone".to_owned(), "+00:00".to_owned())];
    let error = |message: &str, code| {
        let (message, state) = (message.to_owned(), "42000".to_owned());
        of_settings(Error::MySqlError(MySqlError { code, state, message }), &settings).to_string()
    };
    let shown = error("Variable 'sql_mode' can't be set to the value of 's3cr3t'", 1231);
    assert!(shown.contains("sql_mode") && !shown.contains("time_zone"), "{shown}");
    assert!(!shown.contains(SECRET) && shown.contains("1231"), "{shown}");
    let shown = error("Too many connections", 1040);
    assert!(shown.contains("Too many"), "{shown}");
}
