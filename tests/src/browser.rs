//! A headless Chromium, driven over a pipe by its DevTools protocol.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use base64::Engine as _;
use serde_json::{Value, json};
use tempfile::TempDir;

/// Ten times what the slowest answer of a browser takes on a busy machine.
const WATCHDOG: Duration = Duration::from_secs(180);
/// What the program is called.
const PROGRAMS: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];

/// A browser with one page. Dropping it ends it.
pub struct Browser {
    browser: Child,
    orders: File,
    answers: Receiver<Value>,
    session: String,
    next: u64,
    /// What the page has complained of.
    pub complaints: Vec<String>,
    _folder: TempDir,
}

impl Browser {
    /// A browser that has nothing of anybody's; `None` where none is installed.
    ///
    /// # Panics
    /// If one is there and does not work.
    #[must_use]
    pub fn start() -> Option<Self> {
        let works = |program: &&str| Command::new(program).arg("--version").output().is_ok();
        let program = PROGRAMS.into_iter().find(works)?;
        let folder = tempfile::tempdir().expect("a folder");
        let (orders, answers) = (folder.path().join("orders"), folder.path().join("answers"));
        for pipe in [&orders, &answers] {
            let made = Command::new("mkfifo").arg(pipe).status();
            assert!(made.expect("mkfifo runs").success());
        }
        let browser = spawn(program, folder.path(), &orders, &answers);
        // The shell opens them in this order.
        let orders = File::options().write(true).open(orders).expect("a pipe");
        let answers = File::open(answers).expect("a pipe");
        let (sender, receiver) = channel();
        std::thread::spawn(move || {
            for message in BufReader::new(answers).split(0).map_while(Result::ok) {
                let message = serde_json::from_slice(&message).expect("JSON");
                if sender.send(message).is_err() {
                    return;
                }
            }
        });
        let session = String::new();
        let (next, complaints) = (0, Vec::new());
        let mut browser =
            Self { browser, orders, answers: receiver, session, next, complaints, _folder: folder };
        browser.attach();
        Some(browser)
    }

    fn attach(&mut self) {
        let target = self.call("Target.createTarget", &json!({ "url": "about:blank" }));
        let attach = json!({ "targetId": target["targetId"], "flatten": true });
        let attached = self.call("Target.attachToTarget", &attach);
        self.session = attached["sessionId"].as_str().expect("a session").to_owned();
        for domain in ["Page", "Runtime", "Log"] {
            self.call(&format!("{domain}.enable"), &json!({}));
        }
    }

    /// Goes to an address, and waits until all of it has come.
    ///
    /// # Panics
    /// If nobody answers there.
    pub fn open(&mut self, address: &str) {
        let gone = self.call("Page.navigate", &json!({ "url": address }));
        assert_eq!(gone.get("errorText"), None, "{address}");
        self.until("document.readyState === 'complete'");
    }

    /// The value of an expression of JavaScript, which may be a promise.
    ///
    /// # Panics
    /// If it throws.
    pub fn value(&mut self, expression: &str) -> Value {
        let words =
            json!({ "expression": expression, "returnByValue": true, "awaitPromise": true });
        let said = self.call("Runtime.evaluate", &words);
        assert_eq!(said.get("exceptionDetails"), None, "{expression}");
        said["result"]["value"].clone()
    }

    /// Waits until an expression is true.
    ///
    /// # Panics
    /// If it does not become true; what the page showed then is told.
    #[track_caller]
    pub fn until(&mut self, expression: &str) {
        let began = Instant::now();
        // A page that is not drawn, as on a machine with much else to do, has its timers all the
        // same.
        let later = "new Promise((done) => setTimeout(() => done(true), 20))";
        while self.value(expression) != Value::Bool(true) {
            if began.elapsed() > WATCHDOG {
                let text = self.value("document.body.innerText");
                let text = text.as_str().unwrap_or_default();
                panic!("not so: {expression}\nin\n{text}\ncomplaints: {:?}", self.complaints);
            }
            self.value(later);
        }
    }

