//! Clients of a store that is shown: they write all the time, and remember what was acknowledged.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::exit::Stop;
use crate::view::state::Check;
use crate::view::units;

/// How many there are.
const CLIENTS: u32 = 4;
/// What each writes beside its counter, so that the guest's memory changes.
const VALUE: &str = "a value that is written again and again, so that pages become dirty";
/// Keys that each one writes in turn.
const KEYS: u64 = 10_000;
/// For any reply, also of a guest that moves.
const REPLY_WITHIN: Duration = Duration::from_secs(60);

/// Clients at work.
pub(super) struct Clients {
    at_work: JoinSet<Result<Served, String>>,
    enough: Arc<AtomicBool>,
}

/// What one client was served.
struct Served {
    commands: u64,
    longest: Duration,
}

struct Client {
    number: u32,
    stream: BufReader<TcpStream>,
    longest: Duration,
}

impl Clients {
    /// Connects clients, each of which begins to write.
    pub(super) async fn connect(address: &str) -> Result<Self, Stop> {
        let (mut at_work, enough) = (JoinSet::new(), Arc::new(AtomicBool::new(false)));
        for number in 0..CLIENTS {
            let stream = TcpStream::connect(address).await.and_then(|stream| {
                stream.set_nodelay(true)?;
                Ok(stream)
            });
            let stream = stream
                .map_err(|why| Stop::failed(format!("no client connects to {address}: {why}")))?;
            let stream = BufReader::new(stream);
            let client = Client { number, stream, longest: Duration::ZERO };
            at_work.spawn(client.work(Arc::clone(&enough)));
        }
        Ok(Self { at_work, enough })
    }

    /// Ends the clients' work and adds what they have seen to what the guest says of itself.
    pub(super) async fn conclude(mut self, check: &mut Check) {
        self.enough.store(true, Ordering::Relaxed);
        let (mut commands, mut longest) = (0, Duration::ZERO);
        while let Some(ended) = self.at_work.join_next().await {
            match ended.map_err(|why| why.to_string()).flatten() {
                Ok(served) => {
                    commands += served.commands;
                    longest = longest.max(served.longest);
                }
                Err(why) => {
                    check.sound = false;
                    check.findings.push(why);
                }
            }
        }
        let (count, longest) = (units::count(commands), units::time(longest));
        let clients = match check.findings.first() {
            None => format!(
                "{CLIENTS} clients stayed connected; all of {count} acknowledged writes are \
                 there, the slowest reply took {longest}"
            ),
            Some(why) => format!("a client was let down: {why}"),
        };
        check.sentence = format!("{}; {clients}", check.sentence);
    }
}

impl Client {
    /// Counts up, and writes a value a count, until it is enough; then reads what it has written.
    async fn work(mut self, enough: Arc<AtomicBool>) -> Result<Served, String> {
        let number = self.number;
        let mut count = 0;
        while !enough.load(Ordering::Relaxed) {
            count += 1;
            self.hears(&format!("INCR counter:{number}\r\n"), &format!(":{count}")).await?;
            let key = format!("key:{number}:{}", count % KEYS);
            self.hears(&format!("SET {key} \"{count} {VALUE}\"\r\n"), "+OK").await?;
        }
        for written in (count.saturating_sub(KEYS - 1)..=count).filter(|written| *written > 0) {
            let key = format!("key:{number}:{}", written % KEYS);
            let value = format!("{written} {VALUE}");
            self.hears(&format!("GET {key}\r\n"), &format!("${}", value.len())).await?;
            self.line_is(&value).await?;
        }
        self.hears(&format!("INCR counter:{number}\r\n"), &format!(":{}", count + 1)).await?;
        Ok(Served { commands: 2 * count, longest: self.longest })
    }

    /// Says something and hears exactly this.
    async fn hears(&mut self, command: &str, reply: &str) -> Result<(), String> {
        let began = Instant::now();
        let said = self.stream.get_mut().write_all(command.as_bytes()).await;
        said.map_err(|why| format!("client {} cannot write: {why}", self.number))?;
        self.line_is(reply).await?;
        self.longest = self.longest.max(began.elapsed());
        Ok(())
    }

    async fn line_is(&mut self, expected: &str) -> Result<(), String> {
        let number = self.number;
        let mut line = String::new();
        let read = timeout(REPLY_WITHIN, self.stream.read_line(&mut line)).await;
        match read {
            Ok(Ok(1..)) if line.trim_end() == expected => Ok(()),
            Ok(Ok(0)) => Err(format!("client {number} was disconnected")),
            Ok(Ok(_)) => {
                let heard = line.trim_end();
                Err(format!("client {number} heard `{heard}` in place of `{expected}`"))
            }
            Ok(Err(why)) => Err(format!("client {number} cannot read: {why}")),
            Err(_) => Err(format!("client {number} heard nothing in {REPLY_WITHIN:?}")),
        }
    }
}
