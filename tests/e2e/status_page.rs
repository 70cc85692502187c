//! The status page in a browser, as people use it. Every test ends with [`Page::is_clean`]: nothing on the console,
//! nothing asked of another host.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::thread;

use fleetvisor_tests::{Address, Browser, Flavour, Host, HostConfig, Screen, wait_until};
use serde_json::json;

const PROGRAMS: &str = "\
[program:off]\ncommand=/bin/cat\nautostart=false\nstartsecs=0\n\
[program:talker]\ncommand={dir}/talker\nstartsecs=0\nstdout_logfile={dir}/talker.log\n\
[program:web]\ncommand=/bin/cat\nstartsecs=0\n\
[program:a]\ncommand=/bin/cat\nstartsecs=0\n[group:g]\nprograms=a\n";

const TALKER: &str = "echo first line; while read -r line; do echo \"$line\"; done";

struct Page {
    browser: Browser,
    host: Host,
    port: u16,
}

impl Page {
    fn open(screen: Screen) -> Page {
        Page::of(config(PROGRAMS).start(), screen)
    }

    fn of(host: Host, screen: Screen) -> Page {
        let Address::Inet(port) = host.rpc.address else { panic!("the configuration has a TCP server") };
        let page = Page { browser: Browser::new(screen), host, port };
        page.browser.open(&format!("http://127.0.0.1:{port}/"));
        // It stays as long as nobody loads the page anew.
        page.browser.wait("document.querySelector('#live') && (window.sameDocument = true)");
        page
    }

    fn row(name: &str) -> String {
        format!("tr[data-name='{name}']")
    }

    fn press(&self, name: &str, action: &str) {
        self.browser.click(&format!("{} a[name='{action}']", Page::row(name)));
    }

    fn shows(&self, name: &str, state: &str) {
        self.browser.wait(&format!(
            "document.querySelector(\"{} .status span\")?.textContent === '{state}'",
            Page::row(name)
        ));
    }

    fn says(&self, text: &str) {
        self.browser.wait(&format!("document.querySelector('#message')?.textContent.includes('{text}')"));
    }

    /// Nobody complains on the console but about what is expected, no other host has been asked for anything,
    /// and the document is still the one that was opened.
    fn is_clean(&self, expected: &[&str]) {
        let complaints = self.browser.complaints();
        let unexpected: Vec<_> =
            complaints.iter().filter(|line| !expected.iter().any(|part| line.contains(part))).collect();
        assert!(unexpected.is_empty(), "{unexpected:?}");
        let origin = format!("http://127.0.0.1:{}/", self.port);
        let requests = self.browser.requests();
        assert!(!requests.is_empty(), "the browser tells what it asks for");
        let others: Vec<_> = requests.iter().filter(|url| !url.starts_with(&origin)).collect();
        assert!(others.is_empty(), "{others:?}");
        assert_eq!(self.browser.value("Boolean(window.sameDocument)"), true, "the page was loaded anew");
    }
}

fn config(programs: &str) -> HostConfig {
    // Supervisor's page has nothing of what is tested here.
    HostConfig::new(programs).flavour(Flavour::Ours).inet().script("talker", TALKER)
}

#[test]
fn buttons_start_stop_and_restart_a_process() {
    let page = Page::open(Screen::DESKTOP);
    page.shows("web", "running");
    assert_eq!(
        page.browser.announced("tr[data-name=web] a[name=Stop]"),
        ("button".to_owned(), "Stop web".to_owned())
    );
    page.press("web", "Stop");
    page.shows("web", "stopped");
    page.says("Process web stopped");
    assert_eq!(page.host.state("web"), "STOPPED");
    page.press("web", "Start");
    page.shows("web", "running");
    page.says("Process web started");
    let pid = page.host.pid("web");
    page.press("web", "Restart");
    page.says("Process web restarted");
    page.host.wait_new_pid("web", pid);
    page.press("g:a", "Stop");
    page.shows("g:a", "stopped");
    page.is_clean(&[]);
}

