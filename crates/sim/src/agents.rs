//! The agents of the two hosts: journals, questions and answers.

use std::time::Duration;

use whimbrel_protocol::{
    Answer, DestinationEvent, Failure, Fault, Outcome, Process, Question, SourceEvent, Standing,
    Term, rule,
};

use crate::broken::Broken;
use crate::journal::{Entry, Journal};
use crate::locks::AGAIN;
use crate::plan::{GUEST, SESSION, Side};
use crate::seen::Seen;
use crate::step::Step;
use crate::world::World;

impl World {
    pub(crate) const fn journal(&mut self, side: Side) -> &mut Journal {
        match side {
            Side::Source => &mut self.src.journal,
            Side::Destination => &mut self.dst.journal,
        }
    }

    // --- records ---------------------------------------------------------------------------

    /// The guest process of a side wants a record.
    pub(crate) fn record(&mut self, side: Side, entry: Entry) {
        let unwritten = match entry.0 {
            Standing::Running => self.broken == Some(Broken::RunWithoutNote),
            Standing::Refused => self.broken == Some(Broken::RefuseWithoutRecord),
            _ => false,
        };
        if unwritten {
            self.written_back(side, Some(entry.0));
        } else if self.journal(side).ask(entry) {
            self.start_write(side);
        }
    }

    fn start_write(&mut self, side: Side) {
        let Some((standing, _)) = self.journal(side).under_way() else { return };
        let most = if standing.is_note() { 50 } else { self.plan.fsync };
        let delay = self.random.micros(1, most);
        let slow_until = match side {
            Side::Source => self.src.slow_until,
            Side::Destination => self.dst.slow_until,
        };
        let life = self.life(side);
        self.at((self.now + delay).max(slow_until), Step::Written(life, side));
    }

    pub(crate) fn written(&mut self, side: Side) {
        // The thread that would write it is busy.
        if side == Side::Source && self.src.resuming {
            let life = self.src.life;
            return self.after(AGAIN, Step::Written(life, side));
        }
        let written = self.journal(side).complete().map(|(standing, _)| standing);
        self.written_back(side, written);
        self.start_write(side);
    }

    fn written_back(&mut self, side: Side, written: Option<Standing>) {
        match side {
            Side::Source => self.source_written(written),
            Side::Destination => self.destination_written(written),
        }
    }

    // --- questions -------------------------------------------------------------------------

    /// A side's question to the other side's agent; without a network it is never answered.
    pub(crate) fn ask(&mut self, side: Side, term: Term) {
        if self.network.carries(self.now) && self.has_agent(side) {
            let delay = self.link_delay() * 2;
            let at = self.network.arrival(self.now, delay, Duration::ZERO);
            self.at(at, Step::Question(side, term));
        } else {
            self.saw(Seen::NotAnswered);
        }
    }

    fn has_agent(&self, side: Side) -> bool {
        let (host_up, out) = match side {
            Side::Source => (self.src.host_up, self.src.agent_out),
            Side::Destination => (self.dst.host_up, self.dst.agent_out),
        };
        host_up && self.now >= out
    }

    /// The question of `asker` arrives at the other side's agent.
    pub(crate) fn question(&mut self, asker: Side, term: Term) {
        let side = asker.other();
        let process = match side {
            Side::Source => self.src.process,
            Side::Destination => self.dst.process,
        };
        if !self.has_agent(side) || !self.network.carries(self.now) {
            return self.saw(Seen::NotAnswered);
        }
        let question = match asker {
            Side::Source => Question::DoYouRun,
            Side::Destination => Question::MayIRun,
        };
        let record = self.journal(side).record(GUEST, SESSION);
        let ruling = rule(question, term, record.as_ref(), process);
        if let Some(standing) = ruling.record {
            // wire.md O2: what cannot be made durable is not answered.
            if self.journal(side).full {
                return self.saw(Seen::NotAnswered);
            }
            self.journal(side).put((standing, term));
        }
        let answer = match ruling.answer {
            Answer::AskProcess => {
                self.saw(Seen::AskedProcess);
                self.ask_process(side, term)
            }
            answer => {
                self.saw(Seen::AskedRecord);
                answer
            }
        };
        note!(self, "{asker:?} asked about {term}: {answer:?}");
        let delay = self.link_delay() * 2;
        let at = self.network.arrival(self.now, delay, Duration::ZERO);
        self.at(at, Step::Answer(asker, term, answer));
    }

    /// The living guest process of `side` answers.
    fn ask_process(&mut self, side: Side, term: Term) -> Answer {
        let aborted = |outcome: &Option<Outcome>| matches!(outcome, Some(Outcome::Aborted(_)));
        let frozen = match side {
            Side::Source => self.src.frozen,
            Side::Destination => self.dst.frozen,
        };
        match side {
            _ if frozen > self.now => Answer::AskProcess,
            Side::Source if aborted(&self.src.outcome) => Answer::NotYours,
            Side::Source => Answer::AskProcess,
            // What was refused and could not be recorded is recorded now, or not said.
            Side::Destination if aborted(&self.dst.outcome) => {
                if self.dst.journal.full {
                    return Answer::AskProcess;
                }
                self.dst.journal.put((Standing::Refused, term));
                Answer::NeverRan
            }
            Side::Destination if self.dst.running => Answer::Runs,
            // The question is the grant once more.
            Side::Destination => {
                self.tell_destination(DestinationEvent::Asked(term));
                Answer::AskProcess
            }
        }
    }

