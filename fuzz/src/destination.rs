//! The destination's machine: a host that does what it is told, callers and a peer that say
//! anything at any time, and the laws that hold nevertheless.

mod law;

use std::time::Duration;

use arbitrary::{Result, Unstructured};
use whimbrel_page::{LeafSum, PageCount, Root};
use whimbrel_protocol::batch::LaneHello;
use whimbrel_protocol::{
    BatchSeq, Destination, DestinationAction, DestinationEvent, DestinationOptions, LaneId,
    LaneMark, Message, Now, Term, Token,
};

use crate::memory::bounded;
use crate::{Reached, say};
use law::Law;

/// Steps of one input; more of the same finds nothing new.
const STEPS_MAX: usize = 400;
/// Lanes over the life of a session.
const LANES_MAX: usize = 24;
/// Lanes at a time.
const LANES_AT_A_TIME: u16 = 4;
/// Actions that may follow from one event: each lane is closed, and a few sentences.
const ACTIONS_MAX: usize = LANES_MAX + 16;
/// Waits that may come to their end in one moment.
const DUE_AT_ONCE_MAX: usize = 4;
/// What digesting the memory took.
const MOMENT: Duration = Duration::from_millis(1);
/// Deadlines until a destination that hears nothing comes to an end.
const DEADLINES_MAX: usize = 1000;
/// What the machine may hold: lanes and actions, none of them many.
const HEAP_MAX: usize = 1 << 20;

/// Plays an input.
pub fn run(bytes: &[u8]) -> Reached {
    bounded(HEAP_MAX, || {
        let mut world = World::new(bytes);
        world.play();
        world.wait_for_the_end();
        world.reached
    })
}

struct World<'a> {
    input: Unstructured<'a>,
    machine: Destination,
    now: Now,
    /// When the peer was heard last.
    heard: Now,
    /// What this host was asked to do and has not done.
    open: Vec<DestinationAction>,
    /// The term an honest source would say next.
    term: Term,
    law: Law,
    reached: Reached,
}

fn options() -> DestinationOptions {
    DestinationOptions {
        session: say::SESSION,
        token: say::TOKEN,
        resume_token: say::RESUME_TOKEN,
        lane_tokens: (0..LANES_MAX as u128).map(|lane| Token(100 + lane)).collect(),
        features: vec![say::verify_full()],
        lanes_max: LANES_AT_A_TIME,
        batch_bytes_max: 1 << 18,
        greeting_timeout: Duration::from_secs(10),
        silence_timeout: Duration::from_secs(5),
        resume_window: Duration::from_secs(30),
        step_timeout: Duration::from_secs(60),
        doubt_timeout: Duration::from_secs(30),
    }
}

