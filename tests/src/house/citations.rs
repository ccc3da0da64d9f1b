//! What texts say of each other: sentences of `proto/wire.md` that code cites, and links.

use std::collections::BTreeSet;

use super::{Breach, SourceFile};

/// How code names the law before the number of a sentence, as in "wire.md C3".
const LAW: &str = "wire.md";

/// Numbers that two sentences of the law share, and citations of sentences it does not have.
#[must_use]
pub fn check(law: &SourceFile, citing: &[SourceFile]) -> Vec<Breach> {
    let mut known = BTreeSet::new();
    let mut found = Vec::new();
    for (number, line) in sentences(&law.text) {
        if !known.insert(number) {
            found.push(Breach::new(&law.path, line, format!("{number} is there twice")));
        }
    }
    for source in citing {
        let unknown = citations(&source.text).into_iter().filter(|(n, _)| !known.contains(n));
        found.extend(unknown.map(|(number, line)| {
            Breach::new(&source.path, line, format!("wire.md has no sentence {number}"))
        }));
    }
    found
}

/// The sentences of the law that say MUST and that no source cites.
#[must_use]
pub fn uncited(law: &SourceFile, citing: &[SourceFile]) -> Vec<Breach> {
    let cited = citing.iter().flat_map(|source| citations(&source.text));
    let cited: BTreeSet<_> = cited.map(|(number, _)| number).collect();
    let binding = sentences(&law.text).into_iter().filter(|(_, line)| binds(&law.text, *line));
    let lonely = binding.filter(|(number, _)| !cited.contains(number));
    let what = |number| format!("no code cites {number}: cite it where it is kept");
    lonely.map(|(number, line)| Breach::new(&law.path, line, what(number))).collect()
}

/// The numbered sentences, `- C3. …`, with their lines.
fn sentences(law: &str) -> Vec<(&str, usize)> {
    let numbered = law.lines().enumerate().filter_map(|(at, line)| {
        let (number, _) = line.strip_prefix("- ")?.split_once(". ")?;
        is_number(number).then_some((number, at + 1))
    });
    numbered.collect()
}

/// Whether the sentence that begins in `line` says MUST, there or in its indented lines.
fn binds(law: &str, line: usize) -> bool {
    let mut lines = law.lines().skip(line - 1);
    let first = lines.next().unwrap_or("");
    let rest = lines.take_while(|line| line.starts_with("  "));
    std::iter::once(first).chain(rest).any(|line| line.contains("MUST"))
}

/// Every number in `text` that follows the law's name, also in lists and over the end of a line
/// of comment: "wire.md C3, C4".
fn citations(text: &str) -> Vec<(&str, usize)> {
    let named = text.match_indices(LAW).flat_map(|(start, _)| {
        let line = text[..start].lines().count();
        let words = text[start + LAW.len()..].split([' ', ',', ':', ';', '.', ')', '`', ']', '\n']);
        let words = words.filter(|word| !["", "and", "//", "///", "//!"].contains(word));
        words.take_while(|word| is_number(word)).map(move |number| (number, line))
    });
    named.collect()
}

fn is_number(word: &str) -> bool {
    let mut letters = word.chars();
    let section = letters.next().is_some_and(|letter| letter.is_ascii_uppercase());
    section && word.len() > 1 && letters.all(|digit| digit.is_ascii_digit())
}

/// Relative links of a Markdown file that lead nowhere; `exists` is asked for each target.
#[must_use]
pub fn dead_links(page: &SourceFile, exists: impl Fn(&str) -> bool) -> Vec<Breach> {
    let folder = page.path.rsplit_once('/').map_or("", |(folder, _)| folder);
    let lines = page.text.lines().enumerate();
    let links = lines.flat_map(|(at, line)| targets(line).map(move |target| (target, at + 1)));
    let dead = links.filter(|(target, _)| !exists(&join(folder, target)));
    dead.map(|(t, line)| Breach::new(&page.path, line, format!("`{t}` is not there"))).collect()
}

/// The files that the links of a line lead to; addresses elsewhere and headings are left out.
fn targets(line: &str) -> impl Iterator<Item = &str> {
    let ends = line.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    let files = ends.filter(|target| !target.contains("://"));
    files.map(|t| t.split('#').next().unwrap_or(t)).filter(|target| !target.is_empty())
}

