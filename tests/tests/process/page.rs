//! The page of an agent, in a real browser: a migration is started by a click and watched to its
//! end, cancelled, and reported. And what the agent does for whom.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use whimbrel_tests::browser::Browser;
use whimbrel_tests::faults::host::HERE;
use whimbrel_tests::faults::usher::{Led, Usher};
use whimbrel_tests::faults::way::Way;
use whimbrel_tests::faults::{Fate, Step};
use whimbrel_tests::program::{Agent, How, WATCHDOG};
use whimbrel_tests::{http, os, skipped};

const TOKEN: &str = "open-sesame-open-sesame";

type Headers<'a> = &'a [(&'a str, &'a str)];

async fn with_page(more: &[&str]) -> Agent {
    let options = [&["--http", "127.0.0.1:0", "--die-with-parent"], more].concat();
    Agent::start_as(&std::env::temp_dir(), How::with(&options)).await
}

/// One that asks for a token.
async fn with_token(more: &[&str]) -> Agent {
    let folder = tempfile::tempdir().expect("a folder");
    let token = folder.path().join("token");
    os::write(&token, &format!("{TOKEN}\n"), true);
    let token = ["--http-token", token.to_str().expect("UTF-8")];
    with_page(&[&token[..], more].concat()).await
}

fn address(agent: &Agent) -> &str {
    agent.http.as_deref().expect("HTTP")
}

/// Where pictures go, if somebody wants to see any.
fn picture(browser: &mut Browser, name: &str) {
    if let Some(folder) = std::env::var_os("WHIMBREL_PICTURES") {
        browser.picture(&PathBuf::from(folder).join(format!("{name}.png")));
    }
}

fn opened(agent: &Agent) -> Option<Browser> {
    let Some(mut browser) = Browser::start() else {
        skipped("no Chromium");
        return None;
    };
    browser.look(1100, 900, false);
    browser.open(&format!("http://{}/", address(agent)));
    Some(browser)
}

/// Fills in where to, and how patient one is, and says yes.
fn move_it(browser: &mut Browser, there: &Agent, policy: &str) {
    browser.click("#guests button[aria-label='Move web']");
    browser.until("document.activeElement?.id === 'destination'");
    browser.value("document.getElementById('destination').value = ''");
    browser.type_text(&there.address);
    browser.value(&format!("document.getElementById('policy').value = '{policy}'"));
    let downtime = if policy == "wait" { 1 } else { 5000 };
    browser.value(&format!("document.getElementById('downtime').value = {downtime}"));
    picture(browser, &format!("move-{policy}"));
    browser.click("#move-yes");
    browser.until("!document.getElementById('move').open");
}

