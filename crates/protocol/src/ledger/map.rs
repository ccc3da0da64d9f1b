//! How far a piece of memory is, for people who look on.

use whimbrel_page::{PageCount, Run};

use super::Ledger;

/// What there is to say of one piece of guest memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cell {
    /// Its pages.
    pub pages: PageCount,
    /// Those that have to be sent, for the first time or again.
    pub dirty: PageCount,
    /// Those that are sent and not acknowledged.
    pub in_flight: PageCount,
    /// Whether the destination holds anything of it but zero pages.
    pub landed: bool,
}

impl Ledger {
    /// Looks at the pages of `run`. Costs a look at each word of two bitmaps that is not zero.
    ///
    /// # Panics
    /// If the guest has no such pages.
    #[must_use]
    pub fn cell(&self, run: Run) -> Cell {
        Cell {
            pages: run.count,
            dirty: self.pending.count_in(run),
            in_flight: self.in_flight.count_in(run),
            landed: self.committed.holds_content(run),
        }
    }
}
