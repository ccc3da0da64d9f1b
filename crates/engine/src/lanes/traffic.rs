//! The handle by which whoever began a migration says where its lanes go and how fast, also while
//! they run.

use std::sync::{Arc, Mutex};

use whimbrel_transport::Path;

use super::{Limits, lock};

/// Where the lanes of one migration go, and how fast. A clone is another handle on the same; what
/// is said is heeded within a moment, by lanes that run too.
#[derive(Clone, Debug, Default)]
pub struct Traffic(Arc<Mutex<Said>>);

#[derive(Debug, Default)]
struct Said {
    paths: Option<Vec<Path>>,
    limits: Option<Limits>,
}

impl Traffic {
    /// Has lanes and control connection use these paths, in the order of preference, and no other.
    /// Lanes on paths that are not among them move. Without a word, or with none, there is one: to
    /// the destination's address, as the routing table says.
    pub fn set_paths(&self, paths: Vec<Path>) {
        lock(&self.0).paths = Some(paths);
    }

    /// Has the lanes keep within these limits, in place of those said before.
    pub fn set_limits(&self, limits: Limits) {
        lock(&self.0).limits = Some(limits);
    }

    /// The limits that were said since the last call.
    pub(super) fn new_limits(&self) -> Option<Limits> {
        lock(&self.0).limits.take()
    }

    /// The paths that were said since the last call.
    pub(super) fn new_paths(&self) -> Option<Vec<Path>> {
        lock(&self.0).paths.take().filter(|paths| !paths.is_empty())
    }
}
