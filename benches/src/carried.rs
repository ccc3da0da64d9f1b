//! The mover over any carrier: memory → lane → memory, and nothing else.
//!
//! What `whimbrel_agent::bench::plain` is for TCP, through the very lanes of a migration: the most
//! that a carrier can do here, as the yardstick for a migration over it.

use std::io::IoSlice;
use std::net::{IpAddr, Ipv4Addr};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use tokio::io::AsyncWriteExt as _;
use whimbrel_agent::bench::plain::WRITE_SIZE;
use whimbrel_agent::bench::wire::Wire;
use whimbrel_agent::bench::{Sample, cpu_used};
use whimbrel_transport::{
    Caller, Carrier, Door, DoorOptions, End, Kind, Lane, LaneError, Path, Purpose, Stream, Tuning,
    connect,
};

const PATIENT: Duration = Duration::from_secs(60);
const HELLO: [u8; 64] = *b"mover\n\n\n________________________________________________________";
const CONTROL: Kind = Kind { magic: *b"control\n", size: 8, purpose: Purpose::Control };
const LANE: Kind = Kind { magic: *b"mover\n\n\n", size: HELLO.len(), purpose: Purpose::Bulk };

type Pair = (Box<dyn Lane>, Box<dyn Lane>);

/// Moves `source` over so many lanes into fresh memory.
///
/// # Errors
/// If a lane cannot be opened or breaks, or if what arrived is not what was sent.
pub fn run(source: &[u8], lanes: usize, wire: Wire) -> anyhow::Result<Sample> {
    let mut destination = vec![0; source.len()];
    let share = source.len().div_ceil(lanes);
    let pairs = open(lanes, wire)?;
    let (began, cpu) = (Instant::now(), cpu_used()?);
    thread::scope(|scope| {
        let shares = source.chunks(share).zip(destination.chunks_mut(share));
        let ends = pairs.into_iter().zip(shares).flat_map(|((near, far), (from, to))| {
            [scope.spawn(move || send(near, from)), scope.spawn(move || receive(far, to))]
        });
        let ends: Vec<_> = ends.collect();
        ends.into_iter().try_for_each(|end| end.join().expect("a mover does not panic"))
    })?;
    let (elapsed, cpu) = (began.elapsed(), cpu_used()? - cpu);
    ensure!(destination == source, "what arrived is not what was sent");
    Ok(Sample { bytes: source.len() as u64, elapsed, cpu })
}

fn send(mut lane: Box<dyn Lane>, from: &[u8]) -> Result<(), LaneError> {
    from.chunks(WRITE_SIZE).try_for_each(|part| lane.send(&mut [IoSlice::new(part)]))?;
    lane.finish()?;
    // The other side closes when it has everything; closing first could take it back.
    match lane.receive(&mut [0]) {
        Err(LaneError::Closed) => Ok(()),
        received => received,
    }
}

fn receive(mut lane: Box<dyn Lane>, to: &mut [u8]) -> Result<(), LaneError> {
    to.chunks_mut(WRITE_SIZE).try_for_each(|part| lane.receive(part))
}

fn open(lanes: usize, wire: Wire) -> anyhow::Result<Vec<Pair>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let (near, carrier) = wire.carriers()?;
        let here = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let options = DoorOptions { carrier, ..DoorOptions::default() };
        let mut door = Door::open(&[(here, 0).into()], vec![CONTROL, LANE], options)?;
        let secrets = match near.signs_lanes() {
            true => {
                let (near, far) = meet(&mut door, &near, CONTROL, &CONTROL.magic).await?;
                let (one, other) = (near.lane_secret()?, far.stream.lane_secret()?);
                Some((one.context("no secret")?, other.context("no secret")?))
            }
            false => None,
        };
        let mut pairs = Vec::new();
        for _ in 0..lanes {
            let (near, far) = meet(&mut door, &near, LANE, &HELLO).await?;
            let (near, far) = (near.into_lane(PATIENT)?, far.into_lane(PATIENT)?);
            pairs.push(match &secrets {
                None => (near, far),
                Some((one, other)) => {
                    (one.sign(near, &HELLO, End::Source), other.sign(far, &HELLO, End::Destination))
                }
            });
        }
        Ok(pairs)
    })
}

async fn meet(
    door: &mut Door,
    carrier: &Carrier,
    kind: Kind,
    hello: &[u8],
) -> anyhow::Result<(Stream, Caller)> {
    let path = Path::to(door.address());
    let tuning = Tuning::default();
    let near = async {
        let mut near = connect(&path, &tuning, (carrier, kind.purpose), PATIENT).await?;
        near.write_all(hello).await?;
        near.flush().await?;
        anyhow::Ok(near)
    };
    let (near, caller) = tokio::join!(near, door.next());
    Ok((near?, caller))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_arrives_over_every_carrier() {
        let source = whimbrel_agent::bench::memory::random((3 << 20) + 5);
        for wire in Wire::ALL {
            let moved = run(&source, 2, wire).expect("loopback works");
            assert_eq!(moved.bytes, source.len() as u64);
        }
    }
}
