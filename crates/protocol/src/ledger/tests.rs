//! The ledger against a model in which every page's content is a number.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::vec::Vec;
use std::{format, vec};

use proptest::prelude::*;
use whimbrel_page::{
    ByteCount, Disposition, Layout, Leaf, LeafSum, LeafTable, PageCount, PageIndex, PageSet,
    RegionId, RegionLayout, Run,
};

use super::{AckFault, Ledger, LedgerEvent, Pass, RoundNumber, Take};
use crate::{BatchSeq, LaneId, LaneMark};

const PAGES: [(u32, u64); 2] = [(7, 70), (3, 30)];
const LANES: usize = 3;
/// What a garbled page turns into.
const GARBLED: u64 = 1000;

type Place = (RegionId, PageIndex);

fn layout() -> Layout {
    let region = |(id, pages)| RegionLayout { id: RegionId(id), size: PageCount(pages).bytes() };
    Layout::new(PAGES.map(region).to_vec()).expect("valid")
}

fn leaf(content: u64) -> Leaf {
    if content == 0 { Leaf::Zero } else { Leaf::Known(u128::from(content) << 64 | 7) }
}

fn places(run: Run) -> impl Iterator<Item = Place> {
    run.pages().map(move |page| (run.region, page))
}

#[derive(Clone, Debug)]
enum Op {
    /// The guest writes.
    Write {
        place: usize,
        content: u64,
    },
    Harvest,
    /// What the next harvest will find is told before.
    Written,
    Round {
        until_empty: bool,
    },
    Take {
        lane: usize,
        budget: u64,
    },
    /// Take more into what was taken last.
    TakeMore {
        lane: usize,
        budget: u64,
    },
    /// Copy, digest, send.
    Send {
        lane: usize,
    },
    /// The destination lands the oldest batch under way, garbling one page of it or not.
    Land {
        lane: usize,
        garble: bool,
    },
    Ack {
        lane: usize,
    },
    Lose {
        lane: usize,
        marked: bool,
    },
    Spoil {
        place: usize,
    },
}

fn op() -> impl Strategy<Value = Op> {
    let place = 0..100_usize;
    let lane = 0..LANES;
    prop_oneof![
        4 => (place.clone(), 0..4_u64).prop_map(|(place, content)| Op::Write { place, content }),
        2 => Just(Op::Harvest),
        2 => Just(Op::Written),
        2 => any::<bool>().prop_map(|until_empty| Op::Round { until_empty }),
        6 => (lane.clone(), 1..20_u64).prop_map(|(lane, budget)| Op::Take { lane, budget }),
        3 => (lane.clone(), 1..9_u64).prop_map(|(lane, budget)| Op::TakeMore { lane, budget }),
        6 => lane.clone().prop_map(|lane| Op::Send { lane }),
        6 => (lane.clone(), prop::bool::weighted(0.02))
            .prop_map(|(lane, garble)| Op::Land { lane, garble }),
        6 => lane.clone().prop_map(|lane| Op::Ack { lane }),
        1 => (lane, any::<bool>()).prop_map(|(lane, marked)| Op::Lose { lane, marked }),
        1 => place.prop_map(|place| Op::Spoil { place }),
    ]
}

/// One lane: its taking, the batches on the wire, and what the destination landed of it.
struct LaneModel {
    id: LaneId,
    take: Option<Take>,
    wire: VecDeque<(BatchSeq, Vec<(Place, u64)>)>,
    mark: LaneMark,
}

struct World {
    ledger: Ledger,
    guest: BTreeMap<Place, u64>,
    destination: BTreeMap<Place, u64>,
    dirty: PageSet,
    lanes: Vec<LaneModel>,
    opened: u16,
    round: RoundNumber,
}

impl World {
    fn new() -> Self {
        let all: Vec<_> = layout().regions().iter().flat_map(|r| places(r.run())).collect();
        let zero: BTreeMap<_, _> = all.into_iter().map(|place| (place, 0)).collect();
        let mut world = Self {
            ledger: Ledger::new(&layout()),
            guest: zero.clone(),
            destination: zero,
            dirty: PageSet::new(&layout()),
            lanes: vec![],
            opened: 0,
            round: RoundNumber(0),
        };
        (0..LANES).for_each(|_| {
            let lane = world.open();
            world.lanes.push(lane);
        });
        world
    }