impl<'a> World<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        let machine = Destination::new(Now::default(), options());
        Self {
            input: Unstructured::new(bytes),
            machine,
            now: Now::default(),
            heard: Now::default(),
            open: Vec::new(),
            term: Term { generation: 1, host: say::HOST },
            law: Law::new(LANES_AT_A_TIME),
            reached: Reached::new(),
        }
    }

    fn play(&mut self) {
        for _ in 0..STEPS_MAX {
            if self.input.is_empty() || self.machine.ended() || self.step().is_err() {
                return;
            }
        }
    }

    fn step(&mut self) -> Result<()> {
        self.now = self.now.after(say::wait(&mut self.input)?);
        match self.input.int_in_range(0..=11)? {
            0..=2 if !self.open.is_empty() => self.finish(0)?,
            3 if !self.open.is_empty() => {
                let at = self.input.choose_index(self.open.len())?;
                self.finish(at)?;
            }
            0..=6 => self.honest()?,
            7 => {
                let message = say::message(&mut self.input)?;
                self.tell(DestinationEvent::Message(message));
            }
            8 => {
                let event = self.trouble()?;
                self.tell(event);
            }
            9 => self.greet()?,
            10 => self.admit()?,
            _ => self.tick(),
        }
        Ok(())
    }

    /// What an honest source does next.
    fn honest(&mut self) -> Result<()> {
        let input = &mut self.input;
        let message = match self.machine.phase() {
            "waiting for the source" => return self.greet(),
            "planning" => Message::Plan(say::plan(input)?),
            "pre-copy" => match input.int_in_range(0..=3)? {
                0 => return self.admit(),
                1 => {
                    self.term.generation += 1;
                    Message::Announce(self.term)
                }
                _ => Message::Prepare(say::prepare(input, self.term)?),
            },
            "prepared" => Message::Grant(self.term),
            _ => Message::Done(self.term),
        };
        self.tell(DestinationEvent::Message(message));
        Ok(())
    }

    fn trouble(&mut self) -> Result<DestinationEvent> {
        let input = &mut self.input;
        Ok(match input.int_in_range(0..=6)? {
            0 | 1 => DestinationEvent::LinkLost("cut".to_owned()),
            2 | 3 => return self.lane_failed(),
            4 => return self.job_failed(),
            5 => DestinationEvent::Asked(say::term(input)?),
            _ => DestinationEvent::Cancel("enough".to_owned()),
        })
    }

    /// Only what was asked for can fail.
    fn job_failed(&mut self) -> Result<DestinationEvent> {
        let failure = say::failure(&mut self.input)?;
        let Some(at) = self.open.iter().position(is_job) else {
            return Ok(DestinationEvent::Tick);
        };
        self.law.done(&self.open.remove(at), false);
        Ok(DestinationEvent::Failed(failure))
    }

    /// A lane that is open may end by itself.
    fn lane_failed(&mut self) -> Result<DestinationEvent> {
        let mark = say::mark(&mut self.input)?;
        Ok(match self.law.is_open(mark.lane) {
            true => DestinationEvent::LaneEnded(mark),
            false => DestinationEvent::Tick,
        })
    }

    /// Somebody comes on a control connection.
    fn greet(&mut self) -> Result<()> {
        let hello = say::greeting(&mut self.input)?;
        let greeted = self.machine.greet(self.now, &hello);
        if greeted.is_ok() {
            self.heard = self.now;
        }
        self.law.greeted(&hello, greeted.is_ok());
        self.look();
        Ok(())
    }

    /// Somebody comes on a lane.
    fn admit(&mut self) -> Result<()> {
        let lane = say::lane(&mut self.input)?;
        let token = say::token(&mut self.input, lane)?;
        let (_, epoch) = self.machine.session();
        let stray = self.input.ratio(1, 8)?;
        let epoch = if stray { say::epoch(&mut self.input)? } else { epoch };
        let hello = LaneHello { session: say::SESSION, epoch, lane, token };
        let admitted = self.machine.admit(&hello);
        let current = self.machine.session().1;
        self.law.admitted(&hello, current, admitted.is_ok());
        self.look();
        Ok(())
    }

    /// Time passes to the next deadline. Several may be due by then, each handled by itself, but it
    /// does not wake for ever without time passing.
    fn tick(&mut self) {
        self.now = self.machine.deadline().map_or(self.now, |due| due.max(self.now));
        for _ in 0..DUE_AT_ONCE_MAX {
            self.tell(DestinationEvent::Tick);
            if self.machine.deadline().is_none_or(|due| due > self.now) {
                return;
            }
        }
        panic!("{} wakes at once, and again", self.machine.phase());
    }

    fn tell(&mut self, event: DestinationEvent) {
        self.law.hear(&event);
        if matches!(event, DestinationEvent::Message(_)) {
            self.heard = self.now;
        }
        let by_peer = matches!(event, DestinationEvent::Message(_));
        if let Err(violation) = self.machine.handle(self.now, event) {
            assert_eq!(violation.by_peer, by_peer, "{violation}");
            let over = self.machine.ended() || self.machine.may_run();
            assert!(!by_peer || over, "a breach by the peer ends it: {violation}");
        }
        self.look();
    }

    /// Carries out what follows, and looks at what it came to.
    fn look(&mut self) {
        let mut actions = 0;
        while let Some(action) = self.machine.poll() {
            actions += 1;
            assert!(actions <= ACTIONS_MAX, "{action:?} is one too many");
            self.law.see(&action);
            match action {
                DestinationAction::Send(_) | DestinationAction::Say(_) => {}
                DestinationAction::Hangup | DestinationAction::Release => {}
                DestinationAction::SendSums => {}
                DestinationAction::Finish(outcome) => {
                    let name = format!("{outcome:?}");
                    let name = name.split([' ', '(']).next().unwrap_or_default().to_owned();
                    self.reached.insert(name);
                }
                other => self.open.push(other),
            }
        }
        let phase = self.machine.phase();
        self.reached.insert(phase.to_owned());
        let waits = !self.machine.ended();
        let due = self.machine.deadline();
        assert!(!waits || due.is_some(), "{phase} waits for ever");
        // wire.md C12: whoever is silent is noticed in every phase.
        let silent = self.heard.after(options().silence_timeout);
        assert!(!waits || !self.machine.linked() || due <= Some(silent), "{phase}: {silent:?}");
    }

    /// Lets something finish; of what one thread does, what it was given first.
    fn finish(&mut self, at: usize) -> Result<()> {
        let first = self.open.iter().position(is_job);
        let at = if is_job(&self.open[at]) { first.unwrap_or(at) } else { at };
        let action = self.open.remove(at);
        if let Some(event) = self.report(&action)? {
            self.law.done(&action, true);
            self.tell(event);
        }
        Ok(())
    }

    fn report(&mut self, action: &DestinationAction) -> Result<Option<DestinationEvent>> {
        let input = &mut self.input;
        Ok(Some(match action {
            DestinationAction::Reserve(_) => DestinationEvent::Reserved,
            // A lane tells of its end once.
            DestinationAction::CloseLane(lane) if self.law.is_open(*lane) => {
                DestinationEvent::LaneEnded(mark_of(*lane, 1))
            }
            DestinationAction::Create => DestinationEvent::Created,
            DestinationAction::AwaitCounts(term, _) => {
                let other = u128::from(input.ratio(1, 4)?);
                let root = Root { sum: LeafSum(other), unknown: PageCount::ZERO };
                DestinationEvent::Landed(*term, root)
            }
            DestinationAction::Verify(term) => {
                self.reached.insert("verifying".to_owned());
                let spoiled = u128::from(input.ratio(1, 4)?);
                let root = Root { sum: LeafSum(spoiled), unknown: PageCount::ZERO };
                let digested = DestinationEvent::Digested(say::layout().bytes(), MOMENT);
                self.tell(digested);
                DestinationEvent::Verified(*term, root)
            }
            DestinationAction::Load(term, _) => DestinationEvent::Loaded(*term),
            DestinationAction::Run(term) => DestinationEvent::Ran(*term),
            DestinationAction::Record(standing, _) => DestinationEvent::Recorded(*standing),
            DestinationAction::Ask(term) => DestinationEvent::Answered(*term, say::answer(input)?),
            _ => return Ok(None),
        }))
    }

    /// From here on nobody comes and the peer is silent: it must come to an end.
    fn wait_for_the_end(&mut self) {
        self.input = Unstructured::new(&[]);
        for _ in 0..DEADLINES_MAX {
            if self.machine.ended() {
                assert!(self.machine.poll().is_none() && self.machine.deadline().is_none());
                return self.law.end();
            }
            // The other side's agent is gone as well.
            self.open.retain(|open| !matches!(open, DestinationAction::Ask(_)));
            match self.open.is_empty() {
                false => self.finish(0).expect("what is missing reads as zeros"),
                true => self.tick(),
            }
        }
        panic!("no end: {} after {:?}", self.machine.phase(), self.now);
    }
}

/// What one thread does, in the order it is asked for.
const fn is_job(action: &DestinationAction) -> bool {
    use DestinationAction::{Create, Load, Record, Reserve, Run};
    matches!(action, Reserve(_) | Create | Load(..) | Run(_) | Record(..))
}

const fn mark_of(lane: LaneId, batch: u64) -> LaneMark {
    LaneMark { lane, batch: BatchSeq(batch), sum: LeafSum(batch as u128) }
}
