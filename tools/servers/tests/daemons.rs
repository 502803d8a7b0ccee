//! Servers of one program: that they start, stop, and leave nothing behind.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;

use fairpool_servers::memcached::Memcached;
use fairpool_servers::redis::Redis;

/// The first line that a server answers.
fn ask(url: &str, question: &str) -> std::io::Result<String> {
    let (_, address) = url.split_once("://").expect("a URL");
    let mut stream = TcpStream::connect(address)?;
    write!(stream, "{question}\r\n")?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer)?;
    Ok(answer.trim_end().to_owned())
}

#[test]
fn redis_answers_stops_and_starts_again_on_its_port() {
    let mut redis = Redis::start();
    let url = redis.url();
    assert_eq!(ask(&url, "PING").unwrap(), "+PONG");
    assert_eq!(ask(&url, "SET key value").unwrap(), "+OK");
    redis.stop();
    assert!(ask(&url, "PING").is_err());
    redis.start_again();
    assert_eq!(redis.url(), url);
    assert_eq!(ask(&url, "EXISTS key").unwrap(), ":0");
    drop(redis);
    assert!(ask(&url, "PING").is_err());
}

#[test]
fn memcached_answers_stops_and_starts_again_on_its_port() {
    let mut memcached = Memcached::start();
    let url = memcached.url();
    assert!(ask(&url, "version").unwrap().starts_with("VERSION "));
    memcached.stop();
    assert!(ask(&url, "version").is_err());
    memcached.start_again();
    assert!(ask(&url, "version").unwrap().starts_with("VERSION "));
    drop(memcached);
    assert!(ask(&url, "version").is_err());
}
