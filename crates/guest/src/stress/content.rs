//! What a page holds: a pure function of who owns it, which page it is and how often it was
//! written. So every byte of a page can be checked, and a wrong page says what happened to it.
//!
//! ```text
//!   line 0      header: magic, seed, region, page, sequence, check word, filler   every write
//!   line 1..=62 one of them, in turn, with sequence ⊕ key and filler              every write
//!   line 63     trailer: sequence ⊕ key, filler                                   every write
//! ```
//!
//! A write changes three of the 64 cache lines: the first, the last and one between. It is
//! cheap, so that a full-speed guest is limited by faults and memory and not by its own
//! arithmetic. It is enough, because a check compares *all* bytes with those expected: a mixture
//! of two versions always differs from both of them.

use std::array;
use std::cmp::Ordering;
use std::fmt;

use super::config::{Fill, Seed};
use super::mix::{GOLDEN, mix, mix2};
use whimbrel_memory::page::{PAGE_SIZE, PageIndex, RegionId};

/// Bytes that a write changes together.
pub(crate) const LINE_SIZE: usize = 64;
const LINES: u64 = (PAGE_SIZE / LINE_SIZE) as u64;
/// The lines that take turns: all but header and trailer.
const INNER: u64 = LINES - 2;
const WORDS: usize = LINE_SIZE / 8;
const MAGIC: u64 = u64::from_le_bytes(*b"whimbrel");
/// Text from which pages are cut; longer than a page, so that pages differ.
const TEXT_SIZE: usize = 64 << 10;

/// The bytes of one page, copied out of guest memory.
pub(crate) type PageBytes = [u8; PAGE_SIZE];

/// Which page of which region.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct PageName {
    pub(crate) region: RegionId,
    pub(crate) page: PageIndex,
}

/// How often a page has been written; 0 is as it was filled at first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sequence(pub u64);

/// What is wrong with a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// Zero where content belongs: nothing of the page has arrived.
    Lost,
    /// Whole, but an older version of itself.
    Stale,
    /// Whole, but newer than the vCPU that wrote it remembers: state and memory do not belong
    /// together, or the guest ran twice.
    Ahead,
    /// Parts of different versions, or some of its bytes are wrong.
    Torn,
    /// Another page, another guest's page, or nothing this guest ever wrote.
    Foreign,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Lost => "lost",
            Self::Stale => "stale",
            Self::Ahead => "ahead",
            Self::Torn => "torn",
            Self::Foreign => "foreign",
        })
    }
}

/// What one fill puts into a page.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Texture {
    Zero,
    Random,
    Text,
}

/// One line of a page, ready to be written.
pub(crate) struct Line {
    pub(crate) offset: usize,
    pub(crate) bytes: [u8; LINE_SIZE],
}

/// The content of every page of one guest.
#[derive(Debug)]
pub(crate) struct Content {
    seed: Seed,
    fill: Fill,
    text: Box<[u8]>,
}

impl Content {
    pub(crate) fn new(seed: Seed, fill: Fill) -> Self {
        let textual = matches!(fill, Fill::Text | Fill::Mixed);
        Self { seed, fill, text: if textual { text(seed) } else { Box::default() } }
    }

    /// Whether the page is all zero until its first write.
    pub(crate) fn starts_as_zero(&self, name: PageName) -> bool {
        self.texture(self.key(name)) == Texture::Zero
    }

    /// The lines that the write number `sequence` (from 1) of a page changes.
    pub(crate) fn write(&self, name: PageName, sequence: Sequence) -> [Line; 3] {
        let key = self.key(name);
        let inner = (sequence.0 - 1) % INNER + 1;
        [0, inner, LINES - 1].map(|line| Line {
            offset: line as usize * LINE_SIZE,
            bytes: self.line(name, key, line, sequence.0),
        })
    }

    /// The whole page as it is after `sequence` writes.
    pub(crate) fn page(&self, name: PageName, sequence: Sequence, into: &mut PageBytes) {
        let key = self.key(name);
        for (line, bytes) in (0..LINES).zip(into.chunks_exact_mut(LINE_SIZE)) {
            let written = line_sequence(line, sequence.0);
            bytes.copy_from_slice(&self.line(name, key, line, written));
        }
    }

    /// What is wrong with `found`, which should be as after `expected` writes, and the sequence
    /// that it names itself with, if it does.
    pub(crate) fn judge(
        &self,
        name: PageName,
        expected: Sequence,
        found: &PageBytes,
    ) -> Option<(Damage, Option<Sequence>)> {
        let mut version = [0; PAGE_SIZE];
        self.page(name, expected, &mut version);
        if *found == version {
            return None;
        }
        if is_zero(found) {
            return Some((Damage::Lost, None));
        }
        let header = Header::read(found);
        let own = header.filter(|header| header.name == name && header.seed == self.seed);
        let Some(Header { sequence, .. }) = own else {
            return Some((mixture(found, &version), header.map(|header| header.sequence)));
        };
        self.page(name, sequence, &mut version);
        let damage = match sequence.cmp(&expected) {
            _ if *found != version => Damage::Torn,
            Ordering::Less => Damage::Stale,
            _ => Damage::Ahead,
        };
        Some((damage, Some(sequence)))
    }

