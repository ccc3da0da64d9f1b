//! What can go wrong with guest memory, by whose fault it is.

use std::io;

use whimbrel_page::{ByteCount, PageCount, RegionId, Run};

use crate::TrackerKind;

/// Why guest memory did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// The caller named bytes the guest does not have.
    #[error("the guest has no bytes {offset}..+{len} in {region}; check them against its layout")]
    OutOfRange {
        /// The region that was named.
        region: RegionId,
        /// Where in it.
        offset: ByteCount,
        /// How many bytes from there.
        len: ByteCount,
    },
    /// The caller named pages the guest does not have.
    #[error("the guest has no {0}; check runs against its layout")]
    NoSuchRun(Run),
    /// The caller's buffer does not have the size of the run.
    #[error("{run} is {}, the buffer {found}; pass one of that size", run.count.bytes())]
    BufferSize {
        /// The run that was to be copied.
        run: Run,
        /// The size of the buffer.
        found: ByteCount,
    },
    /// An atomic access that is not on its natural boundary.
    #[error("{region} offset {offset} is no multiple of 8, as an atomic access needs")]
    Misaligned {
        /// The region that was named.
        region: RegionId,
        /// Where in it.
        offset: ByteCount,
    },
    /// The operating system does not give the memory.
    #[error(
        "the host gives no {size} for {region}: {source}; free memory or choose a smaller guest"
    )]
    Allocation {
        /// The region that was to be mapped.
        region: RegionId,
        /// Its size.
        size: ByteCount,
        /// What the operating system said.
        source: io::Error,
    },
    /// The region cannot be made of huge pages of this size.
    #[error("{region} has {size}; choose a multiple of the huge page's {}", granule.bytes())]
    HugePageSize {
        /// The region that was to be mapped.
        region: RegionId,
        /// Its size.
        size: ByteCount,
        /// Small pages in a huge one.
        granule: PageCount,
    },
    /// The memory that an embedder brings is not what its layout says.
    #[error("{region} has {size}; {found} were brought for it: bring as many, at a page's start")]
    Adopted {
        /// The region that was to be made of it.
        region: RegionId,
        /// Its size.
        size: ByteCount,
        /// The size of what was brought.
        found: ByteCount,
    },
    /// The number of regions brought is another than that of the layout, or their kinds differ.
    #[error(
        "memory was brought for {found} regions and the layout has {expected}, or some of it \
             is shared and some private: bring one kind, for each region"
    )]
    AdoptedRegions {
        /// The regions of the layout.
        expected: usize,
        /// The regions that were brought.
        found: usize,
    },
    /// The operating system refused an operation on memory that exists.
    #[error("the host could not {what}: {source}")]
    Os {
        /// What was asked, as a verb phrase.
        what: &'static str,
        /// What the operating system said.
        source: io::Error,
    },
    /// This tracker does not work here.
    #[error("the {kind} tracker does not work here: {why}")]
    Unsupported {
        /// The tracker that was asked for.
        kind: TrackerKind,
        /// One sentence of reason.
        why: String,
    },
    /// Somebody else owns the dirty tracking of this memory.
    #[error("this memory is already tracked by {0}; drop that tracker first")]
    AlreadyTracked(TrackerKind),
    /// A harvest without an armed tracker, or arming one that is armed.
    #[error("the {kind} tracker is {}; {} it first", state(*armed), remedy(*armed))]
    Armed {
        /// The tracker.
        kind: TrackerKind,
        /// Whether it is armed.
        armed: bool,
    },
    /// The source of a [`crate::GuestMemory::read_from`] failed.
    #[error("what was to be read into guest memory could not be read: {0}")]
    Source(#[source] io::Error),
}

const fn state(armed: bool) -> &'static str {
    if armed { "already armed" } else { "not armed" }
}

const fn remedy(armed: bool) -> &'static str {
    if armed { "disarm" } else { "arm" }
}

impl MemoryError {
    /// For `map_err`: the operating system could not do `what`.
    pub(crate) fn os(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Os { what, source }
    }
}
