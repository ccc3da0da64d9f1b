//! What can happen in a world.

use whimbrel_page::LeafSum;
use whimbrel_page::PageSet;
use whimbrel_protocol::batch::LaneHello;
use whimbrel_protocol::{Answer, BatchSeq, DestinationEvent, LaneId, SourceEvent, Term};

use crate::plan::{Fault, Side};

/// A control connection; numbers are not used twice.
pub(crate) type LinkId = u32;
/// How often the guest process of a host was started; events for an older one are dropped.
pub(crate) type Life = u32;

/// One thing that happens at one moment.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// Something comes to the source's machine.
    Source(Life, SourceEvent),
    /// Something comes to the destination's machine.
    Destination(Life, DestinationEvent),
    /// The source's attempt to connect comes to its end.
    Connected(Life),
    /// A control frame arrives.
    Frame(LinkId, Side, Vec<u8>),
    /// A side notices that its control connection is gone.
    LinkGone(LinkId, Side),
    /// The source's hand has done what takes it a while.
    Done(Life, Chore),
    /// A lane's greeting arrives at the destination.
    LaneHello(Life, LaneHello),
    /// Its answer arrives at the source.
    LaneAnswer(Life, LaneId, bool),
    /// The lane was not opened in time.
    LaneLate(Life, LaneId),
    /// A lane's worker at the source goes on.
    Work(LaneId),
    /// A batch arrives at the destination's end of a lane.
    Arrive(LaneId),
    /// The destination's memory has been read, to verify it under this term.
    Swept(Life, Term),
    /// The batch that a lane's thread is landing is in place.
    Land(LaneId),
    /// An acknowledgement arrives at the source.
    Ack(LaneId, BatchSeq, LeafSum),
    /// A lane's worker looks whether anything was acknowledged lately.
    Watch(LaneId),
    /// A side notices that a lane is gone.
    LaneGone(LaneId, Side),
    /// A lane's thread at the destination comes to its end.
    ThreadEnds(LaneId),
    /// A write to the journal of this side is through.
    Written(Life, Side),
    /// A question of this side's agent arrives at the other agent.
    Question(Side, Term),
    /// Its answer arrives.
    Answer(Side, Term, Answer),
    /// A source in doubt asks again.
    Doubt,
    /// A source that wants to run the guest on tries again to take back what it let go of.
    Reacquire(Life),
    /// Somebody wants the guest moved after all.
    Again,
    /// Something goes wrong.
    Fault(Fault),
    /// What went wrong for a while is well again.
    Mend(Fault),
}

impl Step {
    /// The process in which this happens; questions are the agents' business.
    pub(crate) const fn side(&self) -> Option<Side> {
        match self {
            Self::Source(..) | Self::Connected(_) | Self::Done(..) | Self::Reacquire(_) => {
                Some(Side::Source)
            }
            Self::LaneAnswer(..) | Self::LaneLate(..) | Self::Work(_) => Some(Side::Source),
            Self::Ack(..) | Self::Watch(_) => Some(Side::Source),
            Self::Destination(..) | Self::LaneHello(..) | Self::Arrive(_) => {
                Some(Side::Destination)
            }
            Self::Land(_) | Self::ThreadEnds(_) | Self::Swept(..) => Some(Side::Destination),
            Self::Frame(_, side, _) | Self::LinkGone(_, side) => Some(*side),
            Self::LaneGone(_, side) | Self::Written(_, side) => Some(*side),
            Self::Question(..) | Self::Answer(..) | Self::Doubt | Self::Again => None,
            Self::Fault(_) | Self::Mend(_) => None,
        }
    }
}

/// What takes the source's hand a while.
#[derive(Clone, Debug)]
pub(crate) enum Chore {
    Arm,
    /// Look for what the round can leave to the next one.
    LeaveWritten,
    /// Harvest while the lanes take the last pages of a round.
    HarvestAhead,
    Harvest,
    /// What a harvest would find; it stays on record.
    Look,
    Pause,
    /// Read all memory of the paused guest.
    Verify,
    /// Only in a world that breaks law 1: the log is cleared of what was read before.
    Clear(PageSet),
}
