//! The nouns of live migration: units, runs, page sets, leaves and roots.
//!
//! This crate computes on values it is given. It does **not** touch guest memory, files, sockets,
//! clocks or threads: it is `no_std`, so the compiler holds it to that.
//!
//! ```text
//!   RegionId + PageIndex ──► Run ──► PageSet     which pages
//!   4096 bytes ──► Leaf ──► LeafTable ──► Root   what is in them
//! ```
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod bitmap;
mod disposition;
mod layout;
mod leaf;
mod leaf_table;
mod page_set;
mod units;

pub use bitmap::Bitmap;
pub use disposition::Disposition;
pub use layout::{Layout, LayoutError, RegionLayout};
pub use leaf::{Leaf, LeafSum};
pub use leaf_table::{CHUNK_PAGES, ChunkIndex, LeafTable, Root};
pub use page_set::PageSet;
pub use units::{ByteCount, ByteRate, PAGE_SIZE, PageCount, PageIndex, RegionId, Run};
