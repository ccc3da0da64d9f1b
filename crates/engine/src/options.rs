//! Settings of a migration. Each wait of the engine is one of these.

use std::time::Duration;

use whimbrel_memory::TrackerKind;
use whimbrel_protocol::{Convergence, SourceOptions};

/// How a guest is sent.
#[derive(Clone, Debug)]
pub struct OutgoingOptions {
    /// What the protocol's source side is told: lanes, downtime limit, policy, deadlines.
    pub source: SourceOptions,
    /// The dirty tracker to use; `None` takes the best one that the probe finds.
    pub tracker: Option<TrackerKind>,
    /// TCP congestion control of the lanes by its kernel name; `None` leaves the host's default.
    pub congestion: Option<String>,
    /// Where questions about the guest are answered on the other side, for the records.
    pub peer: String,
    /// The random identity of this host, which makes its terms its own.
    pub host: u64,
}