fn join(folder: &str, target: &str) -> String {
    let mut parts: Vec<_> = folder.split('/').filter(|part| !part.is_empty()).collect();
    for part in target.split('/') {
        match part {
            ".." => drop(parts.pop()),
            "." | "" => {}
            name => parts.push(name),
        }
    }
    parts.join("/")
}

/// Claims of a page (its list entries under a heading) that name no test and do not say that they
/// are open, and tests they name, as `file::function`, that are not there.
#[must_use]
pub fn unproven(page: &SourceFile, sources: &[SourceFile]) -> Vec<Breach> {
    let mut found = Vec::new();
    for (claim, line) in claims(&page.text) {
        let named: Vec<_> = claim.split('`').skip(1).step_by(2).filter_map(test).collect();
        if named.is_empty() && !claim.contains("**Open**") {
            found.push(Breach::new(&page.path, line, "no test is named, and it is not **Open**"));
        }
        let missing = named.into_iter().filter(|(path, function)| {
            let head = format!("fn {function}(");
            !sources.iter().any(|source| source.path == *path && source.text.contains(&head))
        });
        found.extend(missing.map(|(path, function)| {
            Breach::new(&page.path, line, format!("there is no test {function} in {path}"))
        }));
    }
    found
}

/// The entries of unnumbered lists, each with its indented lines.
fn claims(text: &str) -> Vec<(String, usize)> {
    let mut claims: Vec<(String, usize)> = Vec::new();
    let mut within = false;
    for (at, line) in text.lines().enumerate() {
        if line.starts_with("- ") {
            claims.push((line.to_owned(), at + 1));
        } else if let (true, true, Some((claim, _))) =
            (within, line.starts_with("  "), claims.last_mut())
        {
            claim.push_str(line);
        }
        within = line.starts_with("- ") || (within && line.starts_with("  "));
    }
    claims
}

/// A file and a function in it.
fn test(code: &str) -> Option<(&str, &str)> {
    code.split_once("::").filter(|(path, _)| path.ends_with(".rs"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::house::sample;

    const LAW_TEXT: &str =
        "# Law\n- C1. A side MUST a.\n- C2. A side SHOULD b.\n- C3. A\n  MUST.\n";

    #[test]
    fn citations_lead_to_sentences() {
        let law = sample("proto/wire.md", LAW_TEXT);
        let good =
            sample("a.rs", "// wire.md C1, C2: because\n    /// of it (wire.md\n    /// C3)");
        assert_eq!(check(&law, std::slice::from_ref(&good)), []);
        assert_eq!(uncited(&law, &[good]), []);
        let bad = sample("a.rs", "// x\n// wire.md C1, C9.");
        let found = check(&law, std::slice::from_ref(&bad));
        assert_eq!((found.len(), found[0].line), (1, 2));
        let found = uncited(&law, &[bad]);
        assert!(found.len() == 1 && found[0].what.contains("C3"), "{found:?}");
        let twice = sample("proto/wire.md", "- C1. A.\n- C1. B.");
        assert_eq!(check(&twice, &[]).len(), 1);
    }

    #[test]
    fn claims_name_tests_that_are_there() {
        let sources = [sample("a/b.rs", "#[test]\nfn holds() {}")];
        let page = |text| sample("docs/x.md", text);
        let good = "# X\n- It holds:\n  `a/b.rs::holds`.\n- It `does` not. **Open**.\n\nProse.";
        assert_eq!(unproven(&page(good), &sources), []);
        let bad =
            ["- It holds.", "- `a/b.rs::hold`.", "- `a/c.rs::holds`.", "- A\n\n  `a/b.rs::holds`"];
        for text in bad {
            assert_eq!(unproven(&page(text), &sources).len(), 1, "{text}");
        }
    }

    #[test]
    fn links_lead_somewhere() {
        let text = "[a](b.md) [c](../d.md#e) [f](https://g) [h](#i)\n[j](decisions/k.md)";
        let page = sample("docs/x.md", text);
        let exists = |path: &str| ["docs/b.md", "d.md"].contains(&path);
        let found = dead_links(&page, exists);
        assert!(found.len() == 1 && found[0].line == 2, "{found:?}");
    }
}
