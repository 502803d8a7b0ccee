//! Pools of other languages, each in a process of its own with a driver that does
//! nothing. `benches/peers/` has their sources and the protocol.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::cell::Cell;
use crate::pass::Pass;
use crate::rounds::Contestant;
use crate::settings::{Settings, workspace};
use crate::waits;

/// How long a peer may take for an answer, beyond the length of a pass.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);
/// A peer has warmed up when its speed no longer rises, or after this time.
const LONGEST_WARM_UP: Duration = Duration::from_secs(2);
/// The folder of Debian's packages of Java libraries.
const JARS: &str = "/usr/share/java";

/// The first line of a peer.
#[derive(Deserialize)]
struct Hello {
    version: String,
}

/// The results of one pass. Waits are pairs of a value and a count, to three digits.
#[derive(Deserialize)]
struct Answer {
    operations: Vec<u64>,
    elapsed_ns: u64,
    waits: Vec<u64>,
    voluntary_switches: u64,
}

/// A running peer.
pub struct Peer {
    /// The name of the pool.
    pub name: &'static str,
    /// With the version of its runtime: `2.7.9 on OpenJDK 17.0.15`.
    pub version: String,
    process: Child,
    requests: Option<ChildStdin>,
    answers: Receiver<String>,
    /// The reason of a failure, after which it gets no more requests.
    failed: Option<String>,
}

/// Compiles and starts the peers. Returns those that run, and a line for each that
/// cannot.
pub fn start(settings: &Settings) -> (Vec<Peer>, Vec<String>) {
    let (mut peers, mut missing) = (Vec::new(), Vec::new());
    let temp = settings.temp();
    let hikari: fn(&Path) -> _ = |temp| Ok(Java::compile(temp)?.command("Peer"));
    for (name, build) in [("HikariCP", hikari), ("database/sql", sql)] {
        match build(temp).and_then(|command| Peer::start(name, command, settings)) {
            Ok(peer) => peers.push(peer),
            Err(why) => missing.push(format!("not measured: {name}: {why}")),
        }
    }
    (peers, missing)
}

fn sources(name: &str) -> PathBuf {
    workspace().join("benches/peers").join(name)
}

/// HikariCP, with the programs that measure it.
pub struct Java {
    path: OsString,
}

impl Java {
    /// Compiles the programs. Their classes go to this folder.
    ///
    /// # Errors
    ///
    /// If something is not installed, or does not compile.
    pub fn compile(temp: &Path) -> Result<Java, String> {
        let need = |present: bool, package: &str| match present {
            true => Ok(()),
            false => Err(format!("please install it: apt-get install {package}")),
        };
        need(runs("javac", "-version") && runs("java", "-version"), "default-jdk-headless")?;
        let jars =
            ["HikariCP.jar", "slf4j-api.jar", "slf4j-nop.jar"].map(|jar| Path::new(JARS).join(jar));
        need(jars.iter().all(|jar| jar.exists()), "libhikaricp-java libslf4j-java")?;

        let classes = temp.join("hikari");
        fs::create_dir_all(&classes).map_err(|error| error.to_string())?;
        let mut path: Vec<PathBuf> = jars.to_vec();
        path.push(classes.clone());
        let path = std::env::join_paths(path).map_err(|error| error.to_string())?;
        let mut compiler = Command::new("javac");
        compiler.args(["-Xlint:all,-classfile", "-Werror", "-d"]);
        compiler.arg(&classes).arg("-cp").arg(&path);
        let files = fs::read_dir(sources("hikari")).map_err(|error| error.to_string())?;
        compiler.args(files.flatten().map(|file| file.path()));
        succeed(compiler)?;
        Ok(Java { path })
    }

    /// Runs the program of this name.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("java");
        command.arg("-cp").arg(&self.path).arg(program);
        command
    }
}

fn sql(temp: &Path) -> Result<Command, String> {
    if !runs("go", "version") {
        return Err("please install it: apt-get install golang-go".to_string());
    }
    let program = temp.join("sql-peer");
    let mut compiler = Command::new("go");
    compiler.args(["build", "-trimpath", "-o"]).arg(&program).arg(".").current_dir(sources("sql"));
    // It has no dependencies, so nothing is downloaded.
    compiler.envs([("CGO_ENABLED", "0"), ("GOPROXY", "off"), ("GOFLAGS", ""), ("GOWORK", "off")]);
    compiler.env("GOCACHE", temp.join("go-cache"));
    succeed(compiler)?;
    Ok(Command::new(program))
}

fn runs(program: &str, argument: &str) -> bool {
    let output = Command::new(program).arg(argument).output();
    output.is_ok_and(|output| output.status.success())
}

