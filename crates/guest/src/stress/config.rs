//! What a stress guest is told to do, checked before anything is made of it.

use std::fmt;
use std::str::FromStr;

use whimbrel_memory::page::{ByteCount, Layout, PAGE_SIZE, PageCount};

/// vCPUs that write. At most this many, so that a destination can start their threads before it
/// knows how many are needed.
pub const VCPUS_MAX: VcpuCount = VcpuCount(16);

/// In which order the pages of the working set are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pattern {
    /// Every page as often as any other: pass after pass, each in a new shuffled order.
    #[default]
    Uniform,
    /// Few hot pages and a long tail: the share of a page falls with its rank (exponent 1).
    Zipf,
    /// From the first page to the last and again.
    Sequential,
    /// Uniform over a quarter of the working set for eight passes, then over the next quarter.
    Phases,
    /// A tenth of the pages, no neighbours, takes nine of ten writes.
    HotSpot,
}

/// What the guest's memory holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fill {
    /// Bytes that nothing compresses.
    #[default]
    Random,
    /// Untouched pages are zero, and written ones are zero but for what names them.
    Zero,
    /// Words of English, which compress to about a third.
    Text,
    /// Of four pages one is random, one zero and two are text.
    Mixed,
}

macro_rules! named {
    ($type:ident, $what:literal: $($variant:ident = $code:literal $name:literal),*) => {
        impl $type {
            /// Every one there is.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// The number that stands for it in saved state.
            pub(crate) const fn code(self) -> u8 {
                match self { $(Self::$variant => $code),* }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(match self { $(Self::$variant => $name),* })
            }
        }

        impl FromStr for $type {
            type Err = ConfigError;

            fn from_str(name: &str) -> Result<Self, ConfigError> {
                match name {
                    $($name => Ok(Self::$variant),)*
                    _ => Err(ConfigError::Name {
                        what: $what,
                        given: name.chars().take(32).collect(),
                        known: concat!($($name, " "),*).trim_ascii_end(),
                    }),
                }
            }
        }
    };
}
named!(Pattern, "pattern": Uniform = 0 "uniform", Zipf = 1 "zipf", Sequential = 2 "sequential",
    Phases = 3 "phases", HotSpot = 4 "hot-spot");
named!(Fill, "fill": Random = 0 "random", Zero = 1 "zero", Text = 2 "text", Mixed = 3 "mixed");

/// How fast the guest as a whole writes pages. A written page counts as 4096 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DirtyRate {
    /// The working set is left alone; only the heartbeat writes its one page.
    Idle,
    /// So many bytes of pages a second.
    PerSecond(ByteCount),
    /// As fast as the processors let it.
    Max,
}

/// A number of vCPUs that write; the one that beats is not counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct VcpuCount(pub u16);

/// The number that everything pseudo-random about a guest is derived from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seed(pub u64);

/// What a stress guest does, as somebody asked for it: [`StressConfig::new`] checks it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StressSpec {
    /// The memory that is written again and again: the first pages of each region, each region
    /// giving its share.
    pub working_set: ByteCount,
    /// How fast it is written.
    pub rate: DirtyRate,
    /// In which order.
    pub pattern: Pattern,
    /// What the pages hold.
    pub fill: Fill,
    /// How many vCPUs write it; each has its own share of the pages.
    pub vcpus: VcpuCount,
    /// Another seed is another guest, whose pages are foreign to this one.
    pub seed: Seed,
}

impl Default for StressSpec {
    fn default() -> Self {
        Self {
            working_set: ByteCount::mib(256),
            rate: DirtyRate::PerSecond(ByteCount::mib(100)),
            pattern: Pattern::default(),
            fill: Fill::default(),
            vcpus: VcpuCount(1),
            seed: Seed::default(),
        }
    }
}

/// Why a guest cannot be made as it was asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// No name of a pattern or fill.
    #[error("there is no {what} {given:?}: choose one of {known}")]
    Name {
        /// Pattern or fill.
        what: &'static str,
        /// What was asked for.
        given: String,
        /// What there is.
        known: &'static str,
    },
    /// Not whole pages, or none.
    #[error("a working set of {0}: it must be a multiple of 4096 and at least one page")]
    WorkingSet(ByteCount),
    /// More than there is.
    #[error("a working set of {working_set} is larger than the guest's memory of {memory}")]
    LargerThanMemory {
        /// What was asked for.
        working_set: ByteCount,
        /// All regions together.
        memory: ByteCount,
    },
    /// The heartbeat has a page of its own.
    #[error("a memory of one page: the guest needs at least two, one of them for its heartbeat")]
    OnePage,
    /// None, or too many.
    #[error("{} vCPUs: a stress guest has 1 to {max}", .0.0, max = VCPUS_MAX.0)]
    Vcpus(VcpuCount),
    /// A vCPU would have nothing to write.
    #[error("{} vCPUs share a working set of {pages}: each needs at least one page", vcpus.0)]
    PagesForVcpus {
        /// What was asked for.
        vcpus: VcpuCount,
        /// What there is to share.
        pages: PageCount,
    },
    /// 0 is spelt [`DirtyRate::Idle`].
    #[error("a dirty rate of 0 bytes a second: ask for an idle guest instead")]
    ZeroRate,
}

