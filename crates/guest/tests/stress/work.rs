//! The stress guest at work: what it writes, how it stands still, and what it finds.

use std::time::Instant;

use whimbrel_engine::guest::{Guest, GuestDescription, GuestFactory, Throttle};
use whimbrel_engine::protocol::GuestUuid;
use whimbrel_guest::stress::{
    CheckReport, Damage, DirtyRate, Fill, HostLimits, KIND, Operations, Pattern, STATE_VERSION,
    Seed, StressFactory, StressGuest, StressMonitor, StressSpec, VcpuCount,
};
use whimbrel_memory::page::{ByteCount, Layout, PAGE_SIZE, PageCount, PageIndex, RegionId, Run};

use crate::common::*;

/// One vCPU: how often it wrote each page follows from how often it wrote at all.
fn alone() -> StressSpec {
    StressSpec { vcpus: VcpuCount(1), ..spec(DirtyRate::Max) }
}

#[test]
fn every_pattern_writes_its_working_set_and_one_page_more() {
    for pattern in Pattern::ALL {
        let (mut guest, monitor) = stress(StressSpec { pattern: *pattern, ..alone() });
        let before = snapshot(&guest.memory());
        work(&mut guest, &monitor, 40_000);
        let after = snapshot(&guest.memory());
        // 256 pages are spread over regions of 512 and 1024: 85 and 171, and the last page beats.
        for (region, (set, last)) in [(85, None), (171, Some(1023))].into_iter().enumerate() {
            let pages = before[region].chunks(PAGE_SIZE).zip(after[region].chunks(PAGE_SIZE));
            for (page, (before, after)) in pages.enumerate() {
                let written = page < set || Some(page) == last;
                assert_eq!(before != after, written, "{pattern}: page {page} of region {region}");
            }
        }
        clean(&monitor);
    }
}

#[test]
fn an_idle_guest_of_zeros_touches_nothing_but_its_heartbeat() {
    let idle = StressSpec { fill: Fill::Zero, ..spec(DirtyRate::Idle) };
    let (mut guest, monitor) = stress(idle);
    work(&mut guest, &monitor, 0);
    assert_eq!(guest.memory().touched().expect("known").count(), PageCount(1));
    assert_eq!(report(&monitor).operations, Operations(0));
    clean(&monitor);
    assert_eq!(guest.memory().touched().expect("known").count(), PageCount(1), "by the check");
}

#[test]
fn a_parked_guest_writes_nothing() {
    let (mut other, clock) = stress(spec(DirtyRate::Idle));
    other.resume().expect("parked");
    let (mut guest, monitor) = stress(spec(DirtyRate::Max));
    for _ in 0..20 {
        work(&mut guest, &monitor, 500);
        let (memory, counters) = (snapshot(&guest.memory()), report(&monitor));
        wait(&clock, 10);
        assert!(memory == snapshot(&guest.memory()), "memory changed while the guest was parked");
        assert_eq!(report(&monitor), counters);
    }
}

#[test]
fn a_running_guest_is_checked_while_it_runs() {
    for (pattern, fill) in [(Pattern::Zipf, Fill::Mixed), (Pattern::Uniform, Fill::Text)] {
        let (mut guest, monitor) = stress(StressSpec { pattern, fill, ..spec(DirtyRate::Max) });
        guest.resume().expect("parked");
        for _ in 0..5 {
            let before = report(&monitor).operations;
            clean(&monitor);
            until("working", || report(&monitor).operations > before);
        }
    }
}

#[test]
fn a_throttle_slows_and_off_restores() {
    let (mut other, clock) = stress(spec(DirtyRate::Idle));
    other.resume().expect("parked");
    let (mut guest, monitor) = stress(spec(DirtyRate::Max));
    guest.resume().expect("parked");
    let mut operations_in_a_while = |throttle| {
        guest.throttle(throttle).expect("possible");
        assert_eq!(report(&monitor).throttle, throttle);
        let start = report(&monitor).operations;
        wait(&clock, 200);
        report(&monitor).operations.0 - start.0
    };
    // Other work on the machine may hide it now and then, but not for ever.
    until("seeing the throttle", || {
        let slow = operations_in_a_while(Throttle::percent(90));
        let fast = operations_in_a_while(Throttle::OFF);
        slow > 0 && slow * 4 < fast
    });
}

