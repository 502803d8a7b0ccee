//! A contestant's process: its commands, and what the kernel says of it.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs;
use std::time::{Duration, Instant};

use fairpool_bench::peers::Peer;

/// How long a command may take.
const LIMIT: Duration = Duration::from_secs(120);

pub struct Process(Peer);

/// Of a process and each of its threads.
#[derive(Clone)]
pub struct Sample {
    at: Instant,
    tasks: HashMap<OsString, Task>,
    /// All that is in memory, with pages of the program's file.
    pub resident: f64,
    /// What is its own: heap and stacks.
    pub own: f64,
}

#[derive(Clone, Copy, Default)]
struct Task {
    cpu_nanos: f64,
    voluntary_switches: f64,
}

/// What a process did between two samples.
pub struct Spent {
    pub cpu_nanos: f64,
    pub wakeups: f64,
    pub seconds: f64,
}

impl Process {
    pub fn new(peer: Peer) -> Process {
        Process(peer)
    }

    pub fn version(&self) -> &str {
        &self.0.version
    }

    /// The process answers a command when it is done.
    pub fn tell(&mut self, command: &str) -> Result<f64, String> {
        self.0.exchange(command, LIMIT).map_err(|why| format!("{command}: {why}"))
    }

    /// The kernel's own figures, which are the same for every language. Time on a processor
    /// is exact, where `/proc/*/stat` has hundredths of a second.
    pub fn sample(&self) -> Result<Sample, String> {
        let folder = format!("/proc/{}", self.0.id());
        let read =
            |file: &str| fs::read_to_string(file).map_err(|error| format!("{file}: {error}"));
        let at = Instant::now();
        let memory = read(&format!("{folder}/smaps_rollup"))?;
        let kilobytes = |name| field(&memory, name).map(|number| number * 1024.0);
        let (resident, own) = (kilobytes("\nRss:")?, kilobytes("\nAnonymous:")?);
        let mut tasks = HashMap::new();
        let folder = fs::read_dir(format!("{folder}/task")).map_err(|error| error.to_string())?;
        for task in folder.flatten() {
            let path = task.path();
            let path = path.display();
            // A thread that has just ended has no files.
            let times = read(&format!("{path}/schedstat"));
            let (Ok(times), Ok(status)) = (times, read(&format!("{path}/status"))) else {
                continue;
            };
            let cpu_nanos = field(&times, "")?;
            let voluntary_switches = field(&status, "\nvoluntary_ctxt_switches:")?;
            tasks.insert(task.file_name(), Task { cpu_nanos, voluntary_switches });
        }
        Ok(Sample { at, tasks, resident, own })
    }
}

/// The first number after this text.
fn field(text: &str, name: &str) -> Result<f64, String> {
    let after = text.split_once(name).map(|(_, after)| after.split_whitespace().next());
    let number = after.flatten().and_then(|word| word.parse().ok());
    number.ok_or_else(|| format!("the kernel does not say {name:?}"))
}

impl Sample {
    pub fn threads(&self) -> f64 {
        self.tasks.len() as f64
    }

    /// Of a thread that has ended since, nothing counts: the kernel does not say how much it was.
    pub fn since(&self, before: &Sample) -> Spent {
        let seconds = (self.at - before.at).as_secs_f64();
        let mut spent = Spent { cpu_nanos: 0.0, wakeups: 0.0, seconds };
        for (id, now) in &self.tasks {
            let before = before.tasks.get(id).copied().unwrap_or_default();
            spent.cpu_nanos += now.cpu_nanos - before.cpu_nanos;
            spent.wakeups += now.voluntary_switches - before.voluntary_switches;
        }
        spent
    }
}
