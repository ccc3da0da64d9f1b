//! Guests to test with, and how to wait for what they do.

use std::time::{Duration, Instant};

use whimbrel_engine::guest::{Guest, GuestDescription, GuestFactory};
use whimbrel_engine::protocol::GuestUuid;
use whimbrel_guest::stress::{
    CheckReport, DirtyRate, HostLimits, KIND, MonitorSlot, Operations, STATE_VERSION, Seed,
    StressConfig, StressFactory, StressGuest, StressMonitor, StressReport, StressSpec, VcpuCount,
};
use whimbrel_memory::page::{ByteCount, Layout, PageCount, RegionId, RegionLayout};
use whimbrel_memory::{Backing, GuestMemory};

pub(crate) const WATCHDOG: Duration = Duration::from_secs(60);

pub(crate) fn layout() -> Layout {
    let region = |id, pages| RegionLayout { id: RegionId(id), size: PageCount(pages).bytes() };
    Layout::new(vec![region(0, 512), region(5, 1024)]).expect("valid")
}

pub(crate) fn allocate() -> GuestMemory {
    GuestMemory::allocate(&layout(), Backing::Private).expect("6 MiB")
}

pub(crate) fn spec(rate: DirtyRate) -> StressSpec {
    StressSpec {
        working_set: ByteCount::mib(1),
        rate,
        vcpus: VcpuCount(2),
        seed: Seed(7),
        ..StressSpec::default()
    }
}

pub(crate) fn stress(spec: StressSpec) -> (StressGuest, StressMonitor) {
    let config = StressConfig::new(spec, layout()).expect("fits");
    let made = StressGuest::new(GuestUuid(9), "test", config, allocate(), HostLimits::default());
    let guest = made.expect("a guest");
    let monitor = guest.monitor();
    (guest, monitor)
}

pub(crate) fn report(monitor: &StressMonitor) -> StressReport {
    monitor.report().expect("the guest is there")
}

#[track_caller]
pub(crate) fn until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < WATCHDOG, "{what} took too long");
        std::thread::park_timeout(Duration::from_millis(1));
    }
}

/// Runs the guest until it has done `more` operations, and parks it.
pub(crate) fn work(guest: &mut impl Guest, monitor: &StressMonitor, more: u64) {
    let goal = Operations(report(monitor).operations.0 + more);
    let beats = report(monitor).beats;
    guest.resume().expect("parked");
    until("working", || {
        let now = report(monitor);
        now.operations >= goal && now.beats > beats
    });
    guest.pause().expect("running");
}

/// Waits until another guest's heart has beaten so often: half a millisecond each.
pub(crate) fn wait(clock: &StressMonitor, beats: u64) {
    let goal = report(clock).beats.0 + beats;
    until("beating", || report(clock).beats.0 >= goal);
}

pub(crate) fn snapshot(memory: &GuestMemory) -> Vec<Vec<u8>> {
    let copy = |region: &RegionLayout| {
        let mut bytes = vec![0; region.size.0 as usize];
        memory.copy_run(region.run(), &mut bytes).expect("a region of it");
        bytes
    };
    memory.layout().regions().iter().map(copy).collect()
}

pub(crate) fn clean(monitor: &StressMonitor) -> CheckReport {
    let report = monitor.self_check().expect("an answer");
    assert!(report.is_clean(), "{report}");
    assert_eq!(report.pages_checked, layout().pages());
    report
}

/// A guest that waits for its memory and state, and where to find its monitor.
pub(crate) fn destination(memory: GuestMemory) -> (Box<dyn Guest>, MonitorSlot) {
    let mut factory = StressFactory::new(HostLimits::default());
    let description = GuestDescription {
        uuid: GuestUuid(9),
        name: "test".to_owned(),
        kind: KIND.to_owned(),
        state_version: STATE_VERSION,
    };
    factory.check(&description, memory.layout()).expect("fits");
    let guest = factory.create(&description, memory).expect("made");
    assert_eq!(guest.describe(), description);
    (guest, factory.monitors())
}
