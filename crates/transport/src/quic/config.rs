//! What both ends of QUIC are set to.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use quinn::congestion::{BbrConfig, ControllerFactory, CubicConfig, NewRenoConfig};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{
    AckFrequencyConfig, ClientConfig, EndpointConfig, IdleTimeout, MtuDiscoveryConfig,
    ServerConfig, TransportConfig, VarInt,
};
use socket2::{Domain, SockRef, Socket, Type};

use crate::dial::packets_along;
use crate::os as system;
use crate::tls::{self, Mode};
use crate::{Congestion, Credentials, DoorOptions, Path, Tuning};

/// What a socket may hold, if the system allows it: packets that come faster than they are read
/// are lost and sent again.
const SOCKET_BUFFER: usize = 4 << 20;
/// Bytes of one lane that may arrive and not be read; more than the engine has under way.
const STREAM_WINDOW: u32 = 16 << 20;
/// Bytes of all lanes of a path that were sent and not acknowledged by the other host.
const SEND_WINDOW: u64 = 64 << 20;
/// Packets within that window, at least, where it is small: whoever may send no more than are
/// acknowledged together waits for a clock each time.
const PACKETS_MIN: u64 = 3 * ACKNOWLEDGED_TOGETHER as u64;
/// Streams that the other side may have open: 128 lanes, as many that end, and a few.
const STREAMS_MAX: u32 = 320;
/// Packets that are acknowledged together.
const ACKNOWLEDGED_TOGETHER: u32 = 10;
/// Addresses and ports before what a packet carries, by IPv4 and IPv6.
const HEADERS: (u32, u32) = (28, 48);
/// The most that a packet of UDP carries.
const PACKET_MAX: u16 = u16::MAX - 8;
/// What QUIC has to be able to carry everywhere.
const PACKET_MIN: u16 = 1200;
/// Bytes that are kept of callers whose handshakes have not begun.
const INCOMING_BUFFER: u64 = 64 << 10;

/// A socket for packets towards or from addresses of this kind, with its buffers.
pub(super) fn socket(kind: IpAddr, tuning: &Tuning) -> io::Result<Socket> {
    let domain = if kind.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    let socket = Socket::new(domain, Type::DGRAM, None)?;
    if !kind.is_ipv4() {
        socket.set_only_v6(true)?;
    }
    socket.set_send_buffer_size(SOCKET_BUFFER)?;
    socket.set_recv_buffer_size(SOCKET_BUFFER)?;
    tuning.apply_buffers(&SockRef::from(&socket))?;
    Ok(socket)
}

/// For a connection along `path` from a socket with such a receive buffer, as the system tells it;
/// and the largest packet that is tried.
pub(super) fn client(
    credentials: &Credentials,
    path: &Path,
    tuning: &Tuning,
    buffer: usize,
) -> io::Result<(ClientConfig, u16)> {
    let loopback = path.remote.ip().is_loopback();
    let mut largest = packet_max(path)?;
    let mut window = SEND_WINDOW;
    if loopback {
        // All that is under way is in the other socket, whose buffer is as large as this one's. The
        // system counts itself too: of what it tells a half is for packets, and less if they are
        // small.
        window = buffer as u64 / 4;
        let fits = u16::try_from(window / PACKETS_MIN).unwrap_or(u16::MAX);
        largest = largest.min(fits).max(PACKET_MIN);
    }
    let mut transport = transport(tuning, window, loopback)?;
    transport.max_concurrent_bidi_streams(VarInt::from_u32(0));
    let mut discovery = MtuDiscoveryConfig::default();
    discovery.upper_bound(largest);
    transport.mtu_discovery_config(Some(discovery));
    if loopback {
        // There is nothing on the way that could be narrower.
        transport.initial_mtu(largest);
    }
    let crypto = QuicClientConfig::try_from(tls::client(credentials, Mode::Quic)?);
    let mut config = ClientConfig::new(Arc::new(crypto.map_err(io::Error::other)?));
    config.transport_config(Arc::new(transport));
    Ok((config, largest))
}

