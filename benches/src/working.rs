//! Migrations of a guest at work, in one process: what it costs the guest, and what it costs.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use crate::reading::{Operations, Reader, ReaderFactory};
use anyhow::{Context as _, bail};
use tokio::runtime::Builder;
use whimbrel_agent::bench::{Meter, moving};
use whimbrel_engine::guest::{Guest, GuestFactory};
use whimbrel_engine::memory::{Backing, GuestMemory, TrackerKind};
use whimbrel_engine::page::{ByteCount, Layout, PAGE_SIZE};
use whimbrel_engine::protocol::{GuestUuid, Token};
use whimbrel_engine::{
    DestinationAddress, Incoming, IncomingOptions, Outcome, Outgoing, OutgoingOptions, Report,
    VolatileJournal,
};
use whimbrel_guest::stress::{
    DirtyRate, Fill, HostLimits, Pattern, StressConfig, StressFactory, StressGuest, StressMonitor,
    StressSpec, VcpuCount,
};

const TOKEN: Token = Token(0x5eed);
/// How long a rate is watched before and after the move.
pub const WATCHED: Duration = Duration::from_millis(500);

/// How a guest at work is moved.
#[derive(Clone, Debug)]
pub struct Work {
    /// The shape of its memory.
    pub layout: Layout,
    /// What it does.
    pub spec: StressSpec,
    /// How it goes.
    pub way: Way,
}

impl Work {
    /// One processor, 1 GiB of random pages, and 256 MiB of it written at so many MiB/s; the
    /// largest number stands for as fast as it can.
    ///
    /// # Errors
    /// Never: that is a layout.
    pub fn at(mib_s: u64, pattern: Pattern) -> anyhow::Result<Self> {
        let rate = match mib_s {
            0 => DirtyRate::Idle,
            u64::MAX => DirtyRate::Max,
            mib_s => DirtyRate::PerSecond(ByteCount::mib(mib_s)),
        };
        let (working_set, fill, vcpus) = (ByteCount::mib(256), Fill::Random, VcpuCount(1));
        let spec = StressSpec { working_set, rate, pattern, fill, vcpus, ..Default::default() };
        Ok(Self { layout: Layout::single(ByteCount::mib(1024))?, spec, way: AT_WORK })
    }
}

/// How a guest at work is sent unless something about that is to be measured.
pub const AT_WORK: Way = Way { lanes: 4, hot_last: true, tracker: None };

/// How a guest is sent.
#[derive(Clone, Copy, Debug)]
pub struct Way {
    /// Lanes.
    pub lanes: u16,
    /// Whether pages that are written all the time are left for last.
    pub hot_last: bool,
    /// The tracker, if not the best there is.
    pub tracker: Option<TrackerKind>,
}

/// What became of it.
#[derive(Debug)]
pub struct Worked {
    /// The source's own account.
    pub report: Report,
    /// Page writes a second before, during and after the move.
    pub rates: [f64; 3],
    /// The longest gap that the guest saw.
    pub blackout: Duration,
    /// What it lost in all gaps.
    pub lost: Duration,
    /// Processor time of both sides and of the guest.
    pub cpu: Duration,
    /// Bytes that both sides together held at the worst moment, beside the guest's own on each; as
    /// [`Meter::read`] counts.
    pub beside: i64,
}

impl Worked {
    /// The share of the time that lanes waited for harvests, of all the time until the pause.
    #[must_use]
    pub fn waited(&self) -> f64 {
        let rounds = &self.report.progress.rounds;
        let waited: Duration = rounds.iter().map(|round| round.waited).sum();
        let sent: Duration = rounds.iter().map(|round| round.duration).sum();
        waited.as_secs_f64() / (waited + sent).as_secs_f64()
    }

    /// Pages taken to be sent, for each page of memory.
    #[must_use]
    pub fn resend_factor(&self) -> f64 {
        let sent: u64 = self.report.progress.rounds.iter().map(|round| round.pages.0).sum();
        sent as f64 * PAGE_SIZE as f64 / self.report.guest_ram.0 as f64
    }
}

