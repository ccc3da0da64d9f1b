//! A program of batches, and what it puts on the wire.

use arbitrary::{Result, Unstructured};
use whimbrel_page::{Disposition, PAGE_SIZE, Run};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::PAGES;

/// Batches in one program: enough for several acknowledgements.
const BATCHES_MAX: u64 = 24;
/// Raw pages in one program, so that none is slow.
const RAW_MAX: u64 = 600;

/// One batch, right or wrong.
struct Batch {
    runs: Vec<(Run, Disposition)>,
    payload: Vec<u8>,
    wrong: Option<Wrong>,
}

/// What is wrong with a batch.
#[derive(Clone, Copy)]
enum Wrong {
    /// A byte of the head is another one; the checksums are not made anew.
    Damaged { at: usize, bits: u8 },
    /// A field says something else, under right checksums.
    Field { at: usize, bits: u8 },
    /// It breaks off here, and so does everything.
    Cut(usize),
}

/// The bytes of a program on the lane. An input that begins with 0 is no program: it goes to the
/// lane as it is.
pub(super) fn wire(bytes: &[u8]) -> Vec<u8> {
    let Some((kind, program)) = bytes.split_first() else { return Vec::new() };
    if *kind == 0 {
        return program.to_vec();
    }
    let mut wire = Vec::new();
    let mut input = Unstructured::new(program);
    let mut room = RAW_MAX;
    for seq in 1..=BATCHES_MAX {
        match Batch::read(&mut input, &mut room) {
            Ok(batch) if batch.encode(seq, &mut wire) && !input.is_empty() => {}
            _ => break,
        }
    }
    wire
}

impl Batch {
    fn read(input: &mut Unstructured<'_>, room: &mut u64) -> Result<Self> {
        let count = input.int_in_range(0..=6)?;
        let mut batch = Self { runs: Vec::new(), payload: Vec::new(), wrong: None };
        let mut after = (0, 0);
        for _ in 0..count {
            let (run, disposition) = read_run(input, &mut after, room)?;
            if disposition == Disposition::Raw {
                let fill = input.arbitrary::<u8>()?;
                let pages = (0..run.count.0).flat_map(|page| content(fill, page));
                batch.payload.extend(pages);
            }
            batch.runs.push((run, disposition));
        }
        batch.wrong = match input.int_in_range(0..=11)? {
            0 => Some(Wrong::Damaged { at: input.arbitrary()?, bits: input.arbitrary()? }),
            1 | 2 => Some(Wrong::Field { at: input.arbitrary()?, bits: input.arbitrary()? }),
            3 => Some(Wrong::Cut(input.arbitrary()?)),
            _ => None,
        };
        Ok(batch)
    }

    /// Header, descriptors and payload, as `proto/wire.md` lays them out. Says whether more may
    /// follow.
    fn encode(&self, seq: u64, wire: &mut Vec<u8>) -> bool {
        let mut head = self.head(seq);
        if let Some(Wrong::Field { at, bits }) = self.wrong {
            // The seal of the header and the checksum behind the descriptors are made below.
            let fields = (0..24).chain(32..head.len());
            let at = fields.clone().nth(at % fields.count()).expect("within");
            head[at] ^= bits;
        }
        let seal = xxh3_64(&head[..24]);
        head[24..32].copy_from_slice(&seal.to_le_bytes());
        let sum = xxh3_64_with_seed(&head[32..], seal);
        head.extend(sum.to_le_bytes());
        if let Some(Wrong::Damaged { at, bits }) = self.wrong {
            let at = at % head.len();
            head[at] ^= bits;
        }
        let start = wire.len();
        wire.extend(head);
        wire.extend(&self.payload);
        if let Some(Wrong::Cut(at)) = self.wrong {
            let whole = wire.len() - start;
            wire.truncate(start + at % whole);
            return false;
        }
        true
    }

    fn head(&self, seq: u64) -> Vec<u8> {
        let pages: u64 = self.runs.iter().map(|(run, _)| run.count.0).sum();
        let mut head = b"WBCH".to_vec();
        head.extend((self.runs.len() as u32).to_le_bytes());
        head.extend(seq.to_le_bytes());
        head.extend((pages as u32).to_le_bytes());
        head.extend((self.payload.len() as u32).to_le_bytes());
        head.extend([0; 8]);
        for (run, disposition) in &self.runs {
            head.extend(run.first.0.to_le_bytes());
            head.extend(run.region.0.to_le_bytes());
            head.extend((run.count.0 as u32).to_le_bytes());
            head.extend((1 + u32::from(*disposition == Disposition::Raw)).to_le_bytes());
            head.extend([0; 4]);
        }
        head
    }
}

/// A run behind the last one most of the time, and anywhere else at times.
fn read_run(
    input: &mut Unstructured<'_>,
    after: &mut (usize, u64),
    room: &mut u64,
) -> Result<(Run, Disposition)> {
    if input.ratio(1, 4)? {
        *after = (after.0 + 1, 0);
    }
    let (region, pages) = PAGES[after.0 % PAGES.len()];
    let stray = input.ratio(1, 16)?;
    let first = if stray {
        input.arbitrary()?
    } else {
        after.1.saturating_add(u64::from(input.arbitrary::<u8>()?))
    };
    let raw = input.ratio(1, 2)?;
    let mut count = u64::from(input.int_in_range::<u16>(0..=pages as u16)?);
    if !stray {
        count = count.clamp(1, pages.saturating_sub(first).max(1));
    }
    if raw {
        count = count.min(*room);
        *room -= count;
    }
    after.1 = first.saturating_add(count);
    let disposition = if raw { Disposition::Raw } else { Disposition::Zero };
    Ok((Run::new(region, first, count), disposition))
}

/// A page of one kind: zero, all alike, or each with a place of its own.
fn content(fill: u8, page: u64) -> [u8; PAGE_SIZE] {
    let mut content = [fill; PAGE_SIZE];
    if fill % 2 == 1 {
        content[..8].copy_from_slice(&page.to_le_bytes());
    }
    content
}
