//! Settings of lanes.

use std::net::IpAddr;
use std::time::Duration;

use whimbrel_page::{ByteCount, PageCount};
use whimbrel_protocol::limits::{
    BATCH_PAYLOAD_DEFAULT, BATCH_PAYLOAD_MAX, WINDOW_DEFAULT, WINDOW_MAX,
};
use whimbrel_transport::{Carrier, Tuning};

use super::Traffic;

/// Four batches: one in each hand, and two between them.
const LOOPBACK_WINDOW: ByteCount = ByteCount(4 * BATCH_PAYLOAD_DEFAULT.0);

/// How lanes are opened and filled.
#[derive(Clone, Debug)]
pub struct LaneOptions {
    /// Socket options of lanes and of the control connection.
    pub tuning: Tuning,
    /// How lanes and control connections travel. Both sides are told the same.
    pub carrier: Carrier,
    /// For the connection and its greeting.
    pub open_timeout: Duration,
    /// A lane whose peer takes or gives nothing for so long has failed.
    pub stall_timeout: Duration,
    /// Bytes on one lane that are sent and not acknowledged, up to [`WINDOW_MAX`].
    pub window: ByteCount,
    /// Page bytes in one batch, up to [`BATCH_PAYLOAD_MAX`] and what the destination offers.
    pub batch: ByteCount,
    /// Pages that are written all the time are left for the last rounds.
    pub hot_last: bool,
    /// Where lanes go.
    pub traffic: Traffic,
    /// Lanes of a path through a network interface stay on the processors beside it.
    pub pin: bool,
}

impl Default for LaneOptions {
    fn default() -> Self {
        Self {
            tuning: Tuning::default(),
            carrier: Carrier::default(),
            open_timeout: Duration::from_secs(5),
            stall_timeout: Duration::from_secs(5),
            window: WINDOW_DEFAULT,
            batch: BATCH_PAYLOAD_DEFAULT,
            hot_last: true,
            traffic: Traffic::default(),
            pin: false,
        }
    }
}

impl LaneOptions {
    /// The window within its limits.
    pub(super) fn window(&self) -> ByteCount {
        self.window.min(WINDOW_MAX)
    }

    /// The window of a lane to `peer`. A way within one host holds next to nothing; a window beyond
    /// what keeps both ends busy only pushes batches out of the caches.
    pub(super) fn window_to(&self, peer: IpAddr) -> ByteCount {
        if peer.is_loopback() { self.window().min(LOOPBACK_WINDOW) } else { self.window() }
    }

    /// Pages in one batch: at least one, and no more than fit the window.
    pub(super) fn batch_pages(&self) -> PageCount {
        let bytes = self.batch.min(BATCH_PAYLOAD_MAX).min(self.window());
        PageCount((bytes.0 / PageCount(1).bytes().0).max(1))
    }
}
