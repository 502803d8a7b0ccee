//! The driver speaks first: its own limits end before the pool's.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use fairpool::{ErrorKind, Pool};
use fairpool_postgres::NoTls;
use fairpool_postgres::postgres::Config;
use fairpool_servers::netns::Network;
use fairpool_servers::proxy::{Flow, Proxy};
use log::Level;
use socket2::{Domain, Socket, Type};

use crate::common::{
    Manager, builder, driver_error, logged, manager_of, millis, refused, secs, shared, start_log,
    through, wait_until,
};

/// An address of this machine that answers nobody: its queue of connections is full, so the
/// system drops each further request for one.
struct BlackHole {
    address: SocketAddr,
    _listener: Socket,
    _queued: Vec<TcpStream>,
}

impl BlackHole {
    fn at(ip: [u8; 4]) -> BlackHole {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        listener.bind(&SocketAddr::from((ip, 0)).into()).unwrap();
        listener.listen(0).unwrap();
        let address = listener.local_addr().unwrap().as_socket().unwrap();
        let mut queued = Vec::new();
        while let Ok(stream) = TcpStream::connect_timeout(&address, millis(200)) {
            queued.push(stream);
        }
        BlackHole { address, _listener: listener, _queued: queued }
    }
}

/// The driver's limits are at their defaults.
fn assert_the_driver_speaks(manager: Manager) {
    let pool = builder().max_size(1).open_timeout(secs(4)).build_unchecked(manager);
    let error = refused(pool.get_timeout(secs(8)));
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
    let cause = std::error::Error::source(driver_error(&error)).unwrap().to_string();
    assert_eq!(cause, "connection timed out", "{error}");
    let text = format!("{error:#}");
    assert!(text.contains("connection timed out") && !text.contains("hung"), "{text}");
    assert_eq!(pool.stats().abandoned, 0);
}

#[test]
fn an_address_that_never_answers_is_reported_in_the_drivers_words() {
    let hole = BlackHole::at([127, 0, 0, 1]);
    let url = format!("postgresql://u@{}/d", hole.address);
    assert_the_driver_speaks(Manager::from_url(&url, NoTls).unwrap());
}

#[test]
fn two_addresses_that_never_answer_are_reported_in_the_drivers_words() {
    let holes = [BlackHole::at([127, 0, 0, 1]), BlackHole::at([127, 0, 0, 2])];
    let mut config = Config::new();
    config.user("u");
    // A name counts as two addresses, one of each kind.
    config.host("localhost").port(holes[0].address.port());
    for hole in &holes {
        config.host(&hole.address.ip().to_string()).port(hole.address.port());
    }
    assert_the_driver_speaks(Manager::new(config, NoTls));
}

/// Two servers on a link that loses every packet.
#[test]
fn a_host_behind_a_black_hole_is_reported_in_the_drivers_words() {
    let network = match Network::make() {
        Ok(network) => network,
        Err(why) => {
            println!("no network namespace ({why}): an address without an answer instead");
            let hole = BlackHole::at([127, 0, 0, 1]);
            let url = format!("postgresql://u@{}/d", hole.address);
            return assert_the_driver_speaks(Manager::from_url(&url, NoTls).unwrap());
        }
    };
    // There must be a route: without one the system itself fails the connect at once.
    let refused = TcpStream::connect((network.inside().as_str(), 5432)).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    network.swallow();
    let url = format!("postgresql://u@{0}:5432,{0}:5433/d", network.inside());
    assert_the_driver_speaks(Manager::from_url(&url, NoTls).unwrap());
}

#[test]
fn a_check_of_a_silent_server_is_reported_in_the_drivers_words() {
    start_log();
    let proxy = Proxy::start(shared().port());
    let pool = builder()
        .name("silent check")
        .max_size(4)
        .test_on_check_out(true)
        .validation_timeout(millis(4000))
        .build(Manager::new(through(&proxy), NoTls))
        .unwrap();
    proxy.set(Flow::Hold);
    let error = refused(pool.get_timeout(millis(6000)));
    let failures = || logged("pool 'silent check': connection ");
    wait_until("a check has failed", || !failures().is_empty());
    for (_, line) in failures() {
        assert!(line.contains("failed its check: timeout waiting for server"), "{line}");
    }
    assert!(format!("{error:#}").contains("timeout waiting for server"), "{error}");
    assert_eq!(logged("pool 'silent check': the check of "), []);
    proxy.set(Flow::Pass);
}

#[test]
fn limits_that_do_not_fit_are_logged_once_with_both_settings() {
    start_log();
    let build = |name: &str, manager: Manager, open: Duration| -> Pool<Manager> {
        builder().name(name).min_idle(Some(0)).open_timeout(open).build_unchecked(manager)
    };
    let mut twice = Config::new();
    twice.user("u").host("10.0.0.1").host("10.0.0.2").connect_timeout(secs(5));
    let misfits = |name: &str| logged(&format!("pool '{name}': connect_timeout"));

    let _one = build("misfit", manager_of(shared()).connect_timeout(secs(5)), secs(5));
    let _two = build("misfit of two", Manager::new(twice, NoTls), secs(10));
    for (name, parts) in [
        ("misfit", ["connect_timeout (5s)", "open_timeout (5s)", "at most 4s", "at least 6.25s"]),
        (
            "misfit of two",
            [
                "connect_timeout (5s for each of 2 addresses)",
                "open_timeout (10s)",
                "at most 4s",
                "at least 12.5s",
            ],
        ),
    ] {
        let lines = misfits(name);
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert_eq!(lines[0].0, Level::Warn);
        assert!(parts.iter().all(|part| lines[0].1.contains(part)), "{lines:?}");
    }

    let _fits = build("fits", manager_of(shared()).connect_timeout(secs(4)), secs(5));
    let _default = build("default", manager_of(shared()), millis(100));
    assert_eq!((misfits("fits"), misfits("default")), (Vec::new(), Vec::new()));
}

#[test]
fn the_default_of_connect_timeout_follows_the_pools_limit() {
    let of = |hosts: &[&str], open: Duration| {
        let mut config = Config::new();
        config.user("u");
        for host in hosts {
            config.host(host);
        }
        let pool = builder().min_idle(Some(0)).open_timeout(open);
        let pool = pool.build_unchecked(Manager::new(config, NoTls));
        *pool.manager().config().get_connect_timeout().unwrap()
    };
    assert_eq!(of(&["10.0.0.1"], secs(5)), secs(4));
    assert_eq!(of(&["/run"], secs(5)), secs(4));
    assert_eq!(of(&["db"], secs(5)), secs(2));
    assert_eq!(of(&["10.0.0.1", "db", "/run"], secs(15)), secs(4));
    // Not less than half a second, unless the pool's limit is.
    assert_eq!(of(&["db"; 10], secs(5)), millis(500));
    assert_eq!(of(&["db"; 10], millis(100)), millis(80));
    let without_pool = manager_of(shared());
    assert_eq!(without_pool.config().get_connect_timeout(), Some(&secs(5)));
    // A clone is for a pool of its own.
    let one = builder().min_idle(Some(0)).open_timeout(secs(15)).build_unchecked(without_pool);
    let other = builder().min_idle(Some(0)).open_timeout(secs(1));
    let other = other.build_unchecked(one.manager().clone());
    assert_eq!(one.manager().config().get_connect_timeout(), Some(&secs(12)));
    assert_eq!(other.manager().config().get_connect_timeout(), Some(&millis(800)));
}
