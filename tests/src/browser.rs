//! Headless Chromium, driven by the W3C's WebDriver protocol: JSON over HTTP to `chromedriver`. It knows nothing of
//! our pages.

use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};

use crate::http::Address;
use crate::wait::wait_for;
use crate::{Daemon, WorkDir, free_port};

/// A browser with one window, gone with all of its processes when dropped.
#[derive(Debug)]
pub struct Browser {
    // Before the directory: ended first.
    _driver: Daemon,
    server: Address,
    session: String,
    _dir: WorkDir,
}

/// A width and height in pixels, and whether it is a phone's.
#[derive(Clone, Copy, Debug)]
pub struct Screen {
    pub width: u32,
    pub height: u32,
    pub is_phone: bool,
}

impl Screen {
    pub const DESKTOP: Screen = Screen { width: 1280, height: 900, is_phone: false };
    pub const PHONE: Screen = Screen { width: 390, height: 844, is_phone: true };
}

impl Browser {
    /// # Panics
    /// When Chromium and its driver are not installed or do not come up.
    #[track_caller]
    pub fn new(screen: Screen) -> Browser {
        let dir = WorkDir::new();
        let port = free_port();
        let mut command = Command::new(program("chromedriver"));
        command.arg(format!("--port={port}")).current_dir(dir.path()).env("HOME", dir.path());
        let driver = Daemon::start("chromedriver", &mut command, dir.path());
        let server = Address::Inet(port);
        wait_for("an answer of chromedriver", || server.request("GET", "/status", "", b""));
        let mut options = json!({
            "binary": program("chromium"),
            "args": [
                "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
                "--disable-background-networking", "--disable-component-update", "--disable-sync",
                "--disable-dev-shm-usage",
                format!("--user-data-dir={}", dir.path().join("profile").display()),
                format!("--window-size={},{}", screen.width, screen.height),
            ],
        });
        if screen.is_phone {
            let metrics =
                json!({ "width": screen.width, "height": screen.height, "pixelRatio": 2.0, "touch": true });
            options["mobileEmulation"] = json!({ "deviceMetrics": metrics });
        }
        let capabilities = json!({
            // Some answers never end, and tests wait for what they want to see.
            "pageLoadStrategy": "none",
            "goog:chromeOptions": options,
            "goog:loggingPrefs": { "browser": "ALL", "performance": "ALL" },
        });
        let mut browser = Browser { _driver: driver, server, session: String::new(), _dir: dir };
        let begun = browser.post("", &json!({ "capabilities": { "alwaysMatch": capabilities } }));
        let id = begun["sessionId"].as_str().expect("a session has an id");
        browser.session = format!("/{id}");
        // Away from Chromium's own first page, and what that asks for.
        browser.open("about:blank");
        browser.wait("document.URL === 'about:blank'");
        browser.requests();
        browser
    }

    /// # Panics
    /// When the driver refuses; what the page does is looked at by [`Browser::wait`].
    #[track_caller]
    pub fn open(&self, url: &str) {
        self.post("/url", &json!({ "url": url }));
    }

    /// Runs the body of a function in the page. `arguments` is what it finds its arguments in.
    ///
    /// # Errors
    /// What it throws, also while a page is on its way.
    pub fn eval(&self, script: &str, arguments: &[Value]) -> Result<Value, String> {
        self.call("POST", "/execute/sync", &json!({ "script": script, "args": arguments }))
    }

    /// Waits until this JavaScript expression is true in the page.
    #[track_caller]
    pub fn wait(&self, expression: &str) {
        wait_for(&format!("{expression} in the page"), || {
            let script = format!("return [Boolean({expression}), document.documentElement.outerHTML]");
            let answer = self.eval(&script, &[])?;
            if answer[0] == true { Ok(()) } else { Err(answer[1].as_str().unwrap_or_default().to_owned()) }
        });
    }

    /// What this JavaScript expression is.
    ///
    /// # Panics
    /// When it throws.
    #[track_caller]
    pub fn value(&self, expression: &str) -> Value {
        self.eval(&format!("return {expression}"), &[]).unwrap_or_else(|why| panic!("{expression}: {why}"))
    }

    /// Presses the element that this selector finds, as a person does: it has to be there, visible and not
    /// covered. What is about to move or to be replaced is tried again.
    #[track_caller]
    pub fn click(&self, css: &str) {
        wait_for(&format!("{css} to be pressed"), || {
            self.call("POST", &format!("/element/{}/click", self.find(css)?), &json!({}))
        });
    }

