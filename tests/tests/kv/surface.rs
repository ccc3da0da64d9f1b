//! The same words to a store of ours and to a real Redis server: the same replies.

use whimbrel_tests::program::Agent;
use whimbrel_tests::redis::{Connection, Reply, Server, tool};

use crate::said::{SAID, SAID_IN_THREE};
use crate::store;

fn words(line: &str) -> Vec<Vec<u8>> {
    let mut words = Vec::new();
    for (n, part) in line.split('"').enumerate() {
        if n % 2 == 1 {
            words.push(part.as_bytes().to_vec());
        } else {
            words.extend(part.split_whitespace().map(|word| word.as_bytes().to_vec()));
        }
    }
    words
}

async fn reply(connection: &mut Connection, line: &str) -> Reply {
    let bare = line.trim_start_matches(['~', '^']);
    let words = words(bare);
    let words: Vec<_> = words.iter().map(Vec::as_slice).collect();
    let reply = connection.command(&words).await;
    match &line[..line.len() - bare.len()] {
        "" => reply,
        "^" => in_millions(reply),
        tildes => reply.unordered(tildes.len()),
    }
}

/// A number, rounded: no time that passes between two replies is seen in it.
fn in_millions(reply: Reply) -> Reply {
    match reply {
        Reply::Line(':', text) => {
            let number: i64 = text.parse().expect("a number");
            Reply::Line(':', ((number + 500_000) / 1_000_000).to_string())
        }
        other => other,
    }
}

/// What a connection is told of itself: fields with a value, in their order. Who it is differs.
async fn about_itself(connection: &mut Connection, line: &str) -> (char, Vec<(Reply, Reply)>) {
    let (kind, fields) = match reply(connection, line).await {
        Reply::Many(kind, parts) => {
            let pairs = parts.chunks(2).map(|pair| (pair[0].clone(), pair[1].clone()));
            (kind, pairs.collect::<Vec<_>>())
        }
        Reply::Bulk(kind, text) => {
            let text = String::from_utf8(text).expect("text");
            let word = |text: &str| Reply::Bulk('$', text.as_bytes().to_vec());
            let pair = |field: &str| field.split_once('=').map(|(a, b)| (word(a), word(b)));
            let own = text.trim_start_matches("txt:").lines().last().expect("one of them");
            (kind, own.split(' ').map(|field| pair(field).expect("a value")).collect())
        }
        other => panic!("{line}: {other:?}"),
    };
    let id = Reply::Bulk('$', b"id".to_vec());
    let own = |(name, value): (Reply, Reply)| match value {
        Reply::Line(kind, text) if name == id => {
            assert!(text.parse::<u64>().is_ok(), "{line}: {text}");
            (name, Reply::Line(kind, String::new()))
        }
        Reply::Bulk(kind, text) if name == id => {
            let text = String::from_utf8(text).expect("text");
            assert!(text.parse::<u64>().is_ok(), "{line}: {text}");
            (name, Reply::Bulk(kind, Vec::new()))
        }
        value => (name, value),
    };
    (kind, fields.into_iter().map(own).collect())
}

/// A store and a Redis, which end with what is returned first, and a connection to each.
async fn both() -> Option<((Server, Agent), Connection, Connection)> {
    let server = Server::start().await?;
    let agent = Agent::start().await;
    let ours = Connection::to(&store(&agent, "64MiB").await).await;
    let theirs = Connection::to(&server.address).await;
    Some(((server, agent), ours, theirs))
}

/// What clients look for in `CLIENT INFO` and `CLIENT LIST`.
const OF_A_CLIENT: [&str; 11] =
    ["id", "name", "flags", "db", "sub", "psub", "ssub", "multi", "user", "redir", "resp"];

#[tokio::test]
async fn a_connection_is_told_of_itself_as_by_redis() {
    let Some((_hosts, mut ours, mut theirs)) = both().await else { return };
    for line in ["HELLO", "HELLO 2", "HELLO 3 AUTH default pw SETNAME three", "HELLO"] {
        let same = (about_itself(&mut ours, line).await, about_itself(&mut theirs, line).await);
        assert_eq!(same.0, same.1, "{line}");
        for line in ["CLIENT INFO", "CLIENT LIST"] {
            let (kind, told) = about_itself(&mut ours, line).await;
            let (their_kind, mut theirs) = about_itself(&mut theirs, line).await;
            let known = OF_A_CLIENT.map(|name| Reply::Bulk('$', name.as_bytes().to_vec()));
            theirs.retain(|(name, _)| known.contains(name));
            assert_eq!((kind, &told), (their_kind, &theirs), "{line}");
            assert_eq!(told.len(), known.len());
        }
    }
}

