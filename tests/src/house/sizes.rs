//! How long lines, functions and files may be.

use syn::spanned::Spanned as _;
use syn::visit::{self, Visit};

use super::{Breach, SourceFile};

/// The longest line, in characters.
const LINE_MAX: usize = 100;
/// The longest function, in lines from `fn` to its closing brace.
const FUNCTION_MAX: usize = 70;
/// The longest file, in lines.
const FILE_MAX: usize = 500;

/// Where a function is and how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Function {
    /// Its name.
    pub name: String,
    /// The line of its `fn`.
    pub line: usize,
    /// From `fn` to the closing brace.
    pub lines: usize,
}

/// Every line, function and file that is too long.
#[must_use]
pub fn check(sources: &[SourceFile]) -> Vec<Breach> {
    sources.iter().flat_map(check_one).collect()
}

fn check_one(source: &SourceFile) -> Vec<Breach> {
    let path = &source.path;
    let long = |line: &&str| line.chars().count() > LINE_MAX;
    let lines = source.text.lines().enumerate().filter(|(_, line)| long(line));
    let mut found: Vec<_> = lines
        .map(|(at, _)| Breach::new(path, at + 1, format!("a line of more than {LINE_MAX} columns")))
        .collect();
    let count = source.text.lines().count();
    if count > FILE_MAX {
        let what = format!("{count} lines: a file has at most {FILE_MAX}; make it a folder");
        found.push(Breach::new(path, 0, what));
    }
    let functions = functions(source).into_iter().filter(|function| function.lines > FUNCTION_MAX);
    found.extend(functions.map(|Function { name, line, lines }| {
        let what = format!("`{name}` has {lines} lines of at most {FUNCTION_MAX}; split it");
        Breach::new(path, line, what)
    }));
    found
}

/// Every function with a body in `source`.
///
/// # Panics
/// If it is no Rust: rustc would not have come this far.
#[must_use]
pub fn functions(source: &SourceFile) -> Vec<Function> {
    let file = syn::parse_file(&source.text);
    let file = file.unwrap_or_else(|why| panic!("{}: {why}", source.path));
    let mut finder = Finder(Vec::new());
    finder.visit_file(&file);
    finder.0
}

/// The value below which `percent` of the lengths are.
#[must_use]
pub fn percentile(functions: &[Function], percent: usize) -> usize {
    let mut lengths: Vec<_> = functions.iter().map(|function| function.lines).collect();
    lengths.sort_unstable();
    let last = lengths.len().saturating_sub(1);
    lengths.get(last * percent / 100).copied().unwrap_or(0)
}

struct Finder(Vec<Function>);

impl Finder {
    fn add(&mut self, signature: &syn::Signature, block: &syn::Block) {
        let line = signature.fn_token.span.start().line;
        let lines = block.span().end().line - line + 1;
        self.0.push(Function { name: signature.ident.to_string(), line, lines });
    }
}

impl<'ast> Visit<'ast> for Finder {
    fn visit_item_fn(&mut self, function: &'ast syn::ItemFn) {
        self.add(&function.sig, &function.block);
        visit::visit_item_fn(self, function);
    }

    fn visit_impl_item_fn(&mut self, function: &'ast syn::ImplItemFn) {
        self.add(&function.sig, &function.block);
        visit::visit_impl_item_fn(self, function);
    }

    fn visit_trait_item_fn(&mut self, function: &'ast syn::TraitItemFn) {
        if let Some(block) = &function.default {
            self.add(&function.sig, block);
        }
        visit::visit_trait_item_fn(self, function);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::house::sample;

    #[test]
    fn long_lines_functions_and_files_are_found() {
        let wide = format!("// {}\n", "é".repeat(98));
        assert_eq!(check(&[sample("x.rs", &wide)])[0].line, 1);
        let wide = format!("// {}\n", "é".repeat(97));
        assert!(check(&[sample("x.rs", &wide)]).is_empty());
        let long = format!("mod m {{ impl T {{\nfn f() {{\n{}}} }} }}", "a();\n".repeat(69));
        assert!(check(&[sample("x.rs", &long)])[0].what.contains("`f` has 71 lines"));
        let file = "//\n".repeat(501);
        assert!(check(&[sample("x.rs", &file)])[0].what.contains("501 lines"));
    }

    #[test]
    fn functions_are_measured_wherever_they_are() {
        let text = "fn a() {}\ntrait T { fn b(); fn c() {\n} }\nfn d() {\n\nfn e() {}\n}";
        let found = functions(&sample("x.rs", text));
        let found: Vec<_> = found.iter().map(|f| (f.name.as_str(), f.line, f.lines)).collect();
        assert_eq!(found, [("a", 1, 1), ("c", 2, 2), ("d", 4, 4), ("e", 6, 1)]);
    }

    #[test]
    fn percentiles_of_few_and_of_none() {
        let of = |lines| Function { name: String::new(), line: 1, lines };
        let ten: Vec<_> = (1..=11).map(of).collect();
        assert_eq!((percentile(&ten, 50), percentile(&ten, 90)), (6, 10));
        assert_eq!(percentile(&[], 50), 0);
    }
}
