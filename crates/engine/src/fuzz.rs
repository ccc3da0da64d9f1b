//! The lander by itself, for programs that feed it whatever bytes there are.
//!
//! Behind the feature `fuzz`, which nothing of the product asks for.

use std::sync::Arc;

use tokio::sync::mpsc;
use whimbrel_memory::Landing;
use whimbrel_page::Root;
use whimbrel_protocol::{LaneId, LaneMark, Sums};
use whimbrel_transport::Lane;

use crate::LaneOptions;
use crate::lanes::{DestinationLanes, EVENTS_MAX, LandEvent};

/// What a lane did with the bytes that came on it.
#[derive(Clone, Debug)]
pub struct Landed {
    /// What its destination reports of it.
    pub mark: LaneMark,
    /// Why it ended.
    pub why: String,
    /// The root of what is in place.
    pub root: Root,
    /// The sums of the chunks.
    pub sums: Vec<Sums>,
}

/// Lands all that comes on `connection`, in the thread of a lane of its own as ever, and waits for
/// its end.
///
/// # Panics
/// If the lane ends without a word.
#[must_use]
pub fn land(landing: Arc<Landing>, lane: LaneId, connection: Box<dyn Lane>) -> Landed {
    let (tell, mut said) = mpsc::channel(EVENTS_MAX);
    let lanes = DestinationLanes::new(landing, LaneOptions::default(), tell);
    lanes.land(lane, connection);
    let Some(LandEvent::Ended(mark, why)) = said.blocking_recv() else {
        panic!("a lane tells of its end")
    };
    lanes.finish();
    Landed { mark, why, root: lanes.seal(), sums: lanes.sums() }
}
