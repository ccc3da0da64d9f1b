//! How long an idle guest stands still, over many moves.
//!
//! `downtime [RUNS] [MIB…]` moves a guest of each size so often, on ordinary and on huge pages, and
//! prints the median and the 95th percentile of the downtime, of the last harvest in it, and of
//! what is left; and how far the estimate was off that was made before the pause.

use std::time::Duration;

use anyhow::ensure;
use whimbrel_agent::bench::memory;
use whimbrel_agent::bench::moving::{self, HugePages, Migrated, Way};

fn main() -> anyhow::Result<()> {
    let numbers = std::env::args().skip(1).map(|text| text.parse::<u64>());
    let numbers = numbers.collect::<Result<Vec<_>, _>>()?;
    let runs = *numbers.first().unwrap_or(&100);
    ensure!(runs > 0, "usage: downtime [RUNS] [MIB…]");
    let sizes = if numbers.len() > 1 { &numbers[1..] } else { &[1024, 8192] };
    println!("An idle guest of random pages, 4 lanes, {runs} runs; ms, median / 95th percentile.");
    println!("  MiB   pages      downtime   last harvest      the rest   estimate / downtime");
    for mib in sizes.iter().copied() {
        memory::warm((2 * mib as usize) << 20);
        for (name, huge) in [("4 KiB", HugePages::HostDefault), ("2 MiB", HugePages::Transparent)] {
            let guest = moving::filled_with(mib << 20, huge)?;
            let way = Way { lanes: 4, ..Way::default() };
            let moved = (0..runs).map(|_| moving::migrate(&guest, way));
            let moved = moved.collect::<Result<Vec<_>, _>>()?;
            println!("{mib:5}   {name}   {}", row(&moved));
        }
    }
    Ok(())
}

fn row(moved: &[Migrated]) -> String {
    let of = |part: fn(&Migrated) -> Duration| {
        let mut all: Vec<_> = moved.iter().map(|moved| part(moved).as_secs_f64() * 1e3).collect();
        all.sort_by(f64::total_cmp);
        format!("{:5.2} / {:5.2}", at(&all, 50), at(&all, 95))
    };
    let harvest = |moved: &Migrated| moved.report.downtime.harvest;
    let mut shares: Vec<_> = moved
        .iter()
        .filter_map(|moved| {
            let estimate = moved.report.downtime_estimate?;
            Some(estimate.as_secs_f64() / moved.report.downtime.total().as_secs_f64())
        })
        .collect();
    shares.sort_by(f64::total_cmp);
    format!(
        "{}   {}   {}   {:5.2}",
        of(Migrated::downtime),
        of(harvest),
        of(|moved| moved.downtime() - moved.report.downtime.harvest),
        at(&shares, 50),
    )
}

/// What so many percent do not exceed.
fn at(sorted: &[f64], percent: usize) -> f64 {
    sorted[((sorted.len() * percent).div_ceil(100)).max(1) - 1]
}
