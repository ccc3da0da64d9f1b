//! What a carrier costs: movers and whole migrations of an idle guest over each, in turns.
//!
//! `carriers [MIB] [REPEATS] [LANES]`. Figures of two runs cannot be compared on a machine that
//! others share; the ratio of neighbours within one can.

use anyhow::ensure;
use whimbrel_agent::bench::moving::{self, Migrated, Way};
use whimbrel_agent::bench::wire::Wire;
use whimbrel_agent::bench::{Sample, median, memory, plain};
use whimbrel_benches::{carried, plain_quic};

fn main() -> anyhow::Result<()> {
    let numbers = std::env::args().skip(1).map(|text| text.parse::<usize>());
    let numbers = numbers.collect::<Result<Vec<_>, _>>()?;
    let number = |at: usize, default| *numbers.get(at).unwrap_or(&default);
    let (mib, repeats, lanes) = (number(0, 1024), number(1, 5), number(2, 2));
    ensure!(mib > 0 && repeats > 0 && lanes > 0, "usage: carriers [MIB] [REPEATS] [LANES]");
    memory::warm((4 * mib) << 20);
    let content = memory::random(mib << 20);
    let guest = moving::filled((mib << 20) as u64)?;
    let mut rows: Vec<Vec<(Sample, Migrated)>> = Wire::ALL.map(|_| Vec::new()).into();
    let mut plain = PLAIN.map(|_| Vec::new());
    for _ in 0..repeats {
        for (wire, row) in Wire::ALL.into_iter().zip(&mut rows) {
            let mover = carried::run(&content, lanes, wire)?;
            let way = Way { lanes: lanes as u16, wire, ..Way::default() };
            row.push((mover, moving::migrate(&guest, way)?));
        }
        for ((_, _, run), row) in PLAIN.iter().zip(&mut plain) {
            row.push(run(&content, lanes)?);
        }
    }
    println!("{mib} MiB, idle and random, {lanes} lanes, {repeats} repeats, medians");
    println!("carrier      mover   migration   share    of tcp    CPU s a GiB     downtime, ms");
    println!("             MiB/s       MiB/s                     mover  moved");
    for (wire, row) in Wire::ALL.into_iter().zip(&rows) {
        line(wire, row, &rows[0]);
    }
    println!("plain mover  MiB/s   CPU s a GiB   the carrier's mover beside it");
    for ((name, wire, _), row) in PLAIN.iter().zip(&plain) {
        let carrier = Wire::ALL.iter().zip(&rows).find(|(of, _)| *of == wire);
        plain_line(name, row, carrier.expect("it is one of all").1);
    }
    Ok(())
}

type Plain = fn(&[u8], usize) -> anyhow::Result<Sample>;

/// Movers without anything of ours, and the carrier whose mover stands beside each: TCP, and QUIC
/// as it comes.
const PLAIN: [(&str, Wire, Plain); 2] = [
    ("tcp", Wire::Tcp, |from, lanes| Ok(plain::run(from, lanes)?)),
    ("quinn", Wire::Quic, plain_quic::run),
];

fn plain_line(name: &str, row: &[Sample], carrier: &[(Sample, Migrated)]) {
    let beside =
        |(plain, (mover, _)): (&Sample, &(Sample, Migrated))| mover.mib_per_s() / plain.mib_per_s();
    println!(
        "{name:10} {:7.0} {:13.2} {:31.2}",
        median(row.iter().map(|plain| plain.mib_per_s())),
        median(row.iter().map(|plain| plain.cpu_s_per_gib())),
        median(row.iter().zip(carrier).map(beside)),
    );
}

fn line(wire: Wire, row: &[(Sample, Migrated)], tcp: &[(Sample, Migrated)]) {
    let moved = |(_, moved): &(Sample, Migrated)| moved.sample().mib_per_s();
    let beside = |(one, other): (&(Sample, Migrated), _)| moved(one) / moved(other);
    println!(
        "{:10} {:7.0} {:11.0} {:7.2} {:9.2} {:8.2} {:6.2} {:16.2}",
        wire.name(),
        median(row.iter().map(|(mover, _)| mover.mib_per_s())),
        median(row.iter().map(moved)),
        median(row.iter().map(|pair| moved(pair) / pair.0.mib_per_s())),
        median(row.iter().zip(tcp).map(beside)),
        median(row.iter().map(|(mover, _)| mover.cpu_s_per_gib())),
        median(row.iter().map(|(_, moved)| moved.sample().cpu_s_per_gib())),
        median(row.iter().map(|(_, moved)| moved.downtime().as_secs_f64() * 1000.0)),
    );
}