/// The page at several widths, by day and by night.
fn looks(browser: &mut Browser, name: &str) {
    for (kind, width, dark) in [("light", 1100, false), ("dark", 1100, true), ("phone", 390, true)]
    {
        browser.look(width, 900, dark);
        browser.until("document.documentElement.scrollWidth <= window.innerWidth");
        picture(browser, &format!("{name}-{kind}"));
    }
    browser.look(1100, 900, false);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_migration_is_started_by_a_click_and_watched_to_its_end() {
    // So little goes through that the guest always writes more than can be sent in a millisecond,
    // however busy the machine is.
    let (here, there) = (with_page(&["--limit", "200Mbit/s"]).await, Agent::start().await);
    let busy = ["--memory", "64MiB", "--working-set", "32MiB", "--dirty-rate", "100MiB/s"];
    here.guest("web", &busy).await;
    here.guest("store", &["--guest", "kv", "--memory", "16MiB"]).await;
    let Some(mut browser) = opened(&here) else { return };
    browser.until("document.querySelectorAll('#guests .running').length === 2");

    // One that does not end by itself: there is time to look at it, and it is cancelled.
    move_it(&mut browser, &there, "wait");
    browser.until("!document.getElementById('moving').hidden");
    browser.until("/landed [1-9]/.test(document.getElementById('map-said').textContent)");
    browser.until("document.querySelectorAll('#rounds rect').length > 2");
    browser.until("document.querySelector('#rates polyline')?.points.length > 8");
    browser.until("document.querySelectorAll('#lanes rect').length >= 1");
    looks(&mut browser, "moving");
    browser.click("#guests button[aria-label='Cancel web']");
    browser.until("document.querySelector('#ended .state')?.textContent === 'aborted'");
    browser.until("document.querySelectorAll('#guests .running').length === 2");
    // The button is gone, and the keyboard goes on at its guest.
    browser.until("document.activeElement?.textContent === 'web'");

    let _ = here.ask(&["limit", "--host", "none"]).await.ended(0);
    // What was on its way there has been cleared away too.
    let cleared = async {
        while there.ask(&["list", "--json"]).await.ended(0).json() != serde_json::json!([]) {}
    };
    timeout(WATCHDOG, cleared).await.expect("it is gone");
    move_it(&mut browser, &there, "throttle");
    browser.until("document.querySelector('#ended .state')?.textContent === 'completed'");
    browser.until("document.querySelectorAll('#guests li').length === 1");
    browser.until("document.activeElement?.id === 'ended-title'");
    looks(&mut browser, "ended");
    there.assert_runs("web").await;
    let report =
        browser.value("fetch(document.querySelector('#ended a').href).then((a) => a.text())");
    assert!(report.as_str().is_some_and(|page| page.contains("The blackout")), "{report}");
    assert_eq!(browser.complaints, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_with_a_token_is_used_from_the_keyboard_and_refusals_are_told() {
    let agent = with_token(&[]).await;
    agent.guest("web", &["--memory", "16MiB", "--dirty-rate", "0"]).await;
    let Some(mut browser) = opened(&agent) else { return };
    browser.until("document.getElementById('login').open");
    picture(&mut browser, "login");
    browser.type_text(TOKEN);
    browser.press("Enter");
    browser.until("document.querySelector('#guests .state')?.textContent === 'running'");
    // To the first button, and into its dialog.
    browser.until("!!document.querySelector('#guests button:not([hidden])')");
    browser.press("Tab");
    browser.until("document.activeElement?.getAttribute('aria-label') === 'Move web'");
    browser.press("Enter");
    browser.until("document.activeElement?.id === 'destination'");
    browser.type_text("127.0.0.1:1");
    browser.press("Enter");
    browser.until("document.getElementById('move-said').textContent.includes('no agent answers')");
    picture(&mut browser, "refused");
    browser.press("Escape");
    browser.until("!document.getElementById('move').open");
    assert_eq!(agent.status("web").await["state"], "running");
}

/// Puts a guest in doubt: all that is left of the other host dies when the guest is granted to it.
async fn put_in_doubt(here: &Agent) {
    let mut there = Agent::start().await;
    let way = Arc::new(Way::begin(HERE, 16 << 20).await);
    let back = Usher::stand(HERE, &here.address, None).await;
    let led = Led { way: Arc::clone(&way), questions: back.address };
    let usher = Usher::stand(HERE, &there.address, Some(led)).await;
    let granted = way.expect(Step::Grant);
    let words = ["migrate", "web", &usher.address.to_string(), "--detach"];
    let _ = here.ask(&words).await.ended(0);
    let granted = timeout(WATCHDOG, granted).await.expect("in time").expect("the way is there");
    let guests = format!("{}/guests", there.data().display());
    there.kill().await;
    os::mentioning(&guests).into_iter().for_each(os::kill);
    granted.go(Fate::Lost).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_doubt_is_resolved_by_a_click() {
    // The doubt comes from the death over there. Silence would have the grant said again, and a
    // short doubt would have it asked for, while somebody is there yet.
    let deadlines = "silence=20s,resume=20s,doubt=10s,settle=3s,ask=1s";
    let here = with_page(&["--deadlines", deadlines]).await;
    here.guest("web", &["--memory", "16MiB", "--dirty-rate", "1MiB/s"]).await;
    let Some(mut browser) = opened(&here) else { return };
    browser.until("document.querySelector('#guests .state')?.textContent === 'running'");
    put_in_doubt(&here).await;
    browser.until("document.querySelector('#guests .state')?.textContent === 'in doubt'");
    browser.until("!!document.querySelector('#guests button[aria-label=\"Decide web\"]')");
    browser.until("!document.querySelector('#guests button[aria-label=\"Decide web\"]').hidden");
    browser.click("#guests button[aria-label='Decide web']");
    browser.until("document.getElementById('resolve').open");
    looks(&mut browser, "resolve");
    browser.click("#resolve input[value='run-here']");
    browser.click("#resolve-yes");
    browser.until("document.querySelector('#guests .state')?.textContent === 'running'");
    browser.until("!document.getElementById('resolve').open");
    here.assert_runs("web").await;
    assert_eq!(browser.complaints, [""; 0]);
}

/// The status of an answer on a connection that goes on; `None` if it does not.
async fn status(connection: &mut TcpStream, path: &str, token: &str) -> Option<u16> {
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: any.example\r\nAuthorization: Bearer {token}\r\n\r\n"
    );
    connection.write_all(request.as_bytes()).await.ok()?;
    let mut answer = Vec::new();
    let head_end = loop {
        if connection.read_buf(&mut answer).await.ok()? == 0 {
            return None;
        }
        if let Some(at) = answer.windows(4).position(|end| end == b"\r\n\r\n") {
            break at + 4;
        }
    };
    let head = String::from_utf8(answer[..head_end].to_vec()).expect("UTF-8");
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let length: usize = length.and_then(|length| length.parse().ok()).expect("a length");
    while answer.len() < head_end + length {
        if connection.read_buf(&mut answer).await.ok()? == 0 {
            return None;
        }
    }
    head.split(' ').nth(1)?.parse().ok()
}

#[tokio::test]
async fn who_shows_no_token_leaves_the_place_to_others() {
    let agent = with_token(&["--deadlines", "handshake=5s"]).await;
    let mut known = TcpStream::connect(address(&agent)).await.expect("a place");
    assert_eq!(status(&mut known, "/metrics", TOKEN).await, Some(200));
    let mut unknown = TcpStream::connect(address(&agent)).await.expect("a place");
    // However busy it is. The one that came before, and was let in, stays.
    while let Some(answered) = status(&mut unknown, "/", "guessed").await {
        assert_eq!(answered, 200);
        assert_eq!(status(&mut known, "/", TOKEN).await, Some(200));
    }
    assert_eq!(status(&mut known, "/metrics", TOKEN).await, Some(200));
}

#[tokio::test]
async fn the_token_does_what_it_may_and_no_more() {
    // This one asks its callers who they are, and has been told nothing about the page.
    let asks = with_token(&["--tls"]).await;
    let looks = with_token(&["--http-may", "look"]).await;
    let orders = with_token(&["--http-may", "order"]).await;
    let token = format!("Bearer {TOKEN}");
    let headers = [("Authorization", token.as_str()), ("Content-Type", "application/json")];
    let resolve = r#"{"guest":"nobody","decision":"give-up"}"#;
    let tries = [
        (&asks, "POST /cancel", r#"{"guest":"nobody"}"#, 403),
        (&looks, "POST /cancel", r#"{"guest":"nobody"}"#, 403),
        (&orders, "POST /cancel", r#"{"guest":"nobody"}"#, 404),
        (&orders, "POST /resolve", resolve, 403),
        (&looks, "GET /metrics", "", 200),
    ];
    for (agent, first, body, status) in tries {
        let answer = http::ask(address(agent), first, &headers, body).await;
        assert_eq!(answer.status, status, "{first}: {answer:?}");
        assert!(status != 403 || answer.body.contains("--http-may"), "{answer:?}");
    }
}

#[tokio::test]
async fn nothing_is_changed_but_by_who_may() {
    let agent = with_page(&[]).await;
    agent.guest("web", &["--memory", "16MiB", "--dirty-rate", "0"]).await;
    let address = address(&agent);
    let order = r#"{"guest":"web","destination":"127.0.0.1:1"}"#;
    let json = ("Content-Type", "application/json");
    let own = format!("http://{address}");
    let tries: [(&str, Headers<'_>, u16); 6] = [
        ("GET /migrate", &[json], 405),
        ("POST /migrate", &[("Content-Type", "text/plain")], 415),
        ("POST /migrate", &[json, ("Origin", "http://evil.example")], 403),
        ("POST /migrate", &[json, ("Host", "evil.example")], 421),
        ("GET /events", &[("Host", "evil.example")], 421),
        // Who may: the other agent does not answer.
        ("POST /migrate", &[json, ("Origin", &own)], 502),
    ];
    for (first, headers, status) in tries {
        let answer = http::ask(address, first, headers, order).await;
        assert_eq!(answer.status, status, "{first} {headers:?}: {answer:?}");
    }
    let wrong = http::ask(address, "POST /cancel", &[json], r#"{"guest":"nobody"}"#).await;
    assert_eq!((wrong.status, wrong.body.contains("nobody")), (404, true), "{wrong:?}");
    // One byte too much.
    let much = format!("{{\"guest\":\"{}\"}}", "x".repeat((64 << 10) + 1 - 12));
    assert_eq!(http::ask(address, "POST /cancel", &[json], &much).await.status, 413);
    let page = http::get(address, "/").await;
    assert!(page.head.contains("content-security-policy: default-src 'none'"), "{}", page.head);
    assert!(!page.body.contains("http://") && !page.body.contains("https://"), "{}", page.body);
}
