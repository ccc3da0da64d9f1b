//! What may be said where: the operating system, unsafe code, printing, sleeping, loose ends.

use super::reach::Reached;
use super::tokens::{Token, after_group, reads, tokens};
use super::{Breach, SourceFile};

/// The rooms for code of one operating system; `tests` and `benches` have one each too. What is
/// only compiled for tests may ask the system what was done to it.
const OS_ROOMS: [&str; 9] = [
    "crates/memory/src/sys/",
    "crates/win32/src/",
    "crates/transport/src/os",
    "crates/agent/src/os",
    "crates/identity/src/os",
    "tests/src/os",
    // Which of the tests' modules and programs there are where.
    "tests/src/lib.rs",
    "tests/src/bin/",
    "benches/src/bin/beside-qemu/",
];
/// The only rooms for unsafe code.
const UNSAFE_ROOMS: [&str; 2] = ["crates/memory/src/sys/", "crates/win32/src/"];
/// The crate that talks to people; all others are libraries.
const SPEAKER: &str = "crates/cli/src/";

/// Tests that may sleep: the file and why no event can be waited for instead.
const SLEEPERS: [(&str, &str); 1] =
    [("crates/engine/tests/moving/scribe.rs", "a throttled guest stands still for a while")];

/// Tests that are not run with the others: the file and why.
const IGNORED: [(&str, &str); 0] = [];

/// Queues without a limit: the file and why it cannot grow.
const UNBOUNDED: [(&str, &str); 0] = [];

/// Every word said in the wrong place. `reached` tells which files are only compiled for tests.
#[must_use]
pub fn check(sources: &[SourceFile], reached: &Reached) -> Vec<Breach> {
    let mut found: Vec<_> = sources.iter().flat_map(|s| check_one(s, reached)).collect();
    let sleeps = |path: &str| sources.iter().any(|s| s.path == path && s.text.contains("sleep"));
    let excused = UNBOUNDED.iter().chain(&IGNORED);
    let unneeded = excused.filter(|(path, _)| !sources.iter().any(|s| s.path == *path));
    let gone = "excused from a rule, but not there: take it off the list";
    found.extend(unneeded.map(|(path, _)| Breach::new(path, 0, gone)));
    let idle = SLEEPERS.iter().filter(|(path, _)| !sleeps(path));
    let what = "allowed to sleep, but does not: take it off the list";
    found.extend(idle.map(|(path, _)| Breach::new(path, 0, what)));
    found
}

fn check_one(source: &SourceFile, reached: &Reached) -> Vec<Breach> {
    let path = source.path.as_str();
    let mut tokens = tokens(path, &source.text);
    if reached.get(path).copied().unwrap_or(false) {
        tokens.iter_mut().for_each(|token| token.test_only = true);
    }
    let mut found = Vec::new();
    for at in 0..tokens.len() {
        let rules = [system(path, &tokens, at), unsafe_code(path, &tokens, at)];
        let rules =
            rules.into_iter().chain([loose_end(path, &tokens, at), print(path, &tokens, at)]);
        let rules = rules.chain([sleep(path, &tokens, at), queue(path, &tokens, at)]);
        found.extend(rules.flatten().map(|what| Breach::new(path, tokens[at].line, what)));
    }
    found
}

fn system(path: &str, tokens: &[Token], at: usize) -> Option<String> {
    if tokens[at].test_only || OS_ROOMS.iter().any(|room| path.starts_with(room)) {
        return None;
    }
    let word = tokens[at].text.as_str();
    let foreign = ["libc", "rustix", "nix", "windows_sys", "whimbrel_win32", "memmap2"]
        .contains(&word)
        && reads(tokens, at + 1, &[":", ":"]);
    let module = ["fd", "linux", "raw", "unix", "windows"]
        .iter()
        .any(|name| reads(tokens, at, &["os", ":", ":", name]))
        || reads(tokens, at, &["signal", ":", ":", "unix"]);
    // `UnixTime` is a time of day, as certificates have it, on every system.
    let socket = word.starts_with("Unix") && word.len() > "Unix".len() && word != "UnixTime";
    let folder = ["\"/proc/", "\"/sys/", "\"/dev/"].iter().any(|start| word.starts_with(start));
    let told = foreign || module || socket || folder || conditional(tokens, at);
    told.then(|| format!("`{word}` belongs to one system: it goes to sys or to the os module"))
}

/// A `cfg`, `cfg!` or `cfg_attr` that asks for the operating system.
fn conditional(tokens: &[Token], at: usize) -> bool {
    if !["cfg", "cfg_attr"].contains(&tokens[at].text.as_str()) {
        return false;
    }
    let open = at + 1 + usize::from(reads(tokens, at + 1, &["!"]));
    if !reads(tokens, open, &["("]) {
        return false;
    }
    let asks = ["unix", "windows", "target_os", "target_family", "target_env"];
    let condition = &tokens[open..after_group(tokens, open)];
    condition.iter().any(|token| asks.contains(&token.text.as_str()))
}

fn unsafe_code(path: &str, tokens: &[Token], at: usize) -> Option<String> {
    let inside = UNSAFE_ROOMS.iter().any(|room| path.starts_with(room));
    let outside = !inside && tokens[at].text == "unsafe";
    outside.then(|| format!("unsafe code lives in {UNSAFE_ROOMS:?} only"))
}

fn loose_end(path: &str, tokens: &[Token], at: usize) -> Option<String> {
    let word = tokens[at].text.as_str();
    if ["todo", "unimplemented", "dbg"].contains(&word) && reads(tokens, at + 1, &["!"]) {
        return Some(format!("`{word}!` is left over: finish it"));
    }
    let excused = IGNORED.iter().any(|(excused, _)| *excused == path);
    let ignored = reads(tokens, at, &["#", "[", "ignore"]) && !excused;
    ignored.then(|| "an ignored test is a forgotten one: run it, or skip it with a reason".into())
}

