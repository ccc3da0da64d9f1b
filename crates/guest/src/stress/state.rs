//! The saved state of a stress guest: what is not in its memory, as bytes.
//!
//! ```text
//!   version u16 │ pattern u8 │ fill u8 │ vcpus u16 │ rate u64 │ working set u64 │ seed u64
//!   beats u64 │ last beat, longest gap, lost time: u64 each, in nanoseconds │ writes u64 × vcpus
//! ```
//!
//! Little-endian, and nothing else in it: a state that is longer or shorter is refused.

use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use whimbrel_memory::page::{ByteCount, Layout};

use super::config::{
    ConfigError, DirtyRate, Fill, Pattern, Seed, StressConfig, StressSpec, VCPUS_MAX, VcpuCount,
};
use super::heart::Pulse;
use super::schedule::WRITES_MAX;

/// The version of these bytes; a guest of another version does not move here.
pub const STATE_VERSION: u32 = 1;
const HEAD: usize = 2 + 1 + 1 + 2 + 8 * 3 + 8 * 4;
/// Rates in the bytes that are no number of bytes a second.
const RATE_IDLE: u64 = 0;
const RATE_MAX: u64 = u64::MAX;

/// Why bytes are no state of a guest with this memory.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum StateError {
    #[error(
        "the state has {found} bytes where {expected} belong: it was cut or is no stress state"
    )]
    Length { found: usize, expected: usize },
    #[error("the state has version {0}, this host reads {STATE_VERSION}: use one release on both")]
    Version(u16),
    #[error("the state has no {what} with the number {code}: it is damaged")]
    Code { what: &'static str, code: u8 },
    #[error("the state counts {0}, more than can ever be done: it is damaged")]
    Count(u64),
    #[error("the state does not fit this guest's memory: {0}")]
    Config(#[from] ConfigError),
}

/// Everything that moves beside memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SavedState {
    pub(crate) config: StressConfig,
    pub(crate) pulse: Pulse,
    /// Page writes done, one number a vCPU.
    pub(crate) writes: Vec<u64>,
}

/// How many bytes the state of a guest with so many vCPUs has.
pub(crate) const fn size(vcpus: usize) -> ByteCount {
    ByteCount((HEAD + vcpus * 8) as u64)
}

