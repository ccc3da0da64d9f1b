//! Both sides in one process, and a driver that is a test.

use std::collections::{BTreeMap, VecDeque};
use std::io::IoSlice;
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc;
use whimbrel_memory::{Backing, GuestMemory, Landing};
use whimbrel_page::{
    ByteCount, Layout, PAGE_SIZE, PageCount, PageIndex, PageSet, RegionId, RegionLayout, Run,
};
use whimbrel_protocol::ledger::{Pass, RoundTally};
use whimbrel_protocol::{BatchSeq, LaneId, LaneMark};
use whimbrel_transport::{Lane, LaneError, LaneHandle, SocketLane, Woken, lane_pair};

use super::super::{DestinationLanes, EVENTS_MAX, LandEvent, LaneEvent, LaneOptions, SourceLanes};

/// Far beyond any deadline of a test: whoever waits so long hangs.
const WATCHDOG: Duration = Duration::from_secs(60);
/// For lanes whose deadline no test waits for.
pub(super) const PATIENT: Duration = Duration::from_secs(20);

/// The two ends of a lane, the source's first.
pub(super) type Make = fn(Duration) -> (Box<dyn Lane>, Box<dyn Lane>);

pub(super) const KINDS: [Make; 2] = [pair, tcp];

fn pair(stall: Duration) -> (Box<dyn Lane>, Box<dyn Lane>) {
    let (near, far) = lane_pair(ByteCount::kib(256), stall);
    (Box::new(near), Box::new(far))
}

fn tcp(stall: Duration) -> (Box<dyn Lane>, Box<dyn Lane>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let near = TcpStream::connect(listener.local_addr().expect("bound")).expect("listening");
    let (far, _) = listener.accept().expect("connected");
    let lane = |stream| Box::new(SocketLane::new(stream, stall).expect("a lane"));
    (lane(near), lane(far))
}

/// 16 MiB in two regions that are no multiple of a chunk.
pub(super) fn layout() -> Layout {
    let region = |(id, pages)| RegionLayout { id: RegionId(id), size: PageCount(pages).bytes() };
    Layout::new([(4, 3000), (1, 1096)].map(region).to_vec()).expect("valid")
}

pub(super) struct World {
    pub(super) memory: GuestMemory,
    pub(super) landing: Arc<Landing>,
    pub(super) source: SourceLanes,
    pub(super) destination: DestinationLanes,
    source_says: mpsc::Receiver<LaneEvent>,
    /// Said, and put back to be heard later.
    early: VecDeque<LaneEvent>,
    destination_says: mpsc::Receiver<LandEvent>,
    marks: BTreeMap<LaneId, LaneMark>,
    pub(super) runtime: Runtime,
    make: Make,
    opened: u16,
    round: u32,
}

impl World {
    pub(super) fn new(make: Make) -> Self {
        let options = LaneOptions { stall_timeout: PATIENT, ..LaneOptions::default() };
        Self::with(make, options)
    }

    pub(super) fn with(make: Make, options: LaneOptions) -> Self {
        let memory = GuestMemory::allocate(&layout(), Backing::Private).expect("memory");
        let there = GuestMemory::allocate(&layout(), Backing::Private).expect("memory");
        let landing = Arc::new(Landing::new(there).expect("fresh"));
        let (tell, source_says) = mpsc::channel(EVENTS_MAX);
        let source = SourceLanes::new(memory.clone(), options.clone(), tell);
        let (tell, destination_says) = mpsc::channel(EVENTS_MAX);
        let destination = DestinationLanes::new(landing.clone(), options, tell);
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        let marks = BTreeMap::new();
        Self {
            memory,
            landing,
            source,
            destination,
            source_says,
            early: VecDeque::new(),
            destination_says,
            marks,
            runtime,
            make,
            opened: 0,
            round: 0,
        }
    }

    // --- lanes -----------------------------------------------------------------------------

    pub(super) fn open(&mut self) -> LaneId {
        self.open_with(|lane| lane)
    }

    pub(super) fn open_all(&mut self, lanes: usize) {
        for _ in 0..lanes {
            self.open();
        }
    }

