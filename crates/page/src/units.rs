//! Newtypes for every id and unit, so that a page number is never taken for a byte count.

use core::fmt;
use core::iter::Sum;
use core::ops::{Add, AddAssign, Sub, SubAssign};

/// Bytes in a page. Dirty tracking, digests and the wire all count in pages of this size, also
/// where the host backs memory with huge pages.
pub const PAGE_SIZE: usize = 4096;

/// The number of a memory region, unique within one guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RegionId(pub u32);

/// The position of a page in its region, counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageIndex(pub u64);

/// A number of pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageCount(pub u64);

/// A number of bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteCount(pub u64);

/// Bytes a second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteRate(pub u64);

impl PageIndex {
    /// The byte offset of this page within its region.
    #[must_use]
    pub const fn offset(self) -> ByteCount {
        ByteCount(self.0 * PAGE_SIZE as u64)
    }
}

impl PageCount {
    /// No pages.
    pub const ZERO: Self = Self(0);

    /// The bytes these pages hold.
    #[must_use]
    pub const fn bytes(self) -> ByteCount {
        ByteCount(self.0 * PAGE_SIZE as u64)
    }

    /// The pages needed to hold `bytes`, rounded up.
    #[must_use]
    pub const fn covering(bytes: ByteCount) -> Self {
        Self(bytes.0.div_ceil(PAGE_SIZE as u64))
    }
}

impl ByteCount {
    /// No bytes.
    pub const ZERO: Self = Self(0);

    /// `n` mebibytes.
    #[must_use]
    pub const fn mib(n: u64) -> Self {
        Self(n << 20)
    }

    /// `n` kibibytes.
    #[must_use]
    pub const fn kib(n: u64) -> Self {
        Self(n << 10)
    }
}

macro_rules! count_arithmetic {
    ($($unit:ty),*) => {$(
        impl Add for $unit {
            type Output = Self;
            fn add(self, other: Self) -> Self {
                Self(self.0 + other.0)
            }
        }
        impl Sub for $unit {
            type Output = Self;
            fn sub(self, other: Self) -> Self {
                Self(self.0 - other.0)
            }
        }
        impl AddAssign for $unit {
            fn add_assign(&mut self, other: Self) {
                self.0 += other.0;
            }
        }
        impl SubAssign for $unit {
            fn sub_assign(&mut self, other: Self) {
                self.0 -= other.0;
            }
        }
        impl Sum for $unit {
            fn sum<I: Iterator<Item = Self>>(counts: I) -> Self {
                Self(counts.map(|count| count.0).sum())
            }
        }
    )*};
}
count_arithmetic!(PageCount, ByteCount);

macro_rules! plain_display {
    ($($unit:ty => $form:literal),*) => {$(
        impl fmt::Display for $unit {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, $form, self.0)
            }
        }
    )*};
}
plain_display!(RegionId => "region {}", PageIndex => "page {}", PageCount => "{} pages",
    ByteCount => "{} bytes", ByteRate => "{} bytes/s");

/// Neighbouring pages of one region: `first`, `first + 1`, … `count` of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Run {
    /// The region the pages are in.
    pub region: RegionId,
    /// The lowest page.
    pub first: PageIndex,
    /// How many pages; a run of 0 pages is empty and means nothing.
    pub count: PageCount,
}

impl Run {
    /// The run of `count` pages from `first`.
    #[must_use]
    pub const fn new(region: RegionId, first: u64, count: u64) -> Self {
        Self { region, first: PageIndex(first), count: PageCount(count) }
    }

    /// The page after the last one; saturates, so that a hostile run cannot wrap around.
    #[must_use]
    pub const fn end(self) -> PageIndex {
        PageIndex(self.first.0.saturating_add(self.count.0))
    }

    /// Every page of the run, in ascending order.
    pub fn pages(self) -> impl Iterator<Item = PageIndex> {
        (self.first.0..self.end().0).map(PageIndex)
    }
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} pages {}..{}", self.region, self.first.0, self.end().0)
    }
}
