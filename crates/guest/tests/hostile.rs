//! The saved state of a guest comes from a peer: whatever bytes that are, a loader takes what a
//! guest of its kind may have saved, and refuses the rest with a sentence.

use std::cell::RefCell;

use bytes::Bytes;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use whimbrel_engine::guest::{Guest, GuestDescription, GuestFactory, STATE_SIZE_MAX};
use whimbrel_engine::protocol::GuestUuid;
use whimbrel_guest::kv::{KvFactory, KvGuest};
use whimbrel_guest::stress::{
    HostLimits, StressConfig, StressFactory, StressGuest, StressSpec, VcpuCount,
};
use whimbrel_memory::page::{ByteCount, Layout, RegionId};
use whimbrel_memory::{Backing, GuestMemory};

const REGION: RegionId = RegionId(0);

fn memory() -> GuestMemory {
    let layout = Layout::single(ByteCount::mib(1)).expect("valid");
    GuestMemory::allocate(&layout, Backing::Private).expect("a mebibyte")
}

/// A parked guest, made of the memory that another one left, and the state which that one saved.
struct Arrived {
    guest: Box<dyn Guest>,
    memory: GuestMemory,
    state: Vec<u8>,
}

fn arrived(mut factory: impl GuestFactory, mut from: impl Guest) -> Arrived {
    let state = from.save_state().expect("parked").to_vec();
    let (description, memory): (GuestDescription, _) = (from.describe(), from.memory());
    drop(from);
    let guest = factory.create(&description, memory.clone()).expect("made");
    Arrived { guest, memory, state }
}

fn stress() -> Arrived {
    let memory = memory();
    let working_set = ByteCount::kib(64);
    let spec = StressSpec { working_set, vcpus: VcpuCount(3), ..StressSpec::default() };
    let config = StressConfig::new(spec, memory.layout().clone()).expect("fits");
    let limits = HostLimits::default();
    let from = StressGuest::new(GuestUuid(1), "g", config, memory, limits).expect("made");
    arrived(StressFactory::new(limits), from)
}

fn kv() -> Arrived {
    arrived(KvFactory::default(), KvGuest::new(GuestUuid(1), "g", memory()).expect("made"))
}

/// A good state, cut, continued and with some bits wrong; or any bytes at all.
fn hostile(good: Vec<u8>) -> impl Strategy<Value = Vec<u8>> {
    let bits = good.len() * 8;
    let damage = (
        0..=good.len(),
        proptest::collection::vec(0..bits, 0..4),
        proptest::collection::vec(any::<u8>(), 0..40),
    );
    let damaged = damage.prop_map(move |(keep, flips, more)| {
        let mut bytes = good.clone();
        flips.iter().for_each(|bit| bytes[bit / 8] ^= 1 << (bit % 8));
        bytes.truncate(keep);
        bytes.extend(more);
        bytes
    });
    prop_oneof![3 => damaged, 1 => proptest::collection::vec(any::<u8>(), 0..600)]
}

impl Arrived {
    /// Whether it takes a state; one that it refuses is named.
    fn takes(&mut self, state: Vec<u8>) -> bool {
        match self.guest.load_state(&Bytes::from(state)) {
            Ok(()) => true,
            Err(error) => {
                assert_eq!(error.what, "load its state");
                assert!(error.why.len() > 10, "{error}");
                false
            }
        }
    }

    /// Nothing panics, and what is taken is a state that this guest could have saved itself.
    fn assert_holds(mut self) {
        let good = self.state.clone();
        let config =
            ProptestConfig { cases: 2000, failure_persistence: None, ..Default::default() };
        let mut runner = TestRunner::new(config);
        // The runner wants to call it by reference.
        let arrived = RefCell::new(&mut self);
        let held = runner.run(&hostile(good.clone()), |bytes| {
            let (mut arrived, length) = (arrived.borrow_mut(), bytes.len());
            if arrived.takes(bytes) {
                let again = arrived.guest.save_state().expect("it has one");
                prop_assert_eq!(again.len(), length);
            }
            Ok(())
        });
        held.expect("it holds");
        // The longest state that the wire lets through, and none.
        assert!(!self.takes(vec![0xff; STATE_SIZE_MAX]));
        let longest = good.iter().copied().cycle().take(STATE_SIZE_MAX).collect();
        assert!(!self.takes(longest));
        assert!(!self.takes(Vec::new()));
        let error = self.guest.save_state().expect_err("what was refused is not passed on");
        assert!(error.why.contains("load"), "{error}");
    }
}

#[test]
fn a_stress_guest_takes_no_state_that_is_none() {
    stress().assert_holds();
}

#[test]
fn a_key_value_guest_takes_no_state_that_is_none() {
    kv().assert_holds();
}

/// The head of a store is as much of the peer's making as its state.
#[test]
fn memory_whose_head_is_damaged_is_no_store() {
    let Arrived { mut guest, memory, state } = kv();
    let state = Bytes::from(state);
    guest.load_state(&state).expect("it is whole");
    for at in [0, 8, 16].map(ByteCount) {
        let whole = memory.load_u64(REGION, at).expect("inside");
        for bit in 0..64 {
            memory.store_u64(REGION, at, whole ^ (1 << bit)).expect("inside");
            guest.load_state(&state).expect_err("another store, or none");
        }
        memory.store_u64(REGION, at, whole).expect("inside");
    }
    guest.load_state(&state).expect("it is whole again");
}