    /// Types into the element that this selector finds.
    #[track_caller]
    pub fn type_into(&self, css: &str, text: &str) {
        wait_for(&format!("{css} to be typed into"), || {
            self.call("POST", &format!("/element/{}/value", self.find(css)?), &json!({ "text": text }))
        });
    }

    /// How assistive technology announces an element: its role and its name.
    #[track_caller]
    pub fn announced(&self, css: &str) -> (String, String) {
        wait_for(&format!("{css} to be announced"), || {
            let id = self.find(css)?;
            let ask = |what| self.call("GET", &format!("/element/{id}/{what}"), &Value::Null);
            let text = |value: Value| value.as_str().unwrap_or_default().to_owned();
            Ok((text(ask("computedrole")?), text(ask("computedlabel")?)))
        })
    }

    /// A command of Chromium's own protocol.
    #[track_caller]
    pub fn devtools(&self, command: &str, params: &Value) {
        self.post("/goog/cdp/execute", &json!({ "cmd": command, "params": params }));
    }

    /// Goes on in the window that was opened last.
    #[track_caller]
    pub fn newest_window(&self) {
        let handles = wait_for("a second window", || {
            let handles = self.call("GET", "/window/handles", &Value::Null)?;
            let handles = handles.as_array().cloned().unwrap_or_default();
            if handles.len() > 1 { Ok(handles) } else { Err(format!("{handles:?}")) }
        });
        self.post("/window", &json!({ "handle": handles.last() }));
    }

    /// Closes the window and goes on in the first one.
    #[track_caller]
    pub fn close_window(&self) {
        let left = self.call("DELETE", "/window", &Value::Null).expect("an open window can be closed");
        self.post("/window", &json!({ "handle": left[0] }));
    }

    /// Complaints on the console since the last call: errors and warnings, of the page or about it.
    #[track_caller]
    pub fn complaints(&self) -> Vec<String> {
        let entries = self.post("/se/log", &json!({ "type": "browser" }));
        let entries = entries.as_array().cloned().unwrap_or_default();
        let serious =
            entries.iter().filter(|entry| entry["level"] == "SEVERE" || entry["level"] == "WARNING");
        serious.map(|entry| entry["message"].as_str().unwrap_or_default().to_owned()).collect()
    }

    /// What the pages have asked for since the last look at the network: addresses.
    #[track_caller]
    pub fn requests(&self) -> Vec<String> {
        let sent = self.network("Network.requestWillBeSent");
        sent.iter().filter_map(|params| params["request"]["url"].as_str().map(str::to_owned)).collect()
    }

    /// What servers have answered since the last look at the network: statuses.
    #[track_caller]
    pub fn answers(&self) -> Vec<u64> {
        let received = self.network("Network.responseReceivedExtraInfo");
        received.iter().filter_map(|params| params["statusCode"].as_u64()).collect()
    }

    #[track_caller]
    fn network(&self, method: &str) -> Vec<Value> {
        let entries = self.post("/se/log", &json!({ "type": "performance" }));
        let entries = entries.as_array().cloned().unwrap_or_default();
        let params = entries.iter().filter_map(|entry| {
            let mut event: Value = serde_json::from_str(entry["message"].as_str()?).ok()?;
            (event["message"]["method"] == method).then(|| event["message"]["params"].take())
        });
        params.collect()
    }

    fn find(&self, css: &str) -> Result<String, String> {
        let found = self.call("POST", "/element", &json!({ "using": "css selector", "value": css }))?;
        let id = found.as_object().and_then(|reference| reference.values().next()).and_then(Value::as_str);
        id.map(str::to_owned).ok_or_else(|| format!("no element in {found}"))
    }

    #[track_caller]
    fn post(&self, path: &str, body: &Value) -> Value {
        self.call("POST", path, body).unwrap_or_else(|why| panic!("{path} {body}: {why}"))
    }

    fn call(&self, method: &str, path: &str, body: &Value) -> Result<Value, String> {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let path = format!("/session{}{path}", self.session);
        let answer =
            self.server.request(method, &path, "Content-Type: application/json\r\n", body.as_bytes())?;
        let text = String::from_utf8_lossy(&answer.body);
        let mut value: Value = serde_json::from_str(&text).map_err(|error| format!("{error}: {text}"))?;
        if answer.status == 200 { Ok(value["value"].take()) } else { Err(value["value"].to_string()) }
    }
}

fn program(name: &str) -> PathBuf {
    let path = PathBuf::from("/usr/bin").join(name);
    assert!(
        path.exists(),
        "{} is missing; install Debian's packages chromium and chromium-driver, as tests/run does",
        path.display()
    );
    path
}
