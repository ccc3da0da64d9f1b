//! How soon a peer that says nothing counts as lost: a delay between signs of life, and how many
//! may be missing, by the class of the way to it.

use std::net::IpAddr;
use std::time::Duration;

use tonic::Status;
use whimbrel_control::api;
use whimbrel_engine::transport::{self, Path};

use crate::convert::micros;
use crate::deadlines::MigrationDeadlines;

/// A peer is lost when it was silent for `threshold` times `delay`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    /// Between two signs of life.
    pub delay: Duration,
    /// How many may be missing, at least [`Heartbeat::THRESHOLD_MIN`].
    pub threshold: u32,
}

/// The heartbeats of each class of ways. Where none is said, the deadlines hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Heartbeats {
    /// Where both ends are in one subnet.
    pub same_subnet: Option<Heartbeat>,
    /// Where routers are between.
    pub cross_subnet: Option<Heartbeat>,
}

impl Heartbeat {
    /// One that is missing may only be late.
    pub const THRESHOLD_MIN: u32 = 2;

    /// # Errors
    /// If nobody could keep to it.
    pub(crate) fn read(said: &api::HostHeartbeat) -> Result<Self, Status> {
        let delay = Duration::from_micros(said.delay_us);
        if delay.is_zero() || said.threshold < Self::THRESHOLD_MIN {
            let why = "a heartbeat has a delay, of which two or more may be missing, as 1sx5";
            return Err(Status::invalid_argument(why));
        }
        Ok(Self { delay, threshold: said.threshold })
    }

    /// As agents are told of it.
    #[must_use]
    pub fn said(self) -> api::HostHeartbeat {
        api::HostHeartbeat { delay_us: micros(self.delay), threshold: self.threshold }
    }
}

impl Heartbeats {
    /// The deadlines of a migration over a way of this class.
    pub(crate) fn apply(&self, near: bool, deadlines: MigrationDeadlines) -> MigrationDeadlines {
        let heartbeat = if near { self.same_subnet } else { self.cross_subnet };
        let Some(Heartbeat { delay, threshold }) = heartbeat else { return deadlines };
        let silence = delay.saturating_mul(threshold);
        MigrationDeadlines { beat: delay, silence, lane_stall: silence, ..deadlines }
    }
}

/// Nobody waits longer for a source because that says so, unless the deadlines here do.
const SILENCE_MAX: Duration = Duration::from_secs(600);

/// What a source that keeps to these deadlines tells the destination.
pub(crate) fn told(deadlines: &MigrationDeadlines) -> api::Heartbeat {
    api::Heartbeat {
        delay_us: micros(deadlines.beat()),
        silence_us: micros(deadlines.silence),
        lane_stall_us: micros(deadlines.lane_stall),
    }
}

/// What the destination keeps to: the source's heartbeats, as it is the source that gives signs of
/// life. `said` are those of the classes of ways that it may take; the slowest of them holds.
pub(crate) fn agreed<'a>(
    own: MigrationDeadlines,
    said: impl IntoIterator<Item = &'a api::Heartbeat>,
) -> MigrationDeadlines {
    let slowest = said.into_iter().max_by_key(|heartbeat| heartbeat.silence_us);
    let Some(said) = slowest.filter(|it| it.delay_us > 0 && it.silence_us / 2 >= it.delay_us)
    else {
        return own;
    };
    let bounded = |said, own: Duration| Duration::from_micros(said).min(own.max(SILENCE_MAX));
    MigrationDeadlines {
        beat: bounded(said.delay_us, own.beat),
        silence: bounded(said.silence_us, own.silence),
        lane_stall: bounded(said.lane_stall_us.max(1), own.lane_stall),
        ..own
    }
}

/// Whether a migration over these paths, or where there are none to this address, stays within
/// subnets of this host.
pub(crate) fn is_near(paths: &[Path], peer: Option<IpAddr>) -> bool {
    match paths {
        [] => peer.is_some_and(transport::is_near),
        several => several.iter().all(|path| path.near),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_class_has_its_own_and_the_deadlines_hold_where_none_is_said() {
        let beat = |ms, threshold| Heartbeat { delay: Duration::from_millis(ms), threshold };
        let all = Heartbeats { same_subnet: Some(beat(500, 4)), cross_subnet: None };
        let plain = MigrationDeadlines::default();
        let near = all.apply(true, plain);
        assert_eq!((near.silence, near.lane_stall), (Duration::from_secs(2), near.silence));
        assert_eq!(near.beat, Duration::from_millis(500));
        assert_eq!(all.apply(false, plain), plain);
    }

    /// Whatever the destination's own are: it would take a source for lost that is not.
    #[test]
    fn the_destination_keeps_to_what_the_source_does() {
        let beat = |ms, threshold| Heartbeat { delay: Duration::from_millis(ms), threshold };
        let ours = Heartbeats { same_subnet: Some(beat(200, 5)), cross_subnet: None };
        let ours = ours.apply(true, MigrationDeadlines::default());
        let source = Heartbeats { same_subnet: Some(beat(5000, 4)), cross_subnet: None };
        let [near, far] = [true, false].map(|near| source.apply(near, Default::default()));
        let agreed = agreed(ours, [&told(&near), &told(&far)]);
        assert_eq!((agreed.beat, agreed.silence), (near.beat, Duration::from_secs(20)));
        assert_eq!((agreed.lane_stall, agreed.doubt), (near.lane_stall, ours.doubt));
        // An agent of another release says nothing, and one that is ill-disposed anything.
        assert_eq!(super::agreed(ours, []), ours);
        let wrong = api::Heartbeat { delay_us: 5, silence_us: 9, lane_stall_us: 0 };
        assert_eq!(super::agreed(ours, [&wrong]), ours);
        let endless = api::Heartbeat { silence_us: u64::MAX, ..told(&near) };
        assert_eq!(super::agreed(ours, [&endless]).silence, SILENCE_MAX);
    }

    /// Its probes are done, and what was sent is given up, when the peer counts as lost here.
    #[test]
    fn the_system_is_told_the_same() {
        let same_subnet = Some(Heartbeat { delay: Duration::from_secs(2), threshold: 10 });
        let all = Heartbeats { same_subnet, cross_subnet: None };
        let mut lanes = whimbrel_engine::LaneOptions::default();
        all.apply(true, MigrationDeadlines::default()).set_lanes(&mut lanes);
        let tuning = &lanes.tuning;
        let probes = (tuning.keepalive_after, tuning.keepalive_every, tuning.keepalive_probes);
        assert_eq!(probes, (Duration::from_secs(2), Duration::from_secs(2), 10));
        let silence = Duration::from_secs(20);
        assert_eq!((tuning.unacknowledged_max, lanes.stall_timeout), (silence, silence));
    }

    #[test]
    fn a_way_is_as_far_as_its_farthest_path() {
        let path = |near| Path { near, ..Path::to(([10, 0, 0, 1], 7).into()) };
        assert!(is_near(&[path(true), path(true)], None));
        assert!(!is_near(&[path(true), path(false)], None));
        assert!(is_near(&[], Some([127, 0, 0, 1].into())));
        assert!(!is_near(&[], Some([203, 0, 113, 9].into())));
        assert!(!is_near(&[], None));
    }
}
