//! How fast this machine moves memory over loopback with no protocol at all.
//!
//! `plain-mover [MIB] [REPEATS]`: not a benchmark of Whimbrel, but what it is measured against.

use whimbrel_agent::bench::{memory, plain};

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut number = |default| arguments.next().map_or(Ok(default), |text| text.parse::<usize>());
    let (mib, repeats) = (number(1024)?, number(5)?);
    let source = memory::random(mib << 20);
    memory::warm(mib << 20);
    println!("lanes   MiB/s   CPU s a GiB   (median of {repeats}, {mib} MiB)");
    for lanes in [1, 2, 4] {
        let mut runs =
            (0..repeats).map(|_| plain::run(&source, lanes)).collect::<Result<Vec<_>, _>>()?;
        runs.sort_by_key(|moved| moved.elapsed);
        let median = runs[runs.len() / 2];
        println!("{lanes:5} {:7.0} {:13.2}", median.mib_per_s(), median.cpu_s_per_gib());
    }
    Ok(())
}
