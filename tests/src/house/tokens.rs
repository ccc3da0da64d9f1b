//! A source as a flat row of tokens: comments are gone, strings are one token each, and each
//! token knows its line and whether it is only compiled for tests.

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// One token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// As written; a string literal with its quotes.
    pub text: String,
    /// The line it begins in, counted from 1.
    pub line: usize,
    /// Whether it belongs to an item behind `#[cfg(test)]` or `#[test]`.
    pub test_only: bool,
}

/// The tokens of `text`.
///
/// # Panics
/// If it is no Rust: rustc would not have come this far.
#[must_use]
pub fn tokens(path: &str, text: &str) -> Vec<Token> {
    let stream: TokenStream = text.parse().unwrap_or_else(|why| panic!("{path}: {why}"));
    let mut flat = Vec::new();
    flatten(stream, &mut flat);
    mark_tests(&mut flat);
    flat
}

/// Whether the tokens from `at` on read as `pattern`; `_` stands for any token.
#[must_use]
pub fn reads(tokens: &[Token], at: usize, pattern: &[&str]) -> bool {
    let here = tokens.get(at..at + pattern.len());
    here.is_some_and(|here| here.iter().zip(pattern).all(|(t, p)| *p == "_" || t.text == *p))
}

/// The position after the group that opens at `open`.
#[must_use]
pub fn after_group(tokens: &[Token], open: usize) -> usize {
    let mut depth = 0_usize;
    for (at, token) in tokens.iter().enumerate().skip(open) {
        match token.text.as_str() {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return at + 1;
        }
    }
    tokens.len()
}

fn flatten(stream: TokenStream, flat: &mut Vec<Token>) {
    for tree in stream {
        let line = tree.span().start().line;
        let mut push = |text: String, line| flat.push(Token { text, line, test_only: false });
        let TokenTree::Group(group) = tree else {
            push(tree.to_string(), line);
            continue;
        };
        let (open, close) = match group.delimiter() {
            Delimiter::Parenthesis => ("(", ")"),
            Delimiter::Bracket => ("[", "]"),
            Delimiter::Brace => ("{", "}"),
            Delimiter::None => ("", ""),
        };
        push(open.to_owned(), line);
        flatten(group.stream(), flat);
        let line = group.span_close().start().line;
        flat.push(Token { text: close.to_owned(), line, test_only: false });
    }
}

fn mark_tests(tokens: &mut [Token]) {
    let mut at = 0;
    while at < tokens.len() {
        if !starts_test_item(tokens, at) {
            at += 1;
            continue;
        }
        let end = end_of_item(tokens, at);
        tokens[at..end].iter_mut().for_each(|token| token.test_only = true);
        at = end;
    }
}

/// An attribute that leaves the item to tests: `cfg` with `test` and without `not`, or `test`.
fn starts_test_item(tokens: &[Token], at: usize) -> bool {
    if reads(tokens, at, &["#", "[", "test", "]"]) {
        return true;
    }
    if !reads(tokens, at, &["#", "[", "cfg", "("]) {
        return false;
    }
    let condition = &tokens[at + 3..after_group(tokens, at + 3)];
    let says = |word: &str| condition.iter().any(|token| token.text == word);
    says("test") && !says("not")
}

/// The position after the item that `at`'s attribute belongs to: its body or its semicolon.
fn end_of_item(tokens: &[Token], at: usize) -> usize {
    let mut at = at;
    while at < tokens.len() {
        match tokens[at].text.as_str() {
            ";" => return at + 1,
            "{" => return after_group(tokens, at),
            "(" | "[" => at = after_group(tokens, at),
            _ => at += 1,
        }
    }
    tokens.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn test_words(text: &str) -> Vec<String> {
        let tokens = tokens("x.rs", text).into_iter().filter(|token| token.test_only);
        tokens.map(|token| token.text).filter(|text| text.starts_with("t_")).collect()
    }

    #[test]
    fn items_for_tests_are_told_apart() {
        let text = "fn f() { p_a() }
            #[cfg(test)] mod t_one { fn t_two() {} }
            fn g() { p_b() }
            #[cfg(all(test, unix))] use t_three;
            #[cfg(not(test))] fn p_c() {}
            #[test] fn t_four() -> [u8; 3] { t_five() }
            const P_D: u8 = 0;";
        assert_eq!(test_words(text), ["t_one", "t_two", "t_three", "t_four", "t_five"]);
    }

    #[test]
    fn comments_are_no_tokens_and_strings_are_one() {
        let tokens = tokens("x.rs", "// todo!()\nlet s = \"todo!()\"; /* dbg!() */");
        let texts: Vec<_> = tokens.iter().map(|token| token.text.as_str()).collect();
        assert_eq!(texts, ["let", "s", "=", "\"todo!()\"", ";"]);
        assert_eq!(tokens[0].line, 2);
    }
}