#[test]
fn a_paced_guest_keeps_its_rate_roughly() {
    let (mut guest, monitor) = stress(spec(DirtyRate::PerSecond(ByteCount::mib(4))));
    let began = Instant::now();
    guest.resume().expect("parked");
    // 4 MiB a second are 1024 pages; faster than that would be wrong on the slowest machine.
    until("a second of work", || report(&monitor).operations >= Operations(1024));
    guest.pause().expect("running");
    let seconds = began.elapsed().as_secs_f64();
    let pages = report(&monitor).operations.0 as f64;
    assert!(pages < 1024.0 * (seconds + 0.2) * 3.0, "{pages} pages in {seconds} s");
}

/// Overwrites a page behind the guest's back and returns what the guest says.
fn damaged(
    guest: &StressGuest,
    monitor: &StressMonitor,
    page: u64,
    bytes: &[u8],
) -> (Damage, CheckReport) {
    let (memory, offset) = (guest.memory(), PageIndex(page).offset());
    let mut right = vec![0; PAGE_SIZE];
    memory.read(RegionId(0), offset, &mut right).expect("inside");
    memory.write(RegionId(0), offset, bytes).expect("inside");
    let report = monitor.self_check().expect("an answer");
    memory.write(RegionId(0), offset, &right).expect("inside");
    assert_eq!(report.bad(), PageCount(1), "{report}");
    let bad = report.examples[0];
    assert_eq!((bad.region, bad.page), (RegionId(0), PageIndex(page)));
    (bad.damage, report)
}

#[test]
fn the_self_check_finds_every_kind_of_damage() {
    for fill in Fill::ALL {
        let (mut guest, monitor) = stress(StressSpec { fill: *fill, ..alone() });
        work(&mut guest, &monitor, 2000);
        let old = snapshot(&guest.memory());
        let saved = guest.save_state().expect("parked");
        work(&mut guest, &monitor, 2000);
        let new = snapshot(&guest.memory());
        let page = |memory: &[Vec<u8>], page| memory[0][page * PAGE_SIZE..][..PAGE_SIZE].to_vec();
        let half = [&page(&old, 3)[..2048], &page(&new, 3)[2048..]].concat();
        let mut flipped = page(&new, 3);
        flipped[2500] ^= 0x40;

        let found = |bytes: &[u8]| damaged(&guest, &monitor, 3, bytes).0;
        assert_eq!(found(&page(&old, 3)), Damage::Stale, "{fill}");
        assert_eq!(found(&half), Damage::Torn, "{fill}");
        assert_eq!(found(&flipped), Damage::Torn, "{fill}");
        assert_eq!(found(&page(&new, 4)), Damage::Foreign, "{fill}");
        assert_eq!(found(&[0; PAGE_SIZE]), Damage::Lost, "{fill}");
        assert_eq!(found(&[0xa5; PAGE_SIZE]), Damage::Foreign, "{fill}");
        clean(&monitor);

        // The state of an earlier moment over newer memory: the guest would run twice.
        guest.load_state(&saved).expect("its own");
        let report = monitor.self_check().expect("an answer");
        assert!(report.ahead > PageCount(100), "{report}");
    }
}

