//! The shell script that is the server's parent.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use crate::host::Owner;

/// `$1` is the server's program, `$2` its folder, `$3` the signal that ends it with the test. The
/// keeper has a process group of its own, so that Ctrl-C in a terminal does not reach it.
const SCRIPT: &str = r#"
pid=
stop() { kill "-$1" "$pid"; wait "$pid"; pid=; }
while read -r command value; do
    case $command in
    start)
        START >>"$2/log" 2>&1 </dev/null &
        pid=$!
        echo "$pid"
        ;;
    stop)
        stop "$value"
        echo stopped
        ;;
    esac
done
[ -z "$pid" ] || stop "$3"
cd / && rm -rf "$2"
"#;

/// How a server is started and ended.
pub(crate) struct Program {
    /// As a shell writes it: `$1` is the program, `$2` the folder, `$value` the port.
    pub(crate) start: &'static str,
    /// The signal that ends it with the test, such as `QUIT`.
    pub(crate) end: &'static str,
}

pub(crate) struct Keeper {
    process: Child,
    /// Taken by the drop, which ends the pipe.
    commands: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    server: Option<u32>,
}

impl Keeper {
    pub(crate) fn spawn(
        program: &Program,
        path: &Path,
        folder: &Path,
        owner: Owner,
        namespace: Option<&str>,
    ) -> io::Result<Keeper> {
        let mut command = owner.shell(namespace);
        command
            .args(["-c", &SCRIPT.replace("START", program.start), "keeper"])
            .arg(path)
            .arg(folder)
            .arg(program.end)
            .current_dir(folder)
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // Not the test's: a reader of the test's output would wait for the keeper.
            .stderr(Stdio::null());
        let mut process = command.spawn()?;
        let answers = BufReader::new(process.stdout.take().expect("a pipe"));
        Ok(Keeper { commands: process.stdin.take(), answers, process, server: None })
    }

    /// The server's first process, while it runs.
    pub(crate) fn server(&self) -> Option<u32> {
        self.server
    }

    pub(crate) fn start(&mut self, port: u16) {
        assert!(self.server.is_none(), "the server is running");
        let answer = self.ask(&format!("start {port}"));
        self.server = Some(answer.parse().expect("the server's pid"));
    }

    /// Returns when the server has ended.
    pub(crate) fn stop(&mut self, signal: &str) {
        assert!(self.server.take().is_some(), "the server is stopped");
        assert_eq!(self.ask(&format!("stop {signal}")), "stopped");
    }

    fn ask(&mut self, command: &str) -> String {
        let pipe = self.commands.as_mut().expect("the pipe is open");
        writeln!(pipe, "{command}").expect("the keeper reads");
        let mut answer = String::new();
        self.answers.read_line(&mut answer).expect("an answer");
        answer.trim_end().to_owned()
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.commands = None;
        // Returns when the server and the folder are gone.
        let _ = self.process.wait();
    }
}
