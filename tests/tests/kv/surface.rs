//! The same words to a store of ours and to a real Redis server: the same replies.

use whimbrel_tests::program::Agent;
use whimbrel_tests::redis::{Connection, Reply, Server, tool};

use crate::store;

/// Commands in order. After `~` replies come in any order, after `~~` in any order of pairs.
const SAID: &str = r#"
PING
PING hello
PING a b
ECHO "hello world"
ECHO
SELECT 0
SELECT 1
SELECT -1
SELECT 16
SELECT x
SELECT 9223372036854775808
SELECT
SELECT 0 0
SET a 1
GET a
SET a 2 NX
SET a 2 XX
SET a 3 XX GET
SET a 4 NX GET
SET b 4 XX GET
SET new 4 GET
SET a 1 NX XX
SET a 1 EX
SET a 1 EX 0
SET a 1 EX -1
SET a 1 EX x
SET a 1 EX 10 PX 10
SET a 1 EX 10 KEEPTTL
SET a 1 EX 9223372036854775807
SET a 1 EX 9223372036854775
SET a 1 PXAT 9999999999999
TTL none
SET a v EX 1000
TTL a
SET a w KEEPTTL
TTL a
PERSIST a
PERSIST a
TTL a
PTTL a
EXPIRE a 100
EXPIRE a 200 NX
EXPIRE a 200 GT
EXPIRE a 300 LT
EXPIRE a 50 LT
TTL a
EXPIRE a 100 GT LT
EXPIRE a 100 NX XX
EXPIRE a 100 bogus
EXPIRE a x
EXPIRE a 9223372036854775807
PEXPIRE a 9223372036854775807
EXPIREAT a 9999999999
PEXPIREAT a 9999999999999
EXPIRE none 10
EXPIRE a -1
GET a
MSET k1 v1 k2 v2
MSET k1 v1 k2
MSET
MGET k1 none k2
HMSET hm a 1 b 2
HGET hm b
HMSET hm a
HMSET hm a 1 b
HMSET k1 a 1
DEL hm
SETEX e 100 v
TTL e
SETEX e 0 v
SETEX e x v
SETEX e 100
PSETEX e 100000 w
GET e
TTL e
PSETEX e -1 w
SETEX k1 100 v
PERSIST k1
SETNX k1 x
SETNX k3 x
GETSET k3 y
GETSET k4 y
STRLEN k3
STRLEN none
APPEND k3 more
APPEND k5 fresh
GET k3
GETRANGE k3 1 3
GETRANGE k3 -3 -1
GETRANGE k3 0 -100
GETRANGE k3 -1 -3
GETRANGE k3 3 1
GETRANGE k3 99 100
GETRANGE k3 -100 9223372036854775807
GETRANGE k3 x 1
GETRANGE k3 1
GETRANGE none 0 -1
INCR counter
INCR counter
DECR counter
INCRBY counter 41
DECRBY counter 2
INCRBY counter x
INCRBY counter 9223372036854775807
DECRBY counter -9223372036854775808
SET notnumber " 12"
INCR notnumber
SET notnumber 012
INCR notnumber
SET max 9223372036854775807
INCR max
EXISTS k1 k1 none
DEL k1 none k2
UNLINK k3 none
TYPE k4
TYPE none
HSET h f1 v1 f2 v2
HSET h f1 changed f3 v3
HSET h f1
HSET h f1 v1 f2
HGET h f1
HGET h none
HGET none f
HMGET h f1 none f2
HMGET none a b
HLEN h
HLEN none
~~HGETALL h
HSCAN none 0
HSCAN h x
HSCAN h 0 MATCH nothing
HSCAN h
HGETALL none
HDEL h f1 f1 none
HDEL none f
TYPE h
GET h
GETRANGE h 0 -1
INCR h
LPUSH h x
SADD h x
HSET counter f v
RPUSH l a b c
LPUSH l x y
LRANGE l 0 -1
LRANGE l -100 100
LRANGE l 2 1
LRANGE l 5 10
LRANGE l -2 -1
LRANGE l x 1
LRANGE none 0 -1
LLEN l
LLEN none
LPOP l
RPOP l
LPOP l 2
RPOP l 100
EXISTS l
LPOP l
LPOP l 0
LPOP l -1
LPOP l x
LPOP l 1 2
RPUSH l a
LPOP l 0
TYPE l
HGET l f
SADD s m1 m2 m1
SADD s m2 m3
SISMEMBER s m1
SISMEMBER s none
SISMEMBER none m
SPOP s 1 2
SPOP none x
SSCAN none 0
SSCAN s x
SSCAN s 0 COUNT 0
SSCAN list 0
SSCAN s 0 MATCH nothing
~SMEMBERS s
SMEMBERS none
SCARD s
SCARD none
SREM s m1 none
SREM none m
TYPE s
SPOP none
SPOP none 2
SPOP s -1
~SPOP s 10
EXISTS s
SET list v
LPUSH list x
RPUSH list x
LRANGE list 0 1
SMEMBERS list
HGETALL list
DBSIZE
~KEYS k?
~KEYS *
KEYS c[a-o]unter
SCAN x
SCAN 0 COUNT 0
SCAN 0 COUNT x
SCAN 0 MATCH
SCAN 0 BOGUS 1
SCAN 0 MATCH none* COUNT 1000
SCAN 0 MATCH counter COUNT 1000
SCAN 0 TYPE hash COUNT 1000
NOPE
NOPE a "b c" d
GET
GET a b
SET a
CLIENT
CLIENT BOGUS
CLIENT GETNAME
CLIENT SETNAME me
CLIENT GETNAME
CLIENT SETNAME "not me"
CLIENT ID extra
CONFIG
CONFIG BOGUS
CONFIG GET
CONFIG GET none
CONFIG GET databases
COMMAND BOGUS
FLUSHALL BOGUS
HELLO 4
HELLO x
HELLO 2 AUTH nobody pw
HELLO 2 BOGUS
AUTH
AUTH pw
AUTH default pw
AUTH nobody pw
AUTH nobody pw more
COMMAND INFO nope
FLUSHALL ASYNC
DBSIZE
SET a 1
FLUSHDB
FLUSHALL SYNC
DBSIZE
"#;

/// What is said once RESP3 is spoken.
const SAID_IN_THREE: &str = r#"
GET none
SET a 1
SET a 2 GET
SET none 1 XX
LPOP none
LPOP none 2
HSET h f v
~~HGETALL h
HGETALL none
HMGET h f none
SADD s a b
~SMEMBERS s
SMEMBERS none
SPOP none 2
MGET a none
CONFIG GET databases
CLIENT GETNAME
INCR h
FLUSHALL
"#;

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
    let bare = line.trim_start_matches('~');
    let words = words(bare);
    let words: Vec<_> = words.iter().map(Vec::as_slice).collect();
    let reply = connection.command(&words).await;
    match line.len() - bare.len() {
        0 => reply,
        group => reply.unordered(group),
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
