//! The plain mover of QUIC: memory → a stream of quinn → memory, and nothing else.
//!
//! No lane, no protocol and no thread but quinn's: what a program would be that gives its bytes to
//! quinn as quinn likes them, with its defaults, which are made for Ethernet's packets.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use quinn::rustls::RootCertStore;
use quinn::rustls::pki_types::PrivatePkcs8KeyDer;
use quinn::{
    ClientConfig, Connection, Endpoint, EndpointConfig, RecvStream, SendStream, ServerConfig,
    TransportConfig,
};
use tokio::net::UdpSocket;
use tokio::runtime::Builder;
use whimbrel_agent::bench::plain::WRITE_SIZE;
use whimbrel_agent::bench::{Sample, cpu_used};

const NAME: &str = "mover";
/// Of the other mover, too.
const SEND_WINDOW: u64 = 2 << 20;
const CHUNKS: usize = 16;

/// Moves `source` over so many streams of one connection into fresh memory.
///
/// # Errors
/// If a stream breaks, or if what arrived is not what was sent.
pub fn run(source: &[u8], streams: usize) -> anyhow::Result<Sample> {
    // What is sent has to be quinn's for as long as it may be sent again.
    let shares: Vec<_> = source.chunks(source.len().div_ceil(streams)).collect();
    let mut moved = vec![0; source.len()];
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let (near, far) = runtime.block_on(connect())?;
    let (began, cpu) = (Instant::now(), cpu_used()?);
    let arrived = runtime.block_on(async {
        let mut ends = Vec::new();
        for share in &shares {
            let (mut send, _) = near.open_bi().await?;
            // The stream is told by its first bytes.
            let parts: Vec<_> = share.chunks(WRITE_SIZE).map(Bytes::copy_from_slice).collect();
            let size = share.len();
            let sent = tokio::spawn(async move { give(&mut send, parts).await });
            let (_, receive) = far.accept_bi().await?;
            let received = tokio::spawn(take(receive, size));
            ends.push((sent, received));
        }
        let mut arrived = Vec::new();
        for (sent, received) in ends {
            sent.await??;
            arrived.push(received.await??);
        }
        anyhow::Ok(arrived)
    })?;
    let (elapsed, cpu) = (began.elapsed(), cpu_used()? - cpu);
    let places = moved.chunks_mut(source.len().div_ceil(streams));
    places.zip(&arrived).for_each(|(place, share)| place.copy_from_slice(share));
    ensure!(moved == source, "what arrived is not what was sent");
    Ok(Sample { bytes: source.len() as u64, elapsed, cpu })
}

async fn give(send: &mut SendStream, parts: Vec<Bytes>) -> anyhow::Result<()> {
    for part in parts {
        send.write_chunk(part).await?;
    }
    send.finish()?;
    send.stopped().await?;
    Ok(())
}

async fn take(mut receive: RecvStream, size: usize) -> anyhow::Result<Vec<u8>> {
    let (mut into, mut filled) = (vec![0; size], 0);
    let mut chunks = [const { Bytes::new() }; CHUNKS];
    while let Some(some) = receive.read_chunks(&mut chunks).await? {
        for chunk in &chunks[..some] {
            let place = into.get_mut(filled..filled + chunk.len()).context("more than was sent")?;
            place.copy_from_slice(chunk);
            filled += chunk.len();
        }
    }
    ensure!(filled == size, "less than was sent");
    Ok(into)
}

/// Two ends of one connection over loopback.
async fn connect() -> anyhow::Result<(Connection, Connection)> {
    let here = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let made = rcgen::generate_simple_self_signed(vec![NAME.to_owned()])?;
    let certificate = made.cert.der().clone();
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let mut transport = TransportConfig::default();
    transport.send_window(SEND_WINDOW);
    let server = ServerConfig::with_single_cert(vec![certificate.clone()], key.into())?;
    let mut roots = RootCertStore::empty();
    roots.add(certificate)?;
    let mut client = ClientConfig::with_root_certificates(Arc::new(roots))?;
    client.transport_config(Arc::new(transport));
    let socket = async || UdpSocket::bind(here).await?.into_std();
    let runtime = || Arc::new(quinn::TokioRuntime);
    let settings = EndpointConfig::default;
    let there = Endpoint::new(settings(), Some(server), socket().await?, runtime())?;
    let from = Endpoint::new(settings(), None, socket().await?, runtime())?;
    let near = from.connect_with(client, there.local_addr()?, NAME)?;
    let near = async { near.await.context("a handshake") };
    let far = async { there.accept().await.context("it listens")?.await.context("a handshake") };
    tokio::try_join!(near, far)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_arrives() {
        let source = whimbrel_agent::bench::memory::random((3 << 20) + 5);
        assert_eq!(run(&source, 2).expect("loopback works").bytes, source.len() as u64);
    }
}
