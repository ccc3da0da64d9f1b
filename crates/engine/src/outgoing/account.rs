//! What the source's side of a migration tells about itself, measured on its own clock.

use std::time::{Duration, Instant};

use tokio::sync::watch;
use whimbrel_page::{Layout, PageCount, Run};
use whimbrel_protocol::ledger::RoundTally;
use whimbrel_protocol::{Answer, Message, Source, SourceAction, SourceEvent, Verify};

use super::hands::PauseTimes;
use crate::guest::Throttle;
use crate::lanes::SourceLanes;
use crate::progress::{DecisionReport, DowntimeParts, Progress, Report, RoundReport, Step};

/// How often a look is published.
const PUBLISH_INTERVAL: Duration = Duration::from_millis(100);
/// Rounds kept: the first ones, and the last of what may go on for hours.
const ROUNDS_FIRST: usize = 16;
const ROUNDS_MAX: usize = 256;
/// Decisions kept, in the same way.
const DECISIONS_FIRST: usize = 16;
const DECISIONS_MAX: usize = 256;
/// Events kept for people; the oldest go first.
const EVENTS_MAX: usize = 200;

/// Runs of missed pages that one sentence names.
const RUNS_NAMED: usize = 8;

fn named(run: &Run) -> String {
    let (region, first, last) = (run.region.0, run.first.0, run.end().0 - 1);
    if first == last { format!("{region}/{first}") } else { format!("{region}/{first}-{last}") }
}

/// What an action decides; the first round is none, as there is nothing else to do.
const fn step(action: &SourceAction) -> Option<Step> {
    match action {
        SourceAction::StartRound(0) => None,
        SourceAction::StartRound(round) => Some(Step::Round(*round)),
        SourceAction::Throttle(percent) => Some(Step::Throttle(*percent)),
        SourceAction::Pause => Some(Step::SwitchOver),
        SourceAction::Resume => Some(Step::RunOn),
        _ => None,
    }
}

/// Watches the driver's events and actions go by.
pub(super) struct Account {
    began: Instant,
    progress: Progress,
    publish: watch::Sender<Progress>,
    round_began: Instant,
    /// When all of the round was taken, until the harvest after it came.
    round_over: Option<Instant>,
    pause: PauseTimes,
    /// When the state was saved, memory verified, everything sent, the destination prepared, and
    /// when the grant went out.
    parked: Option<Instant>,
    verified: Option<Instant>,
    flushed: Option<Instant>,
    /// Pages that the root says nothing of which the destination was to agree with.
    unknown: PageCount,
    prepared: Option<Instant>,
    granted: Option<Instant>,
    /// How long the destination digested while the guest stood still.
    verified_there: Duration,
    downtime: DowntimeParts,
    /// Pages that were dirty after the last harvest.
    dirty: PageCount,
    /// When the next look is due.
    due: Instant,
}

impl Account {
    pub(super) fn new(
        pages: PageCount,
        downtime_max: Duration,
        publish: watch::Sender<Progress>,
    ) -> Self {
        let began = Instant::now();
        Self {
            began,
            progress: Progress {
                pages_total: pages,
                phase: "greeting",
                downtime_max: Some(downtime_max),
                ..Progress::default()
            },
            publish,
            round_began: began,
            round_over: None,
            pause: PauseTimes::default(),
            parked: None,
            verified: None,
            flushed: None,
            unknown: PageCount::ZERO,
            prepared: None,
            granted: None,
            verified_there: Duration::ZERO,
            downtime: DowntimeParts::default(),
            dirty: PageCount::ZERO,
            due: began,
        }
    }

    pub(super) fn say(&mut self, sentence: String) {
        tracing::info!("{sentence}");
        self.note(sentence);
    }

    fn note(&mut self, sentence: String) {
        if self.progress.events.len() == EVENTS_MAX {
            self.progress.events.remove(0);
        }
        self.progress.events.push((self.began.elapsed(), sentence));
    }

    /// An action is about to be carried out.
    pub(super) fn acts(&mut self, action: &SourceAction, source: &Source) {
        if let Some(step) = step(action) {
            self.decided(step, source);
        }
        match action {
            SourceAction::StartRound(number) => self.round(*number),
            SourceAction::Flush(_) => {
                let number = self.progress.rounds.last().map_or(0, |last| last.round + 1);
                self.round(number);
            }
            SourceAction::Throttle(percent) => self.progress.throttle = Throttle::percent(*percent),
            SourceAction::Send(Message::Grant(_)) => {
                self.granted.get_or_insert_with(Instant::now);
            }
            _ => {}
        }
    }

    fn decided(&mut self, step: Step, source: &Source) {
        let forecast = source.forecast();
        let downtime = match step {
            Step::SwitchOver => source.estimate(),
            _ => forecast.downtime(self.dirty),
        };
        let decision = DecisionReport {
            at: self.began.elapsed(),
            step,
            dirty: self.dirty,
            bandwidth: forecast.bandwidth(),
            dirty_rate: forecast.dirty_rate(),
            forecast: downtime,
        };
        let decisions = &mut self.progress.decisions;
        if decisions.len() == DECISIONS_MAX {
            decisions.remove(DECISIONS_FIRST);
        }
        decisions.push(decision);
    }

