//! Redis from outside: a client's connection, and the real server to compare with.

use std::pin::Pin;
use std::process::Stdio;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::program::WATCHDOG;

/// One reply, whichever version of RESP it came in.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reply {
    /// A line: its kind and text.
    Line(char, String),
    /// Bytes of a kind.
    Bulk(char, Vec<u8>),
    /// Replies in one, of a kind.
    Many(char, Vec<Reply>),
    /// Nothing, as it is spelt.
    Null(String),
}

impl Reply {
    /// Without the order in which replies of this one came; pairs stay pairs.
    #[must_use]
    pub fn unordered(self, group: usize) -> Self {
        let Self::Many(kind, parts) = self else { return self };
        let mut groups: Vec<_> = parts.chunks(group).map(<[Self]>::to_vec).collect();
        groups.sort();
        Self::Many(kind, groups.concat())
    }
}

/// A client's connection.
pub struct Connection {
    stream: BufReader<TcpStream>,
}

impl Connection {
    /// Connects to `address`.
    ///
    /// # Panics
    /// If nobody listens there.
    pub async fn to(address: &str) -> Self {
        let stream = TcpStream::connect(address).await.expect("a server listens");
        stream.set_nodelay(true).expect("a socket");
        Self { stream: BufReader::new(stream) }
    }

    /// Says `bytes` as they are.
    ///
    /// # Panics
    /// If the connection is reset.
    pub async fn say(&mut self, bytes: &[u8]) {
        self.stream.get_mut().write_all(bytes).await.expect("the server takes it");
    }

    /// Says a command of these words, as an array.
    ///
    /// # Panics
    /// As [`Connection::say`].
    pub async fn command(&mut self, words: &[&[u8]]) -> Reply {
        let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
        for word in words {
            bytes.extend(format!("${}\r\n", word.len()).bytes());
            bytes.extend(*word);
            bytes.extend(b"\r\n");
        }
        self.say(&bytes).await;
        self.reply().await
    }

    /// The next reply.
    ///
    /// # Panics
    /// If the connection is closed or reset, or nothing comes.
    pub async fn reply(&mut self) -> Reply {
        timeout(WATCHDOG, self.read()).await.expect("a reply comes")
    }

    /// Whether the server has closed the connection, and said nothing more.
    pub async fn is_closed(&mut self) -> bool {
        let mut byte = [0];
        let read = timeout(WATCHDOG, self.stream.read(&mut byte)).await;
        matches!(read, Ok(Ok(0) | Err(_)))
    }

    fn read(&mut self) -> Pin<Box<dyn Future<Output = Reply> + Send + '_>> {
        Box::pin(self.read_one())
    }

    async fn read_one(&mut self) -> Reply {
        let mut line = Vec::new();
        self.stream.read_until(b'\n', &mut line).await.expect("the connection is not reset");
        let line = String::from_utf8_lossy(&line).into_owned();
        let kind = line.chars().next().expect("the connection is not closed");
        let text = line[1..].trim_end().to_owned();
        let count = text.parse::<usize>().ok();
        match (kind, count) {
            ('$' | '=', Some(len)) => {
                let mut bytes = vec![0; len + 2];
                self.stream.read_exact(&mut bytes).await.expect("all of it comes");
                bytes.truncate(len);
                Reply::Bulk(kind, bytes)
            }
            ('*' | '~' | '%', Some(count)) => {
                let count = if kind == '%' { count * 2 } else { count };
                let mut parts = Vec::new();
                for _ in 0..count {
                    parts.push(self.read().await);
                }
                Reply::Many(kind, parts)
            }
            ('$' | '*', None) | ('_', _) => Reply::Null(line.trim_end().to_owned()),
            _ => Reply::Line(kind, text),
        }
    }
}

/// A real Redis server of this host, which ends with the test.
pub struct Server {
    /// Where it listens.
    pub address: String,
    _child: Child,
}

impl Server {
    /// Starts one; nothing if there is none here.
    ///
    /// # Panics
    /// If it does not begin to listen, or if one must be here.
    pub async fn start() -> Option<Self> {
        // Somebody else may have the port by the time the server asks for it.
        for _ in 0..10 {
            let free = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let port = free.local_addr().expect("bound").port().to_string();
            drop(free);
            let mut command = Command::new("redis-server");
            command.args(["--port", &port, "--bind", "127.0.0.1", "--databases", "1"]);
            command.args(["--save", ""]).kill_on_drop(true);
            let Ok(mut child) = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn() else {
                crate::skipped("there is no redis-server: apt-get install redis-server");
                return None;
            };
            let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
            let mut said = async || {
                let line = timeout(WATCHDOG, lines.next_line()).await.expect("it says something");
                line.expect("readable")
            };
            while let Some(line) = said().await {
                if line.contains("Ready to accept connections") {
                    // It goes on to say little; nobody has to read that.
                    return Some(Self { address: format!("127.0.0.1:{port}"), _child: child });
                }
            }
        }
        panic!("the server does not begin to listen");
    }
}

/// Runs one of Redis' own tools to its end: its output, if it ended well. Nothing if it is not
/// here.
///
/// # Panics
/// If it hangs or fails, or if it must be here.
pub async fn tool(name: &str, words: &[&str], input: &[u8]) -> Option<String> {
    let mut command = Command::new(name);
    command.args(words).kill_on_drop(true);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let Ok(mut child) = command.spawn() else {
        crate::skipped(&format!("there is no {name}: apt-get install redis-tools"));
        return None;
    };
    let mut stdin = child.stdin.take().expect("piped");
    stdin.write_all(input).await.expect("it reads");
    drop(stdin);
    let ended = timeout(WATCHDOG, child.wait_with_output()).await.expect("it does not hang");
    let ended = ended.expect("it was started");
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (said(&ended.stdout), said(&ended.stderr));
    assert!(ended.status.success(), "{name} {words:?}: {}\n{out}\n{err}", ended.status);
    Some(out)
}
