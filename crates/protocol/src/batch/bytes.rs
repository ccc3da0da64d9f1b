//! Little-endian fields at fixed places (wire.md B1).

use twox_hash::XxHash3_64;

/// Reads fields one after the other. The caller has checked the length: a frame's size is fixed.
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl Fields<'_> {
    pub(super) fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let (field, rest) = self.0.split_first_chunk::<N>().expect("a frame of its fixed size");
        self.0 = rest;
        *field
    }

    pub(super) fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.bytes())
    }

    pub(super) fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.bytes())
    }

    pub(super) fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.bytes())
    }
}

/// Writes fields one after the other into a frame of fixed size.
pub(super) struct Frame<const N: usize> {
    bytes: [u8; N],
    used: usize,
}

impl<const N: usize> Frame<N> {
    pub(super) const fn new() -> Self {
        Self { bytes: [0; N], used: 0 }
    }

    pub(super) fn put(mut self, field: &[u8]) -> Self {
        self.bytes[self.used..self.used + field.len()].copy_from_slice(field);
        self.used += field.len();
        self
    }

    /// The frame, its last 8 bytes being the checksum of all before them (wire.md B2).
    pub(super) fn sealed(self) -> [u8; N] {
        let sum = XxHash3_64::oneshot(&self.bytes[..self.used]);
        let frame = self.put(&sum.to_le_bytes());
        assert_eq!(frame.used, N, "every byte of a frame is written");
        frame.bytes
    }
}

/// Whether the last 8 bytes are the checksum of all before them.
pub(super) fn is_sealed(frame: &[u8]) -> bool {
    frame
        .split_last_chunk::<8>()
        .is_some_and(|(body, sum)| XxHash3_64::oneshot(body) == u64::from_le_bytes(*sum))
}
