//! A destination's hand in these worlds.

use std::time::Duration;

use whimbrel_page::LeafSum;
use whimbrel_protocol::{
    BatchSeq, DestinationAction, DestinationEvent, Failure, Fault, Hello, LaneId, LaneMark,
    Message, Outcome, Question, Rejected, Standing, Term, VERIFY_FULL,
};

use super::host::{Cut, End, Holds, Host, Link, Pages, Said, Task};
use super::source::{MEMORY, failure};
use super::{Ask, Handover, Mutant};

impl Handover {
    pub(crate) fn feed_d(&mut self, place: usize, event: DestinationEvent) {
        let there = &mut *self.d[place];
        if !there.life.drives() {
            return;
        }
        let fed = there.machine.handle(there.life.clock, event);
        if fed.is_err_and(|violation| violation.by_peer) {
            self.breach("an honest source was blamed");
        }
        self.poll_d(place);
    }

    pub(crate) fn poll_d(&mut self, place: usize) {
        while let Some(action) = self.d[place].machine.poll() {
            self.act_d(place, action);
        }
    }

    fn act_d(&mut self, place: usize, action: DestinationAction) {
        let there = &mut self.d[place];
        match action {
            DestinationAction::Send(message) => self.send_to_source(place, message),
            DestinationAction::Hangup => {
                if let Some(link) = held(&mut there.links) {
                    close(link);
                }
                there.links.retain(|link| !link.is_over());
            }
            DestinationAction::CloseLane(id) => {
                if let Some(lane) = there.lane.as_mut().filter(|lane| lane.id == id) {
                    lane.closing = true;
                }
            }
            DestinationAction::AwaitCounts(term, counts) => {
                there.awaited = Some((term, counts));
                self.look_at_counts(place);
            }
            DestinationAction::Reserve(plan) => {
                let full = plan.features.iter().any(|feature| feature == VERIFY_FULL);
                there.tasks.push_back(Task::Reserve(full));
            }
            DestinationAction::Create => there.tasks.push_back(Task::Create),
            DestinationAction::Load(term, state) => {
                there.tasks.push_back(Task::Load(term, state.first().copied()));
            }
            DestinationAction::Verify(term) => there.tasks.push_back(Task::Verify(term)),
            DestinationAction::Run(term) => self.run_d(place, term),
            DestinationAction::SendSums => {
                let named = there.known.named();
                self.send_to_source(place, Message::Sums(named));
            }
            DestinationAction::Record(standing, term) => self.record_d(place, standing, term),
            DestinationAction::Ask(term) => {
                let asker = Host::DESTINATIONS[place];
                self.asks.insert(Ask {
                    asker,
                    question: Question::MayIRun,
                    agent: false,
                    to: Host::A,
                    term,
                    answer: None,
                });
            }
            DestinationAction::Release | DestinationAction::Say(_) => {}
            DestinationAction::Finish(outcome) => self.finish_d(place, &outcome),
        }
    }

    fn record_d(&mut self, place: usize, standing: Standing, term: Term) {
        let there = &mut self.d[place];
        let unwritten = match standing {
            Standing::Running => self.mutant == Some(Mutant::RunWithoutNote),
            Standing::Refused => self.mutant == Some(Mutant::RefuseWithoutRecord),
            _ => false,
        };
        if !standing.is_note() && !unwritten {
            return there.tasks.push_back(Task::Record(standing, term));
        }
        let event = match std::mem::take(&mut there.life.failing) {
            true => DestinationEvent::Failed(failure(Fault::Journal)),
            false => DestinationEvent::Recorded(standing),
        };
        if !unwritten && matches!(event, DestinationEvent::Recorded(_)) {
            there.life.journal.note((standing, term, Host::A));
        }
        // As the engine does: before anything else that was polled.
        let now = there.life.clock;
        let _ = there.machine.handle(now, event);
    }

