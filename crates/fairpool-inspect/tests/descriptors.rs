//! The inspector when file descriptors are few. The limit is that of a process: hence a child
//! process, with a pool whose connections are files.
#![cfg(unix)]

use std::fs::File;
use std::io::{self, BufRead, BufReader, Lines, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use std::{env, iter};

use fairpool::{ManageConnection, Pool};
use fairpool_testing::stub::WATCHDOG;
use rustix::process::{Resource, Rlimit, setrlimit};

/// Its value is how many descriptors the child leaves free; if it is empty, all are.
const FREE: &str = "FAIRPOOL_TEST_FREE_DESCRIPTORS";

/// The child's limit.
const LIMIT: u64 = 64;

/// Opens a file for each get.
struct Files;

impl ManageConnection for Files {
    type Connection = File;
    type Error = io::Error;

    fn connect(&self) -> io::Result<File> {
        File::open("/dev/null")
    }

    fn is_valid(&self, _: &mut File) -> io::Result<()> {
        Ok(())
    }

    fn has_broken(&self, _: &mut File) -> bool {
        true
    }
}

#[test]
#[ignore = "not a test by itself"]
fn child_with_few_descriptors() {
    let limit = Rlimit { current: Some(LIMIT), maximum: Some(LIMIT) };
    setrlimit(Resource::Nofile, limit).unwrap();
    let pool = Pool::builder().max_size(1).min_idle(Some(0)).build(Files).unwrap();
    drop(pool.get().unwrap());
    let server = fairpool_inspect::serve("127.0.0.1:0", &[pool.downgrade()]).unwrap();
    let mut taken: Vec<File> = Vec::new();
    if let Ok(free) = env::var(FREE).unwrap_or_default().parse::<usize>() {
        taken.extend(iter::from_fn(|| File::open("/dev/null").ok()));
        taken.truncate(taken.len() - free);
    }
    println!("\nanswer: {}", server.addr());
    // Each line asks for one get, until the parent ends.
    for _ in io::stdin().lines() {
        let got = pool.get_timeout(WATCHDOG);
        println!("\nanswer: {}", got.map_or_else(|error| error.to_string(), |_| "got".into()));
    }
}

struct Crowded {
    child: Child,
    ask: Option<ChildStdin>,
    answers: Lines<BufReader<ChildStdout>>,
    addr: SocketAddr,
}

impl Crowded {
    fn start(free: &str) -> Crowded {
        let mut child = Command::new(env::current_exe().unwrap())
            .args(["--exact", "child_with_few_descriptors", "--ignored", "--nocapture"])
            .env(FREE, free)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let ask = child.stdin.take();
        let mut answers = BufReader::new(child.stdout.take().unwrap()).lines();
        let addr = answer(&mut answers).parse().unwrap();
        Crowded { child, ask, answers, addr }
    }

    /// The child's pool opens a connection.
    fn get(&mut self) -> String {
        writeln!(self.ask.as_mut().unwrap()).unwrap();
        answer(&mut self.answers)
    }
}

impl Drop for Crowded {
    fn drop(&mut self) {
        drop(self.ask.take());
        let _ = self.child.wait();
    }
}

fn answer(lines: &mut Lines<BufReader<ChildStdout>>) -> String {
    let lines = lines.map(|line| line.expect("text"));
    let mut answers = lines.filter_map(|line| Some(line.strip_prefix("answer: ")?.to_string()));
    answers.next().expect("the child ended")
}

/// A client that begins a request and does not go on.
fn half_a_client(addr: SocketAddr) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect(addr)?;
    stream.write_all(b"GET /snapshot.json HTTP/1.1\r\nHost: ")?;
    Ok(stream)
}

/// How long the answer took.
#[track_caller]
fn assert_answered(addr: SocketAddr) -> Duration {
    let start = Instant::now();
    let mut stream = TcpStream::connect_timeout(&addr, WATCHDOG).expect("a connection");
    stream.set_read_timeout(Some(WATCHDOG)).unwrap();
    write!(stream, "GET /dump HTTP/1.1\r\nHost: {addr}\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("an answer in time");
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    start.elapsed()
}

#[test]
fn a_newcomer_is_answered_and_the_pool_connects_while_idle_clients_would_take_every_descriptor() {
    let mut crowded = Crowded::start("");
    // Twice as many as the child has descriptors.
    let idle: Vec<_> = (0..2 * LIMIT).map(|_| half_a_client(crowded.addr).unwrap()).collect();
    assert_eq!(crowded.get(), "got");
    let slowest = (0..10).map(|_| assert_answered(crowded.addr)).max();
    println!("figure: answered after at most {slowest:.2?}, with {} idle clients", idle.len());
    assert_eq!(crowded.get(), "got");
}

/// Others have taken all descriptors but a few, and idle clients come again and again.
#[test]
fn who_holds_the_last_descriptors_gives_them_back_for_newcomers_and_for_the_pool() {
    const CLIENTS: usize = 20;
    let mut crowded = Crowded::start("6");
    let (addr, over) = (crowded.addr, AtomicBool::new(false));
    thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    // Until it is turned out.
                    let wait = |mut client: TcpStream| client.read_to_end(&mut Vec::new());
                    drop(half_a_client(addr).and_then(wait));
                }
            });
        }
        let _over = Over(&over);
        for _ in 0..5 {
            let answered = assert_answered(addr);
            let start = Instant::now();
            assert_eq!(crowded.get(), "got");
            println!(
                "figure: answered after {answered:.2?}, connected after {:.2?}",
                start.elapsed()
            );
        }
        // Ends the clients, too.
        drop(crowded);
    });
}

/// Ends the clients also when the test fails.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
