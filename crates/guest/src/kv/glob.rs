//! Patterns of keys, matched as Redis matches them.

/// Whether `text` is like `pattern`: `*`, `?`, `[a-c]`, `[^a]`, and `\` before what is meant as
/// it is.
pub(crate) fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    // Where the last star was, and up to where it reaches: more of it is tried on a mismatch.
    let mut star = None;
    loop {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p + 1, t));
                p += 1;
                continue;
            }
            Some(_) if t < text.len() => {
                let (matched, next) = one(pattern, p, text[t]);
                if matched {
                    (p, t) = (next, t + 1);
                    continue;
                }
            }
            None if t == text.len() => return true,
            _ => (),
        }
        match star {
            Some((after, reached)) if reached < text.len() => {
                star = Some((after, reached + 1));
                (p, t) = (after, reached + 1);
            }
            _ => return false,
        }
    }
}

/// Whether the element at `p` is like `byte`, and where the next one begins.
fn one(pattern: &[u8], p: usize, byte: u8) -> (bool, usize) {
    match pattern[p] {
        b'?' => (true, p + 1),
        b'[' => class(pattern, p + 1, byte),
        b'\\' if p + 1 < pattern.len() => (pattern[p + 1] == byte, p + 2),
        same => (same == byte, p + 1),
    }
}

fn class(pattern: &[u8], mut p: usize, byte: u8) -> (bool, usize) {
    let not = pattern.get(p) == Some(&b'^');
    p += usize::from(not);
    let mut found = false;
    loop {
        match &pattern[p.min(pattern.len())..] {
            // An open class ends with the pattern.
            [] => return (found != not, pattern.len()),
            [b'\\', same, ..] => {
                found |= *same == byte;
                p += 2;
            }
            [b']', ..] => return (found != not, p + 1),
            [first, b'-', last, ..] => {
                found |= (*first.min(last)..=*first.max(last)).contains(&byte);
                p += 3;
            }
            [same, ..] => {
                found |= *same == byte;
                p += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn patterns_match_as_in_redis() {
        for (pattern, text, like) in [
            ("*", "", true),
            ("", "", true),
            ("", "a", false),
            ("h?llo", "hallo", true),
            ("h?llo", "hllo", false),
            ("h*llo", "heeello", true),
            ("h*l*o", "hlxxlo!", false),
            ("h[ae]llo", "hello", true),
            ("h[^e]llo", "hello", false),
            ("h[c-a]llo", "hbllo", true),
            ("a\\*b", "a*b", true),
            ("a\\*b", "axb", false),
            ("[\\]]", "]", true),
            ("[ab", "b", true),
            ("*a*a*a*a*b", "aaaaaaaaaaaaaaaaaaaaaaaa", false),
            ("key:*", "key:000", true),
            ("\\", "\\", true),
        ] {
            assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), like, "{pattern} {text}");
        }
    }
}
