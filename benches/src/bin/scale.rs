//! How a migration grows with what is moved: figures, and plots of them.
//!
//! `scale FOLDER PART…` with the parts `size`, `lanes`, `rate`, `estimate`, `read`, `sparse`,
//! `zero` and `order` prints one table each; the first three draw SVGs into the folder. Each takes
//! minutes.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use whimbrel_agent::bench::moving::{self, Migrated, Way};
use whimbrel_agent::bench::{Sample, median, memory, page_tables, plain};
use whimbrel_agent::host_facts;
use whimbrel_benches::plot::Chart;
use whimbrel_benches::working::{self, AT_WORK, Work, Worked};
use whimbrel_engine::memory::{Backing, GuestMemory, TrackerKind};
use whimbrel_engine::page::{ByteCount, Layout, PageIndex, RegionId, RegionLayout, Run};
use whimbrel_guest::stress::Pattern;

const GIB: u64 = 1 << 30;
const MIB: f64 = (1 << 20) as f64;
/// Runs of each, of which the median is told.
const REPEATS: usize = 3;
/// The same where what is told is how far a forecast is off.
const FORECASTS: usize = 21;

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().context("usage: scale FOLDER PART…")?;
    let folder = Path::new(&folder);
    for part in arguments {
        match part.as_str() {
            "size" => size(folder)?,
            "lanes" => lanes(folder)?,
            "rate" => rate(folder)?,
            "estimate" => estimate()?,
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

/// The median of a figure.
fn of<T>(runs: &[T], figure: impl Fn(&T) -> f64) -> f64 {
    median(runs.iter().map(figure))
}

fn three(guest: &GuestMemory, way: Way) -> anyhow::Result<Vec<Migrated>> {
    Ok((0..REPEATS).map(|_| moving::migrate(guest, way)).collect::<Result<_, _>>()?)
}

/// Runs of each of some kinds, in turns: what else the machine does meets all alike.
fn in_turns<K, T, const N: usize>(
    kinds: &[K; N],
    run: impl Fn(&K) -> anyhow::Result<T>,
) -> anyhow::Result<[Vec<T>; N]> {
    let mut runs = [(); N].map(|()| Vec::new());
    for _ in 0..REPEATS {
        for (runs, kind) in runs.iter_mut().zip(kinds) {
            runs.push(run(kind)?);
        }
    }
    Ok(runs)
}

fn mib(bytes: ByteCount) -> f64 {
    bytes.0 as f64 / MIB
}

/// Time, processor time and memory against the guest's size.
fn size(folder: &Path) -> anyhow::Result<()> {
    println!("MiB     total, ms   CPU, ms   beside, MiB   downtime, ms   last harvest, ms");
    memory::warm(2 * 8 * GIB as usize);
    let (title, x) = ("An idle guest of random pages, 4 lanes", "guest memory, MiB");
    let mut times = Chart::of(title, x, "ms", &["total", "CPU, both sides"]);
    let mut beside = Chart::of(title, x, "MiB", &["beside the guest's own, both sides"]);
    for size in [256, 512, 1024, 2048, 4096, 8192] {
        let moved = three(&moving::filled(size << 20)?, idle(4))?;
        let figures = sized(&size.to_string(), &moved);
        times.push(size.to_string(), &figures[..2]);
        beside.push(size.to_string(), &figures[2..]);
    }
    // 2 GiB of pages, spread over it.
    let moved = three(&spread(1024 * GIB)?, idle(4))?;
    let figures = sized("1 TiB sparse", &moved);
    times.push_apart("1 TiB, 2 GiB in it", &figures[..2]);
    beside.push_apart("1 TiB, 2 GiB in it", &figures[2..]);
    save(folder, "memory.svg", &beside)?;
    save(folder, "size.svg", &times)
}

/// Total and CPU in milliseconds, and MiB beside the guest's own.
fn sized(name: &str, moved: &[Migrated]) -> [f64; 3] {
    let total = of(moved, |moved| ms(moved.report.total));
    let cpu = of(moved, |moved| ms(moved.cpu));
    let beside = of(moved, |moved| moved.beside as f64 / MIB);
    println!(
        "{name:>12} {total:11.0} {cpu:9.0} {beside:13.1} {:14.2} {:18.2}",
        of(moved, |moved| ms(moved.downtime())),
        of(moved, |moved| ms(moved.report.downtime.harvest)),
    );
    [total, cpu, beside]
}

/// Rates against the number of lanes, beside the plain mover.
fn lanes(folder: &Path) -> anyhow::Result<()> {
    println!("lanes   plain, MiB/s   migration   share   CPU s a GiB: plain / moved   beside, MiB");
    memory::warm(4 * GIB as usize);
    let (content, guest) = (memory::random(GIB as usize), moving::filled(GIB)?);
    let (title, x) = ("An idle guest of 1 GiB, random", "lanes");
    let both = ["plain mover", "migration"];
    let mut rates = Chart::of(title, x, "MiB/s", &both);
    let mut costs = Chart::of(title, x, "CPU seconds a GiB, both sides", &both);
    let mut held = Chart::of(title, x, "MiB", &["beside the guest's own, both sides"]);
    for lanes in [1, 2, 4, 8, 16] {
        let mut pairs = Vec::new();
        for _ in 0..REPEATS {
            let plain = plain::run(&content, lanes.into())?;
            pairs.push((plain, moving::migrate(&guest, idle(lanes))?));
        }
        let rate = [
            of(&pairs, |(plain, _)| plain.mib_per_s()),
            of(&pairs, |(_, moved)| moved.sample().mib_per_s()),
        ];
        let share =
            |(plain, moved): &(Sample, Migrated)| moved.sample().mib_per_s() / plain.mib_per_s();
        let cost = [
            of(&pairs, |(plain, _)| plain.cpu_s_per_gib()),
            of(&pairs, |(_, moved)| moved.sample().cpu_s_per_gib()),
        ];
        let beside = of(&pairs, |(_, moved)| moved.beside as f64 / MIB);
        println!(
            "{lanes:5} {:14.0} {:11.0} {:7.2} {:20.2} / {:.2} {beside:13.1}",
            rate[0],
            rate[1],
            of(&pairs, share),
            cost[0],
            cost[1],
        );
        rates.push(lanes.to_string(), &rate);
        costs.push(lanes.to_string(), &cost);
        held.push(lanes.to_string(), &[beside]);
    }
    save(folder, "lanes.svg", &rates)?;
    save(folder, "lanes-cpu.svg", &costs)?;
    save(folder, "lanes-memory.svg", &held)
}

/// What the guest's work costs the migration, and the migration the guest's work.
fn rate(folder: &Path) -> anyhow::Result<()> {
    println!(
        "MiB/s   tracker   writes/s before / during / after   total   downtime   expected / taken  \
         \x20 lost   CPU   resent   lanes waited"
    );
    memory::warm(3 * GIB as usize);
    let (title, x) = ("1 GiB, 256 MiB of it written, 4 lanes", "the guest writes, MiB/s");
    let trackers = [TrackerKind::Userfaultfd, TrackerKind::Mprotect];
    let totals = trackers.map(|kind| format!("total, {kind}"));
    let mut totals = Chart::of(title, x, "ms", &totals);
    let names = ["downtime", "lost to the guest"];
    let names = trackers.map(|kind| names.map(|name| format!("{name}, {kind}"))).concat();
    let mut felt = Chart::of(title, x, "ms", &names);
    let costs = trackers.map(|kind| format!("CPU, the guest's with it, {kind}"));
    let mut costs = Chart::of(title, x, "ms", &costs);
    let beside = trackers.map(|kind| format!("beside the guest's own, {kind}"));
    let mut beside = Chart::of(title, x, "MiB", &beside);
    for mib_s in [0, 100, 400, u64::MAX] {
        let name = if mib_s == u64::MAX { "max".into() } else { mib_s.to_string() };
        let work = Work::at(mib_s, Pattern::Uniform)?;
        let worked = in_turns(&trackers, |tracker| {
            let way = working::Way { tracker: Some(*tracker), ..AT_WORK };
            working::migrate(&Work { way, ..work.clone() })
        })?;
        for (worked, tracker) in worked.iter().zip(trackers) {
            println!("{name:>5} {tracker:>12} {}", at_work(worked));
        }
        let figures = worked.each_ref().map(|runs| {
            [of(runs, |run| ms(run.report.downtime.total())), of(runs, |run| ms(run.lost))]
        });
        felt.push(&*name, &figures.concat());
        totals.push(&*name, &worked.each_ref().map(|runs| of(runs, |run| ms(run.report.total))));
        costs.push(&*name, &worked.each_ref().map(|runs| of(runs, |run| ms(run.cpu))));
        beside.push(name, &worked.each_ref().map(|runs| of(runs, |run| run.beside as f64 / MIB)));
    }
    save(folder, "rate.svg", &totals)?;
    save(folder, "rate-felt.svg", &felt)?;
    save(folder, "rate-cpu.svg", &costs)?;
    save(folder, "rate-memory.svg", &beside)
}

/// The downtime that was expected before the pause, as a share of what it took.
fn expected(run: &Worked) -> f64 {
    let expected = run.report.downtime_estimate.unwrap_or_default();
    expected.as_secs_f64() / run.report.downtime.total().as_secs_f64()
}

/// How far off the forecast of the downtime is.
fn estimate() -> anyhow::Result<()> {
    println!("MiB/s   expected / taken: median (the lower quarter ends, the upper one begins)");
    memory::warm(3 * GIB as usize);
    for mib_s in [0, 100, 400] {
        let work = Work::at(mib_s, Pattern::Uniform)?;
        let runs =
            (0..FORECASTS).map(|_| working::migrate(&work)).collect::<Result<Vec<_>, _>>()?;
        let mut shares: Vec<_> = runs.iter().map(expected).collect();
        shares.sort_by(f64::total_cmp);
        let (low, high) = (shares[FORECASTS / 4], shares[FORECASTS - 1 - FORECASTS / 4]);
        let taken = of(&runs, |run| ms(run.report.downtime.total()));
        println!("{mib_s:5}   {:.2} ({low:.2}, {high:.2}) of {taken:.1} ms", of(&shares, |it| *it));
    }
    Ok(())
}

/// A row of medians.
fn at_work(runs: &[Worked]) -> String {
    format!(
        "{:10.0} / {:.0} / {:.0} {:8.0} ms {:6.1} ms {:6.2} {:6.0} ms {:6.0} ms {:6.2} {:6.2} %",
        of(runs, |run| run.rates[0]),
        of(runs, |run| run.rates[1]),
        of(runs, |run| run.rates[2]),
        of(runs, |run| ms(run.report.total)),
        of(runs, |run| ms(run.report.downtime.total())),
        of(runs, expected),
        of(runs, |run| ms(run.lost)),
        of(runs, |run| ms(run.cpu)),
        of(runs, Worked::resend_factor),
        of(runs, |run| run.waited() * 100.0),
    )
}

/// What a guest that mostly reads loses.
fn read() -> anyhow::Result<()> {
    println!("    tracker   operations/s before / during / after   total, ms   downtime, ms");
    memory::warm(2 * GIB as usize);
    let trackers = [TrackerKind::Userfaultfd, TrackerKind::Mprotect];
    let moved = in_turns(&trackers, |tracker| {
        working::migrate_reader(GIB, working::Way { tracker: Some(*tracker), ..AT_WORK })
    })?;
    for (moved, tracker) in moved.iter().zip(trackers) {
        println!(
            "{tracker:>11} {:14.0} / {:.0} / {:.0} {:17.0} {:14.1}",
            of(moved, |(_, rates)| rates[0]),
            of(moved, |(_, rates)| rates[1]),
            of(moved, |(_, rates)| rates[2]),
            of(moved, |(report, _)| ms(report.total)),
            of(moved, |(report, _)| ms(report.downtime.total())),
        );
    }
    Ok(())
}

/// 2 GiB of pages in pieces of 1 MiB, spread over `size`.
fn spread(size: u64) -> anyhow::Result<GuestMemory> {
    let guest = GuestMemory::allocate(&Layout::single(ByteCount(size))?, Backing::Private)?;
    let piece = memory::random(1 << 20);
    for start in (0..size).step_by((size / 2048) as usize) {
        guest.write(RegionId(0), ByteCount(start), &piece)?;
    }
    Ok(guest)
}

/// 2 GiB in a region of their own size, and spread over 1 TiB, in turns.
fn sparse() -> anyhow::Result<()> {
    println!("2 GiB of pages in   total, ms   CPU, ms   beside, MiB   downtime, ms");
    memory::warm(2 * 2 * GIB as usize);
    let sizes = [2 * GIB, 1024 * GIB];
    let guests = [spread(sizes[0])?, spread(sizes[1])?];
    let moved = in_turns(&guests, |guest| Ok(moving::migrate(guest, idle(4))?))?;
    for (moved, size) in moved.iter().zip(sizes) {
        println!(
            "{:13} GiB {:12.0} {:9.0} {:13.1} {:14.2}",
            size / GIB,
            of(moved, |moved| ms(moved.report.total)),
            of(moved, |moved| ms(moved.cpu)),
            of(moved, |moved| moved.beside as f64 / MIB),
            of(moved, |moved| ms(moved.downtime())),
        );
    }
    Ok(())
}

/// 4 GiB of random pages, and the same with half of them zero, in pieces of 2 MiB or every second
/// page, in turns; and a region beside it that nobody touched.
fn zero() -> anyhow::Result<()> {
    const SIZE: u64 = 4 * GIB;
    println!("4 GiB            total, ms   CPU, ms   bytes on the wire   time, CPU of the first");
    memory::warm(4 * SIZE as usize);
    let region = |id, size| RegionLayout { id: RegionId(id), size: ByteCount(size) };
    let layout = Layout::new(vec![region(0, SIZE), region(1, GIB)])?;
    let (page, zeros) = (memory::random(4096), vec![0; 4096]);
    // Which pages are zero.
    type IsZero = fn(u64) -> bool;
    let kinds: [(&str, IsZero); 3] = [
        ("random", |_| false),
        ("half zero, 2 MiB", |page| page / 512 % 2 == 1),
        ("every second", |page| page % 2 == 1),
    ];
    let filled = |is_zero: IsZero| {
        let guest = GuestMemory::allocate(&layout, Backing::Private)?;
        for number in 0..SIZE / 4096 {
            let bytes = if is_zero(number) { &zeros } else { &page };
            guest.write(RegionId(0), PageIndex(number).offset(), bytes)?;
        }
        anyhow::Ok(guest)
    };
    let [a, b, c] = kinds.map(|(_, is_zero)| filled(is_zero));
    let guests = [a?, b?, c?];
    let moved = in_turns(&guests, |guest| {
        let (resident, tables) = (guest.resident()?, page_tables()?);
        let moved = moving::migrate(guest, idle(4))?;
        // Whoever reads a page that was never written gets a page of zeros mapped, which takes a
        // page table for each 2 MiB.
        let grown = page_tables()?.0.saturating_sub(tables.0);
        if guest.resident()? != resident || grown > (GIB >> 9) / 2 {
            bail!("memory that was never touched was read: page tables grew by {grown} bytes");
        }
        Ok(moved)
    })?;
    for (runs, (name, _)) in moved.iter().zip(kinds) {
        let pairs: Vec<_> = runs.iter().zip(&moved[0]).collect();
        let share = |figure: fn(&Migrated) -> Duration| {
            of(&pairs, |(run, full)| figure(run).as_secs_f64() / figure(full).as_secs_f64())
        };
        println!(
            "{name:16} {:9.0} {:9.0} {:14.0} MiB {:12.2} / {:.2}",
            of(runs, |moved| ms(moved.report.total)),
            of(runs, |moved| ms(moved.cpu)),
            of(runs, |moved| mib(moved.report.progress.bytes_on_wire)),
            share(|moved| moved.report.total),
            share(|moved| moved.cpu),
        );
    }
    drop(guests);
    let zeros = filled(|_| true)?;
    let moved = three(&zeros, idle(4))?;
    let reads = (0..REPEATS).map(|_| read_plainly(&zeros, SIZE)).collect::<Result<Vec<_>, _>>()?;
    let speed = |time: Duration| SIZE as f64 / GIB as f64 / time.as_secs_f64();
    println!(
        "zeros: found at {:.1} GiB/s, where two threads that do nothing else read {:.1} GiB/s",
        of(&moved, |moved| speed(moved.report.total)),
        of(&reads, |took| speed(*took)),
    );
    Ok(())
}

/// How long it takes two threads to read the first region and do nothing with it.
fn read_plainly(guest: &GuestMemory, size: u64) -> anyhow::Result<Duration> {
    const PART: u64 = 256;
    let began = std::time::Instant::now();
    let half = |first: u64| {
        let mut part = vec![0; PART as usize * 4096];
        let pages = size / 4096;
        for page in (first * PART..pages).step_by(2 * PART as usize) {
            guest.copy_run(Run::new(RegionId(0), page, PART), &mut part)?;
        }
        anyhow::Ok(())
    };
    std::thread::scope(|scope| {
        let other = scope.spawn(|| half(1));
        half(0)?;
        other.join().map_err(|_| anyhow::anyhow!("a reader panicked"))?
    })?;
    Ok(began.elapsed())
}

/// What it brings to leave pages that are always written for last.
fn order() -> anyhow::Result<()> {
    println!(
        "guest       hot pages   pages sent / pages of RAM   rounds   total, ms   downtime, ms"
    );
    memory::warm(3 * GIB as usize);
    for pattern in [Pattern::Zipf, Pattern::HotSpot, Pattern::Uniform] {
        let orders = [("in place", false), ("last", true)];
        let worked = in_turns(&orders, |(_, hot_last)| {
            let way = working::Way { hot_last: *hot_last, ..AT_WORK };
            working::migrate(&Work { way, ..Work::at(400, pattern)? })
        })?;
        for (worked, (name, _)) in worked.iter().zip(orders) {
            println!(
                "{pattern:10} {name:>10} {:27.3} {:8} {:11.0} {:14.1}",
                of(worked, Worked::resend_factor),
                of(worked, |run| run.report.progress.rounds.len() as f64),
                of(worked, |run| ms(run.report.total)),
                of(worked, |run| ms(run.report.downtime.total())),
            );
        }
    }
    Ok(())
}

fn save(folder: &Path, name: &str, chart: &Chart) -> anyhow::Result<()> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let facts = host_facts();
    let or_unknown = |fact: Option<String>| fact.unwrap_or_else(|| "unknown".into());
    let (kernel, processor) = (or_unknown(facts.kernel), or_unknown(facts.processor));
    let machine = format!("{cores} cores of {processor}, kernel {kernel}");
    let chart = Chart { machine, ..chart.clone() };
    std::fs::create_dir_all(folder)?;
    Ok(std::fs::write(folder.join(name), chart.svg())?)
}
