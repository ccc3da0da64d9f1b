//! `dump`: what a key-value guest holds, as a file of commands that bring it back.
//!
//! It is read by a client like any other, key by key while the guest works, also while it moves: a
//! key's value is in the file as it was at some moment of the dump, and when it ends as it was just
//! after. It is **not** a picture of one moment; nor is what is too large for one reply of the
//! store, which is read in pieces.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use redis_protocol::resp2::decode::decode;
use redis_protocol::resp2::types::OwnedFrame as Frame;
use tempfile::NamedTempFile;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use whimbrel_control::{AgentAddress, api};

use crate::args::DumpArgs;
use crate::exit::{Ending, Exit, Stop};

/// For a reply, also of a guest that moves.
const REPLY_WITHIN: Duration = Duration::from_secs(60);
/// Keys that are asked for at a time, about.
const KEYS_AT_ONCE: &[u8] = b"200";
/// Elements that are asked for at a time of a collection that is too large for one reply; fewer
/// where those are too large too.
const PIECE_MAX: usize = 256;
/// How often a key may become another kind of thing while it is read.
const CHANGES_MAX: u32 = 100;
/// Words of one command of the file, and about its bytes: what brings it in needs memory for it in
/// one piece.
const WORDS_MAX: usize = 256;
const BYTES_MAX: usize = 256 << 10;
/// What is read at a time.
const PIECE: usize = 64 << 10;

type Bytes = Vec<u8>;

/// Writes all that a guest holds.
pub(crate) async fn dump(args: DumpArgs) -> Ending {
    let mut client = args.target.connect().await?;
    let guest = client.get_guest(api::GetGuestRequest { guest: args.guest }).await?;
    let address = reach(&guest, &args.target.agent)?;
    let mut store = Store::connect(&address).await?;
    let path = args.output.unwrap_or_else(|| PathBuf::from(format!("{}.resp", guest.name)));
    if path == Path::new("-") {
        let mut out = BufWriter::new(io::stdout());
        copy(&mut store, &mut out).await?;
        return out.flush().map(|()| Exit::Done).map_err(|why| unwritten(&path, &why));
    }
    // Nobody takes a part of it for the whole.
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let file = NamedTempFile::new_in(folder.unwrap_or(Path::new(".")));
    let file = file.map_err(|why| unwritten(&path, &why))?;
    copy(&mut store, &mut BufWriter::new(file.as_file())).await?;
    let kept = file.as_file().sync_all().and_then(|()| Ok(file.persist(&path)?));
    let _: File = kept.map_err(|why| unwritten(&path, &why))?;
    crate::out::line(path.display());
    Ok(Exit::Done)
}

/// Where clients of the guest connect, as seen from here.
fn reach(guest: &api::Guest, agent: &AgentAddress) -> Result<String, Stop> {
    let (name, service) = (&guest.name, &guest.service_address);
    let Ok(address) = service.parse::<SocketAddr>() else {
        if guest.state() == api::GuestState::Gone {
            let why = format!("{name} does not run here any more: {}", guest.state_reason);
            return Err(Stop::new(Exit::Refused, why));
        }
        let why = format!("{name} has no clients: only a key-value guest can be dumped");
        return Err(Stop::new(Exit::Refused, why));
    };
    if address.ip().is_unspecified() {
        let host = agent.host();
        let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        return Ok(format!("{host}:{}", address.port()));
    }
    if address.ip().is_loopback() && !agent.is_loopback() {
        let why = format!("clients of {name} connect at {service} of its own host: dump it there");
        return Err(Stop::new(Exit::Refused, why));
    }
    Ok(service.clone())
}

fn unwritten(path: &Path, why: &io::Error) -> Stop {
    Stop::failed(format!("{} cannot be written: {why}", path.display()))
}

/// All keys there are, each as the commands that make it.
async fn copy(store: &mut Store, out: &mut impl Write) -> Result<(), Stop> {
    let mut cursor = b"0".to_vec();
    loop {
        let reply = store.ask(&[b"SCAN", &cursor, b"COUNT", KEYS_AT_ONCE]).await?;
        let Frame::Array(parts) = reply else { return Err(store.strange(&reply)) };
        let (next, keys) = store.scanned(parts)?;
        for key in keys {
            let commands = store.settled(&key).await?;
            let written = commands.iter().try_for_each(|words| out.write_all(&command(words)));
            written.map_err(|why| Stop::failed(format!("the dump cannot be written: {why}")))?;
        }
        if next == b"0" {
            return out.flush().map_err(|why| unwritten(Path::new("the dump"), &why));
        }
        cursor = next;
    }
}

