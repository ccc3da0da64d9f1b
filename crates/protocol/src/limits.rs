//! Every limit of the wire, in one place, and how they hang together.

use whimbrel_page::{ByteCount, Layout, PAGE_SIZE, PageCount};

use crate::batch::{ACK_SIZE, BATCH_HEADER_SIZE, RUN_SIZE};

/// Bulk connections a session may have at one time.
pub const LANES_MAX: usize = 128;
/// Pages in one batch, of every disposition.
pub const BATCH_PAGES_MAX: PageCount = PageCount(1024);
/// Run descriptors in one batch: at worst no two of its pages are neighbours.
pub const BATCH_RUNS_MAX: usize = 1024;
/// The most payload two sides may agree on for one batch.
pub const BATCH_PAYLOAD_MAX: ByteCount = ByteCount::mib(4);
/// The payload of a batch unless something else is agreed: it stays in a core's L2 cache between
/// the copy, the digest and the socket.
pub const BATCH_PAYLOAD_DEFAULT: ByteCount = ByteCount::kib(256);
/// Batches on one lane that are sent and not acknowledged (wire.md B18).
pub const BATCHES_IN_FLIGHT_MAX: usize = 256;
/// Batches a destination may land before it must say so (wire.md B16).
pub const ACK_EVERY_MAX: usize = 8;
/// Bytes on one lane that are sent and not acknowledged.
pub const WINDOW_MAX: ByteCount = ByteCount::mib(64);
/// The window of a lane unless the options say otherwise.
pub const WINDOW_DEFAULT: ByteCount = ByteCount::mib(4);

/// Bytes the body of a control frame may have: room for the largest saved state.
pub const CONTROL_FRAME_MAX: usize = STATE_BYTES_MAX + (1 << 20);
/// Fields in one control frame, lists included: each list's own limit is below, so that an error
/// names the list.
pub const CONTROL_FIELDS_MAX: usize = 8192;
/// The generation of a term that a peer may name: the next one has to exist, and a peer's must not
/// use up the numbers of this host.
pub const TERM_GENERATION_MAX: u64 = 1 << 62;
/// Bytes of saved state in [`crate::Prepare`].
pub const STATE_BYTES_MAX: usize = 16 << 20;
/// Bytes in a guest's name.
pub const NAME_BYTES_MAX: usize = 64;
/// Bytes in a guest's kind.
pub const KIND_BYTES_MAX: usize = 32;
/// Bytes in the address of a peer.
pub const PEER_BYTES_MAX: usize = 256;
/// Bytes in a sentence that explains something; a longer one is cut.
pub const REASON_BYTES_MAX: usize = 4096;
/// Features in an offer or a plan.
pub const FEATURES_MAX: usize = 64;
/// Bytes in the name of a feature.
pub const FEATURE_BYTES_MAX: usize = 64;
/// Lanes of all fenced epochs that one resumption may report.
pub const LANE_MARKS_MAX: usize = 1024;
/// Chunks in one [`crate::Sums`].
pub const SUMS_CHUNKS_MAX: usize = 4096;

// The limits hold together, or the crate does not build.
const _: () = {
    assert!(BATCH_PAYLOAD_MAX.0 == BATCH_PAGES_MAX.bytes().0);
    assert!(BATCH_PAYLOAD_DEFAULT.0 <= BATCH_PAYLOAD_MAX.0);
    assert!(BATCH_PAYLOAD_DEFAULT.0.is_multiple_of(PAGE_SIZE as u64));
    assert!(BATCH_RUNS_MAX as u64 <= BATCH_PAGES_MAX.0);
    assert!(BATCH_PAYLOAD_MAX.0 <= WINDOW_MAX.0);
    assert!(WINDOW_DEFAULT.0 <= WINDOW_MAX.0);
    // A window full of default batches is not cut short by the number of batches,
    assert!(WINDOW_MAX.0 / BATCH_PAYLOAD_DEFAULT.0 <= BATCHES_IN_FLIGHT_MAX as u64);
    // and a source never waits for an ack that the destination is not yet bound to send.
    assert!(ACK_EVERY_MAX <= BATCHES_IN_FLIGHT_MAX);
    // All acks that can be under way fit any socket buffer, so that a destination which sends one
    // never waits for a source that is itself waiting to send.
    assert!(BATCHES_IN_FLIGHT_MAX * ACK_SIZE <= 16 << 10);
    // A batch's descriptors are bounded like a control frame.
    assert!(BATCH_HEADER_SIZE + BATCH_RUNS_MAX * RUN_SIZE <= CONTROL_FRAME_MAX);
    // The buffers of all lanes together stay a small part of what a side may use.
    assert!(LANES_MAX as u64 * BATCH_PAYLOAD_DEFAULT.0 <= 32 << 20);
    // The largest lists of the control connection reach their own limits first.
    assert!(SUMS_CHUNKS_MAX + 8 <= CONTROL_FIELDS_MAX && LANE_MARKS_MAX <= CONTROL_FIELDS_MAX);
    assert!(Layout::REGIONS_MAX + FEATURES_MAX + 16 <= CONTROL_FIELDS_MAX);
    assert!(LANES_MAX <= LANE_MARKS_MAX && CONTROL_FRAME_MAX <= u32::MAX as usize);
    // Every page of the largest guest has a number that fits its field.
    assert!(Layout::REGION_SIZE_MAX.0 / (PAGE_SIZE as u64) < u64::MAX);
    assert!(BATCH_PAGES_MAX.0 <= u32::MAX as u64 && LANES_MAX <= u16::MAX as usize);
};