    fn open(&mut self) -> LaneModel {
        let id = LaneId(self.opened);
        self.opened += 1;
        self.ledger.open_lane(id);
        let mark = LaneMark { lane: id, batch: BatchSeq(0), sum: LeafSum::ZERO };
        LaneModel { id, take: None, wire: VecDeque::new(), mark }
    }

    fn place(&self, number: usize) -> Place {
        *self.guest.keys().nth(number).expect("100 pages")
    }

    fn apply(&mut self, op: &Op) {
        match *op {
            Op::Write { place, content } => self.write(self.place(place), content),
            Op::Harvest => self.harvest(),
            Op::Written => drop(self.ledger.written(&self.dirty)),
            Op::Round { until_empty } => {
                let pass = if until_empty { Pass::UntilEmpty } else { Pass::Once };
                self.round = self.round.next();
                self.ledger.start_round(self.round, pass);
            }
            Op::Take { lane, budget } => self.take(lane, budget),
            Op::TakeMore { lane, budget } => self.take_more(lane, budget),
            Op::Send { lane } => self.send(lane),
            Op::Land { lane, garble } => self.land(lane, garble),
            Op::Ack { lane } => self.ack(lane),
            Op::Lose { lane, marked } => self.lose(lane, marked),
            Op::Spoil { place } => {
                let (region, page) = self.place(place);
                self.ledger.spoil(Run::new(region, page.0, 1));
            }
        }
    }

    fn write(&mut self, place: Place, content: u64) {
        self.guest.insert(place, content);
        self.dirty.insert(Run::new(place.0, place.1.0, 1));
    }

    fn harvest(&mut self) {
        self.ledger.harvested(&self.dirty);
        self.dirty.clear();
    }

    fn take(&mut self, lane: usize, budget: u64) {
        if self.lanes[lane].take.is_some() {
            return;
        }
        let mut take = Take::default();
        if self.ledger.take(self.lanes[lane].id, PageCount(budget), &mut take) == PageCount::ZERO {
            return;
        }
        assert!(take.pages().0 <= budget);
        self.check_taking(&take);
        self.lanes[lane].take = Some(take);
    }

    fn take_more(&mut self, lane: usize, budget: u64) {
        let Some(mut take) = self.lanes[lane].take.take() else { return };
        let before = take.pages();
        let more = self.ledger.take_more(self.lanes[lane].id, PageCount(budget), &mut take);
        assert!(more.0 <= budget && take.pages() == before + more);
        self.check_taking(&take);
        self.lanes[lane].take = Some(take);
    }

    fn check_taking(&self, take: &Take) {
        let taken: Vec<_> = take.runs().iter().flat_map(|run| places(*run)).collect();
        for place in &taken {
            assert!(!self.under_way().contains(place), "a second copy of {place:?} is under way");
        }
        let order = |(region, page): &Place| (layout().position(*region), *page);
        let ascends = taken.windows(2).all(|two| order(&two[0]) < order(&two[1]));
        assert!(ascends, "a taking is in ascending order: {:?}", take.runs());
    }

    /// Every page that was taken and of which the source has no acknowledgement.
    fn under_way(&self) -> BTreeSet<Place> {
        let batches = self.lanes.iter().flat_map(|lane| &lane.wire);
        let sent = batches.flat_map(|(_, pages)| pages.iter().map(|(place, _)| *place));
        let taken = self.lanes.iter().filter_map(|lane| lane.take.as_ref());
        let taken = taken.flat_map(|take| take.runs().iter().flat_map(|run| places(*run)));
        sent.chain(taken).collect()
    }

