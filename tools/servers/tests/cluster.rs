//! A cluster leaves nothing behind, however its process ends.

use std::env;
use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use fairpool_servers::cluster::Cluster;
use postgres::NoTls;

const LONG: Duration = Duration::from_secs(20);

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + LONG;
    while !holds() {
        assert!(Instant::now() < deadline, "not within {LONG:?}: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_cluster_stops_and_leaves_nothing_when_it_is_dropped() {
    let cluster = Cluster::start();
    let folder = cluster.folder().to_owned();
    let config = cluster.socket_config();
    drop(config.connect(NoTls).unwrap());
    drop(cluster);
    assert!(!folder.exists());
    assert!(config.connect(NoTls).is_err());
}

const PLAY_VICTIM: &str = "FAIRPOOL_TEST_PLAY_VICTIM";

/// The process that `a_killed_test_process_leaves_no_server` kills: it needs a process of
/// its own, with a static cluster.
#[test]
#[ignore = "not a test by itself"]
fn victim_of_a_kill() {
    if env::var_os(PLAY_VICTIM).is_none() {
        return;
    }
    let cluster = Cluster::shared();
    let folder = cluster.folder().display();
    println!("\nvictim {} {folder}", cluster.port());
    // Until the kill.
    loop {
        thread::park();
    }
}

#[test]
fn a_killed_test_process_leaves_no_server() {
    let mut victim = Command::new(env::current_exe().unwrap())
        .args(["--exact", "victim_of_a_kill", "--ignored", "--nocapture"])
        .env(PLAY_VICTIM, "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let line = BufReader::new(victim.stdout.take().unwrap())
        .lines()
        .map_while(Result::ok)
        .find(|line| line.starts_with("victim "))
        .expect("the victim's cluster");
    let fields: Vec<&str> = line.split(' ').collect();
    let port: u16 = fields[1].parse().unwrap();
    let folder = Path::new(fields[2]);
    assert!(folder.join("data").exists());
    assert!(TcpStream::connect(("127.0.0.1", port)).is_ok());

    victim.kill().unwrap();
    victim.wait().unwrap();

    wait_until("the folder is gone", || !folder.exists());
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
}