    /// Nothing lands any more: the memory is the guest's.
    fn run_d(&mut self, place: usize, term: Term) {
        let there = &mut self.d[place];
        there.lane = None;
        if there.compared == Some(there.known) {
            return there.tasks.push_back(Task::Run(term));
        }
        let late = Failure::new(Fault::Peer, "pages came late");
        let now = there.life.clock;
        let _ = there.machine.handle(now, DestinationEvent::Failed(late));
    }

    fn finish_d(&mut self, place: usize, outcome: &Outcome) {
        let there = &mut self.d[place];
        there.life.said = Some(outcome.into());
        there.inbox.clear();
        there.awaited = None;
    }

    // --- the hands --------------------------------------------------------------------------

    pub(crate) fn task_d(&mut self, place: usize) {
        let there = &mut self.d[place];
        let Some(task) = there.tasks.pop_front() else { return };
        let fails = !matches!(task, Task::Reserve(_) | Task::Create);
        if fails && std::mem::take(&mut there.life.failing) {
            let event = DestinationEvent::Failed(failure(Fault::Guest));
            return self.tell_d(place, event);
        }
        match task {
            Task::Reserve(full) => {
                self.feed_d(place, DestinationEvent::Reserved);
                if full {
                    self.feed_d(place, DIGESTED);
                }
            }
            Task::Create => self.feed_d(place, DestinationEvent::Created),
            Task::Verify(term) => self.verify_d(place, term),
            Task::Load(term, state) => {
                there.state = state;
                if self.mutant == Some(Mutant::RunThenAcknowledge) {
                    there.life.journal.note((Standing::Running, term, Host::A));
                    self.start(place, term);
                }
                self.feed_d(place, DestinationEvent::Loaded(term));
            }
            Task::Run(term) => {
                self.start(place, term);
                self.tell_d(place, DestinationEvent::Ran(term));
            }
            Task::Record(standing, term) => {
                there.life.journal.record((standing, term, Host::A));
                self.tell_d(place, DestinationEvent::Recorded(standing));
            }
        }
    }

    /// wire.md V3: not what is known of the memory, but what is in it.
    fn verify_d(&mut self, place: usize, term: Term) {
        let there = &mut self.d[place];
        if self.mutant != Some(Mutant::SkipVerifyThere) {
            there.known = there.memory;
        }
        there.compared = Some(there.known);
        let root = there.known.root();
        self.feed_d(place, DIGESTED);
        self.tell_d(place, DestinationEvent::Verified(term, root));
    }

    fn tell_d(&mut self, place: usize, event: DestinationEvent) {
        if self.d[place].life.drives() {
            self.d[place].inbox.push_back(event);
        }
    }

    /// The guest runs, on what is in the memory and in the state that was loaded.
    fn start(&mut self, place: usize, term: Term) {
        let (truth, memory) = (self.truth, Pages { hot: self.truth, cold: self.a.cold });
        let there = &mut self.d[place];
        there.life.running = true;
        there.ran = Some(term);
        if (there.memory, there.state) != (memory, Some(truth)) {
            self.breach("the guest runs on what is not its last");
        }
    }

    /// The driver has ended and the hands are done.
    pub(crate) fn settle_d(&mut self, place: usize) {
        let there = &mut self.d[place];
        let done = there.life.alive && there.tasks.is_empty();
        let (Some(said), Holds::Moving, true) = (there.life.said, there.life.holds, done) else {
            return;
        };
        let said = match said {
            Said::InDoubt(term) => there.life.settled(term),
            said => said,
        };
        there.life.said = Some(said);
        there.life.holds = match said {
            Said::Completed(_) => Holds::Here,
            Said::Aborted | Said::InDoubt(_) => Holds::Gone,
        };
        there.lane = None;
        there.links.iter_mut().for_each(close);
        there.links.retain(|link| !link.is_over());
    }

    // --- lanes ------------------------------------------------------------------------------

