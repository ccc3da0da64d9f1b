//! How fast a stress guest fills its memory, dirties it at full speed, and checks itself.
//!
//! `cargo run --release -p whimbrel-guest --example speed`

use std::time::{Duration, Instant};

use whimbrel_engine::guest::Guest;
use whimbrel_engine::protocol::GuestUuid;
use whimbrel_guest::stress::{
    DirtyRate, Fill, HostLimits, Operations, Pattern, StressConfig, StressGuest, StressSpec,
    VcpuCount,
};
use whimbrel_memory::page::{ByteCount, Layout};
use whimbrel_memory::{Backing, GuestMemory};

const MEMORY: ByteCount = ByteCount::mib(1024);
const SET: ByteCount = ByteCount::mib(256);
/// Page writes that are timed.
const WRITES: Operations = Operations(5_000_000);
const POLL: Duration = Duration::from_millis(2);

type Anything = Box<dyn std::error::Error>;

fn gib_per_second(bytes: ByteCount, time: Duration) -> f64 {
    bytes.0 as f64 / (1u64 << 30) as f64 / time.as_secs_f64()
}

fn run(memory: &GuestMemory, spec: StressSpec) -> Result<(), Anything> {
    let layout = memory.layout().clone();
    let config = StressConfig::new(spec, layout)?;
    let start = Instant::now();
    let limits = HostLimits::default();
    let mut guest = StressGuest::new(GuestUuid(1), "speed", config, memory.clone(), limits)?;
    let filled = start.elapsed();
    let monitor = guest.monitor();
    let start = Instant::now();
    guest.resume()?;
    while monitor.report().is_some_and(|report| report.operations < WRITES) {
        std::thread::park_timeout(POLL);
    }
    guest.pause()?;
    let ran = start.elapsed();
    let report = monitor.report().ok_or("the guest is gone")?;
    let start = Instant::now();
    let check = monitor.self_check()?;
    let checked = start.elapsed();
    println!(
        "{:<10} {:<6} {} vCPUs: fill {:5.2} GiB/s, dirty {:6.2} GiB/s ({:.1} M pages/s), \
         check {:5.2} GiB/s, lost {:?} of {ran:.1?}; {check}",
        spec.pattern,
        spec.fill,
        spec.vcpus.0,
        gib_per_second(MEMORY, filled),
        gib_per_second(ByteCount(report.operations.0 * 4096), ran),
        report.operations.0 as f64 / 1e6 / ran.as_secs_f64(),
        gib_per_second(MEMORY, checked),
        report.lost,
    );
    Ok(())
}

fn main() -> Result<(), Anything> {
    let memory = GuestMemory::allocate(&Layout::single(MEMORY)?, Backing::Private)?;
    println!("1 GiB, of which 256 MiB are written; the first line is over fresh memory");
    for pattern in Pattern::ALL {
        for vcpus in [1, 2] {
            let spec = StressSpec {
                working_set: SET,
                rate: DirtyRate::Max,
                pattern: *pattern,
                fill: Fill::Random,
                vcpus: VcpuCount(vcpus),
                ..StressSpec::default()
            };
            run(&memory, spec)?;
        }
    }
    Ok(())
}
