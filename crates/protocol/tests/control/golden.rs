//! The frames in `proto/golden/control` are what this crate writes, to the byte.
//!
//! `WHIMBREL_BLESS=1 cargo test -p whimbrel-protocol golden` writes them anew; look at the
//! difference: a changed frame is a changed wire.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::PathBuf;

use whimbrel_protocol::Message;

use crate::samples;

fn folder() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../proto/golden/control"))
}

fn to_hex(bytes: &[u8]) -> String {
    let mut text = String::new();
    for line in bytes.chunks(32) {
        line.iter().for_each(|byte| write!(text, "{byte:02x}").expect("a string takes all"));
        text.push('\n');
    }
    text
}

fn from_hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    let pair = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).expect("hex"), 16);
    digits.chunks(2).map(|digits| pair(digits).expect("two hexadecimal digits")).collect()
}

#[test]
fn golden_frames_are_what_is_written_and_read() {
    let write = std::env::var_os("WHIMBREL_BLESS").is_some();
    for (name, message) in samples::all() {
        let path = folder().join(name).with_extension("hex");
        if write {
            std::fs::create_dir_all(folder()).expect("the folder can be made");
            std::fs::write(&path, to_hex(&message.encode())).expect("the frame can be written");
        }
        let golden = std::fs::read_to_string(&path)
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert_eq!(to_hex(&message.encode()), golden, "{name} is written differently");
        assert_eq!(Message::decode(&from_hex(&golden)), Ok(message), "{name} reads differently");
    }
}

#[test]
fn no_golden_frame_is_forgotten() {
    let known: BTreeSet<String> =
        samples::all().iter().map(|(name, _)| format!("{name}.hex")).collect();
    let found = std::fs::read_dir(folder()).expect("the folder is there");
    let found: BTreeSet<String> = found
        .map(|file| file.expect("readable").file_name().into_string().expect("text"))
        .collect();
    assert_eq!(found, known);
}
