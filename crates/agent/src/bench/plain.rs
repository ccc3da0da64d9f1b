//! The plain mover: memory → loopback TCP → memory, and nothing else.
//!
//! No protocol, no digest, no tracking, no acknowledgement: the most that sockets and memory of
//! this machine can do, as the yardstick for a migration. The destination's memory is fresh, as a
//! migration's is, so that clearing its pages is in the figure of both.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Instant;

use super::{BenchError, Sample};
use crate::os;

/// Bytes given to the kernel in one write.
pub const WRITE_SIZE: usize = 256 << 10;

/// Moves `source` over `lanes` connections into fresh memory.
///
/// # Errors
/// If a connection cannot be made or breaks, or if what arrived is not what was sent.
pub fn run(source: &[u8], lanes: usize) -> Result<Sample, BenchError> {
    let mut destination = vec![0; source.len()];
    let share = source.len().div_ceil(lanes);
    let connections = (0..lanes).map(|_| connect()).collect::<io::Result<Vec<_>>>()?;
    let (began, cpu) = (Instant::now(), os::usage()?.cpu);
    thread::scope(|scope| {
        let shares = source.chunks(share).zip(destination.chunks_mut(share));
        let ends = connections.into_iter().zip(shares).flat_map(|((out, into), (from, to))| {
            [scope.spawn(move || send(out, from)), scope.spawn(move || receive(into, to))]
        });
        let ends: Vec<_> = ends.collect();
        ends.into_iter().try_for_each(|end| end.join().expect("a mover does not panic"))
    })?;
    let (elapsed, cpu) = (began.elapsed(), os::usage()?.cpu - cpu);
    if destination != source {
        return Err(BenchError::Wrong("what arrived is not what was sent".into()));
    }
    Ok(Sample { bytes: source.len() as u64, elapsed, cpu })
}

fn connect() -> io::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
    let out = TcpStream::connect(listener.local_addr()?)?;
    let (into, _) = listener.accept()?;
    for socket in [&out, &into] {
        socket.set_nodelay(true)?;
        os::unpaced(socket)?;
    }
    Ok((out, into))
}

fn send(mut socket: TcpStream, from: &[u8]) -> io::Result<()> {
    from.chunks(WRITE_SIZE).try_for_each(|part| socket.write_all(part))
}

fn receive(mut socket: TcpStream, to: &mut [u8]) -> io::Result<()> {
    to.chunks_mut(WRITE_SIZE).try_for_each(|part| socket.read_exact(part))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::memory;

    #[test]
    fn everything_arrives_over_any_number_of_lanes() {
        let source = memory::random((3 << 20) + 5);
        for lanes in [1, 2, 7] {
            assert_eq!(run(&source, lanes).expect("loopback works").bytes, source.len() as u64);
        }
    }
}
