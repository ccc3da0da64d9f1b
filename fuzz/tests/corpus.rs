//! What the fuzzers have found, and the golden frames, through the same functions. So are the
//! inputs that once broke a promise, as far as they are kept: `regressions/` has them, because a
//! corpus loses those that get to nothing new.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use whimbrel_fuzz::{Reached, TARGETS, control, frames, lander};

/// The targets count what is allocated, and must be alone while they do.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The files of a folder, by their names.
fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let entries = fs::read_dir(folder).unwrap_or_else(|why| panic!("{}: {why}", folder.display()));
    let mut files: Vec<_> = entries
        .map(|entry| {
            let entry = entry.expect("readable");
            let name = entry.file_name().into_string().expect("text");
            (name, fs::read(entry.path()).expect("readable"))
        })
        .collect();
    files.sort();
    files
}

/// A golden frame, whose file is hexadecimal text.
fn golden(kind: &str) -> Vec<(String, Vec<u8>)> {
    let frames = files(&root().join("proto/golden").join(kind)).into_iter();
    let bytes = |text: Vec<u8>| {
        let digits: Vec<u8> = text.into_iter().filter(u8::is_ascii_hexdigit).collect();
        let pair = |pair: &[u8]| u8::from_str_radix(str::from_utf8(pair).expect("hex"), 16);
        digits.chunks(2).map(|digits| pair(digits).expect("two digits")).collect()
    };
    frames.map(|(name, text)| (name, bytes(text))).collect()
}

/// Feeds a target its corpus, and sees that the corpus still gets to all of this.
fn feed(target: &str, places: &[&str]) {
    let (_, run) = TARGETS.iter().find(|(name, _)| *name == target).expect("a target");
    let corpus = files(&root().join("fuzz/corpus").join(target));
    let reached: Reached = corpus.iter().flat_map(|(_, bytes)| run(bytes)).collect();
    let missed: Vec<_> = places.iter().filter(|place| !reached.contains(**place)).collect();
    let count = corpus.len();
    assert!(missed.is_empty(), "{count} inputs do not get to {missed:?}, but to {reached:?}");
    println!("{target}: {count} inputs get to {reached:?}");
}

#[test]
fn what_once_broke_a_promise() {
    let _alone = alone();
    let mut count = 0;
    for (target, run) in TARGETS {
        let folder = root().join("fuzz/regressions").join(target);
        // Not each of them was ever broken.
        let inputs = if folder.is_dir() { files(&folder) } else { Vec::new() };
        for (name, bytes) in inputs {
            println!("{target}: {name}");
            run(&bytes);
            count += 1;
        }
    }
    assert!(count > 0, "nothing is kept");
}

#[test]
fn control_messages() {
    let _alone = alone();
    let names = [
        "Hello",
        "Plan",
        "LaneLost",
        "Announce",
        "Prepare",
        "Grant",
        "Abort",
        "Done",
        "AskSums",
        "Ping",
        "Offer",
        "Accepted",
        "Rejected",
        "Resumed",
        "LaneClosed",
        "Ready",
        "Prepared",
        "Differs",
        "Sums",
        "Running",
        "Refused",
        "Pong",
        "Digested",
    ];
    feed("control", &names);
    for (name, body) in golden("control") {
        assert_eq!(control::run(&body).len(), 1, "{name} is a message");
    }
}

#[test]
fn bulk_frames() {
    let _alone = alone();
    feed("frames", &["hello", "accepted", "refused", "ack", "batch", "batches"]);
    for (name, frame) in golden("bulk") {
        let kind = match name.split(['-', '.']).nth(usize::from(name.starts_with("lane"))) {
            Some("hello") => 0,
            Some("answer") => 1,
            Some("ack") => 2,
            _ => 3,
        };
        assert_eq!(frames::run(&[&[kind], &frame[..]].concat()).len(), 1, "{name} is a frame");
    }
}

#[test]
fn the_source() {
    let _alone = alone();
    let phases = [
        "greeting",
        "planning",
        "pre-copy",
        "reconnecting",
        "quiescing",
        "pausing",
        "verifying",
        "sending the last pages",
        "switchover",
        "repairing",
        "granted",
        "ended",
    ];
    feed("source", &[&phases[..], &["Completed", "Aborted", "InDoubt"]].concat());
}

#[test]
fn the_destination() {
    let _alone = alone();
    let phases = [
        "waiting for the source",
        "planning",
        "reserving memory",
        "pre-copy",
        "preparing",
        "verifying",
        "prepared",
        "starting",
        "running",
        "refusing",
        "ended",
    ];
    feed("destination", &[&phases[..], &["Completed", "Aborted"]].concat());
}

#[test]
fn the_lander() {
    let _alone = alone();
    let ends = [
        "it was stopped",
        "the peer closed the lane",
        "the source sent something that is not a batch; the lane is closed",
        "the header of a batch has a wrong checksum; the lane is closed, its pages come again",
        "the run list of a batch has a wrong checksum; the lane is closed, its pages come again",
        "a batch whose runs do not add up to its pages; the lane is closed",
    ];
    feed("lander", &[&ends[..], &["zero pages", "raw pages", "more than 8 batches"]].concat());
    for (_, frame) in golden("bulk") {
        lander::run(&[&[0], &frame[..]].concat());
    }
}

/// A field with a length, as Protocol Buffers have it.
fn field(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut bytes = vec![(tag & 0x0f) << 3 | 0x82, tag >> 4];
    let mut length = content.len();
    while length >= 0x80 {
        bytes.push(length as u8 | 0x80);
        length >>= 7;
    }
    bytes.push(length as u8);
    [&bytes[..], content].concat()
}

/// The shortest entries that lists can have, as many as a body may hold, and one long text: what
/// they take is counted by the target.
#[test]
fn the_worst_bodies_cost_what_their_length_allows() {
    let _alone = alone();
    let lists = [(2, 2), (2, 8), (5, 3), (33, 4), (34, 1), (36, 1), (36, 2), (41, 2)];
    for (message, list) in lists {
        for count in [1, 100, 1024, 4096, 8191, 100_000] {
            control::run(&field(message, &field(list, &[]).repeat(count)));
        }
        control::run(&field(message, &field(list, &vec![b'x'; 16 << 20])));
    }
}