    /// Opens a lane whose source end goes through `wrap`.
    pub(super) fn open_with(
        &mut self,
        wrap: impl FnOnce(Box<dyn Lane>) -> Box<dyn Lane>,
    ) -> LaneId {
        let lane = LaneId(self.opened);
        self.opened += 1;
        let (near, far) = (self.make)(PATIENT);
        self.destination.land(lane, far);
        self.source.attach(lane, wrap(near));
        // Others may have said something before it.
        let mut before = vec![];
        loop {
            match self.hear() {
                LaneEvent::Up(up) if up == lane => break,
                other => before.push(other),
            }
        }
        self.early.extend(before);
        lane
    }

    /// Does what the machines do about a lane that failed here: the destination closes it, its
    /// mark settles it, and another one takes its place.
    pub(super) fn replace(&mut self, lane: LaneId) -> LaneMark {
        self.destination.close(lane);
        let mark = self.mark(lane);
        self.close(mark);
        self.open();
        mark
    }

    /// Settles a lane of the source, and waits for its thread where it still runs.
    pub(super) fn close(&self, mark: LaneMark) {
        self.source.close(mark, PATIENT);
    }

    /// How far a lane came, which the destination says when its thread has ended.
    pub(super) fn mark(&mut self, lane: LaneId) -> LaneMark {
        loop {
            if let Some(mark) = self.marks.get(&lane) {
                return *mark;
            }
            let LandEvent::Ended(mark, _) = self.hear_destination() else { continue };
            self.marks.insert(mark.lane, mark);
        }
    }

    // --- events ----------------------------------------------------------------------------

    /// The next event but one that only says how far a round is.
    pub(super) fn hear(&mut self) -> LaneEvent {
        loop {
            match self.hear_all() {
                LaneEvent::RoundDue(..) => {}
                other => return other,
            }
        }
    }

    pub(super) fn hear_all(&mut self) -> LaneEvent {
        if let Some(event) = self.early.pop_front() {
            return event;
        }
        let heard = async { tokio::time::timeout(WATCHDOG, self.source_says.recv()).await };
        self.runtime.block_on(heard).expect("the source's lanes hang").expect("they live")
    }

    pub(super) fn hear_destination(&mut self) -> LandEvent {
        let heard = async { tokio::time::timeout(WATCHDOG, self.destination_says.recv()).await };
        self.runtime.block_on(heard).expect("the destination's lanes hang").expect("they live")
    }

    /// What the source's lanes have said and nobody has heard.
    pub(super) fn unheard(&mut self) -> Option<LaneEvent> {
        self.early.pop_front().or_else(|| self.source_says.try_recv().ok())
    }

    // --- rounds ----------------------------------------------------------------------------

    pub(super) fn start_round(&mut self, pass: Pass) {
        self.source.start_round(self.round, pass);
        self.round += 1;
    }

