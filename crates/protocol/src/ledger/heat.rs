//! Which pages are written all the time: what is sent of them now is stale before the round is
//! over.

use whimbrel_page::{Layout, PageSet};

use super::Pass;

/// Pages that were written before both of the last two harvests are *hot*. They are left for later
/// rounds as long as there is more of other pages to send. So are those that were written since the
/// round began and are still to come: the next one has them in any case.
#[derive(Clone, Debug, Hash)]
pub(super) struct Heat {
    last: PageSet,
    hot: PageSet,
    /// Whether rounds may leave pages.
    watched: bool,
    /// What the round that is under way leaves.
    left: PageSet,
}

impl Heat {
    pub(super) fn new(layout: &Layout) -> Self {
        let [last, hot, left] = [(); 3].map(|()| PageSet::new(layout));
        Self { last, hot, watched: true, left }
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

    pub(super) const fn is_watched(&self) -> bool {
        self.watched
    }

    /// A round begins: a short one has to take the hot pages too, or nobody would learn how little
    /// is left. So does the last one, and one of nothing else.
    pub(super) fn choose(&mut self, pass: Pass, pending: &PageSet) {
        // Some may have been sent since they were harvested.
        self.hot.intersect_with(pending);
        let (hot, all) = (self.hot.count().0, pending.count().0);
        self.left.clear();
        if self.watched && pass == Pass::Once && all > 2 * hot {
            self.left.union_with(&self.hot);
        }
    }

    /// These pages were written since the last harvest, and the round may leave them.
    pub(super) fn written(&mut self, pages: &PageSet, pending: &PageSet) {
        if self.watched {
            self.left.union_with(pages);
            self.left.intersect_with(pending);
        }
    }

    /// The pages that the round leaves.
    pub(super) const fn left(&self) -> &PageSet {
        &self.left
    }
}