/// A command as a client says it.
fn command(words: &[impl AsRef<[u8]>]) -> Bytes {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        bytes.extend(format!("${}\r\n", word.as_ref().len()).bytes());
        bytes.extend(word.as_ref());
        bytes.extend(b"\r\n");
    }
    bytes
}

/// Whether the store had no room for what it would have replied.
fn has_no_room(reply: &Frame) -> bool {
    matches!(reply, Frame::Error(why) if why.starts_with("OOM"))
}

/// A string in as many commands as it takes, if none brings more than `most` of it.
fn setting(key: &[u8], value: &[u8], most: usize) -> Vec<Vec<Bytes>> {
    let (first, mut rest) = value.split_at(value.len().min(most));
    let mut commands = vec![vec![b"SET".to_vec(), key.to_vec(), first.to_vec()]];
    while !rest.is_empty() {
        let (piece, after) = rest.split_at(rest.len().min(most));
        commands.push(vec![b"APPEND".to_vec(), key.to_vec(), piece.to_vec()]);
        rest = after;
    }
    commands
}

/// `verb key element…` in as many commands as it takes; elements stay together in groups.
fn adding(verb: &str, key: &[u8], elements: &[Bytes], group: usize) -> Vec<Vec<Bytes>> {
    let mut commands = Vec::new();
    let begin = || vec![verb.as_bytes().to_vec(), key.to_vec()];
    let (mut words, mut bytes) = (begin(), 0);
    for elements in elements.chunks(group) {
        if words.len() > 2 && (words.len() + group > WORDS_MAX || bytes > BYTES_MAX) {
            commands.push(std::mem::replace(&mut words, begin()));
            bytes = 0;
        }
        bytes += elements.iter().map(Vec::len).sum::<usize>();
        words.extend_from_slice(elements);
    }
    if words.len() > 2 {
        commands.push(words);
    }
    commands
}

/// A client's connection to the store.
struct Store {
    address: String,
    stream: TcpStream,
    heard: Bytes,
}

impl Store {
    async fn connect(address: &str) -> Result<Self, Stop> {
        let lost = |why: String| Stop::new(Exit::Unreachable, format!("{address}: {why}"));
        let stream = timeout(REPLY_WITHIN, TcpStream::connect(address)).await;
        let stream = stream.map_err(|why| lost(why.to_string()))?;
        let stream = stream.map_err(|why| lost(why.to_string()))?;
        Ok(Self { address: address.to_owned(), stream, heard: Bytes::new() })
    }

    /// The commands that make a key what it is; none if it is gone meanwhile.
    async fn settled(&mut self, key: &[u8]) -> Result<Vec<Vec<Bytes>>, Stop> {
        for _ in 0..CHANGES_MAX {
            if let Some(commands) = self.key(key).await? {
                return Ok(commands);
            }
        }
        let key = key.escape_ascii();
        Err(Stop::failed(format!("key `{key}` becomes another kind again and again")))
    }

