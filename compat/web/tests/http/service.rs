//! A program under test: its process, its database, and a client.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use fairpool_servers::cluster::Cluster;

use crate::load::CONNECTIONS;

/// Who waits longer than this waits for ever.
pub const WATCHDOG: Duration = Duration::from_secs(60);

/// The server of all tests but those of an outage. Each service opens eight connections.
pub static CLUSTER: LazyLock<Cluster> =
    LazyLock::new(|| Cluster::start_with(&[("max_connections", "200")]));

/// A program's executable.
#[derive(Clone, Copy)]
pub struct Program(pub &'static str);

pub struct Service {
    process: Child,
    output: BufReader<ChildStdout>,
    pub port: u16,
}

/// The URL of a new database with the table.
pub fn new_database(cluster: &Cluster) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let name = format!("web_{}", NEXT.fetch_add(1, Ordering::Relaxed));
    cluster.psql(&format!("CREATE DATABASE {name}"));
    let table = "CREATE TABLE orders (id bigserial PRIMARY KEY, item text NOT NULL)";
    cluster.psql_in(&name, table);
    let url = cluster.url();
    let (server, _) = url.rsplit_once('/').expect("the path of a URL");
    format!("{server}/{name}")
}

impl Service {
    /// Starts it on a free port. It is ended with this process, even if that is killed.
    pub fn start(program: Program, url: &str) -> Service {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let log = format!("{}/web-{number}.log", env!("CARGO_TARGET_TMPDIR"));
        let mut process = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", program.0])
            .env("DATABASE_URL", url)
            .env("PORT", "0")
            .env("ROCKET_LOG_LEVEL", "off")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::create(log).expect("a file"))
            .spawn()
            .expect("setpriv of util-linux");
        let mut output = BufReader::new(process.stdout.take().expect("a pipe"));
        let mut line = String::new();
        let port = loop {
            line.clear();
            assert_ne!(output.read_line(&mut line).expect("text"), 0, "it has not started");
            if let Some(address) = line.trim().strip_prefix("listening on 127.0.0.1:") {
                break address.parse().expect("a port");
            }
        };
        Service { process, output, port }
    }

    pub fn get(&self, path: &str) -> Answer {
        Answer::to(self.port, "GET", path, "")
    }

    pub fn post(&self, item: &str) -> Answer {
        Answer::to(self.port, "POST", "/orders", item)
    }

    /// The sum of the values of a metric whose lines begin so.
    pub fn metric(&self, start: &str) -> u64 {
        let text = self.get("/metrics").body;
        let values = text.lines().filter(|line| line.starts_with(start));
        values.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().expect("a number")).sum()
    }

    /// How many connections are in this state; with `""`, in any.
    pub fn connections(&self, state: &str) -> u64 {
        let pool = "db_client_connection_count{db_client_connection_pool_name=\"orders\"";
        self.metric(&format!("{pool},db_client_connection_state=\"{state}"))
    }

    pub fn await_connections(&self) {
        until("all connections are open", || self.connections("idle") == CONNECTIONS);
    }

    pub fn threads(&self) -> usize {
        let folder = format!("/proc/{}/task", self.process.id());
        std::fs::read_dir(folder).expect("it runs").count()
    }

    pub fn signal(&self, name: &str) {
        let pid = self.process.id().to_string();
        let sent = Command::new("kill").args(["-s", name, &pid]).status();
        assert!(sent.expect("kill").success());
    }

    /// Waits for its end. Returns what it has printed since it started.
    pub fn end(mut self) -> (ExitStatus, String) {
        let mut status = None;
        until("it ends", || {
            status = self.process.try_wait().expect("a child");
            status.is_some()
        });
        let mut output = String::new();
        self.output.read_to_string(&mut output).expect("text");
        (status.unwrap(), output)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// An answer to a request.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: String,
    pub took: Duration,
}

impl Answer {
    fn to(port: u16, method: &str, path: &str, body: &str) -> Answer {
        let start = Instant::now();
        let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
        stream.set_read_timeout(Some(WATCHDOG)).expect("a timeout");
        let length = body.len();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
             Content-Type: text/plain\r\nContent-Length: {length}\r\n\r\n{body}"
        )
        .expect("it reads");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("an answer: a request hangs");
        let (head, body) = text.split_once("\r\n\r\n").expect("a head");
        let mut lines = head.lines();
        let status = lines.next().and_then(|line| line.split(' ').nth(1)).expect("a status");
        let header = |line: &str| {
            let (name, value) = line.split_once(": ").expect("a header");
            (name.to_ascii_lowercase(), value.to_owned())
        };
        Answer {
            status: status.parse().expect("a number"),
            headers: lines.map(header).collect(),
            body: body.to_owned(),
            took: start.elapsed(),
        }
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Whether it is as wanted. If not, it must be a 503 that says when to come again.
    pub fn is(&self, wanted: u16) -> bool {
        if self.status != wanted {
            self.assert_unavailable();
        }
        self.status == wanted
    }

    pub fn assert_unavailable(&self) {
        assert_eq!(self.status, 503, "{self:?}");
        let seconds = self.header("retry-after").map(str::parse::<u64>);
        assert!(matches!(seconds, Some(Ok(1..=2))), "{self:?}");
        assert!(!self.body.contains("postgres") && !self.body.contains("pool"), "{self:?}");
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|why| panic!("{why}: {self:?}"))
    }
}

pub fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < WATCHDOG, "still not so: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}
