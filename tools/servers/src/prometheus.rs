//! A Prometheus server on a loopback port.
//!
//! It stops, and its folder is removed, when it is dropped. It also stops when the
//! process ends in another way.

use std::fmt::Write as _;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::ops::Range;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::host;

const HOW_TO_INSTALL: &str = "Prometheus was not found in PATH: install it, for example with \
     `apt-get install prometheus`";
const PORTS: Range<u16> = 19_000..20_000;
const START_LIMIT: Duration = Duration::from_secs(20);

/// Stops the server when the pipe from the test ends. `$1` is its port.
const KEEPER: &str = r#"
prometheus --config.file=prometheus.yml --storage.tsdb.path=data \
    --web.listen-address="127.0.0.1:$1" --log.level=warn >output 2>&1 </dev/null &
pid=$!
read -r line
kill "$pid"
wait "$pid"
"#;

/// A running server; dropping it stops it.
pub struct Prometheus {
    port: u16,
    keeper: Child,
    folder: TempDir,
}

impl Prometheus {
    /// Starts one with this configuration, and with these files in its folder.
    ///
    /// # Panics
    ///
    /// If Prometheus is not installed, or does not start.
    pub fn start(config: &str, files: &[(&str, &str)]) -> Prometheus {
        assert!(host::find_program(&["prometheus"], &[]).is_some(), "{HOW_TO_INSTALL}");
        let folder = tempfile::tempdir().expect("a temporary folder");
        for (name, text) in files.iter().chain(&[("prometheus.yml", config)]) {
            fs::write(folder.path().join(name), text).expect("a file");
        }
        let port = host::free_port(PORTS);
        let keeper = Command::new("sh")
            .args(["-c", KEEPER, "keeper", &port.to_string()])
            .current_dir(&folder)
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("sh starts");
        let server = Prometheus { port, keeper, folder };
        server.wait_until_ready();
        server
    }

    fn wait_until_ready(&self) {
        let deadline = Instant::now() + START_LIMIT;
        while !get(self.port, "/-/ready").is_ok_and(|(status, _)| status == 200) {
            let output = fs::read_to_string(self.folder.path().join("output"));
            let output = output.unwrap_or_default();
            let in_time = Instant::now() < deadline && !output.contains("level=error");
            assert!(in_time, "Prometheus did not start:\n{output}");
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Calls the HTTP API and returns the `data` of its answer.
    ///
    /// # Panics
    ///
    /// If the answer is an error.
    #[track_caller]
    pub fn api(&self, path: &str, parameters: &[(&str, &str)]) -> Value {
        let mut target = format!("/api/v1/{path}?");
        for (name, value) in parameters {
            write!(target, "{}={}&", escaped(name), escaped(value)).expect("a string");
        }
        let (status, body) = get(self.port, &target).expect("an answer");
        assert_eq!(status, 200, "{parameters:?}: {body}");
        let mut answer: Value = serde_json::from_str(&body).expect("JSON");
        assert_eq!(answer["status"], "success", "{parameters:?}: {body}");
        answer["data"].take()
    }

    /// Returns the series that a query selects now, with their values.
    ///
    /// # Panics
    ///
    /// If the answer is an error, or holds no series.
    #[track_caller]
    pub fn query(&self, query: &str) -> Vec<(Value, f64)> {
        let mut data = self.api("query", &[("query", query)]);
        let Value::Array(series) = data["result"].take() else { panic!("{query}: no series") };
        let value = |series: Value| {
            let value = series["value"][1].as_str().expect("a value");
            (series["metric"].clone(), value.parse().expect("a number"))
        };
        series.into_iter().map(value).collect()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        // Returns when the server is gone.
        let _ = self.keeper.wait();
    }
}

fn escaped(text: &str) -> String {
    let mut all = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => all.push(byte.into()),
            _ => write!(all, "%{byte:02X}").expect("a string"),
        }
    }
    all
}

/// Status and body.
fn get(port: u16, target: &str) -> std::io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(START_LIMIT))?;
    // HTTP/1.0: the body comes in one piece, and then the end.
    write!(stream, "GET {target} HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    Ok((status, body.to_string()))
}
