//! What is measured: a pool at rest, under a steady load, and with a crowd that waits.

use std::thread;
use std::time::Duration;

use fairpool_bench::growth::{Growth, Unit};
use fairpool_bench::peers::Peer;
use fairpool_bench::progress::Progress;
use fairpool_bench::settings::Settings;

use crate::process::{Process, Sample};
use crate::{Contestant, HOLD, Scale};

/// A new process has loaded its libraries after this time.
const BEGINNING: Duration = Duration::from_millis(300);

pub struct Day {
    scale: Scale,
    pub progress: Progress,
    pub figures: Vec<Growth>,
    /// A line for each contestant that failed.
    pub failed: Vec<String>,
}

/// A contestant's process.
pub struct Running {
    pub name: &'static str,
    pub process: Process,
    /// Before it had a pool.
    empty: Sample,
    with_one_connection: Sample,
    /// When it began to rest, with all connections.
    at_rest: Sample,
}

impl Day {
    pub fn new(scale: Scale, steps: usize) -> Day {
        let progress = Progress::new(steps);
        Day { scale, progress, figures: Vec::new(), failed: Vec::new() }
    }

    /// Starts the contestants, which open their pools and rest, all at the same time.
    ///
    /// Many connections are compared with one, so that what a pool takes once, such as the
    /// classes of a virtual machine, does not count for each connection.
    pub fn at_rest(&mut self, contestants: &[Contestant], settings: &Settings) -> Vec<Running> {
        self.progress.begin("at rest");
        let (settling, rest) = (self.scale.settling, self.scale.rest);
        let mut all = Vec::new();
        for one in contestants {
            let process = Peer::start(one.name, (one.command)(), settings).map(Process::new);
            let running = process.and_then(|process| {
                let empty = process.sample()?;
                let (with_one_connection, at_rest) = (empty.clone(), empty.clone());
                Ok(Running { name: one.name, process, empty, with_one_connection, at_rest })
            });
            all.extend(self.kept(one.name, running));
        }
        let connections = self.scale.connections;
        all = self.each(all, BEGINNING, |_, one| {
            one.empty = one.process.sample()?;
            one.process.tell("open 1").map(drop)
        });
        all = self.each(all, settling, |_, one| {
            one.with_one_connection = one.process.sample()?;
            one.process.tell(&format!("open {connections}")).map(drop)
        });
        all = self.each(all, settling, |_, one| {
            one.at_rest = one.process.sample()?;
            Ok(())
        });
        self.each(all, rest, Day::rested)
    }

    /// Waits, and does something with each. Those that fail are not there any more.
    fn each(
        &mut self,
        all: Vec<Running>,
        wait: Duration,
        mut work: impl FnMut(&mut Day, &mut Running) -> Result<(), String>,
    ) -> Vec<Running> {
        thread::sleep(wait);
        let mut kept = Vec::new();
        for mut one in all {
            let (result, name) = (work(self, &mut one), one.name);
            kept.extend(self.kept(name, result.map(|()| one)));
        }
        kept
    }

    fn kept<T>(&mut self, name: &str, result: Result<T, String>) -> Option<T> {
        result.map_err(|why| self.failed.push(format!("failed: {name}: {why}"))).ok()
    }

    fn rested(&mut self, one: &mut Running) -> Result<(), String> {
        let (now, size) = (one.process.sample()?, self.scale.connections);
        let (empty, with_one) = (&one.empty, &one.with_one_connection);
        let memory = (now.own - with_one.own) / f64::from(size - 1);
        let mut add = |subject, size, unit, figure| self.add(one.name, subject, size, unit, figure);
        let first = with_one.resident - empty.resident;
        add("a pool with one connection, and its code", 1, Unit::Bytes, first);
        add("memory for each further connection", size, Unit::Bytes, memory);
        add("threads at rest", size, Unit::Threads, now.threads());
        let spent = now.since(&one.at_rest);
        add("CPU time in a second at rest", size, Unit::Nanos, spent.cpu_nanos / spent.seconds);
        add("wake-ups at rest", size, Unit::PerSecond, spent.wakeups / spent.seconds);
        Ok(())
    }

    /// After its rest. The process ends.
    pub fn at_work(&mut self, mut one: Running) {
        self.progress.begin(one.name);
        let parts = [Day::steady_load, Day::crowd, Day::timeouts];
        let result = parts.into_iter().try_for_each(|part| part(self, &mut one));
        self.kept(one.name, result);
        self.progress.step();
    }

    fn steady_load(&mut self, one: &mut Running) -> Result<(), String> {
        let (name, process, threads) = (one.name, &mut one.process, self.scale.threads);
        process.tell(&format!("load {threads} {}", HOLD.as_nanos()))?;
        thread::sleep(self.scale.warm_up);
        let (before, gets) = (process.sample()?, process.tell("gets")?);
        thread::sleep(self.scale.load);
        let (spent, gets) = (process.sample()?.since(&before), process.tell("gets")? - gets);
        process.tell("end")?;
        let each = spent.cpu_nanos / gets;
        self.add(name, "gets under load", threads, Unit::PerSecond, gets / spent.seconds);
        self.add(name, "CPU time of a million gets", threads, Unit::Nanos, each * 1e6);
        self.add(name, "wake-ups for each get", threads, Unit::Times, spent.wakeups / gets);
        Ok(())
    }

    fn crowd(&mut self, one: &mut Running) -> Result<(), String> {
        let (name, process, size) = (one.name, &mut one.process, self.scale.waiters);
        process.tell(&format!("lend {}", self.scale.connections))?;
        let lent = process.sample()?;
        process.tell(&format!("wait {size}"))?;
        let begun = process.sample()?;
        thread::sleep(self.scale.waiting);
        let waited = process.sample()?;
        let elapsed = process.tell("serve")?;
        let served = process.sample()?.since(&waited);
        process.tell("leave")?;
        let waiters = f64::from(size);
        let memory = (waited.own - lent.own) / waiters;
        let mut add = |subject, unit, figure| self.add(name, subject, size, unit, figure);
        add("memory for each that waits", Unit::Bytes, memory);
        let spent = waited.since(&begun);
        let cpu = spent.cpu_nanos / spent.seconds;
        add("CPU time in a second while all wait", Unit::Nanos, cpu);
        add("wake-ups while all wait", Unit::PerSecond, spent.wakeups / spent.seconds);
        add("all connections come back: until the last is served", Unit::Nanos, elapsed);
        add("CPU time for each that is served", Unit::Nanos, served.cpu_nanos / waiters);
        Ok(())
    }

    fn timeouts(&mut self, one: &mut Running) -> Result<(), String> {
        let size = self.scale.waiters;
        one.process.tell(&format!("lend {}", self.scale.connections))?;
        let gathering = self.scale.gathering.as_nanos();
        let late = one.process.tell(&format!("timeouts {size} {gathering}"))?;
        self.add(one.name, "all time out at once: until the last is back", size, Unit::Nanos, late);
        Ok(())
    }

    /// Adds a round's figure.
    fn add(&mut self, name: &str, subject: &str, size: u32, unit: Unit, figure: f64) {
        let subject = format!("{name}: {subject}");
        match self.figures.iter_mut().find(|one| one.subject == subject) {
            Some(one) => one.rounds.push(figure),
            None => self.figures.push(Growth { subject, size, unit, rounds: vec![figure] }),
        }
    }
}
