//! What a driver may ask, also at the wrong moment.

use std::net::SocketAddr;
use std::time::Duration;

use whimbrel_page::{PageCount, PageIndex, PageSet, RegionId, Run};
use whimbrel_protocol::batch::{LANE_HELLO_SIZE, LANE_MAGIC, LaneAnswer, LaneHello, LaneRefusal};
use whimbrel_protocol::ledger::Pass;
use whimbrel_protocol::{BatchSeq, Epoch, LaneId, LaneMark, RoundNumber, SessionId, Term, Token};
use whimbrel_transport::{Door, DoorOptions, Kind, LaneError, Purpose};

use super::super::{Due, LandEvent, LaneEvent};
use super::world::{KINDS, PATIENT, Tampered, World, layout, places};

fn one_page() -> PageSet {
    let mut one = PageSet::new(&layout());
    one.insert(Run::new(RegionId(4), 9, 1));
    one
}

#[test]
fn counts_are_told_when_the_last_batch_is_in_place() {
    for make in KINDS {
        let mut world = World::new(make);
        world.open_all(3);
        world.write_all(3);
        world.start_round(Pass::UntilEmpty);
        world.round_taken();
        let (root, sent) = world.source.flushed();
        assert_eq!(sent.len(), 3);
        let term = Term { generation: 4, host: 2 };
        let counts: Vec<_> = sent.into_iter().collect();
        world.destination.await_counts(term, counts.clone());
        let LandEvent::CountsReached(told, there) = world.hear_destination() else {
            panic!("nothing has ended")
        };
        assert_eq!(told, term);
        assert!(root.agrees(there));
        // What has come about already is told at once.
        world.destination.await_counts(term, counts);
        assert!(matches!(world.hear_destination(), LandEvent::CountsReached(..)));
    }
}

#[test]
fn batches_are_no_larger_than_the_destination_takes() {
    for pages in [1, 3] {
        let mut world = World::new(KINDS[0]);
        world.source.agree_on(PageCount(pages).bytes());
        world.open_all(1);
        world.write_all(3);
        world.start_round(Pass::UntilEmpty);
        world.round_taken();
        let batches: u64 = world.source.flushed().1.values().map(|last| last.0).sum();
        assert!(batches * pages >= layout().pages().0, "{batches} batches of {pages} pages");
    }
}

#[test]
fn lanes_go_on_while_the_next_harvest_is_made() {
    const LONG: Duration = Duration::from_secs(3600);
    for make in KINDS {
        let mut world = World::new(make);
        world.open_all(2);
        world.write_all(3);
        world.source.touched(&PageSet::new(&layout()), LONG);
        world.start_round(Pass::Once);
        let begins =
            |event: &LaneEvent| matches!(event, LaneEvent::RoundDue(RoundNumber(0), Due::Harvest));
        let early = std::iter::repeat_with(|| world.hear_all()).find(|e| !is_up(e));
        assert!(early.as_ref().is_some_and(begins), "{early:?}");
        // The harvest has begun and does not end: all pages are taken in spite of it.
        assert_eq!(world.round_taken().pages, layout().pages());
        world.source.harvested(&one_page(), Duration::ZERO);
        assert_eq!(world.source.pending(), PageCount(1));
        world.start_round(Pass::UntilEmpty);
        let last = world.hear_all();
        assert!(matches!(last, LaneEvent::RoundTaken(_)), "nothing follows the last: {last:?}");
    }
}

fn is_up(event: &LaneEvent) -> bool {
    matches!(event, LaneEvent::Up(_))
}

