//! What a migration says about itself while it runs and when it has ended.

use std::net::IpAddr;
use std::time::Duration;

use whimbrel_page::{ByteCount, ByteRate, PageCount};
use whimbrel_protocol::{LaneId, SessionId, Verify};

use crate::guest::Throttle;

/// A look at a running migration; the newest one is in a watch channel.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    /// The session, once the destination has named it.
    pub session: Option<SessionId>,
    /// What is being done, as the field calls it: "pre-copy", "switchover", …
    pub phase: &'static str,
    /// Since the migration began.
    pub elapsed: Duration,
    /// All pages of the guest.
    pub pages_total: PageCount,
    /// Pages that still have to be sent.
    pub pages_pending: PageCount,
    /// Everything written to lanes so far.
    pub bytes_on_wire: ByteCount,
    /// Bytes a second over all lanes, measured over the last rounds, once there is one.
    pub bandwidth: Option<ByteCount>,
    /// Bytes a second that the guest dirties, counting a page once a round, once there is one.
    pub dirty_rate: Option<ByteCount>,
    /// How far the guest is throttled.
    pub throttle: Throttle,
    /// The downtime a switchover would have now, once there is enough to tell.
    pub downtime_forecast: Option<Duration>,
    /// The longest downtime to switch over with; unknown at the destination.
    pub downtime_max: Option<Duration>,
    /// Pages that were looked at for changes that the tracker missed, while the guest ran.
    pub pages_scrubbed: PageCount,
    /// Pages that changed without the tracker seeing it, and were found.
    pub pages_missed: PageCount,
    /// The rounds so far; the last one may still be going on.
    pub rounds: Vec<RoundReport>,
    /// The lanes, closed ones too.
    pub lanes: Vec<LaneReport>,
    /// The paths that the lanes are spread over, those that are out of use too.
    pub paths: Vec<PathReport>,
    /// What was decided between rounds, and by which numbers; the first ones and the last.
    pub decisions: Vec<DecisionReport>,
    /// What happened, as sentences, oldest first.
    pub events: Vec<(Duration, String)>,
}

/// One pass over what was dirty.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RoundReport {
    /// 0 is everything; the last one is sent while the guest is paused.
    pub round: u32,
    /// Pages that were taken.
    pub pages: PageCount,
    /// Bytes that went on the wire for them.
    pub bytes: ByteCount,
    /// How long it took.
    pub duration: Duration,
    /// Pages that were dirty when it was over.
    pub dirty_after: PageCount,
    /// How long the lanes then waited to hear of the next harvest.
    pub waited: Duration,
}

/// What the source decided to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// To send what is dirty in this round.
    Round(u32),
    /// To slow the guest down to this many percent.
    Throttle(u8),
    /// To pause the guest and hand it over.
    SwitchOver,
    /// To let the guest run on at the source.
    RunOn,
}

/// A decision, with the numbers it was made on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecisionReport {
    /// Since the migration began.
    pub at: Duration,
    /// What was decided.
    pub step: Step,
    /// Pages that were dirty.
    pub dirty: PageCount,
    /// Bytes a second over all lanes, as far as it was known.
    pub bandwidth: Option<ByteCount>,
    /// Bytes a second that the guest dirtied, as far as it was known.
    pub dirty_rate: Option<ByteCount>,
    /// The downtime that a switchover would have had then.
    pub forecast: Option<Duration>,
}

/// One lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaneReport {
    /// Its number.
    pub lane: LaneId,
    /// Bytes written to it.
    pub bytes: ByteCount,
    /// Pages it carried.
    pub pages: PageCount,
    /// Whether it still carries.
    pub open: bool,
}

/// One path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PathReport {
    /// The interface and address here, and the address there.
    pub name: String,
    /// The address here; `None` is as the routing table says.
    pub local: Option<IpAddr>,
    /// Bytes that landed over it.
    pub bytes: ByteCount,
    /// How fast they landed at last, while any were under way.
    pub rate: ByteRate,
    /// Lanes on it, those that are being opened too.
    pub lanes: u16,
    /// Lanes that were opened on it so far.
    pub connections: u32,
    /// Whether it works, as far as is known, and may be used.
    pub up: bool,
}

/// Where the downtime went. The parts follow one another; their sum is the downtime.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DowntimeParts {
    /// Parking the guest.
    pub pause: Duration,
    /// The last harvest.
    pub harvest: Duration,
    /// Saving the state.
    pub state: Duration,
    /// A full verification, on both sides; zero where there was none.
    pub verify: Duration,
    /// Sending the last pages.
    pub last_pages: Duration,
    /// From Prepare to Prepared, without what the destination spent on a full verification.
    pub prepared: Duration,
    /// From Prepared until the grant was durable and sent.
    pub grant: Duration,
    /// From the grant to the receipt of Running: the destination records it, and starts the guest.
    pub run: Duration,
}

impl DowntimeParts {
    /// The downtime: from the source's pause to the receipt of Running, on the source's clock.
    #[must_use]
    pub fn total(&self) -> Duration {
        let sending = self.harvest + self.state + self.verify + self.last_pages;
        self.pause + sending + self.prepared + self.grant + self.run
    }
}

/// The account of an ended migration, as one side saw it.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The last look, with all rounds, lanes and events.
    pub progress: Progress,
    /// From the start to the end.
    pub total: Duration,
    /// Where the downtime went; zero if the guest was not paused.
    pub downtime: DowntimeParts,
    /// The downtime that was expected just before the pause.
    pub downtime_estimate: Option<Duration>,
    /// What was compared before the grant.
    pub verify: Verify,
    /// Pages whose leaf agreed on both sides at the switchover.
    pub pages_verified: PageCount,
    /// Bytes of guest memory.
    pub guest_ram: ByteCount,
}