    /// The same; nothing if it has become another kind of thing since that was asked.
    async fn key(&mut self, key: &[u8]) -> Result<Option<Vec<Vec<Bytes>>>, Stop> {
        let kind = self.ask(&[b"TYPE", key]).await?;
        let Frame::SimpleString(kind) = kind else { return Err(self.strange(&kind)) };
        let words: &[&[u8]] = match kind.as_slice() {
            b"string" => &[b"GET", key],
            b"list" => &[b"LRANGE", key, b"0", b"-1"],
            b"hash" => &[b"HGETALL", key],
            b"set" => &[b"SMEMBERS", key],
            b"none" => return Ok(Some(Vec::new())),
            _ => return Err(self.strange(&Frame::SimpleString(kind))),
        };
        // All of it in one reply: that is of one moment.
        let mut reply = self.ask(words).await?;
        let at_once = !has_no_room(&reply);
        if !at_once {
            reply = self.in_pieces(&kind, key).await?;
        }
        // Whoever brings it in may have the key.
        let mut commands = vec![vec![b"DEL".to_vec(), key.to_vec()]];
        match (kind.as_slice(), reply) {
            (_, Frame::Error(why)) if why.starts_with("WRONGTYPE") => return Ok(None),
            (_, Frame::Null) => return Ok(Some(Vec::new())),
            (b"string", Frame::BulkString(value)) => {
                let most = if at_once { value.len() } else { BYTES_MAX };
                commands.extend(setting(key, &value, most));
            }
            (b"list", reply) => commands.extend(adding("RPUSH", key, &self.words(reply)?, 1)),
            (b"hash", reply) => commands.extend(adding("HSET", key, &self.words(reply)?, 2)),
            (b"set", reply) => commands.extend(adding("SADD", key, &self.words(reply)?, 1)),
            (_, reply) => return Err(self.strange(&reply)),
        }
        match self.ask(&[b"PTTL", key]).await? {
            Frame::Integer(-1) => {}
            Frame::Integer(left @ 0..) => {
                let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                let end = now.as_millis().saturating_add(left.unsigned_abs().into()).to_string();
                commands.push(vec![b"PEXPIREAT".to_vec(), key.to_vec(), end.into_bytes()]);
            }
            _ => return Ok(Some(Vec::new())),
        }
        Ok(Some(commands))
    }

    /// What the store has no room to reply at once.
    async fn in_pieces(&mut self, kind: &[u8], key: &[u8]) -> Result<Frame, Stop> {
        let verb: &[u8] = match kind {
            b"string" => return self.string_in_pieces(key).await,
            b"list" => return self.list_in_pieces(key).await,
            b"hash" => b"HSCAN",
            _ => b"SSCAN",
        };
        let (mut cursor, mut elements, mut most) = (b"0".to_vec(), Vec::new(), PIECE_MAX);
        loop {
            let count = most.to_string();
            match self.ask(&[verb, key, &cursor, b"COUNT", count.as_bytes()]).await? {
                Frame::Array(parts) => {
                    let (next, found) = self.scanned(parts)?;
                    elements.extend(found.into_iter().map(Frame::BulkString));
                    cursor = next;
                }
                other if has_no_room(&other) && most > 1 => {
                    most /= 2;
                    continue;
                }
                other => return Ok(other),
            }
            if cursor == b"0" {
                return Ok(Frame::Array(elements));
            }
        }
    }

    /// Nothing where it is gone meanwhile: one that has no room is not empty.
    async fn string_in_pieces(&mut self, key: &[u8]) -> Result<Frame, Stop> {
        let (mut value, mut most) = (Bytes::new(), BYTES_MAX);
        loop {
            let [from, to] = [value.len(), value.len() + most - 1].map(|at| at.to_string());
            match self.ask(&[b"GETRANGE", key, from.as_bytes(), to.as_bytes()]).await? {
                Frame::BulkString(piece) if piece.is_empty() && value.is_empty() => {
                    return Ok(Frame::Null);
                }
                Frame::BulkString(piece) if piece.is_empty() => {
                    return Ok(Frame::BulkString(value));
                }
                Frame::BulkString(piece) => value.extend(piece),
                other if has_no_room(&other) && most > 1 => most /= 2,
                other => return Ok(other),
            }
        }
    }

    async fn list_in_pieces(&mut self, key: &[u8]) -> Result<Frame, Stop> {
        let (mut elements, mut most) = (Vec::new(), PIECE_MAX);
        loop {
            let first = elements.len();
            let last = first + most - 1;
            let [from, to] = [first, last].map(|at| at.to_string());
            match self.ask(&[b"LRANGE", key, from.as_bytes(), to.as_bytes()]).await? {
                Frame::Array(found) if found.is_empty() => return Ok(Frame::Array(elements)),
                Frame::Array(found) => elements.extend(found),
                other if has_no_room(&other) && most > 1 => most /= 2,
                other => return Ok(other),
            }
        }
    }

    /// Where a scan goes on, and what it found.
    fn scanned(&self, parts: Vec<Frame>) -> Result<(Bytes, Vec<Bytes>), Stop> {
        let Ok([Frame::BulkString(next), found]) = <[Frame; 2]>::try_from(parts) else {
            return Err(self.strange(&Frame::Null));
        };
        Ok((next, self.words(found)?))
    }

