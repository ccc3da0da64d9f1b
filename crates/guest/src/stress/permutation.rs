//! A shuffled order of the numbers below a bound, which can be asked both ways.

use super::mix::{GOLDEN, mix};

/// A bijection on `0..len`, chosen by a key: nothing is stored, so a new one is free.
///
/// Works on the power of two above `len` and walks until it is back below the bound, which takes
/// fewer than two steps on average.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Permutation {
    len: u64,
    mask: u64,
    shift: u32,
    offset: u64,
    factors: [u64; 2],
}

impl Permutation {
    /// The permutation of `0..len` that `key` stands for; `len` is not 0.
    pub(crate) const fn new(len: u64, key: u64) -> Self {
        let mask = len.next_power_of_two() - 1;
        let bits = mask.count_ones();
        // Odd factors have an inverse modulo any power of two.
        let factors = [mix(key) | 1, mix(key ^ GOLDEN) | 1];
        let offset = mix(key.wrapping_add(GOLDEN)) & mask;
        // A shift by at least half the width is its own inverse under exclusive or.
        Self { len, mask, shift: if bits < 2 { 63 } else { bits.div_ceil(2) }, offset, factors }
    }

    /// Where `position` goes; `position` is below the bound.
    pub(crate) const fn at(&self, position: u64) -> u64 {
        let mut value = self.step(position);
        while value >= self.len {
            value = self.step(value);
        }
        value
    }

    /// Which position goes to `value`; `value` is below the bound.
    pub(crate) const fn position(&self, value: u64) -> u64 {
        let mut position = self.step_back(value);
        while position >= self.len {
            position = self.step_back(position);
        }
        position
    }

    const fn step(&self, value: u64) -> u64 {
        let mut v = value ^ self.offset;
        v = v.wrapping_mul(self.factors[0]) & self.mask;
        v ^= v >> self.shift;
        v = v.wrapping_mul(self.factors[1]) & self.mask;
        v ^ v >> self.shift
    }

    const fn step_back(&self, value: u64) -> u64 {
        let mut v = value ^ value >> self.shift;
        v = v.wrapping_mul(inverse(self.factors[1])) & self.mask;
        v ^= v >> self.shift;
        v = v.wrapping_mul(inverse(self.factors[0])) & self.mask;
        v ^ self.offset
    }
}

/// The inverse of an odd number modulo 2⁶⁴ by Newton's iteration: each step doubles the bits that
/// are right, from the 3 that every odd number has as its own inverse.
const fn inverse(odd: u64) -> u64 {
    let mut x = odd;
    let mut bits = 3;
    while bits < 64 {
        x = x.wrapping_mul(2u64.wrapping_sub(odd.wrapping_mul(x)));
        bits *= 2;
    }
    x
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_comes_once_and_is_found_again() {
        for len in [1, 2, 3, 4, 5, 7, 8, 9, 100, 1000, 4096, 4097] {
            for key in 0..20 {
                let shuffled = Permutation::new(len, key);
                let mut seen = vec![false; len as usize];
                for position in 0..len {
                    let value = shuffled.at(position);
                    assert!(!std::mem::replace(&mut seen[value as usize], true));
                    assert_eq!(shuffled.position(value), position);
                }
            }
        }
    }

    #[test]
    fn neighbours_are_torn_apart() {
        let shuffled = Permutation::new(10_000, 7);
        let near = (1..10_000).filter(|p| shuffled.at(*p).abs_diff(shuffled.at(p - 1)) < 100);
        assert!(near.count() < 600, "a random order has about 200");
    }
}
