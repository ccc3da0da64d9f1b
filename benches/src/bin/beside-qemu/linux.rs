//! Both, in turns.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use whimbrel_agent::bench::{median, memory};
use whimbrel_benches::working::{self, AT_WORK, WATCHED, Work, Worked};
use whimbrel_guest::stress::Pattern;

use crate::qemu::Qemu;

/// Who moves the guest: Whimbrel, or QEMU with these options at its destination.
const MOVERS: [(&str, Option<&[&str]>); 3] =
    [("whimbrel", None), ("QEMU", Some(&[])), ("QEMU, memory is there", Some(&["-mem-prealloc"]))];
/// Ticks of the clock in which Linux tells processor time, on every machine that QEMU runs on.
const TICKS_PER_S: u64 = 100;

/// What became of one move.
struct Moved {
    /// Page writes a second before, while and after it moved.
    rates: [f64; 3],
    total: Duration,
    downtime: Duration,
    /// Of both sides, with the guest.
    cpu: Duration,
}

pub(crate) fn main() -> anyhow::Result<()> {
    let repeats = std::env::args().nth(1).map_or(Ok(5), |text| text.parse::<usize>())?;
    ensure!(repeats > 0, "usage: beside-qemu [REPEATS]");
    let clock = clock_hz()?;
    let told = |path| fs::read_to_string(path).with_context(|| format!("{path} is not read"));
    println!(
        "QEMU's connections are {}, its memory has huge pages: {}",
        told("/proc/sys/net/ipv4/tcp_congestion_control")?.trim(),
        told("/sys/kernel/mm/transparent_hugepage/enabled")?.trim()
    );
    println!(
        "MiB/s              moved by       writes/s before / during / after       total   \
         downtime        CPU"
    );
    for mib_s in [100, 400] {
        // A page is 4 KiB.
        let writes_per_s = mib_s * 256;
        let work = Work::at(mib_s, Pattern::Uniform)?;
        let mut moved = MOVERS.map(|_| Vec::new());
        for _ in 0..repeats {
            for ((_, qemu), moved) in MOVERS.iter().zip(&mut moved) {
                moved.push(match qemu {
                    None => by_whimbrel(&work)?,
                    Some(options) => by_qemu(clock, writes_per_s, options)?,
                });
            }
        }
        for ((name, _), moved) in MOVERS.iter().zip(&moved) {
            println!("{mib_s:>5} {name:>21} {}", row(moved));
        }
    }
    Ok(())
}

fn row(moved: &[Moved]) -> String {
    let of = |figure: fn(&Moved) -> f64| median(moved.iter().map(figure));
    format!(
        "{:9.0} / {:7.0} ({:5.1} %) / {:7.0} {:7.0} ms {:7.1} ms {:7.0} ms",
        of(|moved| moved.rates[0]),
        of(|moved| moved.rates[1]),
        of(|moved| moved.rates[1] / moved.rates[0] * 100.0),
        of(|moved| moved.rates[2]),
        of(|moved| moved.total.as_secs_f64() * 1e3),
        of(|moved| moved.downtime.as_secs_f64() * 1e3),
        of(|moved| moved.cpu.as_secs_f64() * 1e3),
    )
}

fn by_whimbrel(work: &Work) -> anyhow::Result<Moved> {
    // For both sides, and for what is there beside the guest's own.
    memory::warm(3 << 30);
    let Worked { report, rates, cpu, .. } = working::migrate(work)?;
    Ok(Moved { rates, total: report.total, downtime: report.downtime.total(), cpu })
}

fn by_qemu(clock: u64, writes_per_s: u64, options: &[&str]) -> anyhow::Result<Moved> {
    let mut source = Qemu::at_work(clock / writes_per_s)?;
    // By now what was free before has gone back to the host beneath.
    memory::warm(3 << 29);
    let (mut destination, to) = Qemu::expecting(AT_WORK.lanes, options)?;
    let pids = [source.pid(), destination.pid()];
    let used = || pids.map(cpu_of).into_iter().sum::<anyhow::Result<Duration>>();
    let before = watched(&mut source)?;
    let off = before / writes_per_s as f64 - 1.0;
    ensure!(off.abs() < 0.02, "its clock is another one: it writes {before:.0} pages a second");
    let cpu = used()?;
    let (began, done) = (Instant::now(), source.writes()?);
    let told = source.migrate(&to, AT_WORK.lanes)?;
    let during = (destination.writes()? - done) as f64 / began.elapsed().as_secs_f64();
    let cpu = used()? - cpu;
    let rates = [before, during, watched(&mut destination)?];
    let ms = |name: &str| told[name].as_u64().map(Duration::from_millis).context("QEMU tells it");
    Ok(Moved { rates, total: ms("total-time")?, downtime: ms("downtime")?, cpu })
}

/// Page writes a second for a while.
fn watched(qemu: &mut Qemu) -> anyhow::Result<f64> {
    let (began, done) = (Instant::now(), qemu.writes()?);
    std::thread::sleep(WATCHED);
    Ok((qemu.writes()? - done) as f64 / began.elapsed().as_secs_f64())
}

/// Processor time of a process so far.
fn cpu_of(pid: u32) -> anyhow::Result<Duration> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields = text.rsplit(')').next().context("its fields")?.split_whitespace();
    // The 14th and 15th of all, of which two are before.
    let ticks = fields.skip(11).take(2).map(str::parse::<u64>).sum::<Result<u64, _>>()?;
    Ok(Duration::from_millis(ticks * 1000 / TICKS_PER_S))
}

/// Of the clock that a guest reads: on most machines what Linux says of the processor.
fn clock_hz() -> anyhow::Result<u64> {
    let text = fs::read_to_string("/proc/cpuinfo")?;
    let line = text.lines().find(|line| line.starts_with("cpu MHz")).context("a clock")?;
    let mhz = line.split(':').nth(1).context("a number")?.trim().parse::<f64>()?;
    Ok((mhz * 1e6) as u64)
}
