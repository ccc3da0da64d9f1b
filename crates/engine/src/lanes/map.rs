//! A look at the ledger from outside a migration.

use std::fmt;
use std::sync::{Arc, Weak};

use whimbrel_page::{Layout, Run};
use whimbrel_protocol::ledger::Cell;

use super::source::{Shared, SourceLanes};

/// A way to the lanes that does not keep them, or the guest's memory, from going away.
#[derive(Clone)]
pub(crate) struct WeakLanes(Weak<Shared>);

impl fmt::Debug for WeakLanes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WeakLanes").finish_non_exhaustive()
    }
}

impl WeakLanes {
    pub(crate) fn upgrade(&self) -> Option<SourceLanes> {
        self.0.upgrade().map(|shared| SourceLanes { shared })
    }
}

impl SourceLanes {
    pub(crate) fn downgrade(&self) -> WeakLanes {
        WeakLanes(Arc::downgrade(&self.shared))
    }

    pub(crate) fn layout(&self) -> &Layout {
        self.shared.memory.layout()
    }

    /// What there is to say of these pieces of memory, under one hold of the ledger.
    ///
    /// # Panics
    /// If the guest has no such pages.
    pub(crate) fn cells(&self, runs: &[Run]) -> Vec<Cell> {
        let state = self.shared.lock();
        runs.iter().map(|run| state.ledger.cell(*run)).collect()
    }
}