    /// Clicks into the middle of the element that a selector names, as a person does.
    ///
    /// # Panics
    /// If there is none to be seen.
    pub fn click(&mut self, selector: &str) {
        let middle = format!(
            "(() => {{ const found = document.querySelector({selector:?}); \
             found.scrollIntoView({{ block: 'center', behavior: 'instant' }}); \
             const box = found.getBoundingClientRect(); \
             return {{ x: box.x + box.width / 2, y: box.y + box.height / 2, w: box.width }}; }})()"
        );
        let at = self.value(&middle);
        assert!(at["w"].as_f64() > Some(0.0), "{selector} is not to be seen");
        for kind in ["mousePressed", "mouseReleased"] {
            let event = json!({
                "type": kind, "x": at["x"], "y": at["y"], "button": "left", "clickCount": 1,
            });
            self.call("Input.dispatchMouseEvent", &event);
        }
    }

    /// Types a text where the focus is.
    pub fn type_text(&mut self, text: &str) {
        self.call("Input.insertText", &json!({ "text": text }));
    }

    /// Presses a key by its name: `Tab`, `Enter`.
    pub fn press(&mut self, key: &str) {
        let codes = BTreeMap::from([("Tab", 9), ("Enter", 13), ("Escape", 27)]);
        let text = if key == "Enter" { "\r" } else { "" };
        for kind in ["keyDown", "keyUp"] {
            let event = json!({
                "type": kind, "key": key, "code": key, "windowsVirtualKeyCode": codes[key],
                "text": if kind == "keyDown" { text } else { "" },
            });
            self.call("Input.dispatchKeyEvent", &event);
        }
    }

    /// Makes the page so wide and high, on a dark or a light screen.
    pub fn look(&mut self, width: u32, height: u32, dark: bool) {
        let size = json!({
            "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600,
        });
        self.call("Emulation.setDeviceMetricsOverride", &size);
        let value = if dark { "dark" } else { "light" };
        let feature = json!({ "features": [{ "name": "prefers-color-scheme", "value": value }] });
        self.call("Emulation.setEmulatedMedia", &feature);
    }

    /// Writes a picture of what is to be seen.
    pub fn picture(&mut self, path: &Path) {
        let whole = json!({ "format": "png", "captureBeyondViewport": true });
        let shot = self.call("Page.captureScreenshot", &whole);
        let data = shot["data"].as_str().expect("a picture");
        let data = base64::engine::general_purpose::STANDARD.decode(data).expect("base64");
        fs::write(path, data).expect("written");
    }

    fn call(&mut self, method: &str, words: &Value) -> Value {
        self.next += 1;
        let mut order = json!({ "id": self.next, "method": method, "params": words });
        if !self.session.is_empty() {
            order["sessionId"] = json!(self.session);
        }
        let mut order = order.to_string().into_bytes();
        order.push(0);
        self.orders.write_all(&order).expect("the browser listens");
        loop {
            let answer = self.answers.recv_timeout(WATCHDOG);
            let answer = answer.unwrap_or_else(|why| panic!("{method}: {why}"));
            if answer["id"] == self.next {
                assert_eq!(answer.get("error"), None, "{method}");
                return answer["result"].clone();
            }
            self.hear(&answer);
        }
    }

    fn hear(&mut self, event: &Value) {
        let words = &event["params"];
        match event["method"].as_str() {
            Some("Runtime.exceptionThrown") => self.complaints.push(words.to_string()),
            Some("Log.entryAdded") if words["entry"]["level"] == "error" => {
                self.complaints.push(words["entry"].to_string());
            }
            _ => {}
        }
    }
}

fn spawn(program: &str, folder: &Path, orders: &Path, answers: &Path) -> Child {
    let script = r#"exec "$0" --headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage \
        --no-first-run --disable-extensions --disable-background-networking \
        --disable-component-update --hide-scrollbars --user-data-dir="$3" \
        --remote-debugging-pipe 3<"$1" 4>"$2""#;
    let mut shell = Command::new("sh");
    shell.args(["-c", script, program]).args([orders, answers]).arg(folder.join("profile"));
    shell.env("HOME", folder).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    shell.spawn().expect("it starts")
}

impl Drop for Browser {
    fn drop(&mut self) {
        // It takes its own processes along when it is told to, and not when it is killed.
        let _ = self.orders.write_all(b"{\"id\":0,\"method\":\"Browser.close\"}\0");
        // It has gone when its end of the pipe has.
        while self.answers.recv_timeout(WATCHDOG).is_ok() {}
        let _ = self.browser.kill();
        let _ = self.browser.wait();
    }
}