    fn send(&mut self, lane: usize) {
        let Some(mut take) = self.lanes[lane].take.take() else { return };
        let copies: Vec<_> = take.runs().iter().flat_map(|run| places(*run)).collect();
        for place in &copies {
            take.found(leaf(self.guest[place]));
        }
        let mut batch = vec![];
        for (region, page, disposition) in take.dispositions() {
            let (place, content) = ((region, page), self.guest[&(region, page)]);
            match disposition {
                Disposition::Unchanged => assert_eq!(
                    self.destination[&place], content,
                    "{place:?} was not sent, though the destination holds something else"
                ),
                Disposition::Zero => assert_eq!(content, 0),
                Disposition::Raw => assert_ne!(content, 0),
            }
            if disposition != Disposition::Unchanged {
                batch.push((place, content));
            }
        }
        let sent = self.ledger.sent(self.lanes[lane].id, &take, ByteCount(batch.len() as u64));
        assert_eq!(sent.is_some(), !batch.is_empty());
        self.lanes[lane].wire.extend(sent.map(|seq| (seq, batch)));
    }

    fn land(&mut self, lane: usize, garble: bool) {
        let lane = &mut self.lanes[lane];
        let due = lane.mark.batch.next();
        // Batches before `due` have landed and wait for the source to hear of it.
        let Some((seq, pages)) = lane.wire.iter().find(|(seq, _)| *seq == due) else { return };
        for (number, ((region, page), content)) in pages.iter().enumerate() {
            let content = content + if garble && number == 0 { GARBLED } else { 0 };
            self.destination.insert((*region, *page), content);
            lane.mark.sum = lane.mark.sum.plus(leaf(content).mix(*region, *page));
        }
        lane.mark.batch = *seq;
    }

    fn ack(&mut self, number: usize) {
        let lane = &mut self.lanes[number];
        match self.ledger.acked(lane.id, lane.mark.batch, lane.mark.sum) {
            Ok(()) => lane.wire.retain(|(seq, _)| *seq > lane.mark.batch),
            Err(AckFault::Differs(_)) => self.lose(number, true),
            Err(other) => panic!("{other}"),
        }
    }

    fn lose(&mut self, number: usize, marked: bool) {
        let fresh = self.open();
        let lane = std::mem::replace(&mut self.lanes[number], fresh);
        self.ledger.lane_lost(lane.id, marked.then_some(lane.mark));
    }

    /// What was written, or differs at the destination, is pending or under way.
    fn check_nothing_lost(&self) {
        let under_way = self.under_way();
        assert_eq!(self.ledger.in_flight(), PageCount(under_way.len() as u64));
        for (place, content) in &self.guest {
            let (region, page) = *place;
            let accounted = self.dirty.contains(region, page)
                || self.ledger.pending.contains(region, page)
                || under_way.contains(place);
            assert!(accounted || self.destination[place] == *content, "{place:?} is lost");
            let committed = self.ledger.committed(region, page);
            let told = matches!(committed, Leaf::Unknown)
                || under_way.contains(place)
                || committed.agrees(leaf(self.destination[place]));
            assert!(told, "{place:?}: {committed:?} is committed, which is not there");
        }
    }

    /// The last round, with nobody writing: everything must come across.
    fn finish(&mut self) {
        (0..LANES).for_each(|lane| self.send(lane));
        self.harvest();
        self.round = self.round.next();
        self.ledger.start_round(self.round, Pass::UntilEmpty);
        self.ledger.await_drained(PageCount::ZERO);
        let mut seen = vec![];
        for turn in 0_usize.. {
            assert!(turn < 1000, "the last round does not end");
            let lane = turn % LANES;
            self.take(lane, 9);
            self.send(lane);
            self.land(lane, false);
            self.ack(lane);
            seen.extend(std::iter::from_fn(|| self.ledger.poll()));
            if seen.last() == Some(&LedgerEvent::Drained) {
                break;
            }
        }
        assert_eq!(self.guest, self.destination);
        let taken = seen.iter().find_map(|event| match event {
            LedgerEvent::RoundTaken(tally) => Some(*tally),
            LedgerEvent::Drained => None,
        });
        let tally = taken.expect("a round that drained was taken");
        assert_eq!(tally.number, self.round);
        assert_eq!(tally.pages, tally.raw + tally.zero + tally.unchanged);
        assert_eq!(self.ledger.pending(), PageCount::ZERO);
    }

