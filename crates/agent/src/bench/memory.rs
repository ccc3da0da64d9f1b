//! Memory whose cost is known before the clock starts.
//!
//! A virtual machine may get its memory from its host only when it is first touched, and that
//! first touch is ten times as slow as a second one. Both sides of a comparison are measured
//! with memory that was touched once since boot.

use std::hint::black_box;

/// Touches `bytes` of memory and gives them back, so that whoever asks next pays the kernel
/// only, not the host beneath it.
pub fn warm(bytes: usize) {
    black_box(vec![1_u8; bytes]);
}

/// `bytes` that no encoder can make smaller, the same each time.
#[must_use]
pub fn random(bytes: usize) -> Vec<u8> {
    random_from(1, bytes)
}

/// `bytes` that no encoder can make smaller: the output of SplitMix64 for `seed`.
#[must_use]
pub fn random_from(seed: u64, bytes: usize) -> Vec<u8> {
    let mut content = vec![0; bytes];
    let mut state = seed.wrapping_mul(0xd1b5_4a32_d192_ed03);
    for word in content.chunks_mut(8) {
        let next = split_mix(&mut state).to_le_bytes();
        word.copy_from_slice(&next[..word.len()]);
    }
    content
}

fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