    fn key(&self, name: PageName) -> u64 {
        mix2(mix2(self.seed.0, u64::from(name.region.0)), name.page.0)
    }

    const fn texture(&self, key: u64) -> Texture {
        match (self.fill, key >> 62) {
            (Fill::Random, _) | (Fill::Mixed, 0) => Texture::Random,
            (Fill::Zero, _) | (Fill::Mixed, 1) => Texture::Zero,
            (Fill::Text | Fill::Mixed, _) => Texture::Text,
        }
    }

    /// A line as the write number `sequence` of the page left it; 0 is the fill.
    fn line(&self, name: PageName, key: u64, line: u64, sequence: u64) -> [u8; LINE_SIZE] {
        let texture = self.texture(key);
        let mut words = self.filler(texture, key, line, sequence);
        if line == 0 && (sequence > 0 || texture != Texture::Zero) {
            Header { seed: self.seed, name, sequence: Sequence(sequence) }.write(&mut words);
        } else if sequence > 0 {
            words[0] = sequence ^ mix2(key, line);
        }
        let mut bytes = [0; LINE_SIZE];
        for (bytes, word) in bytes.chunks_exact_mut(8).zip(words) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    fn filler(&self, texture: Texture, key: u64, line: u64, sequence: u64) -> [u64; WORDS] {
        let salt = mix2(key ^ line, sequence);
        match texture {
            Texture::Zero => [0; WORDS],
            Texture::Random => {
                array::from_fn(|i| mix(salt.wrapping_add(GOLDEN.wrapping_mul(i as u64))))
            }
            Texture::Text => {
                // The fill runs on from line to line; a write puts down another snippet.
                let start = if sequence == 0 { key } else { salt };
                let start = (start % (TEXT_SIZE - PAGE_SIZE) as u64) as usize;
                let line = start + line as usize * LINE_SIZE;
                array::from_fn(|i| word_at(&self.text, line + i * 8))
            }
        }
    }
}

/// The first words of a written page, with which it names itself.
#[derive(Clone, Copy)]
struct Header {
    seed: Seed,
    name: PageName,
    sequence: Sequence,
}

impl Header {
    const fn words(self) -> [u64; 5] {
        let PageName { region, page } = self.name;
        [MAGIC, self.seed.0, region.0 as u64, page.0, self.sequence.0]
    }

    fn check(self) -> u64 {
        self.words().into_iter().fold(0, mix2)
    }

    fn write(self, line: &mut [u64; WORDS]) {
        line[..5].copy_from_slice(&self.words());
        line[5] = self.check();
    }