/// What differs between the two, line by line.
async fn differences(ours: &mut Connection, theirs: &mut Connection, said: &str) -> Vec<String> {
    let mut found = Vec::new();
    for line in said.lines().filter(|line| !line.is_empty()) {
        let (our, their) = (reply(ours, line).await, reply(theirs, line).await);
        if our != their {
            found.push(format!("{line}\n  ours:   {our:?}\n  theirs: {their:?}"));
        }
    }
    found
}

#[tokio::test]
async fn every_command_is_answered_as_redis_answers_it() {
    let Some((_hosts, mut ours, mut theirs)) = both().await else { return };
    let mut found = differences(&mut ours, &mut theirs, SAID).await;
    for connection in [&mut ours, &mut theirs] {
        let greeting = connection.command(&[b"HELLO", b"3", b"SETNAME", b"three"]).await;
        let Reply::Many('%', fields) = greeting else { panic!("{greeting:?}") };
        assert_eq!(fields.len(), 14, "{fields:?}");
    }
    found.extend(differences(&mut ours, &mut theirs, SAID_IN_THREE).await);
    assert!(found.is_empty(), "{} replies differ:\n{}", found.len(), found.join("\n"));
}

/// Name, arity, flags and keys of each of our commands.
#[tokio::test]
async fn every_command_is_described_as_redis_describes_it() {
    let Some((_hosts, mut ours, mut theirs)) = both().await else { return };
    let listed = ours.command(&[b"COMMAND", b"LIST"]).await;
    let Reply::Many('*', names) = listed else { panic!("{listed:?}") };
    let count = ours.command(&[b"COMMAND", b"COUNT"]).await;
    assert_eq!(count, Reply::Line(':', names.len().to_string()));
    let mut found = Vec::new();
    for name in &names {
        let Reply::Bulk('$', name) = name else { panic!("{name:?}") };
        let mut told = Vec::new();
        for connection in [&mut ours, &mut theirs] {
            let info = connection.command(&[b"COMMAND", b"INFO", name]).await;
            let Reply::Many('*', info) = info else { panic!("{info:?}") };
            let Reply::Many('*', parts) = &info[0] else { panic!("{info:?}") };
            told.push(parts[..6].to_vec());
        }
        if told[0] != told[1] {
            found.push(format!("ours:   {:?}\n  theirs: {:?}", told[0], told[1]));
        }
    }
    assert!(found.is_empty(), "{} differ:\n{}", found.len(), found.join("\n"));
}

/// Sections and fields of `INFO`.
async fn fields(connection: &mut Connection) -> Vec<String> {
    let told = connection.command(&[b"INFO", b"everything"]).await;
    let Reply::Bulk('$', text) = told else { panic!("{told:?}") };
    let (mut section, mut found) = (String::new(), Vec::new());
    for line in String::from_utf8(text).expect("text").lines().filter(|line| !line.is_empty()) {
        match line.split_once(':') {
            Some((field, _)) => found.push(format!("{section}: {field}")),
            None => line.clone_into(&mut section),
        }
    }
    found
}

/// As far as we have it, in the same sections and in the same order.
#[tokio::test]
async fn what_is_told_of_the_store_is_where_redis_tells_it() {
    let Some((_hosts, mut ours, mut theirs)) = both().await else { return };
    for connection in [&mut ours, &mut theirs] {
        let set = connection.command(&[b"SET", b"a", b"1"]).await;
        assert_eq!(set, Reply::Line('+', "OK".into()));
    }
    let own = ["# Server: server_name", "# Server: whimbrel_version"];
    let (mut told, mut known) = (fields(&mut ours).await, fields(&mut theirs).await);
    told.retain(|field| !own.contains(&field.as_str()));
    known.retain(|field| told.contains(field));
    assert_eq!(told, known);
    assert!(told.contains(&"# Keyspace: db0".to_owned()), "{told:?}");
}

