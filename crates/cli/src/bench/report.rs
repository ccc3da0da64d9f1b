//! What was measured, as a table for people and as an object for programs.

use std::time::Duration;

use serde::Serialize;
use whimbrel_agent::bench::moving::Migrated;
use whimbrel_agent::bench::{Sample, median};

use crate::json;
use crate::view::units;

/// Everything that was measured.
pub(super) struct Report {
    pub(super) bytes: u64,
    pub(super) repeats: u32,
    pub(super) rows: Vec<Row>,
}

/// With one number of lanes.
pub(super) struct Row {
    lanes: u16,
    pub(super) plain: Vec<Sample>,
    pub(super) engine: Vec<Migrated>,
    pub(super) product: Vec<Product>,
}

/// One move by two agents.
pub(super) struct Product {
    pub(super) sample: Sample,
    pub(super) downtime: Duration,
    pub(super) blackout: Duration,
    pub(super) lost: Duration,
}

#[derive(Serialize)]
struct Object<'a> {
    memory_bytes: u64,
    repeats: u32,
    cores: usize,
    kernel: Option<&'a str>,
    runs: Vec<RowObject>,
}

/// Medians, and the plain mover's share: of neighbours first, and then the median of that.
#[derive(Debug, PartialEq, Serialize)]
struct RowObject {
    lanes: u16,
    plain_mib_s: f64,
    plain_cpu_s_per_gib: f64,
    engine_mib_s: f64,
    engine_share: f64,
    engine_cpu_s_per_gib: f64,
    engine_downtime_us: f64,
    product_mib_s: f64,
    product_share: f64,
    product_cpu_s_per_gib: f64,
    product_downtime_us: f64,
    product_blackout_us: f64,
    product_lost_us: f64,
}

impl Row {
    pub(super) const fn new(lanes: u16) -> Self {
        Self { lanes, plain: Vec::new(), engine: Vec::new(), product: Vec::new() }
    }

    fn medians(&self) -> RowObject {
        let engine = || self.engine.iter().map(Migrated::sample);
        let product = || self.product.iter().map(|product| product.sample);
        let plain = || self.plain.iter().copied();
        let of_product = |part: fn(&Product) -> Duration| {
            median(self.product.iter().map(|product| us(part(product))))
        };
        RowObject {
            lanes: self.lanes,
            plain_mib_s: median(plain().map(Sample::mib_per_s)),
            plain_cpu_s_per_gib: median(plain().map(Sample::cpu_s_per_gib)),
            engine_mib_s: median(engine().map(Sample::mib_per_s)),
            engine_share: median(shares(engine(), plain())),
            engine_cpu_s_per_gib: median(engine().map(Sample::cpu_s_per_gib)),
            engine_downtime_us: median(self.engine.iter().map(|moved| us(moved.downtime()))),
            product_mib_s: median(product().map(Sample::mib_per_s)),
            product_share: median(shares(product(), plain())),
            product_cpu_s_per_gib: median(product().map(Sample::cpu_s_per_gib)),
            product_downtime_us: of_product(|product| product.downtime),
            product_blackout_us: of_product(|product| product.blackout),
            product_lost_us: of_product(|product| product.lost),
        }
    }
}

impl Report {
    /// One object on one line.
    pub(super) fn json(&self) -> String {
        let kernel = whimbrel_agent::host_facts().kernel;
        json::line(&Object {
            memory_bytes: self.bytes,
            repeats: self.repeats,
            cores: cores(),
            kernel: kernel.as_deref(),
            runs: self.rows.iter().map(Row::medians).collect(),
        })
    }

    /// The table.
    pub(super) fn lines(&self) -> Vec<String> {
        let (memory, repeats) = (units::bytes(self.bytes), self.repeats);
        let mut lines = vec![
            format!("An idle guest of {memory}, random, {} cores; medians of {repeats}.", cores()),
            String::new(),
            "         plain mover          engine, one process          two agents".into(),
            "lanes    MiB/s  CPU s/GiB    MiB/s  share  CPU s/GiB    MiB/s  share  CPU s/GiB  \
             downtime  blackout"
                .into(),
        ];
        lines.extend(self.rows.iter().map(|row| line(&row.medians())));
        lines
    }
}

fn line(row: &RowObject) -> String {
    format!(
        "{:5} {:8.0} {:10.2} {:8.0} {:6.2} {:11.2} {:8.0} {:6.2} {:10.2} {:6.1} ms {:6.1} ms",
        row.lanes,
        row.plain_mib_s,
        row.plain_cpu_s_per_gib,
        row.engine_mib_s,
        row.engine_share,
        row.engine_cpu_s_per_gib,
        row.product_mib_s,
        row.product_share,
        row.product_cpu_s_per_gib,
        row.product_downtime_us / 1000.0,
        row.product_blackout_us / 1000.0,
    )
}

/// How fast each was beside its neighbour.
fn shares(
    of: impl Iterator<Item = Sample>,
    plain: impl Iterator<Item = Sample>,
) -> impl Iterator<Item = f64> {
    of.zip(plain).map(|(of, plain)| of.mib_per_s() / plain.mib_per_s())
}

fn us(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(mib: u64, ms: u64, cpu_ms: u64) -> Sample {
        let (elapsed, cpu) = (Duration::from_millis(ms), Duration::from_millis(cpu_ms));
        Sample { bytes: mib << 20, elapsed, cpu }
    }

    #[test]
    fn shares_are_those_of_neighbours_and_medians_leave_the_odd_one_out() {
        let plain = [sample(1024, 1000, 500), sample(1024, 2000, 500), sample(1024, 1000, 500)];
        let moved = [sample(1024, 2000, 900), sample(1024, 2000, 600), sample(1024, 4000, 600)];
        let found = shares(moved.into_iter(), plain.into_iter()).collect::<Vec<_>>();
        assert_eq!(found, [0.5, 1.0, 0.25]);
        assert_eq!(median(found.into_iter()), 0.5);
        assert_eq!(median(moved.into_iter().map(Sample::cpu_s_per_gib)), 0.6);
        assert_eq!(sample(512, 500, 0).mib_per_s(), 1024.0);
    }
}
