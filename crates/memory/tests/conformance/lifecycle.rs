//! Arming, disarming, and who may.

use whimbrel_memory::page::{PageIndex, PageSet};
use whimbrel_memory::{MemoryError, TrackerKind, open, probe};

use super::cases::{Case, R, fill, harvested, is_out_of_order, one, touch};

pub(crate) fn arms_again_after_disarming(case: Case) {
    let memory = case.memory(600);
    fill(&memory, 600);
    let mut tracker = case.tracker(&memory);
    for attempt in 0..3 {
        tracker.arm().expect("armed");
        touch(&memory, 5 + attempt);
        case.expect(&mut *tracker, &memory, &[one(5 + attempt)]);
        touch(&memory, 30);
        tracker.disarm().expect("disarmed");
        touch(&memory, 40);
    }
    tracker.disarm().expect("a second time changes nothing");
    tracker.arm().expect("armed");
    case.expect(&mut *tracker, &memory, &[]);
    touch(&memory, 40);
    case.expect(&mut *tracker, &memory, &[one(40)]);
}

pub(crate) fn dropping_disarms(case: Case) {
    let memory = case.memory(600);
    fill(&memory, 600);
    let tracker = case.armed(&memory);
    touch(&memory, 1);
    drop(tracker);
    touch(&memory, 2);
    let mut copy = [0; 4096];
    memory.write(R, PageIndex(3).offset(), &[9; 4096]).expect("in range");
    memory.copy_run(one(3), &mut copy).expect("in range");
    assert_eq!(copy, [9; 4096]);
    let mut tracker = case.armed(&memory);
    case.expect(&mut *tracker, &memory, &[]);
    touch(&memory, 4);
    case.expect(&mut *tracker, &memory, &[one(4)]);
}

pub(crate) fn one_owner_at_a_time(case: Case) {
    let memory = case.memory(600);
    fill(&memory, 600);
    let mut tracker = case.armed(&memory);
    for kind in TrackerKind::ALL {
        match open(kind, &memory.clone()) {
            Err(MemoryError::AlreadyTracked(owner)) => assert_eq!(owner, case.kind),
            // Another one that does not work here says that first.
            Err(MemoryError::Unsupported { kind: other, .. }) => assert_ne!(other, case.kind),
            other => panic!("{kind} was opened beside {}: {:?}", case.kind, other.err()),
        }
    }
    touch(&memory, 8);
    assert_eq!(probe(&memory).candidates.len(), TrackerKind::here().count());
    case.expect(&mut *tracker, &memory, &[one(8)]);
    drop(tracker);
    open(TrackerKind::Model, &memory).expect("free again");
}

pub(crate) fn calls_out_of_order_are_refused(case: Case) {
    let memory = case.memory(1);
    let mut tracker = case.tracker(&memory);
    let mut found = PageSet::new(memory.layout());
    assert!(is_out_of_order(tracker.harvest(&mut found)));
    assert!(is_out_of_order(tracker.harvest_paused(&mut found)));
    tracker.arm().expect("armed");
    assert!(is_out_of_order(tracker.arm()));
    tracker.harvest(&mut found).expect("still armed");
    tracker.disarm().expect("disarmed");
    assert!(is_out_of_order(tracker.harvest(&mut found)));
}

pub(crate) fn memories_do_not_mix(case: Case) {
    let memories: Vec<_> = (0..3).map(|_| case.memory(600)).collect();
    memories.iter().for_each(|memory| fill(memory, 600));
    let mut trackers: Vec<_> = memories.iter().map(|memory| case.armed(memory)).collect();
    memories.iter().zip(1..).for_each(|(memory, page)| touch(memory, page));
    trackers[1].disarm().expect("disarmed");
    touch(&memories[1], 50);
    for (index, page) in [(0, 1), (2, 3)] {
        case.expect(&mut *trackers[index], &memories[index], &[one(page)]);
    }
    drop(trackers.remove(0));
    touch(&memories[0], 60);
    touch(&memories[2], 61);
    assert!(harvested(&mut *trackers[1], &memories[2]).contains(R, PageIndex(61)));
}
