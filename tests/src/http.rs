//! As much of HTTP as it takes to ask an agent for something.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Ten times what the slowest answer takes.
const WATCHDOG: Duration = Duration::from_secs(60);

/// What was answered.
#[derive(Clone, Debug)]
pub struct Answered {
    /// The status of the answer.
    pub status: u16,
    /// Its headers, one a line.
    pub head: String,
    /// What follows them.
    pub body: String,
}

/// Sends the first line, the headers and the body as they are to `address`, and reads all that
/// comes back. `Host` is `address` unless it is among the headers.
///
/// # Panics
/// If nobody answers.
pub async fn ask(address: &str, first: &str, headers: &[(&str, &str)], body: &str) -> Answered {
    let mut request = format!("{first} HTTP/1.1\r\nConnection: close\r\n");
    let named = headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host"));
    let host = [("Host", address)];
    for (name, value) in headers.iter().chain(host.iter().filter(|_| !named)) {
        request += &format!("{name}: {value}\r\n");
    }
    request += &format!("Content-Length: {}\r\n\r\n{body}", body.len());
    let exchange = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.map(|_| answer)
    };
    let answer = timeout(WATCHDOG, exchange).await.expect("an answer in time").expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    let (head, body) = (head.to_owned(), body.to_owned());
    Answered { status: status.expect("a status"), head, body }
}

/// Gets `path`.
///
/// # Panics
/// As [`ask`].
pub async fn get(address: &str, path: &str) -> Answered {
    ask(address, &format!("GET {path}"), &[], "").await
}
