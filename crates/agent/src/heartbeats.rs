//! How soon a peer that says nothing counts as lost: a delay between signs of life, and how many
//! may be missing, by the class of the way to it.

use std::net::IpAddr;
use std::time::Duration;

use whimbrel_engine::transport::{self, Path};

use crate::deadlines::MigrationDeadlines;

/// A peer is lost when it was silent for `threshold` times `delay`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    /// Between two signs of life.
    pub delay: Duration,
    /// How many may be missing, at least 2.
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

impl Heartbeats {
    /// The deadlines of a migration over a way of this class.
    pub(crate) fn apply(&self, near: bool, deadlines: MigrationDeadlines) -> MigrationDeadlines {
        let heartbeat = if near { self.same_subnet } else { self.cross_subnet };
        let Some(Heartbeat { delay, threshold }) = heartbeat else { return deadlines };
        let silence = delay.saturating_mul(threshold);
        MigrationDeadlines { beat: delay, silence, lane_stall: silence, ..deadlines }
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
