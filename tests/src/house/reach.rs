//! No file is forgotten: each is the root of a target that cargo finds, or a `mod` leads to it.

use std::collections::BTreeMap;

use super::tokens::{Token, after_group, reads, tokens};
use super::{Breach, Manifest, SourceFile};

/// Whether a file that is reached is only compiled for tests.
pub type Reached = BTreeMap<String, bool>;

/// Every file that no target reaches, and every manifest that turns cargo's own finding off.
#[must_use]
pub fn check(manifests: &[Manifest], sources: &[SourceFile]) -> Vec<Breach> {
    let reached = reached(manifests, sources);
    let forgotten = sources.iter().filter(|source| !reached.contains_key(&source.path));
    let what = "no target reaches this file: add a `mod` for it, or remove it";
    let mut found: Vec<_> = forgotten.map(|s| Breach::new(&s.path, 0, what)).collect();
    for manifest in manifests {
        let package = manifest.table.get("package");
        for switch in ["autotests", "autobins", "autobenches", "autoexamples", "autolib"] {
            if package.is_some_and(|package| package.get(switch).is_some()) {
                let what = format!("`{switch}` hides targets: let cargo find them");
                found.push(Breach::new(&manifest.path, 0, what));
            }
        }
    }
    found
}

/// Every file that some target of the packages reaches.
#[must_use]
pub fn reached(manifests: &[Manifest], sources: &[SourceFile]) -> Reached {
    let texts = sources.iter().map(|s| (s.path.as_str(), s.text.as_str())).collect();
    let mut walk = Walk { texts, reached: Reached::new() };
    for manifest in manifests {
        for source in sources {
            if let Some(test_only) = root(manifest, &source.path) {
                let folder = source.path.rsplit_once('/').map_or("", |(folder, _)| folder);
                walk.visit(&source.path, folder, test_only);
            }
        }
    }
    walk.reached
}

/// Whether `path` is the root of a target of this package, and then whether of a test target.
fn root(manifest: &Manifest, path: &str) -> Option<bool> {
    let within = path.strip_prefix(manifest.folder())?.strip_prefix('/')?;
    let parts: Vec<_> = within.split('/').collect();
    let product = match parts[..] {
        ["build.rs"] | ["src", "lib.rs" | "main.rs"] => true,
        ["src", "bin", file] | ["src", "bin", file, "main.rs"] => !file.is_empty(),
        _ => named(manifest, "bin", within),
    };
    let test = match parts[..] {
        ["tests" | "benches" | "examples", _] => true,
        ["tests" | "benches" | "examples", _, "main.rs"] => true,
        _ => named(manifest, "bench", within) || named(manifest, "test", within),
    };
    (product || test).then_some(test)
}

/// Whether the manifest has a `[[kind]]` target of this path.
fn named(manifest: &Manifest, kind: &str, path: &str) -> bool {
    let targets = manifest.table.get(kind).and_then(toml::Value::as_array);
    targets.into_iter().flatten().any(|target| {
        target.get("path").and_then(toml::Value::as_str).is_some_and(|named| named == path)
    })
}

struct Walk<'a> {
    texts: BTreeMap<&'a str, &'a str>,
    reached: Reached,
}

impl Walk<'_> {
    /// Notes `path` and follows its `mod`s, whose files are in `folder`.
    fn visit(&mut self, path: &str, folder: &str, test_only: bool) {
        let Some(text) = self.texts.get(path).copied() else { return };
        match self.reached.get(path) {
            Some(known) if !*known || test_only => return,
            _ => self.reached.insert(path.to_owned(), test_only),
        };
        self.follow(&tokens(path, text), folder, test_only);
    }

    fn follow(&mut self, tokens: &[Token], folder: &str, test_only: bool) {
        let mut at = 0;
        while at < tokens.len() {
            let test_only = test_only || tokens[at].test_only;
            if reads(tokens, at, &["mod", "_", ";"]) {
                self.follow_file(tokens, at, folder, test_only);
            } else if reads(tokens, at, &["mod", "_", "{"]) {
                let end = after_group(tokens, at + 2);
                let inner = format!("{folder}/{}", tokens[at + 1].text);
                self.follow(&tokens[at + 3..end], &inner, test_only);
                at = end;
                continue;
            }
            at += 1;
        }
    }

    fn follow_file(&mut self, tokens: &[Token], at: usize, folder: &str, test_only: bool) {
        let name = &tokens[at + 1].text;
        if let Some(path) = path_attribute(&tokens[..at]) {
            let path = format!("{folder}/{path}");
            let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder).to_owned();
            return self.visit(&path, &folder, test_only);
        }
        let folder = format!("{folder}/{name}");
        self.visit(&format!("{folder}.rs"), &folder, test_only);
        self.visit(&format!("{folder}/mod.rs"), &folder, test_only);
    }
}

/// The value of a `#[path = "…"]` among the attributes just before an item.
fn path_attribute(before: &[Token]) -> Option<&str> {
    let start = before.iter().rposition(|t| matches!(t.text.as_str(), ";" | "}"));
    let before = &before[start.map_or(0, |at| at + 1)..];
    let at = (0..before.len()).find(|at| reads(before, *at, &["#", "[", "path", "="]))?;
    Some(before[at + 4].text.trim_matches('"'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::house::sample;

    fn manifest(text: &str) -> Manifest {
        Manifest::parse("crates/x/Cargo.toml", &format!("[package]\nname = \"x\"\n{text}"))
    }

    #[test]
    fn modules_lead_to_files() {
        let sources = [
            sample("crates/x/src/lib.rs", "mod a; mod b { mod c; } #[path = \"odd.rs\"] mod d;"),
            sample("crates/x/src/a/mod.rs", "#[cfg(test)] mod tests;"),
            sample("crates/x/src/a/tests.rs", "mod deep;"),
            sample("crates/x/src/a/tests/deep.rs", ""),
            sample("crates/x/src/b/c.rs", ""),
            sample("crates/x/src/odd.rs", ""),
            sample("crates/x/tests/all.rs", ""),
        ];
        assert_eq!(check(&[manifest("")], &sources), []);
        let reached = reached(&[manifest("")], &sources);
        let tests: Vec<_> = reached.iter().filter(|(_, test)| **test).map(|(p, _)| p).collect();
        let expected = ["src/a/tests.rs", "src/a/tests/deep.rs", "tests/all.rs"];
        assert_eq!(tests, expected.map(|path| format!("crates/x/{path}")).each_ref());
    }

    #[test]
    fn forgotten_files_are_found() {
        let sources = [
            sample("crates/x/src/lib.rs", "// mod a;\nmod b;"),
            sample("crates/x/src/a.rs", ""),
            sample("crates/x/tests/suite/all.rs", ""),
            sample("crates/y/src/lib.rs", ""),
        ];
        let found = check(&[manifest("")], &sources);
        let paths: Vec<_> = found.iter().map(|breach| breach.path.as_str()).collect();
        let expected = ["crates/x/src/a.rs", "crates/x/tests/suite/all.rs", "crates/y/src/lib.rs"];
        assert_eq!(paths, expected);
    }

    #[test]
    fn hidden_targets_are_found_and_named_ones_reached() {
        assert_eq!(check(&[manifest("autotests = false")], &[]).len(), 1);
        let sources = [sample("crates/x/fuzz_targets/f.rs", "")];
        let named = manifest("[[bin]]\nname = \"f\"\npath = \"fuzz_targets/f.rs\"");
        assert_eq!(check(&[named], &sources), []);
    }
}