#[test]
fn a_link_that_is_lost_is_gone_on_with_on_other_lanes() {
    for make in KINDS {
        let mut world = World::new(make);
        let old = [world.open(), world.open()];
        world.write_all(3);
        world.start_round(Pass::UntilEmpty);
        world.source.hang_up();
        let marks = old.map(|lane| world.mark(lane));
        let landed: u64 = marks.iter().map(|mark| mark.batch.0).sum();
        world.open();
        marks.into_iter().for_each(|mark| world.close(mark));
        let tally = world.finish_round();
        world.assert_equal();
        // What had landed was not sent again; each old lane may just have been sending a batch.
        let sent = (tally.raw + tally.zero).0;
        assert!(sent <= layout().pages().0 - landed * 64 + 2 * 64, "{sent} of {landed} batches");
        assert!(world.unheard().is_none(), "a lane that was hung up has not failed");
    }
}

#[test]
fn quiet_lanes_take_nothing_until_the_next_round() {
    for make in KINDS {
        let mut world = World::new(make);
        world.open();
        world.quiesce();
        world.write_all(3);
        world.quiesce();
        assert_eq!(world.source.pending(), layout().pages());
        world.start_round(Pass::Once);
        world.round_taken();
        world.quiesce();
        world.assert_equal();
    }
}

#[test]
fn a_sealed_memory_is_written_no_more() {
    for make in KINDS {
        let mut world = World::new(make);
        let lane = world.open();
        let before = world.destination.seal();
        world.write((RegionId(4), PageIndex(9)), 1);
        world.source.merge(&one_page());
        world.start_round(Pass::UntilEmpty);
        let LandEvent::Ended(mark, why) = world.hear_destination() else { panic!("it ends") };
        assert!(mark == World::nothing_landed(lane) && why.contains("sealed"), "{why}");
        assert_eq!(world.there(Run::new(RegionId(4), 9, 1)), vec![0; 4096]);
        assert_eq!(world.destination.seal(), before);
    }
}

#[test]
fn chunks_that_differ_are_found_and_go_again() {
    for make in KINDS {
        let mut world = World::new(make);
        world.open();
        places().step_by(3).for_each(|place| world.write(place, 2));
        world.source.merge(&PageSet::full(&layout()));
        world.finish_round();
        let named = |world: &World| {
            let sums = world.destination.sums();
            assert!(sums.iter().rev().skip(1).all(|message| !message.last));
            assert!(sums.last().expect("at least one").last);
            let chunks = sums.into_iter().flat_map(|message| {
                let region = message.region;
                message.chunks.into_iter().map(move |(chunk, sum)| (region, chunk, sum))
            });
            chunks.collect::<Vec<_>>()
        };
        let mut sums = named(&world);
        assert!(world.source.spoil_differing(&sums).is_empty());
        // The destination says something else of one chunk, nothing of another, and names one
        // that is not there.
        let (region, chunk, _) = sums[1];
        sums[1].2 = whimbrel_page::LeafSum(5);
        sums.pop();
        sums.push((region, whimbrel_page::ChunkIndex(u64::MAX), whimbrel_page::LeafSum(5)));
        let differing = world.source.spoil_differing(&sums);
        let expected = [Run::new(region, chunk.0 * 512, 512), Run::new(RegionId(1), 1024, 72)];
        assert_eq!(differing.runs().collect::<Vec<_>>(), expected);
        assert_eq!(world.source.pending(), PageCount(584));
        assert_eq!(world.source.pages_known(), layout().pages() - PageCount(584));
        let tally = world.finish_round();
        assert_eq!(tally.unchanged, PageCount::ZERO, "nothing unknown is unchanged");
        world.assert_equal();
        assert!(world.source.spoil_differing(&named(&world)).is_empty());
    }
}

#[test]
fn closing_what_is_not_there_or_closed_already_does_nothing() {
    for make in KINDS {
        let mut world = World::new(make);
        world.close(World::nothing_landed(LaneId(77)));
        let lane = world.open();
        world.close(World::nothing_landed(lane));
        world.mark(lane);
        world.close(World::nothing_landed(lane));
        // A lane that is closed before it came ends when it comes.
        world.destination.close(LaneId(1));
        let lane = LaneId(1);
        let (near, far) = make(PATIENT);
        world.destination.land(lane, far);
        assert_eq!(world.mark(lane), World::nothing_landed(lane));
        drop(near);
        world.source.finish();
        world.source.finish();
        world.destination.finish();
        world.destination.finish();
    }
}

