//! Whole migrations in one process: both sides of the engine, over loopback.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::runtime::Builder;
use whimbrel_engine::guest::{Guest, GuestDescription, GuestError, GuestFactory, Throttle};
use whimbrel_engine::memory::{Backing, Writers};
pub use whimbrel_engine::memory::{GuestMemory, HugePages};
use whimbrel_engine::page::{ByteCount, Layout, PAGE_SIZE, PageIndex, RegionId, Run};
use whimbrel_engine::protocol::{GuestUuid, Token};
use whimbrel_engine::{
    DestinationAddress, Ended, Incoming, IncomingOptions, Outcome, Outgoing, OutgoingOptions,
    Report, VolatileJournal,
};

use super::wire::Wire;
use super::{BenchError, Meter, Sample, memory, relay};

const R: RegionId = RegionId(0);
const TOKEN: Token = Token(0xbe9c);

/// A guest that does nothing, except that it may write some pages just before it parks: the
/// worst moment, so that exactly these are left for the pause.
struct Sleeper {
    memory: GuestMemory,
    last_writes: u64,
    moments: Moments,
}

/// When a guest was last parked, and when it last ran on, on whichever side.
#[derive(Clone, Default)]
struct Moments(Arc<Mutex<[Option<Instant>; 2]>>);

impl Moments {
    fn note(&self, which: usize) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)[which] = Some(Instant::now());
    }

    fn between(&self) -> Option<Duration> {
        let [parked, ran] = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Some(ran?.duration_since(parked?))
    }
}

/// How a guest is moved.
#[derive(Clone, Copy, Debug, Default)]
pub struct Way {
    /// Lanes.
    pub lanes: u16,
    /// Scattered pages that the guest writes when it is paused.
    pub last_writes: u64,
    /// What a byte takes from one side to the other beside what loopback needs.
    pub one_way: Duration,
    /// What carries it.
    pub wire: Wire,
}

/// Guest memory of so many `bytes`, every page of it written with what no encoder can make smaller.
///
/// # Errors
/// If there is no such memory.
pub fn filled(bytes: u64) -> Result<GuestMemory, BenchError> {
    filled_with(bytes, HugePages::HostDefault)
}

/// As [`filled`], with a wish for huge pages.
///
/// # Errors
/// As [`filled`].
pub fn filled_with(bytes: u64, huge: HugePages) -> Result<GuestMemory, BenchError> {
    const PART: u64 = 1 << 20;
    let layout =
        Layout::single(ByteCount(bytes)).map_err(|why| BenchError::Wrong(why.to_string()))?;
    let guest = GuestMemory::allocate_with(&layout, Backing::Private, huge)?;
    for start in (0..bytes).step_by(PART as usize) {
        let part = memory::random_from(start, PART.min(bytes - start) as usize);
        guest.write(R, ByteCount(start), &part)?;
    }
    Ok(guest)
}

impl Guest for Sleeper {
    fn describe(&self) -> GuestDescription {
        let (name, kind) = ("sleeper".into(), "sleeper".into());
        GuestDescription { uuid: GuestUuid(1), name, kind, state_version: 1 }
    }

    fn memory(&self) -> GuestMemory {
        self.memory.clone()
    }

    fn writers(&self) -> Writers {
        Writers::OwnThreads
    }

    fn pause(&mut self) -> Result<(), GuestError> {
        let pages = self.memory.layout().pages().0;
        // Every 61st page and around again: no two are neighbours, which is the worst case.
        for page in (0..self.last_writes).map(|write| write * 61 % pages) {
            let written = self.memory.store_u64(R, PageIndex(page).offset(), page);
            written.map_err(|why| GuestError { what: "write", why: why.to_string() })?;
        }
        self.moments.note(0);
        Ok(())
    }

    fn resume(&mut self) -> Result<(), GuestError> {
        self.moments.note(1);
        Ok(())
    }

    fn save_state(&mut self) -> Result<Bytes, GuestError> {
        Ok(Bytes::from_static(b"asleep"))
    }

    fn load_state(&mut self, _: &Bytes) -> Result<(), GuestError> {
        Ok(())
    }

    fn throttle(&mut self, _: Throttle) -> Result<(), GuestError> {
        Ok(())
    }
}

struct SleeperFactory(Moments);

impl GuestFactory for SleeperFactory {
    fn check(&self, _: &GuestDescription, _: &Layout) -> Result<(), String> {
        Ok(())
    }

    fn create(
        &mut self,
        _: &GuestDescription,
        memory: GuestMemory,
    ) -> Result<Box<dyn Guest>, GuestError> {
        Ok(Box::new(Sleeper { memory, last_writes: 0, moments: self.0.clone() }))
    }
}

