//! The page of an agent, in a real browser: a migration is started by a click and watched to its
//! end, cancelled, and reported.

use std::path::PathBuf;

use whimbrel_tests::browser::Browser;
use whimbrel_tests::program::{Agent, How};
use whimbrel_tests::{http, skipped};

const BUSY: [&str; 4] = ["--memory", "64MiB", "--dirty-rate", "max"];

type Headers<'a> = &'a [(&'a str, &'a str)];

async fn with_page(more: &[&str]) -> Agent {
    let options = [&["--http", "127.0.0.1:0", "--die-with-parent"], more].concat();
    Agent::start_as(&std::env::temp_dir(), How::with(&options)).await
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
    browser.open(&format!("http://{}/", agent.http.as_deref().expect("HTTP")));
    Some(browser)
}

/// Fills in where to, and how patient one is, and says yes.
fn move_it(browser: &mut Browser, there: &Agent, policy: &str) {
    browser.until("!!document.querySelector('#guests button:not([hidden])')");
    browser.click("#guests button[aria-label='Move web']");
    browser.until("document.activeElement?.id === 'destination'");
    browser.value("document.getElementById('destination').value = ''");
    browser.type_text(&there.address);
    browser.value(&format!("document.getElementById('policy').value = '{policy}'"));
    let downtime = if policy == "wait" { 1 } else { 5000 };
    browser.value(&format!("document.getElementById('downtime').value = {downtime}"));
    browser.click("#move-yes");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_migration_is_started_by_a_click_and_watched_to_its_end() {
    let (here, there) = (with_page(&[]).await, Agent::start().await);
    here.guest("web", &BUSY).await;
    let Some(mut browser) = opened(&here) else { return };
    browser.until("document.querySelector('#guests .state')?.textContent === 'running'");

    // One that does not end by itself: there is time to look at it, and it is cancelled.
    move_it(&mut browser, &there, "wait");
    browser.until("!document.getElementById('moving').hidden");
    browser.until("/landed [1-9]/.test(document.getElementById('map-said').textContent)");
    browser.until("document.querySelectorAll('#rounds rect').length > 2");
    browser.until("document.querySelector('#rates polyline')?.points.length > 8");
    browser.until("document.querySelectorAll('#lanes rect').length >= 1");
    for (name, width, dark) in [("light", 1100, false), ("dark", 1100, true), ("phone", 390, true)]
    {
        browser.look(width, 900, dark);
        let fits = "document.documentElement.scrollWidth <= window.innerWidth";
        browser.until(fits);
        picture(&mut browser, name);
    }
    browser.look(1100, 900, false);
    browser.click("#guests button[aria-label='Cancel web']");
    browser.until("document.querySelector('#ended .state')?.textContent === 'aborted'");
    browser.until("document.querySelector('#guests .state')?.textContent === 'running'");

    move_it(&mut browser, &there, "throttle");
    browser.until("document.querySelector('#ended .state')?.textContent === 'completed'");
    browser.until("!document.querySelector('#guests li')");
    there.assert_runs("web").await;
    let report =
        browser.value("fetch(document.querySelector('#ended a').href).then((a) => a.text())");
    assert!(report.as_str().is_some_and(|page| page.contains("The blackout")), "{report}");
    assert_eq!(browser.complaints, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_with_a_token_is_used_from_the_keyboard_and_refusals_are_told() {
    let folder = tempfile::tempdir().expect("a folder");
    let token = folder.path().join("token");
    std::fs::write(&token, "open-sesame-open-sesame\n").expect("a token");
    let agent = with_page(&["--http-token", token.to_str().expect("UTF-8")]).await;
    agent.guest("web", &["--memory", "16MiB", "--dirty-rate", "0"]).await;
    let Some(mut browser) = opened(&agent) else { return };
    browser.until("document.getElementById('login').open");
    browser.type_text("open-sesame-open-sesame");
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
    browser.press("Escape");
    browser.until("!document.getElementById('move').open");
    assert_eq!(agent.status("web").await["state"], "running");
}

#[tokio::test]
async fn nothing_is_changed_but_by_who_may() {
    let agent = with_page(&[]).await;
    agent.guest("web", &["--memory", "16MiB", "--dirty-rate", "0"]).await;
    let address = agent.http.as_deref().expect("HTTP");
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