#[test]
fn a_mark_that_comes_while_the_sender_runs_stops_it_first() {
    for make in KINDS {
        let mut world = World::new(make);
        let lane = world.open_with(Tampered::wrap(|send, bytes| {
            if send > 2 {
                bytes.clear();
            }
            None::<LaneError>
        }));
        world.write_all(8);
        world.start_round(Pass::UntilEmpty);
        world.destination.await_counts(Term::default(), vec![(lane, BatchSeq(2))]);
        assert!(matches!(world.hear_destination(), LandEvent::CountsReached(..)));
        world.destination.close(lane);
        let mark: LaneMark = world.mark(lane);
        assert_eq!(mark.batch, BatchSeq(2));
        world.close(mark);
        world.open();
        world.round_taken();
        world.quiesce();
        world.assert_equal();
    }
}

fn hello(lane: u16) -> LaneHello {
    LaneHello {
        session: SessionId(5),
        epoch: Epoch(1),
        lane: LaneId(lane),
        token: Token(u128::from(lane)),
    }
}

#[test]
fn lanes_are_opened_through_the_door_or_refused_with_a_reason() {
    let mut world = World::new(KINDS[1]);
    let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
    let kinds = vec![Kind { magic: LANE_MAGIC, size: LANE_HELLO_SIZE, purpose: Purpose::Bulk }];
    let destination = world.destination.clone();
    let (source, runtime) = (world.source.clone(), &world.runtime);
    let entered = runtime.enter();
    let mut door = Door::open(&[loopback], kinds, DoorOptions::default()).expect("a free port");
    let address = door.address();
    for (lane, answer) in [(0, Ok(())), (1, Err(LaneRefusal::Token))] {
        source.open(address, hello(lane));
        runtime.block_on(async {
            let mut caller = door.next().await;
            let said = LaneHello::decode(caller.hello[..].try_into().expect("its size"));
            assert_eq!(said, Ok(hello(lane)));
            caller.answer(&LaneAnswer(answer).encode(), PATIENT).await.expect("sent");
            if answer.is_ok() {
                destination.land(LaneId(lane), caller.into_lane(PATIENT).expect("open"));
            }
        });
    }
    drop((door, entered));
    assert!(matches!(world.hear(), LaneEvent::Up(LaneId(0))));
    let LaneEvent::Failed(LaneId(1), why) = world.hear() else { panic!("it is refused") };
    assert!(why.contains("token"), "{why}");
    let closed = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let nobody = closed.local_addr().expect("bound");
    drop(closed);
    let entered = world.runtime.handle().clone();
    let _entered = entered.enter();
    world.source.open(nobody, hello(2));
    let LaneEvent::Failed(LaneId(2), why) = world.hear() else { panic!("nobody is there") };
    assert!(why.contains("cannot be reached"), "{why}");
    world.write_all(4);
    world.start_round(Pass::UntilEmpty);
    world.round_taken();
    world.quiesce();
    world.assert_equal();
}

#[test]
fn a_lane_that_was_hung_up_while_it_opened_does_not_begin() {
    let mut world = World::new(KINDS[1]);
    let mute = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = mute.local_addr().expect("bound");
    {
        let _entered = world.runtime.enter();
        world.source.open(address, hello(0));
    }
    world.source.hang_up();
    drop(mute);
    let settle = Duration::from_millis(20);
    world
        .runtime
        .block_on(async { tokio::time::timeout(settle, std::future::pending::<()>()).await })
        .expect_err("time passes");
    assert!(world.unheard().is_none());
    assert!(world.source.reports().iter().all(|lane| !lane.open));
}