fn print(path: &str, tokens: &[Token], at: usize) -> Option<String> {
    let word = tokens[at].text.as_str();
    let prints = ["print", "println", "eprint", "eprintln"].contains(&word);
    let speaks_to_cargo = path.ends_with("/build.rs");
    let library = path.starts_with("crates/") && !path.starts_with(SPEAKER) && !speaks_to_cargo;
    let prints = prints && reads(tokens, at + 1, &["!"]) && !tokens[at].test_only;
    (library && prints).then(|| format!("`{word}!`: a library never prints"))
}

fn sleep(path: &str, tokens: &[Token], at: usize) -> Option<String> {
    let sleeps = reads(tokens, at, &["sleep", "("]) && tokens[at].test_only;
    let allowed = SLEEPERS.iter().any(|(allowed, _)| *allowed == path);
    (sleeps && !allowed).then(|| "a test waits for an event, not for time to pass".into())
}

/// A channel that takes whatever comes: tokio's by its name, std's by `channel()`.
fn queue(path: &str, tokens: &[Token], at: usize) -> Option<String> {
    let std = reads(tokens, at, &["mpsc", ":", ":", "channel", "(", ")"]);
    let unbounded = std || tokens[at].text == "unbounded_channel";
    let allowed = UNBOUNDED.iter().any(|(allowed, _)| *allowed == path);
    let product = path.starts_with("crates/") && !tokens[at].test_only;
    (unbounded && product && !allowed).then(|| "nothing queues without a limit: bound it".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::house::sample;

    fn said(path: &str, text: &str) -> Vec<String> {
        let found = check(&[sample(path, text)], &Reached::new());
        // Files that the samples do not have are missed, and that is not what is tested here.
        let found = found.into_iter().filter(|breach| breach.path == path);
        found.map(|breach| breach.what).collect()
    }

    #[test]
    fn the_system_stays_in_its_rooms() {
        let said_in_many_ways = [
            "use std::os::fd::OwnedFd;",
            "use std::{io, os::unix::process::CommandExt};",
            "fn f() { libc::getpid(); }",
            "use tokio::net::UnixStream;",
            "use tokio::signal::unix::signal;",
            "#[cfg(target_os = \"linux\")] fn f() {}",
            "#[cfg(all(feature = \"x\", unix))] fn f() {}",
            "fn f() -> bool { cfg!(windows) }",
            "const P: &str = \"/proc/self/maps\";",
        ];
        for text in said_in_many_ways {
            assert!(!said("crates/engine/src/a.rs", text).is_empty(), "{text}");
            assert_eq!(said("crates/transport/src/os.rs", text), [""; 0], "{text}");
            assert_eq!(said("crates/memory/src/sys/linux.rs", text), [""; 0], "{text}");
        }
        let test = "#[cfg(test)] mod tests { const P: &str = \"/proc/self/maps\"; }";
        assert_eq!(said("crates/engine/src/a.rs", test), [""; 0]);
        let portable = "#[cfg(feature = \"unix\")] fn f() { unix(); os::go(); }";
        assert_eq!(said("crates/engine/src/a.rs", portable), [""; 0]);
    }

    #[test]
    fn unsafe_code_stays_in_its_room() {
        assert_eq!(said("crates/memory/src/lib.rs", "unsafe fn f() {}").len(), 1);
        assert_eq!(said("crates/memory/src/sys/copy.rs", "unsafe fn f() {}"), [""; 0]);
        assert_eq!(said("crates/engine/src/a.rs", "// unsafe\nfn f() {}"), [""; 0]);
    }

    #[test]
    fn loose_ends_are_found() {
        for text in ["fn f() { todo!() }", "fn f() { dbg!(1); }", "#[test] #[ignore] fn f() {}"] {
            assert_eq!(said("tests/tests/a.rs", text).len(), 1, "{text}");
        }
    }

    #[test]
    fn libraries_do_not_print_and_tests_may() {
        let text = "fn f() { eprintln!(\"x\"); }";
        assert_eq!(said("crates/agent/src/a.rs", text).len(), 1);
        assert_eq!(said("crates/cli/src/a.rs", text), [""; 0]);
        assert_eq!(
            said("crates/agent/src/a.rs", &format!("#[cfg(test)] mod t {{ {text} }}")),
            [""; 0]
        );
    }

    #[test]
    fn queues_have_limits() {
        let bad = ["let c = mpsc::channel();", "let c = mpsc::unbounded_channel::<u8>();"];
        for text in bad.map(|text| format!("fn f() {{ {text} }}")) {
            assert_eq!(said("crates/agent/src/a.rs", &text).len(), 1, "{text}");
        }
        assert_eq!(said("crates/agent/src/a.rs", "fn f() { mpsc::channel(8); }"), [""; 0]);
    }

    #[test]
    fn tests_do_not_sleep() {
        let text = "fn f() { thread::sleep(SECOND); }";
        assert_eq!(said("crates/agent/src/a.rs", text), [""; 0]);
        assert_eq!(
            said("crates/agent/src/a.rs", &format!("#[cfg(test)] mod t {{ {text} }}")).len(),
            1
        );
        let reached = Reached::from([("tests/tests/a.rs".to_owned(), true)]);
        let found = check(&[sample("tests/tests/a.rs", text)], &reached);
        assert_eq!(found.iter().filter(|breach| breach.path == "tests/tests/a.rs").count(), 1);
    }
}
