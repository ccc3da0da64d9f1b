//! `bench`: what this host can do, measured in one run.
//!
//! Three ways to get a guest's memory from one place to another take turns: the *plain mover*
//! (memory, socket, memory, and nothing else), the *engine* (both sides in this process), and the
//! *product* (two agents, two guest processes). Figures of two runs cannot be compared on a host
//! that others use too; the ratio of neighbours within one can.

mod report;

use std::time::Duration;

use tokio::task::spawn_blocking;
use whimbrel_agent::bench::moving::{self, GuestMemory, Way};
use whimbrel_agent::bench::{BenchError, Sample, memory, plain};
use whimbrel_agent::host_facts;
use whimbrel_control::api;

use crate::args::BenchArgs;
use crate::demo;
use crate::exit::{Ending, Exit, Stop};
use crate::remote::Viewer;
use crate::view::state::{Account, Outcome};
use crate::view::units;
use crate::{out, plan};
use report::{Product, Report, Row};

/// Memories of the guest's size that are held at the worst moment: what the plain mover sends, the
/// engine's guest, and both sides of the product.
const HELD: u64 = 4;
/// For everything else.
const OVERHEAD_BYTES: u64 = 256 << 20;

/// Runs the benchmark.
pub(crate) async fn bench(args: BenchArgs) -> Ending {
    let memory = plan::memory(args.memory)?;
    let free = host_facts().memory_available.map_or(u64::MAX, |free| free.0);
    let needed = memory.0.saturating_mul(HELD).saturating_add(OVERHEAD_BYTES);
    if needed > free {
        let (needed, free) = (units::bytes(needed), units::bytes(free));
        let why = format!("--memory {memory}: that needs {needed} here, {free} are free");
        return Err(Stop::usage(why));
    }
    tokio::select! {
        biased;
        () = crate::agent::interrupted() => Err(Stop::interrupted("")),
        measured = measure(&args, memory.0) => {
            let report = measured?;
            if args.json {
                out::line(report.json());
            } else {
                report.lines().iter().for_each(out::line);
            }
            Ok(Exit::Done)
        }
    }
}

async fn measure(args: &BenchArgs, bytes: u64) -> Result<Report, Stop> {
    let mut viewer = Viewer::new(args.json);
    viewer.hint("filling memory");
    let (content, mut guest) = blocking(move || {
        // A virtual machine may get its memory when it is first touched, which is slow.
        memory::warm(HELD as usize * bytes as usize);
        Ok((memory::random(bytes as usize), moving::filled(bytes)?))
    })
    .await?;
    let mut content = content;
    let mut rows = Vec::new();
    for &lanes in &args.lanes {
        let mut row = Row::new(lanes);
        for repeat in 1..=args.repeats {
            viewer.hint(format!("{lanes} lanes, {repeat} of {}", args.repeats));
            let plain;
            (content, plain) = plainly(content, lanes).await?;
            row.plain.push(plain);
            let moved;
            (guest, moved) = by_engine(guest, bytes, lanes).await?;
            row.engine.push(moved);
            row.product.push(by_product(bytes, lanes).await?);
        }
        rows.push(row);
    }
    viewer.clear();
    Ok(Report { bytes, repeats: args.repeats, rows })
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, BenchError> + Send + 'static,
) -> Result<T, Stop> {
    let done = spawn_blocking(work).await.map_err(|why| Stop::failed(why.to_string()))?;
    done.map_err(|why| Stop::failed(why.to_string()))
}

async fn plainly(content: Vec<u8>, lanes: u16) -> Result<(Vec<u8>, Sample), Stop> {
    blocking(move || {
        // As the product's is: what was free for a while may have gone back to the host beneath.
        memory::warm(content.len());
        plain::run(&content, lanes.into()).map(|moved| (content, moved))
    })
    .await
}

async fn by_engine(
    guest: GuestMemory,
    bytes: u64,
    lanes: u16,
) -> Result<(GuestMemory, moving::Migrated), Stop> {
    let way = Way { lanes, ..Way::default() };
    blocking(move || {
        memory::warm(bytes as usize);
        moving::migrate(&guest, way).map(|moved| (guest, moved))
    })
    .await
}

/// One idle guest of random pages, as the demo moves it.
async fn by_product(bytes: u64, lanes: u16) -> Result<Product, Stop> {
    let stress = api::StressConfig {
        vcpus: 1,
        working_set_bytes: bytes,
        rate: None,
        pattern: api::Pattern::Uniform.into(),
        fill: api::Fill::Random.into(),
        seed: 1,
    };
    let guest = api::GuestConfig {
        memory_bytes: bytes,
        kind: Some(api::guest_config::Kind::Stress(stress)),
    };
    let options = api::MigrationOptions { lanes: Some(lanes.into()), ..Default::default() };
    let (account, took) = demo::moved(guest, options).await?;
    match (account.outcome, account.fault()) {
        (Outcome::Completed, None) => product(&account, took),
        (_, why) => {
            let why = why.or(account.reason).unwrap_or_else(|| "the guest did not move".into());
            Err(Stop::failed(why))
        }
    }
}

/// The clock is that of whoever gave the order; the CPU is that of the two guest processes.
fn product(account: &Account, elapsed: Duration) -> Result<Product, Stop> {
    let told = || {
        let cpu = account.at_source.cpu? + account.at_destination.cpu?;
        let sample = Sample { bytes: account.guest_ram?, elapsed, cpu };
        Some(Product {
            sample,
            downtime: account.downtime?,
            blackout: account.blackout?,
            lost: account.lost?,
        })
    };
    told().ok_or_else(|| Stop::failed("the agents did not tell all of what the move took"))
}
