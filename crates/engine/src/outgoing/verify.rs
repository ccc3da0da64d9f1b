//! A full verification on the source: the paused memory itself, against what was sent.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use whimbrel_page::{PageCount, Run};
use whimbrel_protocol::{Failure, SourceEvent};

use super::Happened;
use super::hands::{Work, memory};
use super::scrub::{Scrub, State};
use crate::digest::{Digested, SweepError};

impl Work {
    /// How long a full verification would take, for the forecast. It is found out while no lane
    /// is at work yet: so it will be in the pause.
    pub(super) fn rehearse(&self) -> Result<(), Failure> {
        if let Some(digesters) = &self.digesters {
            let Digested { memory: all, took } =
                digesters.rehearse(&self.memory).map_err(memory)?;
            self.tell(SourceEvent::Rehearsed { memory: all, takes: took });
        }
        Ok(())
    }

    /// wire.md V2: after the last harvest, all that is there is digested. A page that the
    /// destination does not hold as it is, and that nobody was about to send, was written by
    /// someone whom the tracker does not see: it goes as well, and people are told.
    pub(super) fn verify(&self, stop: Arc<AtomicBool>) -> Result<Option<SourceEvent>, Failure> {
        let digesters = self.digesters.as_ref().expect("started with the migration");
        let began = Instant::now();
        let touched = self.memory.touched().map_err(memory)?;
        let missed = Arc::new(Mutex::new(Vec::new()));
        let (lanes, into) = (self.lanes.clone(), missed.clone());
        let visit = move |chunk: Run, leaves: &[_]| {
            let runs = lanes.catch_missed(chunk, leaves);
            into.lock().unwrap_or_else(PoisonError::into_inner).extend(runs);
            !stop.load(Ordering::Relaxed)
        };
        let known = self.lanes.used_chunks();
        let swept = digesters.sweep(&self.memory, touched, &known, Box::new(visit));
        self.tell_missed(std::mem::take(
            &mut *missed.lock().unwrap_or_else(PoisonError::into_inner),
        ));
        match swept {
            Ok(Digested { memory, .. }) => {
                // What it took this time is the best forecast for another.
                self.tell(SourceEvent::Rehearsed { memory, takes: began.elapsed() });
                Ok(Some(SourceEvent::Verified))
            }
            Err(SweepError::Stopped) => Ok(None),
            Err(error) => Err(memory(error)),
        }
    }

    /// What the harvest that has just been merged makes of the scrub's suspects. Returns how many
    /// pages are pending then.
    pub(super) fn judge(
        &self,
        scrub: Option<MutexGuard<'_, State>>,
        last: bool,
    ) -> Option<PageCount> {
        let mut state = scrub?;
        let (missed, seen) = (state.judge(&self.dirty, last), state.seen());
        // Before anybody looks again: a page that is pending is nobody's suspect.
        let pending = self.lanes.merge_missed(&missed);
        drop(state);
        self.scrub.iter().for_each(Scrub::judged);
        let _ = self.happened.blocking_send(Happened::Scrubbed(seen));
        self.tell_missed(missed);
        Some(pending)
    }

    fn tell_missed(&self, mut runs: Vec<Run>) {
        if !runs.is_empty() {
            runs.sort_unstable_by_key(|run| (run.region, run.first));
            let _ = self.happened.blocking_send(Happened::Missed(runs));
        }
    }
}
