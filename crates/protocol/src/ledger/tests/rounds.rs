//! When rounds are over, and what belongs to them.

use super::*;

#[test]
fn a_round_is_over_when_its_last_page_is_sent() {
    let mut world = written();
    world.take(0, 60);
    world.send(0);
    world.take(1, 60);
    assert_eq!(world.ledger.poll(), None, "lane 1 has not sent what it took");
    world.send(1);
    let Some(LedgerEvent::RoundTaken(tally)) = world.ledger.poll() else {
        panic!("the round is over")
    };
    assert_eq!((tally.pages, tally.raw), (PageCount(100), PageCount(100)));
    assert_eq!(world.ledger.poll(), None, "it is said once");
    assert_eq!(world.ledger.in_flight(), PageCount(100));
}

#[test]
fn a_round_of_pages_in_flight_waits_for_an_ack() {
    let mut world = written();
    world.take(0, 100);
    world.send(0);
    let place = world.place(50);
    world.write(place, 77);
    world.harvest();
    world.ledger.start_round(RoundNumber(1), Pass::Once);
    world.take(1, 100);
    assert!(world.lanes[1].take.is_none(), "the only pending page is in flight");
    assert_eq!(world.ledger.poll(), None, "a round of nothing is not over");
    world.land(0, false);
    world.ack(0);
    world.take(1, 100);
    assert_eq!(world.lanes[1].take.as_ref().map(Take::pages), Some(PageCount(1)));
    world.send(1);
    assert!(matches!(world.ledger.poll(), Some(LedgerEvent::RoundTaken(_))));
}

#[test]
fn a_page_in_flight_is_left_to_the_next_round_where_there_are_others() {
    let mut world = written();
    world.take(0, 50);
    world.send(0);
    let place = (RegionId(7), PageIndex(10));
    world.write(place, 77);
    world.harvest();
    world.ledger.start_round(RoundNumber(1), Pass::Once);
    world.take(1, 500);
    world.send(1);
    assert!(matches!(world.ledger.poll(), Some(LedgerEvent::RoundTaken(_))));
    assert_eq!(world.ledger.pending(), PageCount(1));
}

#[test]
fn a_harvest_within_a_round_adds_to_it_what_is_ahead_of_the_cursor() {
    let mut world = World::new();
    let at = |page| (RegionId(7), PageIndex(page));
    [1, 2, 3].into_iter().for_each(|page| world.write(at(page), 5));
    world.harvest();
    assert_eq!(world.ledger.start_round(RoundNumber(0), Pass::Once), PageCount(3));
    world.take(0, 2);
    [1, 20].into_iter().for_each(|page| world.write(at(page), 6));
    world.harvest();
    world.send(0);
    world.take(1, 100);
    world.send(1);
    let Some(LedgerEvent::RoundTaken(tally)) = world.ledger.poll() else {
        panic!("every place was passed")
    };
    assert_eq!(tally.pages, PageCount(4), "pages 1, 2, 3 and 20");
    assert_eq!(world.ledger.pending(), PageCount(1), "page 1 was passed and written again");
    world.finish();
}

/// Has the guest write pages 0, 1, 2, … of the first region, and harvests.
fn dirty(world: &mut World, pages: u64, content: u64) {
    (0..pages).for_each(|page| world.write((RegionId(7), PageIndex(page)), content));
    world.harvest();
}

/// Everything is taken, sent, landed and acknowledged; returns how many pages that were.
fn pass(world: &mut World, number: u32, pass: Pass) -> u64 {
    world.ledger.start_round(RoundNumber(number), pass);
    loop {
        world.take(0, 16);
        if world.lanes[0].take.is_none() {
            break;
        }
        world.send(0);
        world.land(0, false);
        world.ack(0);
    }
    match world.ledger.poll() {
        Some(LedgerEvent::RoundTaken(tally)) => tally.pages.0,
        other => panic!("the round is not over: {other:?}"),
    }
}

