//! A number for a state, so that a state that was seen is known again.

use std::hash::Hasher;
use std::time::Duration;

use whimbrel_protocol::Now;

/// Clocks further apart than this are alike: every wait is over by then.
const HORIZON: Duration = Duration::from_secs(3600);

/// A hasher of 64 bits. Clock readings count from where a machine's clock stands, so that states
/// which differ only in when they came about have one number.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Digest {
    state: u64,
    origin: i128,
}

impl Digest {
    /// What is hashed from here on belongs to a machine whose clock shows this.
    pub(crate) const fn count_from(&mut self, now: Now) {
        self.origin = now.0.as_nanos() as i128;
    }

    const fn fold(value: u64, by: u64) -> u64 {
        let product = value as u128 * by as u128;
        product as u64 ^ (product >> 64) as u64
    }
}

impl Hasher for Digest {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u8(&mut self, value: u8) {
        self.write_u64(value.into());
    }

    fn write_u16(&mut self, value: u16) {
        self.write_u64(value.into());
    }

    fn write_u32(&mut self, value: u32) {
        self.write_u64(value.into());
    }

    fn write_u64(&mut self, value: u64) {
        let mixed = self.state.rotate_left(23) ^ value ^ 0x9e37_79b9_7f4a_7c15;
        self.state = Self::fold(mixed, 0xd6e8_feb8_6659_fd93).wrapping_add(self.state);
    }

    fn write_usize(&mut self, value: usize) {
        self.write_u64(value as u64);
    }

    fn write_i128(&mut self, value: i128) {
        let horizon = HORIZON.as_nanos() as i128;
        let apart = (value - self.origin).clamp(-horizon, horizon);
        self.write_u64(apart as u64);
    }

    fn finish(&self) -> u64 {
        Self::fold(self.state ^ self.state >> 32, 0xa076_1d64_78bd_642f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(origin: u64, what: impl std::hash::Hash) -> u64 {
        let mut digest = Digest::default();
        digest.count_from(Now(Duration::from_millis(origin)));
        what.hash(&mut digest);
        digest.finish()
    }

    #[test]
    fn time_counts_from_the_clock_and_nothing_else_does() {
        let at = |millis| Now(Duration::from_millis(millis));
        assert_eq!(digest(10, at(15)), digest(1_000, at(1_005)));
        assert_ne!(digest(10, at(15)), digest(10, at(16)));
        assert_ne!(digest(0, 10_u128), digest(5, 15_u128));
        let late = HORIZON.as_millis() as u64 * 3;
        assert_eq!(digest(late, at(5)), digest(late, at(7)));
    }

    #[test]
    fn a_million_states_that_differ_in_little_do_not_collide() {
        let mut seen = std::collections::HashSet::new();
        for a in 0..1_000_u64 {
            for b in 0..1_000_u32 {
                assert!(seen.insert(digest(0, (a, b, [a as u8, b as u8]))));
            }
        }
    }
}
