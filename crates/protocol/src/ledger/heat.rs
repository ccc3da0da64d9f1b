//! Which pages are written all the time: what is sent of them now is stale before the round is
//! over.

use whimbrel_page::{Layout, PageSet};

use super::Pass;

/// Pages that were written before both of the last two harvests are *hot*. They are left for later
/// rounds as long as there is more of other pages to send.
#[derive(Clone, Debug, Hash)]
pub(super) struct Heat {
    last: PageSet,
    hot: PageSet,
    /// Whether rounds may leave them.
    watched: bool,
    /// Whether the round that is under way leaves them.
    leaves: bool,
}

impl Heat {
    pub(super) fn new(layout: &Layout) -> Self {
        Self { last: PageSet::new(layout), hot: PageSet::new(layout), watched: true, leaves: false }
    }

    pub(super) const fn ignore(&mut self) {
        self.watched = false;
    }

    pub(super) fn harvested(&mut self, pages: &PageSet) {
        self.hot.clear();
        self.hot.union_with(&self.last);
        self.hot.intersect_with(pages);
        self.last.clear();
        self.last.union_with(pages);
    }

    /// A round begins: a short one has to take the hot pages too, or nobody would learn how little
    /// is left. So does the last one, and one of nothing else.
    pub(super) fn choose(&mut self, pass: Pass, pending: &PageSet) {
        // Some may have been sent since they were harvested.
        self.hot.intersect_with(pending);
        let (hot, all) = (self.hot.count().0, pending.count().0);
        self.leaves = self.watched && pass == Pass::Once && hot > 0 && all > 2 * hot;
    }

    /// The pages that the round leaves.
    pub(super) const fn left(&self) -> Option<&PageSet> {
        if self.leaves { Some(&self.hot) } else { None }
    }
}
