//! A whole migration of an idle guest beside the plain mover, alternating in one run.
//!
//! `migrate-vs-plain [MIB] [REPEATS] [LANES…]`. Figures of two runs cannot be compared on a
//! machine that others share; the ratio of neighbours within one can.

use anyhow::ensure;

use whimbrel_agent::bench::moving::{self, Migrated, Way};
use whimbrel_agent::bench::{Sample, median, memory, plain};

fn main() -> anyhow::Result<()> {
    let numbers = std::env::args().skip(1).map(|text| text.parse::<usize>());
    let numbers = numbers.collect::<Result<Vec<_>, _>>()?;
    let (mib, repeats) = (*numbers.first().unwrap_or(&1024), *numbers.get(1).unwrap_or(&5));
    ensure!(mib > 0 && repeats > 0, "usage: migrate-vs-plain [MIB] [REPEATS] [LANES…]");
    let lanes = if numbers.len() > 2 { &numbers[2..] } else { &[1, 2, 4] };
    // As much as is held at the worst moment: two plain memories, or two guests.
    memory::warm((4 * mib) << 20);
    let content = memory::random(mib << 20);
    let guest = moving::filled((mib << 20) as u64)?;
    println!("{mib} MiB, idle and random, {repeats} repeats, medians");
    println!("lanes   plain   migration   share   CPU s a GiB      downtime, ms   with 1000 pages");
    println!("        MiB/s       MiB/s           plain  moved   median  worst     median  worst");
    for lanes in lanes.iter().copied() {
        let mut pairs = Vec::new();
        let mut dirty = Vec::new();
        for _ in 0..repeats {
            let plain = plain::run(&content, lanes)?;
            let idle = Way { lanes: lanes as u16, ..Way::default() };
            pairs.push((plain, moving::migrate(&guest, idle)?));
            dirty.push(moving::migrate(&guest, Way { last_writes: 1000, ..idle })?);
        }
        row(lanes, &pairs, &dirty);
    }
    Ok(())
}

fn row(lanes: usize, pairs: &[(Sample, Migrated)], dirty: &[Migrated]) {
    let plain = median(pairs.iter().map(|(plain, _)| plain.mib_per_s()));
    let moved = median(pairs.iter().map(|(_, moved)| moved.sample().mib_per_s()));
    let share =
        median(pairs.iter().map(|(plain, moved)| moved.sample().mib_per_s() / plain.mib_per_s()));
    let plain_cpu = median(pairs.iter().map(|(plain, _)| plain.cpu_s_per_gib()));
    let moved_cpu = median(pairs.iter().map(|(_, moved)| moved.sample().cpu_s_per_gib()));
    let idle: Vec<_> = pairs.iter().map(|(_, moved)| downtime_ms(moved)).collect();
    let busy: Vec<_> = dirty.iter().map(downtime_ms).collect();
    println!(
        "{lanes:5} {plain:7.0} {moved:11.0} {share:7.2} {plain_cpu:7.2} {moved_cpu:6.2} \
         {:8.2} {:6.2} {:10.2} {:6.2}",
        median(idle.iter().copied()),
        worst(&idle),
        median(busy.iter().copied()),
        worst(&busy),
    );
    let beside = pairs.iter().map(|(_, moved)| moved.beside as f64 / f64::from(1 << 20));
    let beside = worst(&beside.collect::<Vec<_>>());
    println!("      beside the guest's own memory: {beside:.1} MiB, both sides together");
    if let Some((_, last)) = pairs.last() {
        println!("      the last downtime: {:?}", last.report.downtime);
    }
}

fn downtime_ms(moved: &Migrated) -> f64 {
    moved.downtime().as_secs_f64() * 1000.0
}

fn worst(values: &[f64]) -> f64 {
    values.iter().copied().fold(0.0, f64::max)
}
