//! Whose turn it is, among those who have news for one another side.

use std::collections::BTreeSet;

/// Those who have news. Whoever has some as a round begins is in it, so that nobody waits for
/// others who have news again and again.
#[derive(Clone, Debug)]
pub struct Turns<T> {
    round: BTreeSet<T>,
    /// Those of the round after this one.
    later: BTreeSet<T>,
}

impl<T> Default for Turns<T> {
    fn default() -> Self {
        Self { round: BTreeSet::new(), later: BTreeSet::new() }
    }
}

impl<T: Ord> Turns<T> {
    /// Whether nobody has news.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.round.is_empty() && self.later.is_empty()
    }

    /// It has news.
    pub fn insert(&mut self, who: T) {
        self.later.insert(who);
    }

    /// It has none any more.
    pub fn remove(&mut self, who: &T) {
        self.round.remove(who);
        self.later.remove(who);
    }

    /// The one whose turn it is; its news are told.
    pub fn take(&mut self) -> Option<T> {
        if self.round.is_empty() {
            std::mem::swap(&mut self.round, &mut self.later);
        }
        self.round.pop_first()
    }
}

impl<T: Ord> Extend<T> for Turns<T> {
    fn extend<I: IntoIterator<Item = T>>(&mut self, all: I) {
        self.later.extend(all);
    }
}

impl<T: Ord> FromIterator<T> for Turns<T> {
    fn from_iter<I: IntoIterator<Item = T>>(all: I) -> Self {
        Self { round: BTreeSet::new(), later: all.into_iter().collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_waits_for_those_who_come_later() {
        let mut turns: Turns<u64> = [1, 2, 3].into_iter().collect();
        let mut told = Vec::new();
        for newcomer in 4..10 {
            told.extend(turns.take());
            turns.extend([1, newcomer]);
        }
        assert_eq!(told, [1, 2, 3, 1, 4, 5]);
    }

    #[test]
    fn whoever_has_no_news_any_more_has_no_turn() {
        let mut turns: Turns<u64> = [1, 2].into_iter().collect();
        assert_eq!(turns.take(), Some(1));
        turns.insert(3);
        [2, 3].iter().for_each(|who| turns.remove(who));
        assert!(turns.is_empty());
        assert_eq!(turns.take(), None);
    }
}