/// A [`StressSpec`] that fits a memory layout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StressConfig {
    spec: StressSpec,
    layout: Layout,
}

impl StressConfig {
    /// Checks `spec` against the memory it is meant for.
    ///
    /// A working set that is the whole memory is cut by the one page of the heartbeat.
    ///
    /// # Errors
    /// [`ConfigError`] says what does not fit.
    pub fn new(spec: StressSpec, layout: Layout) -> Result<Self, ConfigError> {
        let (set, memory) = (spec.working_set, layout.bytes());
        if set.0 == 0 || !set.0.is_multiple_of(PAGE_SIZE as u64) {
            return Err(ConfigError::WorkingSet(set));
        }
        if set > memory {
            return Err(ConfigError::LargerThanMemory { working_set: set, memory });
        }
        if layout.pages() < PageCount(2) {
            return Err(ConfigError::OnePage);
        }
        if spec.vcpus == VcpuCount(0) || spec.vcpus > VCPUS_MAX {
            return Err(ConfigError::Vcpus(spec.vcpus));
        }
        if spec.rate == DirtyRate::PerSecond(ByteCount::ZERO) {
            return Err(ConfigError::ZeroRate);
        }
        let config = Self { spec, layout };
        let pages = config.working_pages();
        if u64::from(spec.vcpus.0) > pages.0 {
            return Err(ConfigError::PagesForVcpus { vcpus: spec.vcpus, pages });
        }
        Ok(config)
    }

    /// What was asked for.
    #[must_use]
    pub const fn spec(&self) -> StressSpec {
        self.spec
    }

    /// The memory it was checked against.
    #[must_use]
    pub const fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The pages that are written, without the heartbeat's.
    #[must_use]
    pub fn working_pages(&self) -> PageCount {
        PageCount::covering(self.spec.working_set).min(self.layout.pages() - PageCount(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(pages: u64) -> Layout {
        Layout::single(PageCount(pages).bytes()).expect("valid")
    }

    fn spec(pages: u64, vcpus: u16) -> StressSpec {
        StressSpec {
            working_set: PageCount(pages).bytes(),
            vcpus: VcpuCount(vcpus),
            ..StressSpec::default()
        }
    }

    #[test]
    fn takes_what_fits() {
        let config = StressConfig::new(spec(10, 2), layout(20)).expect("fits");
        assert_eq!(config.working_pages(), PageCount(10));
        let all = StressConfig::new(spec(20, 2), layout(20)).expect("fits but for a page");
        assert_eq!(all.working_pages(), PageCount(19));
    }

    #[test]
    fn says_what_does_not_fit() {
        let refused = |spec, pages| StressConfig::new(spec, layout(pages)).expect_err("refused");
        assert_eq!(refused(spec(0, 1), 20), ConfigError::WorkingSet(ByteCount(0)));
        let odd = StressSpec { working_set: ByteCount(5000), ..spec(1, 1) };
        assert_eq!(refused(odd, 20), ConfigError::WorkingSet(ByteCount(5000)));
        assert!(matches!(refused(spec(21, 1), 20), ConfigError::LargerThanMemory { .. }));
        assert_eq!(refused(spec(1, 1), 1), ConfigError::OnePage);
        assert_eq!(refused(spec(9, 0), 20), ConfigError::Vcpus(VcpuCount(0)));
        assert_eq!(refused(spec(19, 17), 20), ConfigError::Vcpus(VcpuCount(17)));
        let shared = ConfigError::PagesForVcpus { vcpus: VcpuCount(2), pages: PageCount(1) };
        assert_eq!(refused(spec(2, 2), 2), shared);
        let still = StressSpec { rate: DirtyRate::PerSecond(ByteCount(0)), ..spec(1, 1) };
        assert_eq!(refused(still, 20), ConfigError::ZeroRate);
    }

    #[test]
    fn names_are_read_as_they_are_written() {
        for pattern in Pattern::ALL {
            assert_eq!(pattern.to_string().parse(), Ok(*pattern));
        }
        for fill in Fill::ALL {
            assert_eq!(fill.to_string().parse(), Ok(*fill));
        }
        let message = "gauss".parse::<Pattern>().expect_err("unknown").to_string();
        assert_eq!(
            message,
            "there is no pattern \"gauss\": choose one of uniform zipf sequential phases \
             hot-spot"
        );
    }
}