#[tokio::test]
async fn wrong_words_are_refused_and_end_the_connection_as_in_redis() {
    let Some(server) = Server::start().await else { return };
    let agent = Agent::start().await;
    let address = store(&agent, "16MiB").await;
    let wrong: [&[u8]; 8] = [
        b"*x\r\n",
        b"*3\r\n$3\r\nSET\r\n:1\r\n",
        b"*1\r\n$-1\r\n",
        b"*1\r\n$x\r\n",
        b"*9999999999\r\n",
        b"*2147483648\r\n",
        b"get \"a\r\n",
        b"get 'a'b\r\n",
    ];
    for bytes in wrong {
        let (mut ours, mut theirs) =
            (Connection::to(&address).await, Connection::to(&server.address).await);
        ours.say(bytes).await;
        theirs.say(bytes).await;
        assert_eq!(ours.reply().await, theirs.reply().await, "{}", bytes.escape_ascii());
        assert!(ours.is_closed().await && theirs.is_closed().await);
    }
    let (mut ours, mut theirs) =
        (Connection::to(&address).await, Connection::to(&server.address).await);
    for connection in [&mut ours, &mut theirs] {
        connection
            .say(b"PING\r\nset 'a b' \"\\x41\\n\"\r\n\r\nget 'a b'\r\nQUIT\r\nPING\r\n")
            .await;
    }
    for _ in 0..4 {
        assert_eq!(ours.reply().await, theirs.reply().await);
    }
    assert!(ours.is_closed().await && theirs.is_closed().await);
}

/// A web page may have a browser send a request to any port of its host, with commands in its body.
#[tokio::test]
async fn a_web_page_gives_no_commands() {
    let Some(server) = Server::start().await else { return };
    let agent = Agent::start().await;
    let addresses = [store(&agent, "16MiB").await, server.address.clone()];
    let requests: [&[u8]; 3] = [
        b"POST / HTTP/1.1\r\nHost: store.example\r\n\r\nSET a 1\r\n",
        b"Host: store.example\r\nSET a 1\r\n",
        b"post\r\nSET a 1\r\n",
    ];
    for address in &addresses {
        for request in requests {
            let mut page = Connection::to(address).await;
            page.say(request).await;
            assert!(page.is_closed().await, "{}", request.escape_ascii());
        }
        let mut client = Connection::to(address).await;
        assert_eq!(client.command(&[b"EXISTS", b"a"]).await, Reply::Line(':', "0".into()));
    }
}

#[tokio::test]
async fn what_can_never_fit_is_refused_before_it_has_come() {
    let Some(server) = Server::start().await else { return };
    let agent = Agent::start().await;
    let address = store(&agent, "16MiB").await;
    let mut ours = Connection::to(&address).await;
    let setting = ours.command(&[b"CONFIG", b"GET", b"proto-max-bulk-len"]).await;
    let Reply::Many('*', setting) = setting else { panic!("{setting:?}") };
    let Reply::Bulk('$', most) = &setting[1] else { panic!("{setting:?}") };
    let mut theirs = Connection::to(&server.address).await;
    let same = theirs.command(&[b"CONFIG", b"SET", b"proto-max-bulk-len", most]).await;
    assert_eq!(same, Reply::Line('+', "OK".into()));
    let most: usize = std::str::from_utf8(most).expect("ASCII").parse().expect("a number");
    for connection in [&mut ours, &mut theirs] {
        let largest = connection.command(&[b"SET", b"a", &vec![b'v'; most]]).await;
        assert_eq!(largest, Reply::Line('+', "OK".into()));
        assert_eq!(
            connection.command(&[b"STRLEN", b"a"]).await,
            Reply::Line(':', most.to_string())
        );
        let more = format!("*3\r\n$3\r\nSET\r\n$1\r\na\r\n${}\r\n", most + 1);
        connection.say(more.as_bytes()).await;
    }
    assert_eq!(ours.reply().await, theirs.reply().await);
    assert!(ours.is_closed().await && theirs.is_closed().await);
}

#[tokio::test]
async fn redis_own_client_brings_and_reads_data() {
    let agent = Agent::start().await;
    let address = store(&agent, "64MiB").await;
    let port = address.rsplit(':').next().expect("a port");
    let mut commands = Vec::new();
    for n in 0..20_000 {
        let key = format!("key:{n}");
        commands.extend(format!("*3\r\n$3\r\nSET\r\n${}\r\n{key}\r\n", key.len()).bytes());
        commands.extend(b"$5\r\nvalue\r\n");
    }
    let Some(said) = tool("redis-cli", &["-p", port, "--pipe"], &commands).await else { return };
    assert!(said.contains("errors: 0, replies: 20000"), "{said}");
    let count = tool("redis-cli", &["-p", port, "DBSIZE"], b"").await.expect("it is here");
    assert_eq!(count.trim(), "20000");
    let keys = ["-p", port, "--scan", "--pattern", "key:1999?"];
    let keys = tool("redis-cli", &keys, b"").await.expect("it is here");
    assert_eq!(keys.lines().count(), 10, "{keys}");
    let three = ["-p", port, "-3", "HGETALL", "none"];
    let none = tool("redis-cli", &three, b"").await.expect("it is here");
    assert_eq!(none.trim(), "");
}