    pub(crate) fn answer(&mut self, asker: Side, term: Term, answer: Answer) {
        if !self.network.carries(self.now) || !self.has_agent(asker) {
            return self.saw(Seen::NotAnswered);
        }
        match asker {
            Side::Destination => self.feed_destination(DestinationEvent::Answered(term, answer)),
            Side::Source if self.src.outcome.is_none() => {
                self.feed_source(SourceEvent::Answered(answer));
            }
            Side::Source => self.settle(term, answer),
        }
    }

    // --- doubt -----------------------------------------------------------------------------

    /// A source that has ended in doubt goes on asking.
    pub(crate) fn doubt(&mut self) {
        let mute = self.broken == Some(Broken::NeverAskAgain);
        if let (true, Some(Outcome::InDoubt { term, .. })) = (self.src.alive, &self.src.outcome) {
            let term = *term;
            // The guest process ends when what it was told to write is written, or has failed.
            if !mute && self.src.journal.under_way().is_none() {
                self.ask(Side::Source, term);
            }
            self.after(Duration::from_millis(500), Step::Doubt);
        }
    }

    fn settle(&mut self, term: Term, answer: Answer) {
        if !self.src.alive || !matches!(self.src.outcome, Some(Outcome::InDoubt { .. })) {
            return;
        }
        match answer {
            Answer::Runs => {
                self.saw(Seen::Settled);
                self.src.journal.put((Standing::Ceded, term));
                self.src.outcome = Some(Outcome::Completed { term });
            }
            Answer::NeverRan => {
                self.saw(Seen::Settled);
                self.src.journal.put((Standing::Owner, term));
                let why = Failure::new(Fault::Guest, "the destination never ran the guest");
                self.src.outcome = Some(Outcome::Aborted(why));
                self.resume();
                self.maybe_again();
            }
            // Only a person can decide, unless the peer's host has yet to come back.
            Answer::Unknown => self.needs_person = true,
            Answer::AskProcess | Answer::Yours | Answer::NotYours => {}
        }
    }

    // --- deaths ----------------------------------------------------------------------------

    pub(crate) const fn life(&self, side: Side) -> u32 {
        match side {
            Side::Source => self.src.life,
            Side::Destination => self.dst.life,
        }
    }

    pub(crate) const fn lives(&self, side: Side) -> bool {
        match side {
            Side::Source => self.src.alive,
            Side::Destination => self.dst.alive,
        }
    }

    /// The guest process of a side dies; its host and its journal stay.
    pub(crate) fn crash(&mut self, side: Side) {
        self.die(side);
        let Self { src, dst, random, .. } = self;
        match side {
            Side::Source => src.journal.writer_died(random),
            Side::Destination => dst.journal.writer_died(random),
        }
    }

    fn die(&mut self, side: Side) {
        let Self { src, dst, .. } = self;
        let (alive, life, running, process) = match side {
            Side::Source => (&mut src.alive, &mut src.life, &mut src.running, &mut src.process),
            Side::Destination => {
                (&mut dst.alive, &mut dst.life, &mut dst.running, &mut dst.process)
            }
        };
        if !std::mem::take(alive) {
            return;
        }
        (*life, *running, *process) = (*life + 1, false, Process::Dead);
        self.hang_up(side);
        match side {
            Side::Source => {
                self.src.resuming = false;
                self.release_at_source();
                self.end_workers();
            }
            Side::Destination => {
                self.release_at_destination();
                self.end_threads();
            }
        }
    }

    /// Nothing lands any more; the sockets are closed by the system.
    fn end_threads(&mut self) {
        for id in self.lanes.keys().copied().collect::<Vec<_>>() {
            let delay = self.lane_delay();
            let lane = self.lane(id);
            lane.lander = crate::lander::Lander::default();
            lane.wire.clear();
            if !lane.deaf.at(Side::Source) {
                self.after(delay, Step::LaneGone(id, Side::Source));
            }
        }
    }

    /// The whole host of a side restarts.
    pub(crate) fn restart(&mut self, side: Side) {
        self.die(side);
        let Self { src, dst, random, .. } = self;
        let (process, up, journal) = match side {
            Side::Source => (&mut src.process, &mut src.host_up, &mut src.journal),
            Side::Destination => (&mut dst.process, &mut dst.host_up, &mut dst.journal),
        };
        (*process, *up) = (Process::HostRestarted, false);
        let (lost, torn) = journal.host_restarted(random);
        if lost {
            self.saw(Seen::LostNote);
        }
        if torn {
            self.saw(Seen::TornRecord);
        }
    }
}
