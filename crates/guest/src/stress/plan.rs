//! Which page belongs to whom, and what it should hold: a config made ready for use.
//!
//! Pages are numbered through all regions, in the layout's order. The working set is the first
//! pages of each region; its pages are dealt out to the vCPUs in turn. The last page of the guest
//! is the heartbeat's. All others keep what they were filled with.

use whimbrel_memory::page::{Layout, PageCount, PageIndex, RegionId};

use super::config::StressConfig;
use super::content::{Content, PageName, Sequence};
use super::mix::mix2;
use super::schedule::Schedule;

/// One region in the numbering.
#[derive(Clone, Copy, Debug)]
struct Region {
    id: RegionId,
    /// The number of its first page.
    first: u64,
    /// How much of the working set lies in regions before it, and up to its end.
    set: (u64, u64),
}

/// Who writes a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    /// This vCPU; the page is this slot of its schedule.
    Vcpu { vcpu: usize, slot: u64 },
    /// The vCPU that beats.
    Heart,
    /// Nobody, ever.
    Nobody,
}

/// Everything that follows from a config.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) config: StressConfig,
    pub(crate) content: Content,
    /// One a vCPU.
    pub(crate) schedules: Vec<Schedule>,
    regions: Vec<Region>,
    pages: u64,
}

impl Plan {
    pub(crate) fn new(config: StressConfig) -> Self {
        let spec = config.spec();
        let (set, vcpus) = (config.working_pages().0, u64::from(spec.vcpus.0));
        let schedules = (0..vcpus).map(|vcpu| {
            let share = (set - vcpu).div_ceil(vcpus);
            Schedule::new(spec.pattern, share, mix2(spec.seed.0, vcpu))
        });
        Self {
            content: Content::new(spec.seed, spec.fill),
            schedules: schedules.collect(),
            regions: regions(config.layout(), set),
            pages: config.layout().pages().0,
            config,
        }
    }

    /// How many pages the guest has.
    pub(crate) const fn pages(&self) -> PageCount {
        PageCount(self.pages)
    }

    /// The page with this number, which the guest has, and where its region stands in the layout.
    pub(crate) fn page(&self, number: u64) -> (usize, PageName) {
        let position = self.regions.partition_point(|region| region.first <= number) - 1;
        let Region { id, first, .. } = self.regions[position];
        (position, PageName { region: id, page: PageIndex(number - first) })
    }

    /// Who writes the page with this number.
    pub(crate) fn owner(&self, number: u64) -> Owner {
        if number + 1 == self.pages {
            return Owner::Heart;
        }
        let region = &self.regions[self.page(number).0];
        let place = number - region.first + region.set.0;
        if place >= region.set.1 {
            return Owner::Nobody;
        }
        let vcpus = self.schedules.len() as u64;
        Owner::Vcpu { vcpu: (place % vcpus) as usize, slot: place / vcpus }
    }

    /// What `vcpu` writes after `n` writes.
    pub(crate) fn write_at(&self, vcpu: usize, n: u64) -> (PageName, Sequence) {
        let write = self.schedules[vcpu].page_at(n);
        let place = write.slot * self.schedules.len() as u64 + vcpu as u64;
        let region = &self.regions[self.regions.partition_point(|r| r.set.1 <= place)];
        let page = PageIndex(place - region.set.0);
        (PageName { region: region.id, page }, Sequence(write.sequence))
    }

    /// The page that the heartbeat writes.
    pub(crate) fn heart_page(&self) -> PageName {
        self.page(self.pages - 1).1
    }
}

/// Spreads `set` working pages over the regions by their sizes, sparing the guest's last page.
fn regions(layout: &Layout, set: u64) -> Vec<Region> {
    let writable = layout.pages().0 - 1;
    let upto = |page: u64| {
        let share = u128::from(page.min(writable)) * u128::from(set) / u128::from(writable);
        u64::try_from(share).expect("at most the working set")
    };
    let mut first = 0;
    let numbered = layout.regions().iter().map(|region| {
        let start = first;
        first += region.pages().0;
        Region { id: region.id, first: start, set: (upto(start), upto(first)) }
    });
    numbered.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stress::config::{Pattern, StressSpec, VcpuCount};
    use std::collections::HashSet;
    use whimbrel_memory::page::RegionLayout;

    fn plan(sizes: &[u64], set: u64, vcpus: u16, pattern: Pattern) -> Plan {
        let region = |(id, pages): (usize, &u64)| RegionLayout {
            id: RegionId(id as u32 * 7),
            size: PageCount(*pages).bytes(),
        };
        let layout = Layout::new(sizes.iter().enumerate().map(region).collect()).expect("valid");
        let spec = StressSpec {
            working_set: PageCount(set).bytes(),
            vcpus: VcpuCount(vcpus),
            pattern,
            ..StressSpec::default()
        };
        Plan::new(StressConfig::new(spec, layout).expect("valid"))
    }

    /// The pages that `vcpu` owns.
    fn owned(plan: &Plan, vcpu: usize) -> HashSet<PageName> {
        let mine = |n: &u64| matches!(plan.owner(*n), Owner::Vcpu { vcpu: v, .. } if v == vcpu);
        (0..plan.pages().0).filter(mine).map(|n| plan.page(n).1).collect()
    }

    #[test]
    fn what_vcpus_write_is_what_they_own_and_all_of_it() {
        for pattern in Pattern::ALL {
            for (sizes, set, vcpus) in
                [(&[100][..], 100, 1), (&[100], 7, 3), (&[1, 50, 3, 200], 60, 2), (&[5, 1], 6, 4)]
            {
                let plan = plan(sizes, set, vcpus, *pattern);
                let mut all = 0;
                for vcpu in 0..usize::from(vcpus) {
                    let owned = owned(&plan, vcpu);
                    let written = (0..20_000).map(|n| plan.write_at(vcpu, n).0);
                    assert_eq!(written.collect::<HashSet<_>>(), owned, "{pattern} {sizes:?}");
                    assert!(!owned.contains(&plan.heart_page()));
                    all += owned.len() as u64;
                }
                assert_eq!(all, plan.config.working_pages().0);
            }
        }
    }

    #[test]
    fn an_owner_counts_its_own_writes() {
        let plan = plan(&[40, 60], 50, 3, Pattern::Zipf);
        for number in 0..100 {
            let Owner::Vcpu { vcpu, slot } = plan.owner(number) else { continue };
            let writes = (0..500).filter(|n| plan.write_at(vcpu, *n).0 == plan.page(number).1);
            let sequence = plan.schedules[vcpu].sequence_after(500, slot);
            assert_eq!(writes.count() as u64, sequence);
        }
    }
}