/// What one migration took.
#[derive(Debug)]
pub struct Migrated {
    /// The source's own account.
    pub report: Report,
    /// From the parked guest at the source to the running one at the destination.
    pub stood_still: Duration,
    /// CPU time of both sides.
    pub cpu: Duration,
    /// Bytes that both sides together held at the worst moment, beside the guest's own on each;
    /// page tables are in it. As [`Meter::read`] counts.
    pub beside: i64,
}

impl Migrated {
    /// What the whole migration took.
    #[must_use]
    pub fn sample(&self) -> Sample {
        let Report { total: elapsed, guest_ram, .. } = self.report;
        Sample { bytes: guest_ram.0, elapsed, cpu: self.cpu }
    }

    /// The downtime of the parked guest; what it does itself when it is told to pause is not in it.
    #[must_use]
    pub fn downtime(&self) -> Duration {
        self.report.downtime.total() - self.report.downtime.pause
    }
}

/// Moves a sleeping guest whose memory is `guest`, which stays as it was.
///
/// # Errors
/// If the migration does not complete with every page verified.
pub fn migrate(guest: &GuestMemory, way: Way) -> Result<Migrated, BenchError> {
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let meter = Meter::begin()?;
    let moments = Moments::default();
    let memory = guest.clone();
    let sleeper = Sleeper { memory, last_writes: way.last_writes, moments: moments.clone() };
    let (source, destination) = runtime.block_on(both(sleeper, way))?;
    let (cpu, held) = meter.read()?;
    // Before anything else reads it, which could populate more.
    let arrived = destination.guest.map(|guest| guest.memory());
    let own = arrived.as_ref().map(GuestMemory::resident).transpose()?.unwrap_or_default();
    let wrong = |why| Err(BenchError::Wrong(why));
    if !matches!(source.outcome, Outcome::Completed { .. }) {
        return wrong(format!("the migration did not complete: {:?}", source.outcome));
    }
    let report = source.report;
    let pages = guest.layout().pages();
    if report.pages_verified != pages {
        return wrong(format!("{} of {pages} verified", report.pages_verified));
    }
    let Some(arrived) = arrived else { return wrong("no guest arrived".into()) };
    same(guest, &arrived)?;
    let beside = held - own.0 as i64;
    let Some(stood_still) = moments.between() else {
        return wrong("the guest was not parked, or did not run on".into());
    };
    Ok(Migrated { report, stood_still, cpu, beside })
}

async fn both(sleeper: Sleeper, way: Way) -> Result<(Ended, Ended), BenchError> {
    let anywhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let (factory, journal) =
        (Box::new(SleeperFactory(sleeper.moments.clone())), Box::<VolatileJournal>::default());
    let (near, far) = way.wire.carriers()?;
    let mut there = IncomingOptions::default();
    there.lanes.carrier = far;
    let incoming = Incoming::bind(anywhere, TOKEN, factory, journal, there)?;
    let address = match way.one_way {
        Duration::ZERO => incoming.address(),
        one_way => relay::start(incoming.address(), one_way).await?,
    };
    let to = DestinationAddress { address, token: TOKEN };
    let mut options = OutgoingOptions { host: 1, ..OutgoingOptions::default() };
    options.source.lanes = way.lanes;
    options.lanes.carrier = near;
    let journal = Box::<VolatileJournal>::default();
    let outgoing = Outgoing::new(Box::new(sleeper), journal, to, options);
    let (source, destination) = tokio::join!(outgoing.run(), incoming.run());
    Ok((source, destination?))
}

/// Compares both memories byte by byte, beside everything the engine says of itself. What neither
/// has populated is zero in both.
fn same(left: &GuestMemory, right: &GuestMemory) -> Result<(), BenchError> {
    const PART: u64 = 256;
    let mut touched = left.touched()?;
    touched.union_with(&right.touched()?);
    let (mut here, mut there) =
        (vec![0; PART as usize * PAGE_SIZE], vec![0; PART as usize * PAGE_SIZE]);
    for run in touched.runs() {
        for first in (run.first.0..run.first.0 + run.count.0).step_by(PART as usize) {
            let count = PART.min(run.first.0 + run.count.0 - first);
            let (part, bytes) = (Run::new(run.region, first, count), count as usize * PAGE_SIZE);
            left.copy_run(part, &mut here[..bytes])?;
            right.copy_run(part, &mut there[..bytes])?;
            if here[..bytes] != there[..bytes] {
                return Err(BenchError::Wrong(format!("the memories differ in {part}")));
            }
        }
    }
    Ok(())
}
