//! How many round trips a guest stands still for, over a long way.
//!
//! `far-away [ROUND_TRIP_MS] [REPEATS]`: an idle guest of 64 MiB goes through a relay that delays
//! every byte. It stands still from its pause at the source until it runs at the destination,
//! which is one and a half round trips and what the hosts themselves need.

use std::time::Duration;

use whimbrel_agent::bench::moving::{self, Way};

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut number = |default| arguments.next().map_or(Ok(default), |text| text.parse::<u64>());
    let (round_trip, repeats) = (Duration::from_millis(number(50)?), number(5)?);
    let guest = moving::filled(64 << 20)?;
    println!("round trip {round_trip:?}, an idle guest of 64 MiB, 4 lanes");
    println!("stood still   round trips   until Running came   expected before");
    for _ in 0..repeats {
        let way = Way { lanes: 4, one_way: round_trip / 2, ..Way::default() };
        let moved = moving::migrate(&guest, way)?;
        let still = moved.stood_still;
        println!(
            "{:8.1} ms {:13.2} {:17.1} ms {:15.1} ms",
            still.as_secs_f64() * 1000.0,
            still.as_secs_f64() / round_trip.as_secs_f64(),
            moved.report.downtime.total().as_secs_f64() * 1000.0,
            moved.report.downtime_estimate.unwrap_or_default().as_secs_f64() * 1000.0,
        );
    }
    Ok(())
}