fn succeed(mut command: Command) -> Result<(), String> {
    let output = command.output().map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(());
    }
    eprintln!("{}", String::from_utf8_lossy(&output.stderr));
    Err("its part of the bench does not compile (see above)".to_string())
}

impl Peer {
    /// Starts it and reads its first line.
    ///
    /// # Errors
    ///
    /// If it does not start, or does not say its version.
    pub fn start(
        name: &'static str,
        mut command: Command,
        settings: &Settings,
    ) -> Result<Peer, String> {
        let log = File::options().create(true).append(true).open(settings.temp().join("peers.log"));
        let log = log.map_err(|error| error.to_string())?;
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log);
        let mut process = command.spawn().map_err(|error| error.to_string())?;
        let requests = process.stdin.take();
        let output = BufReader::new(process.stdout.take().expect("it is piped"));
        let (answer, answers) = mpsc::channel();
        // Ends when the peer's output ends, or when the receiver is dropped.
        thread::spawn(move || {
            output.lines().map_while(Result::ok).try_for_each(|line| answer.send(line))
        });
        let version = String::new();
        let mut peer = Peer { name, version, process, requests, answers, failed: None };
        peer.version = peer.answer::<Hello>(ANSWER_LIMIT)?.version;
        Ok(peer)
    }

    /// The id of its process.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Sends a line and receives the answer, which may take this long.
    ///
    /// # Errors
    ///
    /// If there is no answer in time, or another one.
    pub fn exchange<T: DeserializeOwned>(
        &mut self,
        line: &str,
        limit: Duration,
    ) -> Result<T, String> {
        self.send(line)?;
        self.answer(limit)
    }

    fn send(&mut self, line: &str) -> Result<(), String> {
        let requests = self.requests.as_mut().expect("open until it is dropped");
        writeln!(requests, "{line}").map_err(|error| error.to_string())
    }

    /// Receives a line. Kills a peer that does not answer in time.
    fn answer<T: DeserializeOwned>(&mut self, limit: Duration) -> Result<T, String> {
        let result = match self.answers.recv_timeout(limit) {
            Ok(line) => {
                serde_json::from_str(&line).map_err(|error| format!("{error}: {line:.200}"))
            }
            Err(RecvTimeoutError::Timeout) => Err(format!("no answer within {limit:?}")),
            Err(RecvTimeoutError::Disconnected) => Err("its process has ended".to_string()),
        };
        if let Err(why) = &result {
            self.failed = Some(why.clone());
            // It may have ended already.
            let _ = self.process.kill();
        }
        result
    }

    fn request(&mut self, cell: &Cell, length: Duration, timed: bool) -> Result<(), String> {
        let Cell { threads, connections, hold } = cell;
        let (nanos, kind) = (hold.span().as_nanos(), hold.kind());
        let millis = length.as_millis();
        self.send(&format!("{threads} {connections} {nanos} {kind} {millis} {timed}"))
    }

    fn ask(&mut self, cell: &Cell, length: Duration, timed: bool) -> Result<Pass, String> {
        if let Some(why) = &self.failed {
            return Err(why.clone());
        }
        self.request(cell, length, timed)?;
        let answer: Answer = self.answer(length + ANSWER_LIMIT)?;
        let mut waits = waits::histogram();
        for pair in answer.waits.chunks_exact(2) {
            waits.saturating_record_n(pair[0], pair[1]);
        }
        Ok(Pass {
            elapsed: Duration::from_nanos(answer.elapsed_ns),
            operations: answer.operations,
            waits,
            wholes: waits::histogram(),
            voluntary_switches: answer.voluntary_switches,
        })
    }
}

impl Contestant for &mut Peer {
    fn name(&self) -> String {
        self.name.to_string()
    }

    fn pass(&mut self, cell: &Cell, length: Duration, timed: bool) -> Result<Pass, String> {
        self.ask(cell, length, timed)
    }

    /// A virtual machine compiles code that runs often, and goes on to optimize it.
    fn warm_up(&mut self, cell: &Cell, length: Duration) -> Result<(), String> {
        let (length, start) = (length.min(Duration::from_millis(250)), Instant::now());
        let mut fastest = 0.0;
        while start.elapsed() < LONGEST_WARM_UP {
            // The two kinds of pass run different code.
            let timed = self.ask(cell, length, true)?.operations_per_second();
            let speed = timed + self.ask(cell, length, false)?.operations_per_second();
            if speed < fastest * 1.02 {
                break;
            }
            fastest = speed;
        }
        Ok(())
    }
}

impl Drop for Peer {
    /// A peer exits when its input ends.
    fn drop(&mut self) {
        self.requests = None;
        let end = Instant::now() + Duration::from_secs(5);
        while Instant::now() < end {
            if !matches!(self.process.try_wait(), Ok(None)) {
                return;
            }
            thread::sleep(Duration::from_millis(10));
        }
        // It may have exited just now.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