    pub(crate) fn land(&mut self, place: usize) {
        let there = &mut *self.d[place];
        let Some(lane) = &mut there.lane else { return };
        let Some((batch, pages)) = lane.wire.pop_front() else { return };
        there.landed.insert(lane.id, batch);
        for held in [&mut there.memory, &mut there.known] {
            held.hot = pages.hot;
            held.cold = pages.cold.unwrap_or(held.cold);
        }
        self.look_at_counts(place);
    }

    fn look_at_counts(&mut self, place: usize) {
        let there = &mut *self.d[place];
        let landed = |(lane, batch): &(LaneId, BatchSeq)| {
            there.landed.get(lane).is_some_and(|landed| landed >= batch)
        };
        let reached = |(_, counts): &mut (Term, Vec<_>)| counts.iter().all(landed);
        if let Some((term, _)) = there.awaited.take_if(reached) {
            there.compared = Some(there.known);
            let root = match self.mutant {
                Some(Mutant::SkipDigests) => self.a.there.root(),
                _ => there.known.root(),
            };
            self.tell_d(place, DestinationEvent::Landed(term, root));
        }
    }

    /// The lane's thread has ended and its socket is closed.
    pub(crate) fn end_lane(&mut self, place: usize) {
        let there = &mut self.d[place];
        let Some(lane) = there.lane.take() else { return };
        let batch = there.landed.get(&lane.id).copied().unwrap_or_default();
        let mark = LaneMark { lane: lane.id, batch, sum: LeafSum::ZERO };
        self.feed_d(place, DestinationEvent::LaneEnded(mark));
    }

    // --- the link ---------------------------------------------------------------------------

    fn send_to_source(&mut self, place: usize, message: Message) {
        let message = match message {
            Message::Pong(_) => return,
            Message::Refused(term, _) => Message::Refused(term, String::new()),
            Message::Rejected(Rejected { fault, .. }) => {
                Message::Rejected(Rejected { fault, why: String::new() })
            }
            message => message,
        };
        let link = held(&mut self.d[place].links);
        if let Some(link) = link.filter(|link| link.cut == Cut::Whole && link.source) {
            link.to_source.push_back(message);
        }
    }

    /// The next message of a connection arrives.
    pub(crate) fn hear_d(&mut self, place: usize, at: usize) {
        let link = &mut self.d[place].links[at];
        let Some(message) = link.to_destination.pop_front() else { return };
        match (link.end, message) {
            (End::Waiting, Message::Hello(hello)) => self.greeted(place, at, &hello),
            (End::Held, message) => self.feed_d(place, DestinationEvent::Message(message)),
            _ => {}
        }
        self.d[place].links.retain(|link| !link.is_over());
    }

    fn greeted(&mut self, place: usize, at: usize, hello: &Hello) {
        let there = &mut self.d[place];
        let now = there.life.clock;
        match there.machine.greet(now, hello) {
            Ok(()) => {
                if let Some(link) = held(&mut there.links) {
                    close(link);
                }
                there.links[at].end = End::Held;
                self.poll_d(place);
            }
            Err(Failure { fault, .. }) => {
                let link = &mut there.links[at];
                let why = String::new();
                link.to_source.push_back(Message::Rejected(Rejected { fault, why }));
                link.end = End::Closed;
            }
        }
    }

    /// The destination notices that its connection is gone.
    pub(crate) fn notice_d(&mut self, place: usize) {
        let there = &mut self.d[place];
        if let Some(link) = held(&mut there.links) {
            close(link);
        }
        there.links.retain(|link| !link.is_over());
        self.feed_d(place, DestinationEvent::LinkLost("cut".into()));
    }
}

/// Said on at once, whatever the phase.
const DIGESTED: DestinationEvent = DestinationEvent::Digested(MEMORY, Duration::ZERO);

/// The connection that a destination has.
pub(crate) fn held(links: &mut [Link]) -> Option<&mut Link> {
    links.iter_mut().find(|link| link.end == End::Held)
}

fn close(link: &mut Link) {
    link.end = End::Closed;
    link.to_destination.clear();
}
