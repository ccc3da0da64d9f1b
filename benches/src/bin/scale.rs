//! How a migration grows with what is moved: figures, and plots of them.
//!
//! `scale FOLDER PART…` with the parts `size`, `lanes`, `rate`, `read`, `sparse`, `zero` and
//! `order` prints one table each; the first three draw SVGs into the folder. Each takes minutes.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use whimbrel_agent::bench::moving::{self, Way};
use whimbrel_agent::bench::{memory, plain};
use whimbrel_benches::plot::Chart;
use whimbrel_benches::working::{self, Work};
use whimbrel_engine::memory::{Backing, GuestMemory, TrackerKind};
use whimbrel_engine::page::{ByteCount, Layout, PageIndex, RegionId, RegionLayout};
use whimbrel_guest::stress::{DirtyRate, Fill, Pattern, StressSpec, VcpuCount};

const GIB: u64 = 1 << 30;
const MIB: f64 = (1 << 20) as f64;

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().context("usage: scale FOLDER PART…")?;
    let folder = Path::new(&folder);
    for part in arguments {
        match part.as_str() {
            "size" => size(folder)?,
            "lanes" => lanes(folder)?,
            "rate" => rate(folder)?,
            "read" => read()?,
            "sparse" => sparse()?,
            "zero" => zero()?,
            "order" => order()?,
            other => bail!("there is no part {other}"),
        }
    }
    Ok(())
}

