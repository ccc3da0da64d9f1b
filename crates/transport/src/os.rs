//! The calls that only one operating system has, behind faces that every system can have.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(windows)]
mod windows;

#[cfg(target_os = "linux")]
use linux as system;
#[cfg(windows)]
use windows as system;

pub(crate) use system::{
    Bell, LocalListener, LocalStream, bind_again_at_once, bind_interface, congestion,
    connect_local, datagrams, forbid_fragments, mark, mtu, mtu_towards, pin_beside, receive_now,
    retransmitted, set_congestion, set_keepalive, set_unacknowledged_max, socket_of, wait,
};

/// Whether the processor has instructions for AES-GCM.
pub(crate) fn has_aes() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("aes")
        && std::arch::is_x86_feature_detected!("pclmulqdq");
    #[cfg(target_arch = "aarch64")]
    return std::arch::is_aarch64_feature_detected!("aes");
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    return false;
}