/// For a port at which others come in.
pub(super) fn server(
    credentials: &Credentials,
    options: &DoorOptions,
) -> io::Result<(EndpointConfig, ServerConfig)> {
    let mut transport = transport(&options.tuning, SEND_WINDOW, false)?;
    transport.max_concurrent_bidi_streams(VarInt::from_u32(STREAMS_MAX));
    let crypto = QuicServerConfig::try_from(tls::server(credentials, Mode::Quic)?);
    let mut config = ServerConfig::with_crypto(Arc::new(crypto.map_err(io::Error::other)?));
    config.transport_config(Arc::new(transport)).migration(true);
    config.max_incoming(options.greeting_max).incoming_buffer_size(INCOMING_BUFFER);
    config.incoming_buffer_size_total(INCOMING_BUFFER * options.greeting_max as u64);
    Ok((endpoint(), config))
}

/// For a socket: it takes whatever packets there are.
pub(super) fn endpoint() -> EndpointConfig {
    let mut config = EndpointConfig::default();
    config.max_udp_payload_size(PACKET_MAX).expect("as large as there are");
    config
}

/// The largest packet along `path` that this host lets out; whether the rest of the way takes it is
/// found out.
fn packet_max(path: &Path) -> io::Result<u16> {
    let (remote, probe) = (path.remote, packets_along(path)?);
    // Nothing is sent: the system looks up its routes.
    let mtu = match probe.connect(remote) {
        Ok(()) => system::mtu_towards(&probe, remote.is_ipv4())?,
        // Whoever connects is told in better words.
        Err(_) => u32::from(PACKET_MIN),
    };
    let headers = if remote.is_ipv4() { HEADERS.0 } else { HEADERS.1 };
    let fits = mtu.min(u32::from(u16::MAX)).saturating_sub(headers);
    Ok(u16::try_from(fits).unwrap_or(u16::MAX).max(PACKET_MIN))
}

fn transport(tuning: &Tuning, sends: u64, loopback: bool) -> io::Result<TransportConfig> {
    if tuning.dscp.is_some() || tuning.priority.is_some() {
        let why = "QUIC marks each packet by itself; a DSCP or priority takes tcp or tls";
        return Err(io::Error::new(io::ErrorKind::Unsupported, why));
    }
    let mut config = TransportConfig::default();
    let idle = IdleTimeout::try_from(tuning.unacknowledged_max).map_err(io::Error::other)?;
    config.max_idle_timeout(Some(idle));
    config.keep_alive_interval(Some(beat(tuning)));
    let window = tuning.receive_buffer.map_or(u64::from(STREAM_WINDOW), |size| size.0);
    // wire.md P11: only streams have a limit, and there are only so many.
    config.receive_window(VarInt::MAX);
    config.stream_receive_window(VarInt::from_u64(window).map_err(io::Error::other)?);
    config.send_window(tuning.send_buffer.map_or(sends, |size| size.0));
    // wire.md P10
    config.max_concurrent_uni_streams(VarInt::from_u32(0)).datagram_receive_buffer_size(None);
    let mut together = AckFrequencyConfig::default();
    together.ack_eliciting_threshold(VarInt::from_u32(ACKNOWLEDGED_TOGETHER));
    config.ack_frequency_config(Some(together));
    config
        .congestion_controller_factory(congestion(&tuning.congestion, loopback.then_some(sends))?);
    Ok(config)
}

/// Often enough that a way on which one packet in three arrives is not taken for dead.
fn beat(tuning: &Tuning) -> Duration {
    tuning.keepalive_every.min(tuning.unacknowledged_max / 3).max(Duration::from_millis(1))
}

/// The congestion controls that QUIC has.
pub const CONGESTION_CONTROLS: [&str; 3] = ["cubic", "reno", "bbr"];

/// Where the system chooses, a connection may begin with some bytes under way that nothing else
/// competes with.
fn congestion(
    asked: &Congestion,
    begins_with: Option<u64>,
) -> io::Result<Arc<dyn ControllerFactory + Send + Sync>> {
    Ok(match asked {
        Congestion::Named(name) => match name.as_str() {
            "cubic" => Arc::new(CubicConfig::default()),
            "reno" => Arc::new(NewRenoConfig::default()),
            "bbr" => Arc::new(BbrConfig::default()),
            other => {
                let all = CONGESTION_CONTROLS.join(", ");
                let why = format!("QUIC has the congestion controls {all}, and not `{other}`");
                return Err(io::Error::new(io::ErrorKind::Unsupported, why));
            }
        },
        Congestion::Auto => {
            let mut cubic = CubicConfig::default();
            if let Some(window) = begins_with {
                cubic.initial_window(window);
            }
            Arc::new(cubic)
        }
    })
}