impl SavedState {
    pub(crate) fn encode(&self) -> Bytes {
        let spec = self.config.spec();
        let mut bytes = BytesMut::with_capacity(size(self.writes.len()).0 as usize);
        bytes.put_u16_le(STATE_VERSION as u16);
        bytes.put_u8(spec.pattern.code());
        bytes.put_u8(spec.fill.code());
        bytes.put_u16_le(spec.vcpus.0);
        bytes.put_u64_le(match spec.rate {
            DirtyRate::Idle => RATE_IDLE,
            DirtyRate::Max => RATE_MAX,
            DirtyRate::PerSecond(rate) => rate.0,
        });
        bytes.put_u64_le(spec.working_set.0);
        bytes.put_u64_le(spec.seed.0);
        bytes.put_u64_le(self.pulse.beats);
        for time in [self.pulse.last_beat, self.pulse.longest, self.pulse.lost] {
            bytes.put_u64_le(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
        }
        self.writes.iter().for_each(|count| bytes.put_u64_le(*count));
        bytes.freeze()
    }

    /// Reads bytes that came from a peer.
    pub(crate) fn decode(bytes: &[u8], layout: &Layout) -> Result<Self, StateError> {
        let mut rest = bytes;
        let version = rest.try_get_u16_le().map_err(|_| length(bytes, HEAD))?;
        if u32::from(version) != STATE_VERSION {
            return Err(StateError::Version(version));
        }
        if bytes.len() < HEAD {
            return Err(length(bytes, HEAD));
        }
        let spec = spec(&mut rest)?;
        // Before anything is made of the count: it says how much there is to allocate.
        let expected = HEAD + usize::from(spec.vcpus.0.min(VCPUS_MAX.0)) * 8;
        if bytes.len() != expected {
            return Err(length(bytes, expected));
        }
        let config = StressConfig::new(spec, layout.clone())?;
        let time = |bytes: &mut &[u8]| Duration::from_nanos(bytes.get_u64_le());
        let pulse = Pulse {
            beats: count(&mut rest)?,
            last_beat: time(&mut rest),
            longest: time(&mut rest),
            lost: time(&mut rest),
        };
        let writes = (0..spec.vcpus.0).map(|_| count(&mut rest)).collect::<Result<_, _>>()?;
        Ok(Self { config, pulse, writes })
    }
}

fn spec(bytes: &mut &[u8]) -> Result<StressSpec, StateError> {
    let (pattern, fill) = (bytes.get_u8(), bytes.get_u8());
    Ok(StressSpec {
        pattern: by_code("pattern", Pattern::ALL, |known| known.code(), pattern)?,
        fill: by_code("fill", Fill::ALL, |known| known.code(), fill)?,
        vcpus: VcpuCount(bytes.get_u16_le()),
        rate: match bytes.get_u64_le() {
            RATE_IDLE => DirtyRate::Idle,
            RATE_MAX => DirtyRate::Max,
            rate => DirtyRate::PerSecond(ByteCount(rate)),
        },
        working_set: ByteCount(bytes.get_u64_le()),
        seed: Seed(bytes.get_u64_le()),
    })
}

fn by_code<T: Copy>(
    what: &'static str,
    known: &[T],
    code_of: fn(&T) -> u8,
    code: u8,
) -> Result<T, StateError> {
    let found = known.iter().find(|known| code_of(known) == code);
    found.copied().ok_or(StateError::Code { what, code })
}

fn count(bytes: &mut &[u8]) -> Result<u64, StateError> {
    let count = bytes.get_u64_le();
    if count > WRITES_MAX { Err(StateError::Count(count)) } else { Ok(count) }
}

const fn length(bytes: &[u8], expected: usize) -> StateError {
    StateError::Length { found: bytes.len(), expected }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn layout() -> Layout {
        Layout::single(ByteCount::mib(16)).expect("valid")
    }

    fn state() -> SavedState {
        let spec = StressSpec {
            working_set: ByteCount::mib(1),
            pattern: Pattern::Zipf,
            fill: Fill::Mixed,
            vcpus: VcpuCount(3),
            seed: Seed(0x0102_0304),
            ..StressSpec::default()
        };
        let micros = Duration::from_micros;
        SavedState {
            config: StressConfig::new(spec, layout()).expect("valid"),
            pulse: Pulse { beats: 77, last_beat: micros(5), longest: micros(6), lost: micros(7) },
            writes: vec![1, 0, WRITES_MAX],
        }
    }

    #[test]
    fn reads_what_it_wrote() {
        for rate in [DirtyRate::Idle, DirtyRate::Max, DirtyRate::PerSecond(ByteCount(1))] {
            let mut state = state();
            let spec = StressSpec { rate, ..state.config.spec() };
            state.config = StressConfig::new(spec, layout()).expect("valid");
            assert_eq!(SavedState::decode(&state.encode(), &layout()), Ok(state));
        }
    }

    #[test]
    fn the_bytes_are_as_the_page_above_says() {
        let bytes = state().encode();
        assert_eq!(size(3), ByteCount(bytes.len() as u64));
        assert_eq!(bytes[..6], [1, 0, 1, 3, 3, 0]);
        assert_eq!(bytes[6..14], (100u64 << 20).to_le_bytes());
        assert_eq!(bytes[22..30], [4, 3, 2, 1, 0, 0, 0, 0]);
    }

    #[test]
    fn refuses_what_is_not_its_own() {
        let good = state().encode().to_vec();
        let refused = |at: usize, byte: u8| {
            let mut bytes = good.clone();
            bytes[at] = byte;
            SavedState::decode(&bytes, &layout()).expect_err("refused")
        };
        assert_eq!(refused(0, 9), StateError::Version(9));
        assert_eq!(refused(2, 9), StateError::Code { what: "pattern", code: 9 });
        assert_eq!(refused(3, 9), StateError::Code { what: "fill", code: 9 });
        assert!(matches!(refused(4, 2), StateError::Length { .. }));
        assert!(matches!(refused(5, 255), StateError::Length { .. }));
        assert!(matches!(refused(20, 255), StateError::Config(_)));
        assert!(matches!(refused(37, 255), StateError::Count(_)));
        let small = Layout::single(ByteCount::kib(8)).expect("valid");
        assert!(matches!(SavedState::decode(&good, &small), Err(StateError::Config(_))));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
            keep in 0..=92usize,
        ) {
            let _ = SavedState::decode(&bytes, &layout());
            let mut mostly_right = state().encode()[..keep.min(86)].to_vec();
            mostly_right.extend_from_slice(&bytes);
            if let Ok(state) = SavedState::decode(&mostly_right, &layout()) {
                prop_assert_eq!(state.encode(), mostly_right);
            }
        }

        #[test]
        fn one_wrong_byte_never_makes_it_panic(at in 0..86usize, byte: u8) {
            let mut bytes = state().encode().to_vec();
            bytes[at] = byte;
            if let Ok(state) = SavedState::decode(&bytes, &layout()) {
                prop_assert_eq!(state.encode(), bytes);
            }
        }
    }
}