/// Moves a guest that works all the time.
///
/// # Errors
/// If the migration does not complete, or the guest finds its memory damaged.
pub fn migrate(work: &Work) -> anyhow::Result<Worked> {
    let memory = GuestMemory::allocate(&work.layout, Backing::Private)?;
    let config = StressConfig::new(work.spec, work.layout.clone())?;
    let limits = HostLimits::default();
    let mut guest = StressGuest::new(GuestUuid(1), "worker", config, memory, limits)?;
    let source = guest.monitor();
    guest.resume()?;
    let before = watched(&source)?;
    source.begin_move();
    let meter = Meter::begin()?;
    let (began, done) = (Instant::now(), operations(&source)?);
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let factory = StressFactory::default();
    let arrived = factory.monitors();
    let (outgoing, incoming) = runtime.block_on(both(guest, factory, work.way))?;
    let monitor = arrived.get().context("a guest was made")?;
    let (cpu, held) = meter.read()?;
    let during = (operations(&monitor)? - done) as f64 / began.elapsed().as_secs_f64();
    if !matches!(outgoing.outcome, Outcome::Completed { .. }) {
        bail!("the migration did not complete: {:?}", outgoing.outcome);
    }
    let after = watched(&monitor)?;
    let felt = monitor.report().context("it runs")?;
    let check = monitor.self_check()?;
    if !check.is_clean() {
        bail!("{check}");
    }
    let beside = held - outgoing.report.guest_ram.0 as i64;
    drop(incoming);
    let rates = [before, during, after];
    let (blackout, lost) = (felt.blackout, felt.lost);
    Ok(Worked { report: outgoing.report, rates, blackout, lost, cpu, beside })
}

/// Moves a guest that mostly reads, with `bytes` of memory; returns the source's account, and its
/// operations a second before, during and after the move.
///
/// # Errors
/// If the migration does not complete.
pub fn migrate_reader(bytes: u64, way: Way) -> anyhow::Result<(Report, [f64; 3])> {
    let counted = Operations::default();
    let mut guest = Reader::new(moving::filled(bytes)?, &counted)?;
    guest.resume()?;
    let before = idly(&counted)?;
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let factory = ReaderFactory(counted.clone());
    let (during, (outgoing, incoming)) =
        rate(&counted, || runtime.block_on(both(guest, factory, way)))?;
    if !matches!(outgoing.outcome, Outcome::Completed { .. }) {
        bail!("the migration did not complete: {:?}", outgoing.outcome);
    }
    let after = idly(&counted)?;
    drop(incoming);
    Ok((outgoing.report, [before, during, after]))
}

/// Operations a second while nothing else is done.
fn idly(counted: &Operations) -> anyhow::Result<f64> {
    let wait = || {
        std::thread::sleep(WATCHED);
        Ok(())
    };
    Ok(rate(counted, wait)?.0)
}

/// Operations a second while something is done.
fn rate<T>(
    counted: &Operations,
    done: impl FnOnce() -> anyhow::Result<T>,
) -> anyhow::Result<(f64, T)> {
    let (began, before) = (Instant::now(), counted.done());
    let done = done()?;
    Ok(((counted.done() - before) as f64 / began.elapsed().as_secs_f64(), done))
}

async fn both(
    guest: impl Guest,
    factory: impl GuestFactory,
    way: Way,
) -> anyhow::Result<(whimbrel_engine::Ended, whimbrel_engine::Ended)> {
    let anywhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let journal = Box::<VolatileJournal>::default();
    let options = IncomingOptions::default();
    let incoming = Incoming::bind(anywhere, TOKEN, Box::new(factory), journal, options)?;
    let to = DestinationAddress { address: incoming.address(), token: TOKEN };
    let mut options = OutgoingOptions { host: 1, tracker: way.tracker, ..Default::default() };
    options.source.lanes = way.lanes;
    options.lanes.hot_last = way.hot_last;
    let journal = Box::<VolatileJournal>::default();
    let outgoing = Outgoing::new(Box::new(guest), journal, to, options);
    let (source, destination) = tokio::join!(outgoing.run(), incoming.run());
    Ok((source, destination?))
}

/// Page writes a second for a while.
fn watched(monitor: &StressMonitor) -> anyhow::Result<f64> {
    let (began, done) = (Instant::now(), operations(monitor)?);
    std::thread::sleep(WATCHED);
    Ok((operations(monitor)? - done) as f64 / began.elapsed().as_secs_f64())
}

fn operations(monitor: &StressMonitor) -> anyhow::Result<u64> {
    Ok(monitor.report().context("the guest is there")?.operations.0)
}
