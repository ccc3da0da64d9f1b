//! Section B of `proto/wire.md`, read once more by another hand: which batches must land.

use whimbrel_page::{Disposition, PAGE_SIZE, RegionId, Run};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::PAGES;

/// A batch that must land.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) runs: Vec<(Run, Disposition)>,
    pub(super) payload: Vec<u8>,
}

/// Every batch before the first that breaks the law, or is not whole.
pub(super) fn legal(mut wire: &[u8]) -> Vec<Batch> {
    let mut batches = Vec::new();
    while let Some(batch) = batch(&mut wire, batches.len() as u64 + 1) {
        batches.push(batch);
    }
    batches
}

fn take<'a>(wire: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (head, tail) = wire.split_at_checked(count)?;
    *wire = tail;
    Some(head)
}

fn number(bytes: &[u8], at: usize, size: usize) -> u64 {
    bytes[at..at + size].iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

fn batch(wire: &mut &[u8], due: u64) -> Option<Batch> {
    let header = take(wire, 32)?;
    let seal = number(header, 24, 8);
    let right = header[..4] == *b"WBCH" && xxh3_64(&header[..24]) == seal;
    let (count, pages) = (number(header, 4, 4) as usize, number(header, 16, 4));
    let payload = number(header, 20, 4) as usize;
    // B2, B8, B9
    let bounded = (1..=1024).contains(&count) && pages <= 1024 && payload <= 4 << 20;
    if !right || !bounded || number(header, 8, 8) != due {
        return None;
    }
    let (body, sum) = (take(wire, count * 24)?, take(wire, 8)?);
    if xxh3_64_with_seed(body, seal) != number(sum, 0, 8) {
        return None;
    }
    let runs = body.chunks(24).map(run).collect::<Option<Vec<_>>>()?;
    let all: u64 = runs.iter().map(|(run, _)| run.count.0).sum();
    let raw = runs.iter().filter(|(_, disposition)| *disposition == Disposition::Raw);
    let raw: u64 = raw.map(|(run, _)| run.count.0).sum();
    // B7, B9, B11
    let adds_up = all == pages && raw as usize * PAGE_SIZE == payload;
    let ascending = runs.windows(2).all(|pair| {
        let (before, after) = (pair[0].0, pair[1].0);
        (place(before.region), before.end()) <= (place(after.region), after.first)
    });
    let payload = take(wire, payload).filter(|_| adds_up && ascending)?;
    Some(Batch { runs, payload: payload.to_vec() })
}

/// B1, B10
fn run(descriptor: &[u8]) -> Option<(Run, Disposition)> {
    let (first, count) = (number(descriptor, 0, 8), number(descriptor, 12, 4));
    let region = RegionId(number(descriptor, 8, 4) as u32);
    let disposition = match number(descriptor, 16, 4) {
        1 => Disposition::Zero,
        2 => Disposition::Raw,
        _ => return None,
    };
    let (_, pages) = PAGES[place(region)?];
    let within = count > 0 && first < pages && count <= pages - first;
    (within && number(descriptor, 20, 4) == 0)
        .then(|| (Run::new(region, first, count), disposition))
}

fn place(region: RegionId) -> Option<usize> {
    PAGES.iter().position(|(id, _)| *id == region)
}