#[test]
fn everything_is_stopped_and_restarted_after_a_question() {
    let page = Page::open(Screen::DESKTOP);
    page.shows("web", "running");
    let pid = page.host.pid("web");
    page.browser.click("a[href$=stopall]");
    page.browser.wait("document.querySelector('dialog').textContent.includes('Stop All: 4 processes on ')");
    page.browser.click("dialog button[value='']");
    page.browser.wait("!document.querySelector('dialog')");
    assert_eq!(page.host.pid("web"), pid, "a cancelled question does nothing");
    for (action, says, state) in
        [("stopall", "All stopped at", "stopped"), ("restartall", "All restarted at", "running")]
    {
        page.browser.click(&format!("a[href$={action}]"));
        page.browser.click("dialog button[value=yes]");
        page.says(says);
        for name in ["web", "g:a", "off", "talker"] {
            page.shows(name, state);
        }
    }
    page.is_clean(&[]);
}

#[test]
fn the_page_follows_what_happens_elsewhere_without_a_reload() {
    let mut page = Page::open(Screen::DESKTOP);
    page.shows("web", "running");
    page.browser.value("document.querySelector(\"tr[data-name=web] a[name=Stop]\").focus()");
    page.host.supervisorctl(&["stop", "web"]).expect_code(0);
    page.shows("web", "stopped");
    page.browser.wait("document.activeElement.getAttribute('aria-label') === 'Start web'");
    page.browser
        .wait("[...document.querySelectorAll('.chip')].some((chip) => chip.textContent === '2 stopped')");
    page.host.reconfigure(
        "[program:another]\ncommand=/bin/cat\nstartsecs=0\n[program:web]\ncommand=/bin/cat\nstartsecs=0\n",
    );
    page.host.supervisorctl(&["update"]).expect_code(0);
    page.shows("another", "running");
    page.browser.wait(
        "[...document.querySelectorAll('tbody tr')].map((row) => row.dataset.name).join() === 'another,web'",
    );
    page.is_clean(&[]);
}

#[test]
fn a_daemon_that_is_away_is_said_to_be_and_comes_back() {
    let mut page = Page::open(Screen::DESKTOP);
    page.host.kill();
    page.browser.wait("document.querySelector('#live').textContent === 'Not live'");
    page.says("What is shown may be old");
    page.press("web", "Stop");
    page.says("Not done");
    page.host.start();
    page.browser.wait("document.querySelector('#live').textContent === 'Live'");
    page.shows("web", "running");
    // The token is the new daemon's.
    page.press("web", "Stop");
    page.shows("web", "stopped");
    page.is_clean(&["net::ERR_", "Failed to load resource"]);
}

#[test]
fn logs_are_shown_followed_and_cleared() {
    let page = Page::open(Screen::DESKTOP);
    page.host.wait_file("talker.log", "first line\n");
    let talk = |line: &str| {
        page.host.call("supervisor.sendProcessStdin", &["talker".into(), format!("{line}\n").as_str().into()])
    };
    page.browser.click("tr[data-name=talker] td.name a");
    page.browser.newest_window();
    page.browser.wait("document.querySelector('#tail')?.textContent.includes('first line')");
    talk("<b>second</b> line").unwrap();
    page.browser.wait("document.querySelector('#tail').textContent.includes('<b>second</b> line')");
    page.browser.wait("document.querySelector('#limit').value === '1024'");
    assert_eq!(page.browser.complaints(), [""; 0]);
    page.browser.close_window();

    page.press("talker", "Tail -f Stdout");
    page.browser.newest_window();
    page.browser.wait("document.body?.textContent.includes('second')");
    talk("third line").unwrap();
    page.browser.wait("document.body.textContent.includes('third line')");
    page.browser.close_window();

    page.press("talker", "Clear Log");
    page.says("Log for talker cleared");
    wait_until("the log is empty", || page.host.dir().read("talker.log").is_empty());
    page.is_clean(&[]);
}

#[test]
fn a_wrong_password_shows_and_does_nothing() {
    let host = config(PROGRAMS).auth("user", "secret").start();
    host.wait("web", "RUNNING");
    let Address::Inet(port) = host.rpc.address else { panic!("the configuration has a TCP server") };
    let browser = Browser::new(Screen::DESKTOP);
    for login in ["", "user:wrong@", "other:secret@"] {
        browser.open(&format!("http://{login}127.0.0.1:{port}/?action=stopall"));
        wait_until("the browser hears 401", || browser.answers().contains(&401));
        assert_eq!(browser.value("document.querySelectorAll('tr').length"), 0);
    }
    assert_eq!(host.state("web"), "RUNNING");
    browser.complaints();
    browser.open(&format!("http://user:secret@127.0.0.1:{port}/"));
    browser.wait("document.querySelector('#live')");
    browser.click("tr[data-name=web] a[name=Stop]");
    browser.wait("document.querySelector('#message').textContent === 'Process web stopped'");
    assert_eq!(browser.complaints(), [""; 0]);
}