    fn destination_table(&self) -> LeafTable {
        let mut table = LeafTable::new(&layout());
        for ((region, page), content) in &self.destination {
            table.set(*region, *page, leaf(*content));
        }
        table
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_lost_overtaken_or_believed(ops in prop::collection::vec(op(), 1..200)) {
        let mut world = World::new();
        for op in &ops {
            world.apply(op);
            world.check_nothing_lost();
        }
        world.finish();
        let root = world.ledger.table().root();
        prop_assert!(root.agrees(world.destination_table().root()), "{}", format!("{root:?}"));
    }
}

/// A world in which every page was written.
fn written() -> World {
    let mut world = World::new();
    (0..100).for_each(|place| world.write(world.place(place), 1 + place as u64));
    world.harvest();
    world.ledger.start_round(RoundNumber(0), Pass::Once);
    world
}

#[test]
fn the_root_is_known_before_the_last_batch_has_landed() {
    let mut world = written();
    world.ledger.spoil(Run::new(RegionId(7), 3, 5));
    world.take(0, 100);
    world.send(0);
    let root = world.ledger.root_when_landed();
    assert!(!world.ledger.table().root().agrees(root));
    world.land(0, false);
    assert!(root.agrees(world.destination_table().root()));
}

#[test]
fn a_garbled_batch_is_found_and_goes_again() {
    let mut world = written();
    world.take(0, 10);
    world.send(0);
    world.land(0, true);
    let mark = world.lanes[0].mark;
    let fault = world.ledger.acked(mark.lane, mark.batch, mark.sum);
    assert_eq!(fault, Err(AckFault::Differs(BatchSeq(1))));
    assert_eq!(world.ledger.in_flight(), PageCount(10), "it may still be landing");
    world.lose(0, true);
    assert_eq!(world.ledger.in_flight(), PageCount::ZERO);
    assert!(matches!(world.ledger.committed(RegionId(7), PageIndex(0)), Leaf::Unknown));
    world.finish();
}

#[test]
fn an_ack_of_what_was_not_sent_is_refused() {
    let mut world = written();
    world.take(0, 10);
    world.send(0);
    let lane = world.lanes[0].id;
    let fault = world.ledger.acked(lane, BatchSeq(2), LeafSum::ZERO);
    assert_eq!(fault, Err(AckFault::NotInFlight(BatchSeq(2))));
    assert_eq!(world.ledger.acked(lane, BatchSeq(0), LeafSum::ZERO), Ok(()));
}

#[test]
fn nothing_is_taken_after_the_end_of_a_round() {
    let mut world = written();
    world.take(0, 10);
    world.ledger.end_round();
    world.ledger.await_drained(PageCount::ZERO);
    world.take(1, 10);
    assert!(world.lanes[1].take.is_none());
    assert_eq!(world.ledger.poll(), None, "lane 0 has something under way");
    world.send(0);
    world.land(0, false);
    world.ack(0);
    assert_eq!(world.ledger.poll(), Some(LedgerEvent::Drained));
    assert_eq!(world.ledger.pending(), PageCount(90));
    world.ledger.start_round(RoundNumber(1), Pass::Once);
    world.take(1, 10);
    assert!(world.lanes[1].take.is_some());
}

#[test]
fn drained_is_said_at_the_mark_that_was_asked_for() {
    let mut world = written();
    world.ledger.await_drained(PageCount(1000));
    world.ledger.start_round(RoundNumber(0), Pass::Once);
    world.ledger.await_drained(PageCount(40));
    world.take(0, 50);
    world.send(0);
    world.take(1, 50);
    world.send(1);
    assert!(matches!(world.ledger.poll(), Some(LedgerEvent::RoundTaken(_))));
    world.land(0, false);
    world.ack(0);
    assert_eq!(world.ledger.poll(), None, "50 are in flight");
    world.land(1, false);
    world.ack(1);
    assert_eq!(world.ledger.poll(), Some(LedgerEvent::Drained));
    assert_eq!(world.ledger.poll(), None);
}

mod rounds;
