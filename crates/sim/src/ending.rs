//! How a world may end.

use whimbrel_protocol::{Outcome, Process, Standing};

use crate::plan::{HEALED, Side};
use crate::world::{Breach, Ending, World};

impl World {
    /// Whether nothing more can come of this world.
    pub(crate) fn settled(&self) -> bool {
        let source = !self.src.alive
            || match &self.src.outcome {
                None => false,
                Some(Outcome::InDoubt { .. }) => self.needs_person && self.now >= HEALED,
                Some(_) => true,
            };
        let journals = self.src.journal.under_way().is_none() || !self.src.alive;
        source && journals && (!self.dst.alive || self.dst.outcome.is_some())
    }

    /// Judges the end: one owner, who runs the guest, and both sides say the same.
    pub(crate) fn judge_end(&self) -> Result<Ending, Breach> {
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
            return Err(Breach(format!("the sides disagree: {source:?}, {destination:?}")));
        };
        self.runner(&ending).map_or(Ok(ending), |what| Err(Breach(what)))
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
    fn runner(&self, ending: &Ending) -> Option<String> {
        let (here, there) = (self.src.running, self.dst.running);
        let expected = match ending {
            Ending::Completed => (false, self.dst.alive),
            Ending::Aborted => (true, false),
            Ending::InDoubt | Ending::Lost => (false, false),
        };
        if (here, there) != expected {
            let side = if here { Some(Side::Source) } else { there.then_some(Side::Destination) };
            return Some(format!("it ended {ending:?}, and the guest runs at {side:?}"));
        }
        let marked = self.src.throttle > 0 || self.src.tracker.armed;
        (here && marked).then(|| "the guest is left throttled or tracked".into())
    }
}