/// Serves this page to everybody, on another site than `127.0.0.1`; gives its port.
fn other_site(body: String) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            let mut head = BufReader::new(&client).lines().map_while(Result::ok);
            while head.next().is_some_and(|line| !line.is_empty()) {}
            let head = "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nConnection: close\r\n";
            let length = body.len();
            write!(client, "{head}Content-Length: {length}\r\n\r\n{body}").ok();
        }
    });
    port
}

#[test]
fn another_site_cannot_make_the_browser_act() {
    let host = config(PROGRAMS).auth("user", "secret").start();
    host.wait("web", "RUNNING");
    let pid = host.pid("web");
    let Address::Inet(port) = host.rpc.address else { panic!("the configuration has a TCP server") };
    let browser = Browser::new(Screen::DESKTOP);
    // The browser knows the password from now on.
    browser.open(&format!("http://user:secret@127.0.0.1:{port}/"));
    browser.wait("document.querySelector('#live')");
    let target = format!("http://127.0.0.1:{port}/index.html");
    let evil = other_site(format!(
        "<img src='{target}?processname=web&action=stop'><iframe src='{target}?action=stopall'></iframe>\
         <form action='{target}' method='post'><input name='action' value='stop'>\
         <input name='processname' value='web'><input name='token' value='guess'></form>\
         <script>window.tried = 0; const tried = () => window.tried++;\
         fetch('{target}?processname=web&action=restart', {{mode: 'no-cors', credentials: 'include'}})\
         .then(tried, tried);\
         fetch('{target}', {{method: 'POST', mode: 'no-cors', credentials: 'include', \
         body: new URLSearchParams({{action: 'stopall'}})}}).then(tried, tried);\
         fetch('http://127.0.0.1:{port}/RPC2', {{method: 'POST', mode: 'no-cors', credentials: 'include', \
         headers: {{'Content-Type': 'text/plain'}}, \
         body: '<methodCall><methodName>supervisor.stopAllProcesses</methodName></methodCall>'}})\
         .then(tried, tried);</script>"
    ));
    browser.open(&format!("http://localhost:{evil}/"));
    browser.wait("window.tried === 3 && document.readyState === 'complete'");
    assert_eq!(host.pid("web"), pid, "{}", host.log());
    assert_eq!(host.state("g:a"), "RUNNING", "{}", host.log());
    // A form brings its user along, who is asked.
    browser.value("document.querySelector('form').submit()");
    browser.wait("document.body?.textContent.includes('Nothing has been done yet')");
    assert_eq!(host.pid("web"), pid);
    browser.click("button[type=submit]");
    browser.wait("document.querySelector('#message')?.textContent === 'Process web stopped'");
}

#[test]
fn on_a_phone_everything_fits_and_can_be_pressed() {
    let page = Page::open(Screen::PHONE);
    page.shows("web", "running");
    let wide = page.browser.value("document.documentElement.scrollWidth");
    assert_eq!(wide, 390, "nothing has to be scrolled sideways");
    let small = page.browser.value(
        "[...document.querySelectorAll('#processes a:not(.hidden), .chip, #buttons a, #search')] \
         .filter((one) => !one.closest('td.name') && one.getBoundingClientRect().height < 34) \
         .map((one) => one.outerHTML)",
    );
    assert_eq!(small, json!([]), "all are high enough for a finger");
    assert_eq!(page.browser.value("getComputedStyle(document.querySelector('#search')).fontSize"), "16px");
    page.press("web", "Stop");
    page.shows("web", "stopped");
    page.says("Process web stopped");
    page.is_clean(&[]);
}

