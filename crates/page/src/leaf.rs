//! What is known of one page's content.

use twox_hash::XxHash3_128;

use crate::{PAGE_SIZE, PageIndex, RegionId};

/// What is known of one page. *Unknown* is not *zero*, and agrees with nothing, itself included:
/// compare leaves with [`Leaf::agrees`].
#[derive(Clone, Copy, Debug, Hash)]
pub enum Leaf {
    /// All 4096 bytes are 0.
    Zero,
    /// XXH3-128 (seed 0) of the 4096 bytes.
    Known(u128),
    /// Nothing may be assumed.
    Unknown,
}

impl Leaf {
    /// Digests `page`, which must be a private copy: a page that changes while it is read has no
    /// content to speak of.
    ///
    /// # Panics
    /// If `page` is not [`PAGE_SIZE`] bytes long.
    #[must_use]
    pub fn of(page: &[u8]) -> Self {
        assert_eq!(page.len(), PAGE_SIZE, "a leaf is the digest of one whole page");
        if is_zero(page) { Self::Zero } else { Self::Known(XxHash3_128::oneshot(page)) }
    }

    /// Whether both are known to stand for the same content.
    #[must_use]
    pub fn agrees(self, other: Self) -> bool {
        match (self, other) {
            (Self::Zero, Self::Zero) => true,
            (Self::Known(a), Self::Known(b)) => a == b,
            _ => false,
        }
    }

    /// What this leaf adds to a root: its digest bound to its place, so that two pages which
    /// changed places do not cancel out. A zero page adds nothing, so that untouched memory costs
    /// nothing; an unknown one adds nothing and is counted instead.
    #[must_use]
    pub fn mix(self, region: RegionId, page: PageIndex) -> LeafSum {
        let Self::Known(digest) = self else {
            return LeafSum::ZERO;
        };
        let mut place = [0; 32];
        place[..8].copy_from_slice(&u64::from(region.0).to_le_bytes());
        place[8..16].copy_from_slice(&page.0.to_le_bytes());
        place[16..].copy_from_slice(&digest.to_le_bytes());
        LeafSum(XxHash3_128::oneshot(&place))
    }
}

/// A sum of mixed leaves, modulo 2¹²⁸: adding and taking away are exact and in any order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct LeafSum(pub u128);

impl LeafSum {
    /// The sum of nothing.
    pub const ZERO: Self = Self(0);

    /// This sum with `other` added.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self(self.0.wrapping_add(other.0))
    }

    /// This sum with `other` taken away.
    #[must_use]
    pub const fn minus(self, other: Self) -> Self {
        Self(self.0.wrapping_sub(other.0))
    }
}

/// Whether every byte is 0: a comparison, which is the quickest loop over bytes that there is.
fn is_zero(page: &[u8]) -> bool {
    page == [0; PAGE_SIZE]
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    #[test]
    fn any_single_byte_makes_a_page_not_zero() {
        let mut page = vec![0; PAGE_SIZE];
        assert!(matches!(Leaf::of(&page), Leaf::Zero));
        for position in 0..PAGE_SIZE {
            page[position] = 1;
            assert!(matches!(Leaf::of(&page), Leaf::Known(_)), "byte {position}");
            page[position] = 0;
        }
    }

    #[test]
    fn unknown_agrees_with_nothing() {
        let known = Leaf::Known(5);
        assert!(known.agrees(Leaf::Known(5)) && Leaf::Zero.agrees(Leaf::Zero));
        for leaf in [Leaf::Zero, known, Leaf::Unknown] {
            assert!(!Leaf::Unknown.agrees(leaf) && !leaf.agrees(Leaf::Unknown));
        }
        assert!(!known.agrees(Leaf::Known(6)) && !known.agrees(Leaf::Zero));
    }

    #[test]
    fn the_same_content_elsewhere_mixes_differently() {
        let leaf = Leaf::Known(5);
        let here = leaf.mix(RegionId(0), PageIndex(1));
        assert_ne!(here, leaf.mix(RegionId(0), PageIndex(2)));
        assert_ne!(here, leaf.mix(RegionId(1), PageIndex(1)));
        assert_eq!(Leaf::Zero.mix(RegionId(0), PageIndex(1)), LeafSum::ZERO);
    }
}
