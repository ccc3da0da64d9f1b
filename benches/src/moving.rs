//! Whole migrations in one process: both sides of the engine, over loopback.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::runtime::Builder;
use whimbrel_engine::guest::{Guest, GuestDescription, GuestError, GuestFactory, Throttle};
use whimbrel_engine::memory::{Backing, GuestMemory};
use whimbrel_engine::page::{ByteCount, Layout, PAGE_SIZE, PageIndex, RegionId};
use whimbrel_engine::protocol::{GuestUuid, Token};
use whimbrel_engine::{
    DestinationAddress, Incoming, IncomingOptions, Outcome, Outgoing, OutgoingOptions, Report,
    VolatileJournal,
};

use crate::{memory, os};

const R: RegionId = RegionId(0);
const TOKEN: Token = Token(0xbe9c);

/// A guest that does nothing, except that it may write some pages just before it parks: the
/// worst moment, so that exactly these are left for the pause.
pub struct Sleeper {
    memory: GuestMemory,
    last_writes: u64,
}

impl Sleeper {
    /// A guest over `memory` that writes `last_writes` scattered pages when it is paused.
    #[must_use]
    pub fn new(memory: GuestMemory, last_writes: u64) -> Self {
        Self { memory, last_writes }
    }
}

/// Guest memory of `size`, every page of it written with what no encoder can make smaller.
///
/// # Errors
/// If there is no such memory.
pub fn filled(size: ByteCount) -> anyhow::Result<GuestMemory> {
    const PART: u64 = 1 << 20;
    let guest = GuestMemory::allocate(&Layout::single(size)?, Backing::Private)?;
    for start in (0..size.0).step_by(PART as usize) {
        let part = memory::random_from(start, PART.min(size.0 - start) as usize);
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

    fn pause(&mut self) -> Result<(), GuestError> {
        let pages = self.memory.layout().pages().0;
        // Every 61st page and around again: no two are neighbours, which is the worst case.
        for page in (0..self.last_writes).map(|write| write * 61 % pages) {
            let written = self.memory.store_u64(R, PageIndex(page).offset(), page);
            written.map_err(|why| GuestError { what: "write", why: why.to_string() })?;
        }
        Ok(())
    }

    fn resume(&mut self) -> Result<(), GuestError> {
        Ok(())
    }

    fn save_state(&mut self) -> Result<bytes::Bytes, GuestError> {
        Ok(bytes::Bytes::from_static(b"asleep"))
    }

    fn load_state(&mut self, _: &bytes::Bytes) -> Result<(), GuestError> {
        Ok(())
    }

    fn throttle(&mut self, _: Throttle) -> Result<(), GuestError> {
        Ok(())
    }
}

struct SleeperFactory;

impl GuestFactory for SleeperFactory {
    fn check(&self, _: &GuestDescription, _: &Layout) -> Result<(), String> {
        Ok(())
    }

    fn create(
        &mut self,
        _: &GuestDescription,
        memory: GuestMemory,
    ) -> Result<Box<dyn Guest>, GuestError> {
        Ok(Box::new(Sleeper::new(memory, 0)))
    }
}

/// What one migration took.
#[derive(Debug)]
pub struct Migrated {
    /// The source's own account.
    pub report: Report,
    /// CPU time of both sides.
    pub cpu: Duration,
    /// Memory that both sides together held at the worst moment, beside the guest's own on each;
    /// page tables are in it.
    pub beside: ByteCount,
}

impl Migrated {
    /// Mebibytes of guest memory a second, over the whole migration.
    #[must_use]
    pub fn mib_per_s(&self) -> f64 {
        let mib = self.report.guest_ram.0 as f64 / f64::from(1 << 20);
        mib / self.report.total.as_secs_f64()
    }

    /// CPU seconds of both sides for a gibibyte.
    #[must_use]
    pub fn cpu_s_per_gib(&self) -> f64 {
        self.cpu.as_secs_f64() * f64::from(1 << 30) / self.report.guest_ram.0 as f64
    }
}

/// Moves a sleeping guest whose memory is `guest`, which stays as it was.
///
/// # Errors
/// If the migration does not complete with every page verified.
pub fn migrate(guest: &GuestMemory, lanes: u16, last_writes: u64) -> anyhow::Result<Migrated> {
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let before = os::resident()?;
    os::forget_peak()?;
    let cpu = os::cpu_time();
    let sleeper = Sleeper::new(guest.clone(), last_writes);
    let (source, destination) = runtime.block_on(both(sleeper, lanes))?;
    let cpu = os::cpu_time() - cpu;
    let held = os::peak()?.0.saturating_sub(before.0);
    if !matches!(source.outcome, Outcome::Completed { .. }) {
        bail!("the migration did not complete: {:?}", source.outcome);
    }
    let report = source.report;
    let pages = guest.layout().pages();
    if report.pages_verified != pages {
        bail!("{} of {pages} verified", report.pages_verified);
    }
    same(guest, &destination.guest.context("a guest arrived")?.memory())?;
    let beside = ByteCount(held.saturating_sub(report.guest_ram.0));
    Ok(Migrated { report, cpu, beside })
}

async fn both(
    sleeper: Sleeper,
    lanes: u16,
) -> anyhow::Result<(whimbrel_engine::Ended, whimbrel_engine::Ended)> {
    let anywhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let (factory, journal) = (Box::new(SleeperFactory), Box::<VolatileJournal>::default());
    let incoming = Incoming::bind(anywhere, TOKEN, factory, journal, IncomingOptions::default())?;
    let to = DestinationAddress { address: incoming.address(), token: TOKEN };
    let mut options = OutgoingOptions { host: 1, ..OutgoingOptions::default() };
    options.source.lanes = lanes;
    let journal = Box::<VolatileJournal>::default();
    let outgoing = Outgoing::new(Box::new(sleeper), journal, to, options);
    let (source, destination) = tokio::join!(outgoing.run(), incoming.run());
    Ok((source, destination?))
}

/// Compares both memories byte by byte, beside everything the engine says of itself.
fn same(left: &GuestMemory, right: &GuestMemory) -> anyhow::Result<()> {
    let (mut here, mut there) = (vec![0; 256 * PAGE_SIZE], vec![0; 256 * PAGE_SIZE]);
    let size = left.layout().bytes().0;
    for start in (0..size).step_by(here.len()) {
        let part = (size - start).min(here.len() as u64) as usize;
        left.read(R, ByteCount(start), &mut here[..part])?;
        right.read(R, ByteCount(start), &mut there[..part])?;
        if here[..part] != there[..part] {
            bail!("the memories differ within {part} bytes from {start}");
        }
    }
    Ok(())
}
