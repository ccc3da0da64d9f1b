//! A coarse picture of a guest's memory while it moves away, one letter a cell.

use std::sync::PoisonError;

use whimbrel_engine::protocol::ledger::Cell;
use whimbrel_engine::{CELLS_MAX, MemoryMap};

use super::worker::Worker;
use crate::process_api as process;

impl Worker {
    pub(super) fn set_map(&self, map: MemoryMap) {
        *self.map.lock().unwrap_or_else(PoisonError::into_inner) = map;
    }

    fn map(&self) -> MemoryMap {
        self.map.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Looks at the memory of the guest, if it moves away.
    pub(super) fn memory_map(&self, cells: u32) -> process::MemoryMap {
        let cells = match cells {
            0 => CELLS_MAX,
            cells => cells.into(),
        };
        picture(&self.map(), cells)
    }
}

fn picture(map: &MemoryMap, cells: u64) -> process::MemoryMap {
    let cells = map.look(cells);
    let pages_per_cell = cells.first().map_or(0, |cell| cell.pages.0);
    process::MemoryMap { pages_per_cell, cells: cells.iter().map(letter).collect() }
}

/// What matters most of a cell: that something of it is on its way, that something has to be.
fn letter(cell: &Cell) -> char {
    let eighths = (cell.dirty.0 * 8).div_ceil(cell.pages.0.max(1)).min(8);
    match (cell.in_flight.0, eighths, cell.landed) {
        (1.., ..) => '>',
        (0, 1.., _) => char::from_digit(eighths as u32, 10).expect("a digit up to 8"),
        (0, 0, true) => '=',
        (0, 0, false) => '.',
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use whimbrel_engine::page::PageCount;

    #[test]
    fn a_letter_says_what_matters_most() {
        let letter = |dirty, in_flight, landed| {
            let (dirty, in_flight) = (PageCount(dirty), PageCount(in_flight));
            letter(&Cell { pages: PageCount(64), dirty, in_flight, landed })
        };
        assert_eq!((letter(0, 0, false), letter(0, 0, true)), ('.', '='));
        assert_eq!((letter(1, 0, true), letter(8, 0, true), letter(9, 0, false)), ('1', '1', '2'));
        assert_eq!((letter(64, 0, false), letter(64, 1, true)), ('8', '>'));
    }
}
