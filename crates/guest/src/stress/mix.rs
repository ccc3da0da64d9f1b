//! The one hash that everything pseudo-random of this guest is derived from.

/// The odd number nearest to 2⁶⁴ divided by the golden ratio: steps by it visit every value.
pub(crate) const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// Spreads every bit of `value` over all bits (`SplitMix64`'s finaliser).
pub(crate) const fn mix(value: u64) -> u64 {
    let mut v = value.wrapping_add(GOLDEN);
    v = (v ^ v >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    v = (v ^ v >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    v ^ v >> 31
}

/// A hash of two values in their order.
pub(crate) const fn mix2(a: u64, b: u64) -> u64 {
    mix(mix(a) ^ b)
}
