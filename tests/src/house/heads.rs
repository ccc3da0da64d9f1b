//! What the root file of a crate says and forbids before its first item.

use super::{Breach, SourceFile};

/// The crates that have no standard library, and so no I/O.
const NO_STD: [&str; 2] = ["crates/page/src/", "crates/protocol/src/"];
/// The only crates that may hold unsafe code.
const MAY_BE_UNSAFE: [&str; 2] = ["crates/memory/src/", "crates/win32/src/"];
/// How a crate says what it leaves to others.
const DENIALS: [&str; 5] = ["not", "no", "never", "nothing", "without"];

/// Every root file that does not say or forbid what it should.
#[must_use]
pub fn check(sources: &[SourceFile]) -> Vec<Breach> {
    let roots = sources.iter().filter(|source| is_root(&source.path));
    roots.flat_map(check_one).collect()
}

fn is_root(path: &str) -> bool {
    path.ends_with("/src/lib.rs") || path.ends_with("/src/main.rs")
}

fn check_one(source: &SourceFile) -> Vec<Breach> {
    let mut wrong = Vec::new();
    if !denies(&source.text) {
        wrong.push("the first doc paragraphs say what the crate does, and what it does *not* do");
    }
    let forbids = has_line(&source.text, "#![forbid(unsafe_code)]");
    let may = MAY_BE_UNSAFE.iter().any(|crate_| source.path.starts_with(crate_));
    if !may && !forbids {
        wrong.push("`#![forbid(unsafe_code)]` is missing: unsafe lives in memory and win32");
    }
    let pure = NO_STD.iter().any(|crate_| source.path.starts_with(crate_));
    if pure && !has_line(&source.text, "#![no_std]") {
        wrong.push("`#![no_std]` is missing: this crate does no I/O");
    }
    wrong.into_iter().map(|what| Breach::new(&source.path, 1, what)).collect()
}

/// Whether the docs before the first heading deny something, diagrams left out.
fn denies(text: &str) -> bool {
    let docs = text.lines().map_while(|line| line.strip_prefix("//!")).map(str::trim);
    let docs: Vec<_> = docs.take_while(|line| !line.starts_with('#')).collect();
    let docs = docs.join("\n");
    let prose = docs.split("```").step_by(2);
    let mut words = prose.flat_map(|part| part.split(|c: char| !c.is_alphabetic()));
    words.any(|word| DENIALS.contains(&word.to_lowercase().as_str()))
}

fn has_line(text: &str, wanted: &str) -> bool {
    text.lines().any(|line| line == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::house::sample;

    const GOOD: &str = "//! Counts.\n//!\n//! It does **not** print.\n#![forbid(unsafe_code)]\n";

    fn breaches(path: &str, text: &str) -> usize {
        check(&[sample(path, text)]).len()
    }

    #[test]
    fn a_good_head_passes() {
        assert_eq!(breaches("crates/guest/src/lib.rs", GOOD), 0);
        assert_eq!(breaches("crates/page/src/lib.rs", &format!("{GOOD}#![no_std]\n")), 0);
        assert_eq!(breaches("crates/memory/src/lib.rs", "//! Maps. Not a tracker.\n"), 0);
        assert_eq!(breaches("crates/guest/src/other.rs", ""), 0);
    }

    #[test]
    fn each_missing_line_is_found() {
        assert_eq!(breaches("crates/page/src/lib.rs", GOOD), 1);
        let silent = GOOD.replace("It does **not** print", "# Not");
        assert_eq!(breaches("crates/guest/src/lib.rs", &silent), 1);
        let drawn = GOOD.replace("It does **not** print", "```text\n//! not\n//! ```");
        assert_eq!(breaches("crates/guest/src/lib.rs", &drawn), 1);
        let commented = GOOD.replace("#![forbid", "// #![forbid");
        assert_eq!(breaches("crates/cli/src/main.rs", &commented), 1);
        assert_eq!(breaches("crates/guest/src/lib.rs", "//! Placeholder.\n"), 2);
    }
}