#[test]
fn pages_that_nobody_writes_are_checked_too() {
    let (mut guest, monitor) = stress(StressSpec { fill: Fill::Zero, ..alone() });
    work(&mut guest, &monitor, 2000);
    let mut written = vec![0; PAGE_SIZE];
    guest.memory().read(RegionId(0), ByteCount(0), &mut written).expect("inside");
    assert_eq!(damaged(&guest, &monitor, 500, &written).0, Damage::Foreign);
    // Given back to the host, a page that should hold something is zero and not populated.
    let run = Run::new(RegionId(0), 0, 2);
    guest.memory().discard(run).expect("possible");
    let report = monitor.self_check().expect("an answer");
    assert_eq!((report.lost, report.bad()), (PageCount(2), PageCount(2)), "{report}");
}

/// A migration by hand: the parked guest's memory is copied, then its state.
#[test]
fn a_copied_guest_goes_on_where_it_stood() {
    for vcpus in [1, 5] {
        let busy = StressSpec { vcpus: VcpuCount(vcpus), ..spec(DirtyRate::Max) };
        let (mut source, monitor) = stress(busy);
        let memory = allocate();
        let (mut guest, slot) = destination(memory.clone());
        let arrived = slot.get().expect("made");
        monitor.begin_move();
        work(&mut source, &monitor, 3000);
        let early = source.save_state().expect("parked");
        guest.load_state(&early).expect("valid");
        work(&mut source, &monitor, 3000);
        for (bytes, region) in snapshot(&source.memory()).iter().zip(layout().regions()) {
            memory.write(region.id, ByteCount(0), bytes).expect("the same layout");
        }
        guest.load_state(&source.save_state().expect("parked")).expect("valid");
        let left = report(&monitor);
        drop(source);
        assert!(monitor.report().is_none() && monitor.self_check().is_err());

        clean(&arrived);
        assert_eq!(report(&arrived).operations, left.operations);
        assert_eq!((report(&arrived).beats, report(&arrived).spec), (left.beats, Some(busy)));
        guest.resume().expect("loaded");
        until("beating", || report(&arrived).beats_here.0 > 0);
        until("working", || report(&arrived).operations.0 >= left.operations.0 + 3000);
        clean(&arrived);
        guest.pause().expect("running");
        let now = report(&arrived);
        assert_eq!(now.beats.0, left.beats.0 + now.beats_here.0);
        assert!(now.blackout >= left.blackout && now.lost >= left.lost && !now.running);
        clean(&arrived);
    }
}

#[test]
fn a_guest_without_a_state_is_not_run() {
    let (mut guest, slot) = destination(allocate());
    let monitor = slot.get().expect("made");
    assert!(monitor.self_check().is_err());
    assert!(guest.resume().is_err() && guest.save_state().is_err());
    assert!(guest.load_state(&bytes::Bytes::from_static(b"nonsense")).is_err());
    let (mut source, _) = stress(spec(DirtyRate::Idle));
    let good = source.save_state().expect("parked");
    guest.load_state(&good).expect("valid");
    // Newer bytes that are wrong make the older ones no better.
    assert!(guest.load_state(&good.slice(1..)).is_err());
    assert!(guest.resume().is_err());
    let other = StressSpec { seed: Seed(8), ..spec(DirtyRate::Idle) };
    let (mut other, _) = stress(other);
    assert!(guest.load_state(&other.save_state().expect("parked")).is_err());
    guest.load_state(&good).expect("valid");
    guest.resume().expect("loaded");
    assert!(guest.load_state(&good).is_err() && guest.save_state().is_err(), "it runs");
}

#[test]
fn a_factory_says_what_cannot_live_here() {
    let factory = StressFactory::new(HostLimits::default());
    let good = GuestDescription {
        uuid: GuestUuid(1),
        name: String::new(),
        kind: KIND.to_owned(),
        state_version: STATE_VERSION,
    };
    let refusal = |guest| factory.check(&guest, &layout()).expect_err("refused");
    assert!(refusal(GuestDescription { kind: "kv".to_owned(), ..good.clone() }).contains("kv"));
    assert!(refusal(GuestDescription { state_version: 9, ..good.clone() }).contains('9'));
    let page = Layout::single(ByteCount(4096)).expect("valid");
    assert!(factory.check(&good, &page).is_err());
}
