//! How a world may end.

use whimbrel_protocol::{Outcome, Process, Standing};

use crate::breach::{Breach, Law};
use crate::plan::{HEALED, Side};
use crate::world::{Ending, World};

impl World {
    /// Whether nothing more can come of this world.
    pub(crate) fn settled(&self) -> bool {
        let source = !self.src.alive
            || match &self.src.outcome {
                None => false,
                Some(Outcome::InDoubt { .. }) => self.needs_person && self.now >= HEALED,
                Some(_) => true,
            };
        let writing = self.src.alive && self.src.journal.under_way().is_some();
        let busy = writing || self.src.again || self.src.resuming;
        source && !busy && (!self.dst.alive || self.dst.outcome.is_some()) && self.former_settled()
    }

    /// Judges the end: one owner, who runs the guest, and both sides say the same.
    pub(crate) fn judge_end(&self) -> Result<Ending, Breach> {
        if let Some(what) = self.former_disagrees() {
            return Err(Breach::new(Law::Agreement, what));
        }
        let (source, destination) = self.outcomes();
        let ending = match (source, destination) {
            (Some(Outcome::InDoubt { .. }), _) => self.in_doubt(),
            (Some(Outcome::Completed { term }), Some(Outcome::Completed { term: there })) => {
                (term == there).then_some(Ending::Completed)
            }
            (Some(Outcome::Completed { .. }), None) => {
                self.ran_there().then_some(Ending::Completed)
            }
            (Some(Outcome::Aborted(_)), Some(Outcome::Aborted(_)) | None) => Some(Ending::Aborted),
            (None, Some(Outcome::Completed { .. })) => Some(Ending::Completed),
            (None, Some(Outcome::Aborted(_)) | None) => Some(Ending::Lost),
            _ => None,
        };
        let Some(ending) = ending else {
            let what = format!("the sides disagree: {source:?}, {destination:?}");
            return Err(Breach::new(Law::Agreement, what));
        };
        self.runner(&ending).map_or(Ok(ending), Err)
    }

    /// A doubt that stays is the work of a host that restarted.
    fn in_doubt(&self) -> Option<Ending> {
        let forgot = self.dst.process == Process::HostRestarted;
        (forgot && !self.dst.running).then_some(Ending::InDoubt)
    }

    /// Whether a destination that has died had run the guest.
    fn ran_there(&self) -> bool {
        let ran = |(standing, _)| matches!(standing, Standing::Running | Standing::Owner);
        self.dst.journal.entry().is_some_and(ran) || self.dst.process == Process::HostRestarted
    }

    /// Who runs the guest in the end, where it is not who should.
    fn runner(&self, ending: &Ending) -> Option<Breach> {
        let (here, there) = (self.src.running, self.dst.running);
        let expected = match ending {
            Ending::Completed => (false, self.dst.alive),
            Ending::Aborted => (true, false),
            Ending::InDoubt | Ending::Lost => (false, false),
        };
        if (here, there) != expected {
            let side = if here { Some(Side::Source) } else { there.then_some(Side::Destination) };
            let what = format!("it ended {ending:?}, and the guest runs at {side:?}");
            return Some(Breach::new(Law::Agreement, what));
        }
        let marked = self.src.throttle > 0 || self.src.tracker.armed;
        let what = "the guest is left throttled or tracked";
        (here && marked).then(|| Breach::new(Law::CleanUp, what))
    }
}
