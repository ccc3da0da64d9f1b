//! What the page of an agent does for whom.

use whimbrel_tests::http;
use whimbrel_tests::program::{Agent, How};

type Headers<'a> = &'a [(&'a str, &'a str)];

async fn with_page(more: &[&str]) -> Agent {
    let options = [&["--http", "127.0.0.1:0", "--die-with-parent"], more].concat();
    Agent::start_as(&std::env::temp_dir(), How::with(&options)).await
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