    /// Waits for the round's end; lanes that fail meanwhile are replaced.
    pub(super) fn round_taken(&mut self) -> RoundTally {
        loop {
            match self.hear() {
                LaneEvent::RoundTaken(tally) => {
                    assert_eq!(tally.number.0 + 1, self.round);
                    return tally;
                }
                LaneEvent::Failed(lane, _) => {
                    self.replace(lane);
                }
                LaneEvent::Up(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    pub(super) fn quiesce(&mut self) {
        self.source.quiesce(0);
        loop {
            match self.hear() {
                LaneEvent::Quiesced(_) => return,
                LaneEvent::Failed(lane, _) => {
                    self.replace(lane);
                }
                LaneEvent::Up(_) | LaneEvent::RoundDue(..) | LaneEvent::RoundTaken(_) => {}
                LaneEvent::Stuck(lane) => panic!("lane {} is stuck", lane.0),
                LaneEvent::Path(_) | LaneEvent::Limited { .. } => {}
            }
        }
    }

    /// Sends everything pending, with nobody writing, until it has landed.
    pub(super) fn finish_round(&mut self) -> RoundTally {
        let mut all = RoundTally::default();
        loop {
            self.start_round(Pass::UntilEmpty);
            let tally = self.round_taken();
            all.raw += tally.raw;
            all.zero += tally.zero;
            all.unchanged += tally.unchanged;
            self.quiesce();
            if self.source.pending() == PageCount::ZERO {
                return all;
            }
        }
    }

    // --- memory ----------------------------------------------------------------------------

    /// Writes a page that tells its place and `version`.
    pub(super) fn write(&self, place: (RegionId, PageIndex), version: u64) {
        write_page(&self.memory, place, version);
    }

    /// Writes every page and makes all of them pending.
    pub(super) fn write_all(&self, version: u64) {
        places().for_each(|place| self.write(place, version));
        self.source.merge(&PageSet::full(&layout()));
    }

    /// Both memories, byte by byte, and both accounts of them.
    pub(super) fn assert_equal(&self) {
        for region in layout().regions() {
            let mut here = vec![0; region.size.0 as usize];
            let mut there = here.clone();
            self.memory.copy_run(region.run(), &mut here).expect("inside");
            self.landing.copy_run(region.run(), &mut there).expect("inside");
            let differs = here.chunks(PAGE_SIZE).zip(there.chunks(PAGE_SIZE));
            let differs = differs.enumerate().filter(|(_, (a, b))| a != b).map(|(page, _)| page);
            assert_eq!(differs.collect::<Vec<_>>(), [0; 0], "pages of {} differ", region.id);
        }
        let (root, _) = self.source.flushed();
        assert!(root.agrees(self.destination.seal()), "the accounts differ");
        assert_eq!(self.source.pages_known(), layout().pages());
    }

    pub(super) fn there(&self, run: Run) -> Vec<u8> {
        let mut bytes = vec![0; run.count.bytes().0 as usize];
        self.landing.copy_run(run, &mut bytes).expect("inside");
        bytes
    }

    pub(super) fn nothing_landed(lane: LaneId) -> LaneMark {
        LaneMark { lane, batch: BatchSeq(0), sum: whimbrel_page::LeafSum::ZERO }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.source.finish();
        self.destination.finish();
    }
}

pub(super) fn places() -> impl Iterator<Item = (RegionId, PageIndex)> {
    let regions = layout().regions().to_vec();
    regions.into_iter().flat_map(|r| r.run().pages().map(move |page| (r.id, page)))
}

pub(super) fn write_page(memory: &GuestMemory, place: (RegionId, PageIndex), version: u64) {
    let (region, page) = place;
    let word = (u64::from(region.0) << 48 | page.0 << 24 | version).to_le_bytes();
    memory.write(region, page.offset(), &word.repeat(PAGE_SIZE / 8)).expect("inside");
}

/// What a [`Tampered`] lane does to each call of `send`, counted from 1.
pub(super) type Tamper = Box<dyn FnMut(usize, &mut Vec<u8>) -> Option<LaneError> + Send>;

/// A lane that does something else than it was told.
pub(super) struct Tampered {
    pub(super) inner: Box<dyn Lane>,
    pub(super) tamper: Tamper,
    pub(super) sends: usize,
}

impl Tampered {
    pub(super) fn wrap(
        tamper: impl FnMut(usize, &mut Vec<u8>) -> Option<LaneError> + Send + 'static,
    ) -> impl FnOnce(Box<dyn Lane>) -> Box<dyn Lane> {
        |inner| Box::new(Self { inner, tamper: Box::new(tamper), sends: 0 })
    }
}

impl Lane for Tampered {
    fn send(&mut self, parts: &mut [IoSlice<'_>]) -> Result<(), LaneError> {
        let mut bytes = parts.iter().flat_map(|part| part.iter().copied()).collect();
        self.sends += 1;
        let error = (self.tamper)(self.sends, &mut bytes);
        self.inner.send(&mut [IoSlice::new(&bytes)])?;
        error.map_or(Ok(()), Err)
    }

    fn receive(&mut self, into: &mut [u8]) -> Result<(), LaneError> {
        self.inner.receive(into)
    }

    fn try_receive(&mut self, into: &mut [u8]) -> Result<usize, LaneError> {
        self.inner.try_receive(into)
    }

    fn wait(&mut self, within: Duration) -> Result<Woken, LaneError> {
        self.inner.wait(within)
    }

    fn finish(&mut self) -> Result<(), LaneError> {
        self.inner.finish()
    }

    fn handle(&self) -> LaneHandle {
        self.inner.handle()
    }
}
