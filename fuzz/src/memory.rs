//! What an input makes the product allocate.

use peak_alloc::PeakAlloc;

#[global_allocator]
static HEAP: PeakAlloc = PeakAlloc;

/// Does `work`. The heap is everybody's: nobody else may be at work meanwhile.
///
/// # Panics
/// If more than `most` bytes of heap were in use at any moment of it than before.
pub(crate) fn bounded<T>(most: usize, work: impl FnOnce() -> T) -> T {
    HEAP.reset_peak_usage();
    let before = HEAP.current_usage();
    let done = work();
    let used = HEAP.peak_usage().saturating_sub(before);
    assert!(used <= most, "{used} bytes of heap, where {most} are enough");
    done
}