    /// The header of a page that has a whole one, be it of whichever page and guest.
    fn read(page: &PageBytes) -> Option<Self> {
        let word = |i: usize| word_at(page, i * 8);
        let region = RegionId(u32::try_from(word(2)).ok()?);
        let name = PageName { region, page: PageIndex(word(3)) };
        let header = Self { seed: Seed(word(1)), name, sequence: Sequence(word(4)) };
        (word(0) == MAGIC && word(5) == header.check()).then_some(header)
    }
}

/// A page without a header of its own: torn if part of what it should be is there.
fn mixture(found: &PageBytes, expected: &PageBytes) -> Damage {
    let mut lines = found.chunks_exact(LINE_SIZE).zip(expected.chunks_exact(LINE_SIZE));
    let right = |(found, expected)| found == expected && !is_zero(found);
    if lines.any(right) { Damage::Torn } else { Damage::Foreign }
}

/// The write that `line` was last changed by in a page that was written `sequence` times.
const fn line_sequence(line: u64, sequence: u64) -> u64 {
    if line == 0 || line == LINES - 1 {
        sequence
    } else if sequence < line {
        0
    } else {
        sequence - (sequence - line) % INNER
    }
}

fn word_at(bytes: &[u8], offset: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[offset..offset + 8]);
    u64::from_le_bytes(word)
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

/// Words as frequent in English as they look, in an order the seed gives.
fn text(seed: Seed) -> Box<[u8]> {
    const WORDS: &str = "the of and to a in is it you that he was for on are with as his they at \
        be this have from or one had by word but not what all were we when your can said there \
        use an each which she do how their if will up other about out many then them these so \
        some her would make like him into time has look two more write go see number no way \
        could people my than first water been call who oil its now find long down day did get \
        come made may part wader ocean landing whimbrel";
    let words: Vec<_> = WORDS.split_whitespace().collect();
    let mut text = Vec::with_capacity(TEXT_SIZE + 16);
    let mut state = seed.0;
    while text.len() < TEXT_SIZE {
        state = mix(state);
        // The product of two draws is mostly small: early words are the frequent ones.
        let pick = ((state % words.len() as u64) * (state >> 32)) >> 32;
        text.extend_from_slice(words[pick as usize].as_bytes());
        text.push(b' ');
    }
    text.truncate(TEXT_SIZE);
    text.into_boxed_slice()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: PageName = PageName { region: RegionId(3), page: PageIndex(77) };
    const OTHER: PageName = PageName { region: RegionId(3), page: PageIndex(78) };

    fn page(content: &Content, name: PageName, sequence: u64) -> PageBytes {
        let mut bytes = [0; PAGE_SIZE];
        content.page(name, Sequence(sequence), &mut bytes);
        bytes
    }

    fn contents() -> impl Iterator<Item = Content> {
        Fill::ALL.iter().map(|fill| Content::new(Seed(9), *fill))
    }

    /// What `found` is taken for where the page should be as after `expected` writes.
    fn damage(content: &Content, expected: u64, found: &PageBytes) -> Option<Damage> {
        content.judge(NAME, Sequence(expected), found).map(|(damage, _)| damage)
    }

    #[test]
    fn writing_again_and_again_gives_the_page() {
        for content in contents() {
            let mut bytes = page(&content, NAME, 0);
            assert_eq!(content.starts_as_zero(NAME), is_zero(&bytes));
            for sequence in 1..200 {
                for line in content.write(NAME, Sequence(sequence)) {
                    bytes[line.offset..][..LINE_SIZE].copy_from_slice(&line.bytes);
                }
                assert_eq!(damage(&content, sequence, &bytes), None);
            }
        }
    }

    #[test]
    fn a_page_says_what_happened_to_it() {
        for content in contents() {
            let name = |expected, found| content.judge(NAME, Sequence(expected), &found);
            let at = |sequence| Some(Sequence(sequence));
            assert_eq!(name(9, page(&content, NAME, 8)), Some((Damage::Stale, at(8))));
            assert_eq!(name(9, page(&content, NAME, 10)), Some((Damage::Ahead, at(10))));
            assert_eq!(name(9, [0; PAGE_SIZE]), Some((Damage::Lost, None)));
            assert_eq!(name(9, page(&content, OTHER, 9)), Some((Damage::Foreign, at(9))));
            assert_eq!(name(9, [0x5a; PAGE_SIZE]), Some((Damage::Foreign, None)));
            let elsewhere = Content::new(Seed(10), content.fill);
            assert_eq!(name(9, page(&elsewhere, NAME, 9)), Some((Damage::Foreign, at(9))));
        }
    }

    #[test]
    fn every_mixture_of_two_versions_is_torn() {
        for content in contents() {
            for older in [1, 8, 61, 62] {
                let (old, new) = (page(&content, NAME, older), page(&content, NAME, 9 + older));
                for cut in (8..PAGE_SIZE).step_by(8) {
                    let (mut head, mut tail) = (old, new);
                    head[cut..].copy_from_slice(&new[cut..]);
                    tail[cut..].copy_from_slice(&old[cut..]);
                    for mixed in [head, tail].iter().filter(|mixed| **mixed != new) {
                        let found = damage(&content, 9 + older, mixed);
                        let whole = *mixed == old;
                        assert_eq!(found, Some(if whole { Damage::Stale } else { Damage::Torn }));
                    }
                }
            }
        }
    }

    #[test]
    fn any_wrong_byte_is_found() {
        for content in contents() {
            for offset in 0..PAGE_SIZE {
                let mut bytes = page(&content, NAME, 100);
                bytes[offset] ^= 1;
                assert_eq!(damage(&content, 100, &bytes), Some(Damage::Torn), "byte {offset}");
            }
        }
    }

    #[test]
    fn mixed_is_a_quarter_zero() {
        let content = Content::new(Seed(1), Fill::Mixed);
        let name = |page| PageName { region: RegionId(0), page: PageIndex(page) };
        let zero = (0..4000).filter(|page| content.starts_as_zero(name(*page))).count();
        assert!((800..1200).contains(&zero), "{zero} of 4000");
    }

    #[test]
    fn text_reads_as_text() {
        let content = Content::new(Seed(1), Fill::Text);
        let bytes = page(&content, NAME, 0);
        assert!(bytes[LINE_SIZE..].iter().all(|b| b.is_ascii_lowercase() || *b == b' '));
    }
}