    fn words(&self, reply: Frame) -> Result<Vec<Bytes>, Stop> {
        let Frame::Array(parts) = reply else { return Err(self.strange(&reply)) };
        let word = |part| match part {
            Frame::BulkString(word) => Ok(word),
            other => Err(self.strange(&other)),
        };
        parts.into_iter().map(word).collect()
    }

    async fn ask(&mut self, words: &[&[u8]]) -> Result<Frame, Stop> {
        let lost = |why: &dyn std::fmt::Display| {
            Stop::new(Exit::Unreachable, format!("the store is lost: {why}"))
        };
        self.stream.write_all(&command(words)).await.map_err(|why| lost(&why))?;
        loop {
            let decoded = decode(&self.heard);
            let decoded = decoded.map_err(|why| lost(&why))?;
            if let Some((reply, len)) = decoded {
                self.heard.drain(..len);
                return Ok(reply);
            }
            // As much again as there is: what is large is looked at a few times only.
            let wanted = self.heard.len() + self.heard.len().max(1);
            while self.heard.len() < wanted {
                self.heard.reserve(PIECE);
                let read = timeout(REPLY_WITHIN, self.stream.read_buf(&mut self.heard)).await;
                match read.map_err(|why| lost(&why))?.map_err(|why| lost(&why))? {
                    0 => return Err(lost(&"it has closed the connection")),
                    _ if self.heard.ends_with(b"\r\n") => break,
                    _ => {}
                }
            }
        }
    }

    fn strange(&self, reply: &Frame) -> Stop {
        let said = match reply {
            Frame::Error(why) => why.clone(),
            other => format!("it answers as no store does: {other:?}"),
        };
        Stop::failed(format!("{}: {said}", self.address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_collections_are_several_commands() {
        let elements: Vec<Bytes> = (0..1000).map(|n: u32| n.to_string().into_bytes()).collect();
        let commands = adding("HSET", b"k", &elements, 2);
        assert!(commands.len() > 1 && commands.iter().all(|words| words.len() <= WORDS_MAX));
        assert!(commands.iter().all(|words| words.len() % 2 == 0 && words[1] == b"k"));
        let together: Vec<_> = commands.iter().flat_map(|words| &words[2..]).cloned().collect();
        assert_eq!(together, elements);
        let large = vec![vec![0; BYTES_MAX]; 3];
        assert_eq!(adding("RPUSH", b"k", &large, 1).len(), 2);
        assert!(adding("RPUSH", b"k", &[], 1).is_empty());
        let commands = setting(b"k", &large[0], BYTES_MAX / 2 + 1);
        let verbs: Vec<_> = commands.iter().map(|words| words[0].as_slice()).collect();
        assert_eq!(verbs, [b"SET".as_slice(), b"APPEND"]);
        assert_eq!(commands.iter().flat_map(|words| &words[2]).count(), BYTES_MAX);
        assert_eq!(setting(b"k", b"", 0).len(), 1);
        assert_eq!(command(&[b"GET", b"a\r\n".as_slice()]), b"*2\r\n$3\r\nGET\r\n$3\r\na\r\n\r\n");
    }

    #[test]
    fn a_store_is_reached_where_its_host_is() {
        let at = |service: &str, agent: &str| {
            let guest = api::Guest { service_address: service.into(), ..Default::default() };
            reach(&guest, &agent.parse().expect("an address")).map_err(|stop| stop.exit)
        };
        assert_eq!(at("0.0.0.0:6379", "host-b:7117"), Ok("host-b:6379".into()));
        assert_eq!(at("[::]:6379", "[fd00::1]:7117"), Ok("[fd00::1]:6379".into()));
        assert_eq!(at("127.0.0.1:6379", "127.0.0.1:7117"), Ok("127.0.0.1:6379".into()));
        assert_eq!(at("127.0.0.1:6379", "host-b:7117"), Err(Exit::Refused));
        assert_eq!(at("", "127.0.0.1:7117"), Err(Exit::Refused));
        let (state, state_reason) = (api::GuestState::Gone.into(), "it went to b".into());
        let gone = api::Guest { state, state_reason, ..Default::default() };
        let why = reach(&gone, &"host-a".parse().expect("an address")).expect_err("gone").why;
        assert!(why.contains("not run here any more: it went to b"), "{why}");
    }
}
