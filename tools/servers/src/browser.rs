//! A headless Chromium, driven through its DevTools protocol.
//!
//! The protocol runs over a pair of pipes, the browser's file descriptors 3 and 4. They
//! end with the test, even if it is killed, and the browser ends with them.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::host;

const START_LIMIT: Duration = Duration::from_secs(60);
const NAMES: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];
const HOW_TO_INSTALL: &str = "Chromium was not found in PATH (chromium, chromium-browser or \
     google-chrome): install it, for example with `apt-get install chromium`";

/// A browser with one page; dropping it ends the browser.
pub struct Browser {
    child: Child,
    commands: Option<ChildStdin>,
    messages: Receiver<Value>,
    /// Messages that answer no call.
    events: Vec<Value>,
    session: Option<String>,
    last: u64,
    _profile: tempfile::TempDir,
}

impl Browser {
    /// Starts one with an empty page.
    ///
    /// # Panics
    ///
    /// If Chromium is not installed, or does not start.
    pub fn start() -> Browser {
        let program = host::find_program(&NAMES, &[]).unwrap_or_else(|| panic!("{HOW_TO_INSTALL}"));
        let profile = tempfile::tempdir().expect("a folder for the browser");
        let mut command = Command::new("sh");
        command
            .args(["-c", r#"exec "$@" 3<&0 4>&1 0</dev/null 1>&2"#, "sh"])
            .arg(program)
            .args(["--headless=new", "--remote-debugging-pipe", "--no-first-run"])
            .args(["--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking"])
            .args(["--disable-component-update", "--disable-extensions", "--disable-sync"])
            .args(["--force-color-profile=srgb", "--hide-scrollbars"])
            .arg(format!("--user-data-dir={}", profile.path().display()));
        // Chromium's sandbox refuses to run as root.
        if host::is_root() {
            command.arg("--no-sandbox");
        }
        command.env("HOME", profile.path());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().expect("sh starts");
        let (commands, answers) = (child.stdin.take(), child.stdout.take().expect("a pipe"));
        let (send, messages) = mpsc::channel();
        thread::spawn(move || {
            for message in BufReader::new(answers).split(0) {
                let Ok(message) = message else { break };
                let message = serde_json::from_slice(&message).expect("JSON from the browser");
                if send.send(message).is_err() {
                    break;
                }
            }
        });
        let (events, session, last) = (Vec::new(), None, 0);
        let mut browser =
            Browser { child, commands, messages, events, session, last, _profile: profile };
        browser.open_page();
        browser
    }

    fn open_page(&mut self) {
        let target = self.call("Target.createTarget", json!({ "url": "about:blank" }));
        let attach = json!({ "targetId": target["targetId"], "flatten": true });
        let session = self.call("Target.attachToTarget", attach);
        self.session = session["sessionId"].as_str().map(str::to_string);
        for domain in ["Page", "Runtime", "Log", "Network"] {
            self.call(&format!("{domain}.enable"), json!({}));
        }
    }

    /// Calls a method of the protocol and returns its result.
    ///
    /// # Panics
    ///
    /// If the browser reports an error, or does not answer within a minute.
    #[track_caller]
    pub fn call(&mut self, method: &str, params: Value) -> Value {
        self.last += 1;
        let mut message = json!({ "id": self.last, "method": method, "params": params });
        if let Some(session) = &self.session {
            message["sessionId"] = session.as_str().into();
        }
        let pipe = self.commands.as_mut().expect("the pipe is open");
        write!(pipe, "{message}\0").expect("the browser reads");
        let deadline = Instant::now() + START_LIMIT;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let message = self.messages.recv_timeout(left);
            let message = message.unwrap_or_else(|error| panic!("{method}: no answer: {error}"));
            if message["id"] == self.last {
                assert!(message.get("error").is_none(), "{method}: {message}");
                return message["result"].clone();
            }
            self.events.push(message);
        }
    }

    /// Sets the size of the page, and whether it prefers dark colours.
    pub fn look_like(&mut self, width: u32, height: u32, dark: bool) {
        let scheme = if dark { "dark" } else { "light" };
        let features = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        self.call("Emulation.setEmulatedMedia", json!({ "features": features }));
        let size = json!({
            "width": width, "height": height, "deviceScaleFactor": 2, "mobile": width < 600,
        });
        self.call("Emulation.setDeviceMetricsOverride", size);
    }

    /// Opens a page.
    ///
    /// # Panics
    ///
    /// If it cannot be loaded.
    pub fn go_to(&mut self, url: &str) {
        let result = self.call("Page.navigate", json!({ "url": url }));
        assert!(result.get("errorText").is_none(), "{url}: {result}");
    }

    /// Returns the value of a JavaScript expression on the page.
    ///
    /// # Panics
    ///
    /// If it throws.
    #[track_caller]
    pub fn eval(&mut self, expression: &str) -> Value {
        let params = json!({ "expression": expression, "returnByValue": true });
        let result = self.call("Runtime.evaluate", params);
        assert!(result.get("exceptionDetails").is_none(), "{expression}: {result}");
        result["result"]["value"].clone()
    }

    /// Returns the visible text of the page.
    pub fn text(&mut self) -> String {
        let text = self.eval("document.body ? document.body.innerText : ''");
        text.as_str().expect("a text").to_string()
    }

    /// Polls until a condition holds.
    ///
    /// # Panics
    ///
    /// If it does not hold within ten seconds: with `what` and the text of the page.
    #[track_caller]
    pub fn eventually(&mut self, what: &str, mut holds: impl FnMut(&mut Browser) -> bool) {
        let start = Instant::now();
        while !holds(self) {
            let patience = Duration::from_secs(10);
            let text = self.text();
            assert!(start.elapsed() < patience, "not within {patience:?}: {what}\n{text}");
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Returns a screenshot of the page: a PNG in base 64.
    pub fn picture(&mut self) -> String {
        let picture = self.call("Page.captureScreenshot", json!({ "format": "png" }));
        picture["data"].as_str().expect("a picture").to_string()
    }

    /// Returns the page's errors, warnings and exceptions so far.
    pub fn complaints(&mut self) -> Vec<String> {
        // Messages arrive in order: after this answer, all earlier ones are here.
        self.call("Runtime.evaluate", json!({ "expression": "0" }));
        let wrong = |event: &&Value| match event["method"].as_str() {
            Some("Runtime.exceptionThrown") => true,
            Some("Runtime.consoleAPICalled") => {
                ["error", "warning", "assert"].iter().any(|kind| event["params"]["type"] == *kind)
            }
            Some("Log.entryAdded") => {
                ["error", "warning"].iter().any(|level| event["params"]["entry"]["level"] == *level)
            }
            _ => false,
        };
        self.events.iter().filter(wrong).map(Value::to_string).collect()
    }

    /// Returns the URLs that the page has requested so far.
    pub fn requests(&mut self) -> Vec<String> {
        self.call("Runtime.evaluate", json!({ "expression": "0" }));
        let is_request = |event: &&Value| event["method"] == "Network.requestWillBeSent";
        let url = |event: &Value| event["params"]["request"]["url"].as_str().map(str::to_string);
        self.events.iter().filter(is_request).filter_map(url).collect()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        drop(self.commands.take());
        // It ends when the pipe does. This is in case it does not.
        let deadline = Instant::now() + Duration::from_secs(5);
        while Instant::now() < deadline {
            if matches!(self.child.try_wait(), Ok(Some(_)) | Err(_)) {
                return;
            }
            thread::sleep(Duration::from_millis(10));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
