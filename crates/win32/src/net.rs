//! What sockets and the network stack take and tell.

use std::ffi::OsString;
use std::io;
use std::os::windows::ffi::OsStringExt as _;
use std::os::windows::io::{AsRawSocket as _, AsSocket};
use std::ptr::null;
use std::time::Duration;

use windows_sys::Win32::Foundation::ERROR_BUFFER_OVERFLOW;
use windows_sys::Win32::NetworkManagement::IpHelper::{
    GetAdaptersAddresses, GetTcpStatisticsEx, IP_ADAPTER_ADDRESSES_LH, MIB_TCPSTATS_LH,
};
use windows_sys::Win32::Networking::WinSock::{
    AF_INET, AF_INET6, AF_UNSPEC, IP_DONTFRAGMENT, IPPROTO_IP, IPPROTO_IPV6, IPPROTO_TCP,
    IPV6_DONTFRAG, SOCKET, TCP_MAXRT, WSAENOPROTOOPT, setsockopt,
};

use crate::succeeded;

/// How long sent bytes may stay unacknowledged before the connection is given up, in whole
/// seconds. A system that does not know of that (before Windows 10, and Wine) keeps its own limit.
///
/// # Errors
/// What the system says.
pub fn set_retransmitting_max(socket: &impl AsSocket, most: Duration) -> io::Result<()> {
    let seconds = u32::try_from(most.as_secs().max(1)).unwrap_or(u32::MAX);
    match set(socket, IPPROTO_TCP, TCP_MAXRT, seconds) {
        Err(error) if error.raw_os_error() == Some(WSAENOPROTOOPT) => Ok(()),
        other => other,
    }
}

/// Has every packet travel whole or not at all.
///
/// # Errors
/// What the system says.
pub fn forbid_fragments(socket: &impl AsSocket, v4: bool) -> io::Result<()> {
    match v4 {
        true => set(socket, IPPROTO_IP, IP_DONTFRAGMENT, 1),
        false => set(socket, IPPROTO_IPV6, IPV6_DONTFRAG, 1),
    }
}

fn set(socket: &impl AsSocket, level: i32, name: i32, value: u32) -> io::Result<()> {
    let socket = socket.as_socket().as_raw_socket() as SOCKET;
    let bytes = value.to_ne_bytes();
    // SAFETY: the socket is open, and the value is as long as is said.
    let outcome = unsafe { setsockopt(socket, level, name, bytes.as_ptr(), bytes.len() as i32) };
    if outcome == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Segments of TCP that this host has sent again so far, over both versions of IP.
#[must_use]
pub fn retransmitted() -> Option<u64> {
    let of = |family: u16| {
        let mut found = MIB_TCPSTATS_LH::default();
        // SAFETY: a structure of the kind that is asked for.
        let error = unsafe { GetTcpStatisticsEx(&mut found, family.into()) };
        (error == 0).then_some(u64::from(found.dwRetransSegs))
    };
    let (four, six) = (of(AF_INET), of(AF_INET6));
    four.or(six).map(|_| four.unwrap_or(0) + six.unwrap_or(0))
}

/// The largest packet that the interface of this name takes, in bytes.
///
/// # Errors
/// What the system says.
pub fn mtu(interface: &str) -> io::Result<Option<u32>> {
    const TRIES: usize = 5;
    // Eight bytes each, so that the structures within are aligned.
    let mut room = vec![0_u64; 2048];
    for _ in 0..TRIES {
        let mut size = (room.len() * 8) as u32;
        let first = room.as_mut_ptr().cast::<IP_ADAPTER_ADDRESSES_LH>();
        // SAFETY: the system writes no more than the size it is told.
        let error = unsafe { GetAdaptersAddresses(AF_UNSPEC.into(), 0, null(), first, &mut size) };
        if error == ERROR_BUFFER_OVERFLOW {
            room = vec![0; (size as usize).div_ceil(8)];
            continue;
        }
        succeeded(error)?;
        // SAFETY: the system has made a list in `room`, which is not touched until it is read.
        return Ok(unsafe { mtu_within(first, interface) });
    }
    Ok(None)
}

/// # Safety
/// `at` is null or the first of a list as GetAdaptersAddresses makes it.
unsafe fn mtu_within(mut at: *const IP_ADAPTER_ADDRESSES_LH, name: &str) -> Option<u32> {
    while !at.is_null() {
        // SAFETY: as the caller promised.
        let adapter = unsafe { &*at };
        // SAFETY: a name of the list, which ends with 0.
        if unsafe { text(adapter.FriendlyName) } == name {
            return Some(adapter.Mtu);
        }
        at = adapter.Next;
    }
    None
}

/// # Safety
/// `at` is null or text that ends with 0.
unsafe fn text(at: *const u16) -> OsString {
    let mut found = Vec::new();
    // SAFETY: as the caller promised: no word past the 0 is read.
    while !at.is_null() && unsafe { *at.add(found.len()) } != 0 {
        // SAFETY: as above.
        found.push(unsafe { *at.add(found.len()) });
    }
    OsString::from_wide(&found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_counts_what_was_sent_again_and_knows_no_such_interface() {
        assert!(retransmitted().is_some());
        assert_eq!(mtu("no such interface").unwrap(), None);
    }

    #[test]
    fn a_limit_is_taken_or_left_to_the_system() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        set_retransmitting_max(&listener, Duration::from_secs(10)).unwrap();
    }
}