#[test]
fn what_is_written_all_the_time_is_left_while_there_is_more_of_others() {
    let mut world = written();
    assert_eq!(pass(&mut world, 0, Pass::Once), 100);
    dirty(&mut world, 10, 50);
    assert_eq!(pass(&mut world, 1, Pass::Once), 10, "one harvest tells nothing");
    dirty(&mut world, 40, 51);
    assert_eq!(pass(&mut world, 2, Pass::Once), 30, "the ten were written twice in a row");
    assert_eq!(world.ledger.pending(), PageCount(10));
    dirty(&mut world, 12, 52);
    assert_eq!(pass(&mut world, 3, Pass::Once), 12, "there is nothing else to speak of");
    dirty(&mut world, 60, 53);
    assert_eq!(pass(&mut world, 4, Pass::UntilEmpty), 60, "the last round takes all");
    world.finish();
}

#[test]
fn a_round_leaves_what_was_written_since_it_began_to_the_next_one() {
    let mut world = written();
    world.ledger.start_round(RoundNumber(1), Pass::Once);
    let at = |page| (RegionId(7), PageIndex(page));
    [5, 50].into_iter().for_each(|page| world.write(at(page), 77));
    world.ledger.written(&world.dirty);
    world.take(0, 10);
    assert_eq!(world.ledger.tally().pages, PageCount(10), "nothing was taken when it was told");
    world.send(0);
    assert_eq!(world.ledger.written(&world.dirty), PageCount(99));
    world.take(0, 1000);
    world.send(0);
    let Some(LedgerEvent::RoundTaken(tally)) = world.ledger.poll() else {
        panic!("the round is over")
    };
    assert_eq!(tally.pages, PageCount(99), "page 5 was taken before, page 50 is left");
    world.land(0, false);
    world.land(0, false);
    world.ack(0);
    world.harvest();
    assert_eq!(pass(&mut world, 2, Pass::Once), 2, "both are in the next one");
    world.finish();
}

#[test]
fn the_last_round_leaves_nothing() {
    let mut world = written();
    world.ledger.start_round(RoundNumber(1), Pass::UntilEmpty);
    world.take(0, 10);
    world.send(0);
    world.write((RegionId(7), PageIndex(50)), 77);
    world.ledger.written(&world.dirty);
    world.take(1, 1000);
    assert_eq!(world.ledger.tally().pages, PageCount(100));
}

/// The pages of a region of `pages`, in the order in which they are taken, 64 at a time.
fn taken_in_order(pages: u64, ledger: impl FnOnce(&Layout) -> Ledger) -> Vec<u64> {
    let layout = Layout::single(PageCount(pages).bytes()).expect("valid");
    let (mut ledger, lane) = (ledger(&layout), LaneId(0));
    ledger.open_lane(lane);
    ledger.merge_run(Run::new(RegionId(0), 0, pages));
    ledger.start_round(RoundNumber(0), Pass::Once);
    let (mut order, mut take) = (Vec::new(), Take::default());
    while ledger.take(lane, PageCount(64), &mut take) > PageCount::ZERO {
        let apart = take.runs().windows(2).all(|two| two[0].end() < two[1].first);
        assert!(apart, "a batch is in ascending order: {:?}", take.runs());
        let each = take.runs().iter().flat_map(|run| run.pages());
        order.extend(each.map(|page| page.0));
        for _ in 0..take.pages().0 {
            take.found(Leaf::Zero);
        }
        ledger.sent(lane, &take, ByteCount(1));
    }
    assert!(matches!(ledger.poll(), Some(LedgerEvent::RoundTaken(_))));
    order
}

#[test]
fn the_first_round_comes_early_to_every_part_of_memory() {
    let pages = 33 * 8192 + 100;
    let mut order = taken_in_order(pages, Ledger::new);
    // The parts of memory that the first tenth of the round has been to.
    let tenth = &order[..order.len() / 10];
    let parts: BTreeSet<_> = tenth.iter().map(|page| page * 4 / pages).collect();
    assert_eq!(parts.len(), 4, "each quarter");
    order.sort_unstable();
    assert!(order.into_iter().eq(0..pages), "every page once");
    let order = taken_in_order(pages, |layout| Ledger::new(layout).in_order_of_place());
    assert!(order.into_iter().eq(0..pages));
}