#[test]
fn a_thousand_processes_can_be_searched() {
    let many = "[program:worker]\ncommand=/bin/cat\nautostart=false\nnumprocs=1000\n\
                process_name=w_%(process_num)04d\nstdout_logfile=NONE\nstderr_logfile=NONE\n\
                [program:broken]\ncommand=/no/such/program\nstartretries=0\n";
    let page = Page::of(config(many).start(), Screen::DESKTOP);
    page.shows("worker:w_0999", "stopped");
    let shown = "[...document.querySelectorAll('tbody tr:not([hidden])')].map((row) => row.dataset.name)";
    page.browser.wait("document.querySelector(\".chip[data-state='']\").textContent === '1001 all'");
    page.browser.wait("document.title.startsWith('(1) ')");
    page.browser.click(".chip[data-state=fatal]");
    page.browser.wait(&format!("{shown}.join() === 'broken'"));
    page.browser.click(".chip[data-state=fatal]");
    page.browser.type_into("#search", "_099 work");
    page.browser.wait(&format!("{shown}.length === 10"));
    page.press("worker:w_0995", "Start");
    page.shows("worker:w_0995", "running");
    assert_eq!(page.browser.value(&format!("{shown}.length")), 10);
    // The choice stands in the address, so a reload keeps it.
    page.browser.value("location.reload()");
    page.browser
        .wait(&format!("!window.sameDocument && {shown}.length === 10 && (window.sameDocument = true)"));
    page.is_clean(&[]);
}

#[test]
fn without_scripts_links_lead_to_a_question() {
    let page = Page::open(Screen::DESKTOP);
    page.browser.devtools("Emulation.setScriptExecutionDisabled", &json!({ "value": true }));
    page.browser.open(&format!("http://127.0.0.1:{}/", page.port));
    page.press("web", "Stop");
    page.browser.wait("document.querySelector('h1').textContent === 'Nothing has been done yet'");
    assert_eq!(page.host.state("web"), "RUNNING");
    page.browser.click("button[type=submit]");
    page.says("Process web stopped");
    page.shows("web", "stopped");
    assert_eq!(page.browser.value("location.pathname + location.search.slice(0, 9)"), "/?message=");
}

/// The least contrast of a text with what it stands on, as WCAG counts it. Backgrounds are searched upwards.
const CONTRAST: &str = "(() => { \
    const parts = (color) => color.match(/[0-9.]+/g).map(Number); \
    const light = (color) => { const [r, g, b] = parts(color).slice(0, 3).map((one) => one / 255) \
        .map((one) => (one <= 0.03928 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4)); \
        return 0.2126 * r + 0.7152 * g + 0.0722 * b; }; \
    const back = (one) => { for (; one; one = one.parentElement) { \
        const color = getComputedStyle(one).backgroundColor; \
        if ((parts(color)[3] ?? 1) === 1) return color; } return 'rgb(255, 255, 255)'; }; \
    const texts = [...document.querySelectorAll('td span, a:not(.hidden), th, .chip, #live, footer p')] \
        .filter((one) => one.getClientRects().length); \
    return Math.min(...texts.map((one) => { const [a, b] = [light(getComputedStyle(one).color), light(back(one))]; \
        return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05); })); })()";

#[test]
fn by_day_and_by_night_texts_stand_out() {
    let page = Page::open(Screen::DESKTOP);
    page.press("web", "Stop");
    page.shows("web", "stopped");
    let mut backgrounds = Vec::new();
    for scheme in ["light", "dark"] {
        let features = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        page.browser.devtools("Emulation.setEmulatedMedia", &features);
        let least = page.browser.value(CONTRAST).as_f64().unwrap();
        assert!(least >= 4.5, "{scheme}: {least}");
        backgrounds.push(page.browser.value("getComputedStyle(document.body).backgroundColor"));
    }
    assert_ne!(backgrounds[0], backgrounds[1]);
    page.is_clean(&[]);
}

#[test]
fn the_keyboard_is_enough() {
    let page = Page::open(Screen::DESKTOP);
    page.shows("web", "running");
    let key = |key: &str, code: u32| {
        for kind in ["rawKeyDown", "keyUp"] {
            page.browser.devtools(
                "Input.dispatchKeyEvent",
                &json!({ "type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code }),
            );
        }
    };
    key("/", 191);
    page.browser.wait("document.activeElement.id === 'search'");
    page.browser.value("document.querySelector(\"tr[data-name=web] a[name=Stop]\").focus()");
    key(" ", 32);
    page.shows("web", "stopped");
    page.browser.wait("document.activeElement.getAttribute('aria-label') === 'Start web'");
    page.browser.value("document.querySelector('a[href$=stopall]').focus()");
    key(" ", 32);
    page.browser.wait("document.querySelector('dialog')?.open && document.activeElement.value === ''");
    key("Escape", 27);
    page.browser.wait("!document.querySelector('dialog')");
    assert_eq!(page.host.state("talker"), "RUNNING");
    page.is_clean(&[]);
}