    fn round(&mut self, round: u32) {
        self.round_began = Instant::now();
        if self.progress.rounds.len() == ROUNDS_MAX {
            self.progress.rounds.remove(ROUNDS_FIRST);
        }
        self.progress.rounds.push(RoundReport { round, ..RoundReport::default() });
    }

    pub(super) fn round_taken(&mut self, tally: &RoundTally) {
        let took = self.round_began.elapsed();
        self.round_over = Some(Instant::now());
        if let Some(round) = self.progress.rounds.last_mut() {
            *round =
                RoundReport { pages: tally.pages, bytes: tally.bytes, duration: took, ..*round };
        }
    }

    pub(super) fn parked(&mut self, times: PauseTimes) {
        self.pause = times;
        self.parked = Some(Instant::now());
        // Those of an attempt that came to nothing.
        (self.verified, self.flushed, self.verified_there) = (None, None, Duration::ZERO);
    }

    pub(super) const fn scrubbed(&mut self, pages: PageCount) {
        self.progress.pages_scrubbed = pages;
    }

    /// Pages were found that changed behind the tracker's back: nobody shall overlook that.
    pub(super) fn missed(&mut self, runs: &[Run]) {
        let pages: PageCount = runs.iter().map(|run| run.count).sum();
        self.progress.pages_missed += pages;
        let named: Vec<_> = runs.iter().take(RUNS_NAMED).map(named).collect();
        let more = if runs.len() > RUNS_NAMED { ", …" } else { "" };
        let sentence = format!(
            "{pages} changed without the tracker seeing it, and are sent again: {}{more}",
            named.join(", ")
        );
        tracing::warn!("{sentence}");
        self.note(sentence);
    }

    /// The machine is about to be told.
    pub(super) fn hears(&mut self, event: &SourceEvent) {
        match event {
            SourceEvent::Harvested(harvest) => {
                self.dirty = harvest.pending;
                let over = self.round_over.take();
                if let Some(round) = self.progress.rounds.last_mut() {
                    round.dirty_after = harvest.pending;
                    round.waited += over.map_or(Duration::ZERO, |over| over.elapsed());
                }
            }
            SourceEvent::Looked(look) => self.dirty = look.pending,
            SourceEvent::Verified => self.verified = Some(Instant::now()),
            SourceEvent::Message(Message::Digested(_, took)) if self.flushed.is_some() => {
                self.verified_there = *took;
            }
            SourceEvent::Flushed { root, .. } => {
                (self.flushed, self.unknown) = (Some(Instant::now()), root.unknown);
            }
            SourceEvent::Message(Message::Prepared(..)) => self.prepared = Some(Instant::now()),
            SourceEvent::Message(Message::Running(_)) | SourceEvent::Answered(Answer::Runs) => {
                self.runs();
            }
            _ => {}
        }
    }

    /// Running was received: the downtime is over, on this side's clock.
    fn runs(&mut self) {
        if self.downtime != DowntimeParts::default() {
            return;
        }
        let (Some(began), Some(parked)) = (self.pause.began, self.parked) else { return };
        let (Some(flushed), Some(granted)) = (self.flushed, self.granted) else { return };
        let verified = self.verified.unwrap_or(parked);
        // One that came again after the grant tells nothing.
        let prepared = self.prepared.unwrap_or(granted).max(flushed).min(granted);
        let there = self.verified_there.min(prepared - flushed);
        let inside = self.pause.pause + self.pause.harvest + self.pause.state;
        self.downtime = DowntimeParts {
            pause: self.pause.pause,
            harvest: self.pause.harvest,
            // The way between the threads belongs to a part, or the parts would not add up.
            state: self.pause.state + (parked - began).saturating_sub(inside),
            verify: (verified - parked) + there,
            last_pages: flushed - verified,
            prepared: prepared - flushed - there,
            grant: granted - prepared,
            run: granted.elapsed(),
        };
    }

    /// When the next look is due. Whoever looks costs time too, of which there is none to spare
    /// while the guest is paused.
    pub(super) const fn due(&self) -> Instant {
        self.due
    }

    /// Publishes a fresh look.
    pub(super) fn publish(&mut self, source: &Source, lanes: &SourceLanes) {
        self.due = Instant::now() + PUBLISH_INTERVAL;
        let forecast = source.forecast();
        let pending = lanes.pending();
        let progress = &mut self.progress;
        progress.session = source.session().map(|(session, _)| session);
        progress.phase = source.phase();
        progress.elapsed = self.began.elapsed();
        progress.pages_pending = pending;
        progress.bytes_on_wire = lanes.bytes();
        progress.bandwidth = forecast.bandwidth();
        progress.dirty_rate = forecast.dirty_rate();
        progress.downtime_forecast = forecast.downtime(pending);
        progress.lanes = lanes.reports();
        progress.paths = lanes.path_reports();
        lanes.tend();
        self.publish.send_replace(progress.clone());
    }

    /// The account of the whole migration. Where it has completed, both sides have agreed on the
    /// last root: a lane that is lost after that takes nothing back.
    pub(super) fn close(
        self,
        source: &Source,
        completed: bool,
        (verify, layout): (Verify, &Layout),
    ) -> Report {
        let verified = if completed { layout.pages() - self.unknown } else { PageCount::ZERO };
        Report {
            verify,
            total: self.began.elapsed(),
            downtime: self.downtime,
            downtime_estimate: source.estimate(),
            pages_verified: verified,
            guest_ram: layout.bytes(),
            progress: self.progress,
        }
    }
}