fn idle(lanes: u16) -> Way {
    Way { lanes, ..Way::default() }
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// The middle one of three, by how long they took.
fn middle(guest: &GuestMemory, way: Way) -> anyhow::Result<moving::Migrated> {
    let mut three = Vec::new();
    for _ in 0..3 {
        three.push(moving::migrate(guest, way)?);
    }
    three.sort_by_key(|moved| moved.report.total);
    Ok(three.swap_remove(1))
}

/// Time, processor time and memory against the guest's size.
fn size(folder: &Path) -> anyhow::Result<()> {
    println!("MiB     total, ms   CPU, ms   beside, MiB   downtime, ms   last harvest, ms");
    memory::warm(2 * 8 * GIB as usize);
    let mut chart = Chart {
        title: "An idle guest of random pages, 4 lanes".into(),
        x: "guest memory, MiB".into(),
        y: "ms".into(),
        ..Chart::default()
    };
    let names = ["total", "CPU, both sides"];
    chart.lines = names.map(|name| (name.to_owned(), Vec::new())).to_vec();
    let mut beside = Chart {
        y: "MiB".into(),
        lines: vec![("beside the guest's own".into(), Vec::new())],
        ..chart.clone()
    };
    for mib in [256, 512, 1024, 2048, 4096, 8192] {
        let guest = moving::filled(mib << 20)?;
        let moved = middle(&guest, idle(4))?;
        let harvest = moved.report.downtime.harvest;
        println!(
            "{mib:5} {:11.0} {:9.0} {:13.1} {:14.2} {:18.2}",
            ms(moved.report.total),
            ms(moved.cpu),
            moved.beside.0 as f64 / MIB,
            ms(moved.downtime()),
            ms(harvest),
        );
        chart.places.push(mib.to_string());
        chart.lines[0].1.push(ms(moved.report.total));
        chart.lines[1].1.push(ms(moved.cpu));
        beside.places.push(mib.to_string());
        beside.lines[0].1.push(moved.beside.0 as f64 / MIB);
    }
    save(folder, "memory.svg", &beside)?;
    save(folder, "size.svg", &chart)
}

/// Rates against the number of lanes, beside the plain mover.
fn lanes(folder: &Path) -> anyhow::Result<()> {
    println!("lanes   plain, MiB/s   migration, MiB/s   CPU s a GiB: plain / migration");
    memory::warm(4 * GIB as usize);
    let (content, guest) = (memory::random(GIB as usize), moving::filled(GIB)?);
    let mut chart = Chart {
        title: "An idle guest of 1 GiB, random".into(),
        x: "lanes".into(),
        y: "MiB/s".into(),
        ..Chart::default()
    };
    chart.lines = ["plain mover", "migration"].map(|name| (name.to_owned(), Vec::new())).to_vec();
    for lanes in [1, 2, 4, 8, 16] {
        let mut plain = Vec::new();
        for _ in 0..3 {
            plain.push(plain::run(&content, lanes.into())?);
        }
        plain.sort_by_key(|sample| sample.elapsed);
        let (plain, moved) = (plain[1], middle(&guest, idle(lanes))?.sample());
        println!(
            "{lanes:5} {:14.0} {:18.0} {:17.2} / {:.2}",
            plain.mib_per_s(),
            moved.mib_per_s(),
            plain.cpu_s_per_gib(),
            moved.cpu_s_per_gib()
        );
        chart.places.push(lanes.to_string());
        chart.lines[0].1.push(plain.mib_per_s());
        chart.lines[1].1.push(moved.mib_per_s());
    }
    save(folder, "lanes.svg", &chart)
}

const AT_WORK: working::Way = working::Way { lanes: 4, hot_last: true, tracker: None };

fn work(rate: DirtyRate, pattern: Pattern) -> anyhow::Result<Work> {
    let (working_set, fill) = (ByteCount::mib(256), Fill::Random);
    let spec =
        StressSpec { working_set, rate, pattern, fill, vcpus: VcpuCount(1), ..Default::default() };
    let layout = Layout::single(ByteCount::mib(1024))?;
    Ok(Work { layout, spec, way: AT_WORK })
}

/// What the guest's work costs the migration, and the migration the guest's work.
fn rate(folder: &Path) -> anyhow::Result<()> {
    println!(
        "MiB/s   tracker   writes/s before / during / after   total   downtime   lost   resent   \
         lanes waited"
    );
    let mut chart = Chart {
        title: "1 GiB, 256 MiB of it written, 4 lanes".into(),
        x: "the guest writes, MiB/s".into(),
        y: "ms".into(),
        ..Chart::default()
    };
    let names = ["total", "downtime", "lost to the guest"];
    chart.lines = names.map(|name| (name.to_owned(), Vec::new())).to_vec();
    for tracker in [TrackerKind::Userfaultfd, TrackerKind::Mprotect] {
        for mib in [0, 100, 400, u64::MAX] {
            let rate = match mib {
                0 => DirtyRate::Idle,
                u64::MAX => DirtyRate::Max,
                mib => DirtyRate::PerSecond(ByteCount::mib(mib)),
            };
            let name = if mib == u64::MAX { "max".into() } else { mib.to_string() };
            let way = working::Way { tracker: Some(tracker), ..AT_WORK };
            let work = Work { way, ..work(rate, Pattern::Uniform)? };
            let worked = working::migrate(&work)?;
            let [before, during, after] = worked.rates;
            let (total, downtime) = (worked.report.total, worked.report.downtime.total());
            println!(
                "{name:>5} {tracker:>12} {before:10.0} / {during:.0} / {after:.0} {:8.0} ms \
                 {:6.1} ms {:4.0} ms {:6.2} {:6.2} %",
                ms(total),
                ms(downtime),
                ms(worked.lost),
                worked.resend_factor(),
                worked.waited() * 100.0,
            );
            if tracker == TrackerKind::Userfaultfd {
                chart.places.push(name);
                chart.lines[0].1.push(ms(total));
                chart.lines[1].1.push(ms(downtime));
                chart.lines[2].1.push(ms(worked.lost));
            }
        }
    }
    save(folder, "rate.svg", &chart)
}

/// What a guest that mostly reads loses.
fn read() -> anyhow::Result<()> {
    println!("    tracker   operations/s before / during / after   total, ms   downtime, ms");
    memory::warm(2 * GIB as usize);
    for tracker in [TrackerKind::Userfaultfd, TrackerKind::Mprotect].repeat(3) {
        let way = working::Way { tracker: Some(tracker), ..AT_WORK };
        let (report, [before, during, after]) = working::migrate_reader(GIB, way)?;
        println!(
            "{tracker:>11} {before:14.0} / {during:.0} / {after:.0} {:17.0} {:14.1}",
            ms(report.total),
            ms(report.downtime.total()),
        );
    }
    Ok(())
}

/// 2 GiB in a region of their own size, and spread over 1 TiB.
fn sparse() -> anyhow::Result<()> {
    println!("2 GiB of pages in   total, ms   CPU, ms   beside, MiB   downtime, ms");
    memory::warm(2 * 2 * GIB as usize);
    for size in [2 * GIB, 1024 * GIB] {
        let layout = Layout::single(ByteCount(size))?;
        let guest = GuestMemory::allocate(&layout, Backing::Private)?;
        let piece = memory::random(1 << 20);
        let step = size / 2048;
        for start in (0..size).step_by(step as usize) {
            guest.write(RegionId(0), ByteCount(start), &piece)?;
        }
        let moved = moving::migrate(&guest, idle(4))?;
        println!(
            "{:13} GiB {:12.0} {:9.0} {:13.1} {:14.2}",
            size / GIB,
            ms(moved.report.total),
            ms(moved.cpu),
            moved.beside.0 as f64 / MIB,
            ms(moved.downtime()),
        );
    }
    Ok(())
}

/// 4 GiB of random pages, and the same with every second one zero; and a region nobody touched.
fn zero() -> anyhow::Result<()> {
    println!("4 GiB            total, ms   CPU, ms   bytes on the wire");
    memory::warm(2 * 4 * GIB as usize);
    let region = |id, size| RegionLayout { id: RegionId(id), size: ByteCount(size) };
    let layout = Layout::new(vec![region(0, 4 * GIB), region(1, GIB)])?;
    for (name, every) in [("random", 1), ("half zero", 2)] {
        let guest = GuestMemory::allocate(&layout, Backing::Private)?;
        let (page, zeros) = (memory::random(4096), vec![0; 4096]);
        for number in 0..4 * GIB / 4096 {
            let bytes = if number % every == 0 { &page } else { &zeros };
            guest.write(RegionId(0), PageIndex(number).offset(), bytes)?;
        }
        let before = guest.resident()?;
        let moved = middle(&guest, idle(4))?;
        if guest.resident()? != before {
            bail!("reading it has populated memory that was never touched");
        }
        println!(
            "{name:14} {:11.0} {:9.0} {:14.0} MiB",
            ms(moved.report.total),
            ms(moved.cpu),
            moved.report.progress.bytes_on_wire.0 as f64 / MIB,
        );
    }
    Ok(())
}

/// What it brings to leave pages that are always written for last.
fn order() -> anyhow::Result<()> {
    println!(
        "guest       hot pages   pages sent / pages of RAM   rounds   total, ms   downtime, ms"
    );
    for pattern in [Pattern::Zipf, Pattern::HotSpot, Pattern::Uniform] {
        for hot_last in [false, true, false, true, false, true] {
            let rate = DirtyRate::PerSecond(ByteCount::mib(400));
            let way = working::Way { hot_last, ..AT_WORK };
            let worked = working::migrate(&Work { way, ..work(rate, pattern)? })?;
            println!(
                "{pattern:10} {:>10} {:27.3} {:8} {:11.0} {:14.1}",
                if hot_last { "last" } else { "in place" },
                worked.resend_factor(),
                worked.report.progress.rounds.len(),
                ms(worked.report.total),
                ms(worked.report.downtime.total()),
            );
        }
    }
    Ok(())
}

fn save(folder: &Path, name: &str, chart: &Chart) -> anyhow::Result<()> {
    std::fs::create_dir_all(folder)?;
    Ok(std::fs::write(folder.join(name), chart.svg())?)
}
