//! What will happen, in the order of virtual time.

use std::collections::BTreeMap;
use std::time::Duration;

/// Events at a time; those of the same moment come in the order in which they were put in.
#[derive(Debug)]
pub(crate) struct Queue<T> {
    items: BTreeMap<(Duration, u64), T>,
    count: u64,
}

impl<T> Queue<T> {
    pub(crate) const fn new() -> Self {
        Self { items: BTreeMap::new(), count: 0 }
    }

    pub(crate) fn push(&mut self, at: Duration, item: T) {
        self.count += 1;
        self.items.insert((at, self.count), item);
    }

    pub(crate) fn next_at(&self) -> Option<Duration> {
        self.items.keys().next().map(|(at, _)| *at)
    }

    pub(crate) fn pop(&mut self) -> Option<(Duration, T)> {
        self.items.pop_first().map(|((at, _), item)| (at, item))
    }
}
