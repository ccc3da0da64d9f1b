//! The source's machine: a host that does what it is told, a peer that says anything at any time,
//! and the laws that hold nevertheless.
//!
//! The host's steps are under way until the bytes let one of them finish, in any order, or let the
//! peer answer what it was told as an honest one would; so short inputs get far.

mod law;

use std::collections::BTreeMap;
use std::time::Duration;

use arbitrary::{Result, Unstructured};
use bytes::Bytes;
use whimbrel_page::{ByteCount, ByteRate, LeafSum, PageCount, RegionId, Root};
use whimbrel_protocol::{
    Accepted, BatchSeq, Convergence, GuestUuid, Harvest, LaneClosed, LaneId, LaneMark, Message,
    Now, Policy, Resumed, Source, SourceAction, SourceEvent, SourceOptions, Standing, Subject,
    Sums, Term, Throughput, Token, Verify,
};

use crate::memory::bounded;
use crate::{Reached, say};
use law::Law;

/// Steps of one input; more of the same finds nothing new.
const STEPS_MAX: usize = 400;
/// Actions that may follow from one event: each of the lanes there may be is closed and another
/// opened, and a few sentences.
const ACTIONS_MAX: usize = 3 * 128 + 16;
/// Waits that may come to their end in one moment.
const DUE_AT_ONCE_MAX: usize = 4;
/// Longer than the guest may stand still, whatever the peer says of itself.
const STANDS_STILL_MAX: Duration = Duration::from_secs(120);
/// Deadlines until a source that hears nothing comes to an end.
const DEADLINES_MAX: usize = 1000;
/// What the machine may hold: lanes, tickets and actions, none of them many.
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

/// What this host was asked to do and has not done, or the peer was told and has not answered.
#[derive(Clone, Debug)]
enum Open {
    Host(SourceAction),
    Peer(Message),
}

struct World<'a> {
    input: Unstructured<'a>,
    machine: Source,
    now: Now,
    open: Vec<Open>,
    law: Law,
    verify: Verify,
    lanes: u16,
    /// What the lanes have carried so far.
    throughput: Throughput,
    /// When the peer was heard last, and how long it may be silent.
    heard: Now,
    silence: Duration,
    /// How often limits were said.
    limits: usize,
    reached: Reached,
}

fn options(input: &mut Unstructured<'_>) -> Result<SourceOptions> {
    let policies =
        [Policy::Throttle { most: 90 }, Policy::SwitchOver, Policy::Wait, Policy::GiveUp];
    let choice = input.choose_index(2 * policies.len())?;
    let policy = policies[choice % policies.len()];
    let verify = if choice < policies.len() { Verify::Digest } else { Verify::Full };
    let convergence = Convergence { downtime_max: Duration::from_millis(300), policy };
    Ok(SourceOptions { lanes: say::LANES, convergence, verify, ..SourceOptions::default() })
}

impl<'a> World<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        let mut input = Unstructured::new(bytes);
        let options = options(&mut input).unwrap_or_default();
        let subject = Subject {
            guest: GuestUuid(1),
            name: "g".to_owned(),
            kind: "model".to_owned(),
            state_version: 1,
            layout: say::layout(),
            state_size: ByteCount::ZERO,
            term: Term { generation: 0, host: say::HOST },
            host: say::HOST,
        };
        let (verify, silence) = (options.verify, options.silence_timeout);
        let law = Law::new(options.lanes, verify);
        let machine = Source::new(Now::default(), subject, say::TOKEN, options);
        Self {
            input,
            machine,
            now: Now::default(),
            open: Vec::new(),
            law,
            verify,
            lanes: 0,
            throughput: Throughput::default(),
            heard: Now::default(),
            silence,
            limits: 0,
            reached: Reached::new(),
        }
    }

    fn play(&mut self) {
        self.carry_out();
        for _ in 0..STEPS_MAX {
            if self.input.is_empty() || self.machine.ended() || self.step().is_err() {
                return;
            }
        }
    }

    fn step(&mut self) -> Result<()> {
        self.now = self.now.after(say::wait(&mut self.input)?);
        match self.input.int_in_range(0..=9)? {
            // What came first finishes first, most of the time.
            0..=4 if !self.open.is_empty() => {
                let open = self.open.remove(0);
                self.finish(open)?;
            }
            5 if !self.open.is_empty() => {
                let at = self.input.choose_index(self.open.len())?;
                let open = self.open.remove(at);
                self.finish(open)?;
            }
            6 => self.tick(),
            7 => {
                let message = say::message(&mut self.input)?;
                self.tell(SourceEvent::Message(message));
            }
            8 => {
                let event = self.trouble()?;
                self.tell(event);
            }
            _ if !self.open.is_empty() => {
                let at = self.input.choose_index(self.open.len())?;
                // An answer that is lost.
                match self.open[at] {
                    Open::Peer(_) => drop(self.open.remove(at)),
                    Open::Host(_) => self.limit(),
                }
            }
            _ => self.limit(),
        }
        Ok(())
    }

    /// Somebody says what the lanes may carry. It takes no bytes of the input: those that were
    /// found before this was possible keep their meaning.
    fn limit(&mut self) {
        let limits =
            [None, Some(4096), Some(1 << 20), Some(1 << 32)].map(|rate| rate.map(ByteRate));
        self.limits += 1;
        let (rounds, last) = (limits[self.limits % 4], limits[self.limits / 4 % 4]);
        self.tell(SourceEvent::Limited { rounds, last });
    }

    fn trouble(&mut self) -> Result<SourceEvent> {
        let input = &mut self.input;
        Ok(match input.int_in_range(0..=5)? {
            0 | 1 => SourceEvent::LinkLost("cut".to_owned()),
            2 | 3 => SourceEvent::LaneFailed(say::lane(input)?, "cut".to_owned()),
            4 => SourceEvent::Failed(say::failure(input)?),
            _ => SourceEvent::Cancel("enough".to_owned()),
        })
    }

    /// Time passes to the next deadline. Several may be due by then, each handled by itself, but it
    /// does not wake for ever without time passing.
    fn tick(&mut self) {
        self.now = self.machine.deadline().map_or(self.now, |due| due.max(self.now));
        for _ in 0..DUE_AT_ONCE_MAX {
            self.tell(SourceEvent::Tick);
            if self.machine.deadline().is_none_or(|due| due > self.now) {
                return;
            }
        }
        panic!("{} wakes at once, and again", self.machine.phase());
    }

    fn tell(&mut self, event: SourceEvent) {
        self.law.hear(&event);
        match &event {
            SourceEvent::LinkLost(_) => self.unlink(),
            SourceEvent::LinkUp | SourceEvent::Message(_) => self.heard = self.now,
            _ => {}
        }
        let by_peer = matches!(event, SourceEvent::Message(_));
        if let Err(violation) = self.machine.handle(self.now, event) {
            assert_eq!(violation.by_peer, by_peer, "{violation}");
            let over = self.machine.ended() || self.machine.granted();
            assert!(!by_peer || over, "a breach by the peer ends it: {violation}");
        }
        self.carry_out();
        let phase = self.machine.phase();
        self.reached.insert(phase.to_owned());
        let waits = !self.machine.ended();
        let due = self.machine.deadline();
        assert!(!waits || due.is_some(), "{phase} waits for ever");
        // wire.md C12: whoever is silent is noticed in every phase.
        let silent = self.heard.after(self.silence);
        assert!(!waits || !self.machine.linked() || due <= Some(silent), "{phase}: {silent:?}");
        let until = self.machine.paused_until();
        // Under a limit the last pages take as long as whoever has set it lets them.
        let most = self.now.after(STANDS_STILL_MAX);
        assert!(
            self.limits > 0 || until.is_none_or(|until| until <= most),
            "{phase} stands still to {until:?}"
        );
    }

    /// What was on its way is lost, and so is an attempt to connect.
    fn unlink(&mut self) {
        let stays =
            |open: &Open| !matches!(open, Open::Peer(_) | Open::Host(SourceAction::Connect));
        self.open.retain(stays);
    }

    fn carry_out(&mut self) {
        let mut actions = 0;
        while let Some(action) = self.machine.poll() {
            actions += 1;
            assert!(actions <= ACTIONS_MAX, "{action:?} is one too many");
            self.law.see(&action);
            match action {
                SourceAction::Send(message) => self.open.push(Open::Peer(message)),
                SourceAction::Say(_) | SourceAction::Note(..) => {}
                SourceAction::Finish(outcome) => {
                    let name = format!("{outcome:?}");
                    let name = name.split([' ', '(']).next().unwrap_or_default().to_owned();
                    self.reached.insert(name);
                }
                SourceAction::Hangup => self.unlink(),
                other => self.open.push(Open::Host(other)),
            }
        }
    }

    fn finish(&mut self, open: Open) -> Result<()> {
        let event = match open {
            Open::Host(action) => self.done(action)?,
            Open::Peer(message) => self.answer(message)?.map(SourceEvent::Message),
        };
        if let Some(event) = event {
            self.tell(event);
        }
        Ok(())
    }

    /// What this host reports of a step.
    fn done(&mut self, action: SourceAction) -> Result<Option<SourceEvent>> {
        let input = &mut self.input;
        Ok(Some(match action {
            SourceAction::Connect => SourceEvent::LinkUp,
            SourceAction::OpenLane((lane, _)) => SourceEvent::LaneUp(lane),
            SourceAction::Arm => {
                if self.verify == Verify::Full {
                    // What digesting takes here is told first, as the engine does.
                    let takes = Duration::from_millis(10);
                    self.tell(SourceEvent::Rehearsed { memory: say::layout().bytes(), takes });
                }
                SourceEvent::Armed
            }
            SourceAction::StartRound(_) => {
                self.throughput.landed += ByteCount::mib(1);
                self.throughput.busy += Duration::from_millis(4);
                SourceEvent::RoundTaken
            }
            SourceAction::Harvest | SourceAction::Rehearse => {
                let looks = action == SourceAction::Rehearse;
                let pending = PageCount(u64::from(input.arbitrary::<u8>()?) * 8);
                let (took, throughput) = (Duration::from_millis(1), self.throughput);
                let (written, parked) = (pending, took);
                let harvest = Harvest { pending, written, took, parked, throughput };
                if looks { SourceEvent::Looked(harvest) } else { SourceEvent::Harvested(harvest) }
            }
            SourceAction::Quiesce(number) => SourceEvent::Quiesced(number),
            SourceAction::Pause => {
                // One thread does both: a verification that still went on was stopped before.
                self.open.retain(|open| !matches!(open, Open::Host(SourceAction::Verify)));
                let pending = PageCount(u64::from(input.arbitrary::<u8>()?));
                SourceEvent::Paused { pending, state: Bytes::from_static(b"state") }
            }
            SourceAction::Verify => SourceEvent::Verified,
            SourceAction::Flush(flush) => {
                let sent = BTreeMap::from([(LaneId(0), BatchSeq(2))]);
                SourceEvent::Flushed { flush, root: root(), sent }
            }
            SourceAction::Record(standing, _) => SourceEvent::Recorded(standing),
            SourceAction::Ask(_) => SourceEvent::Answered(say::answer(input)?),
            SourceAction::Compare(sums) if sums.last => {
                let again = input.ratio(1, 4)?;
                SourceEvent::Spoiled { pages: PageCount(512), again }
            }
            _ => return Ok(None),
        }))
    }

    /// What an honest destination says to that.
    fn answer(&mut self, message: Message) -> Result<Option<Message>> {
        Ok(Some(match message {
            Message::Hello(hello) if hello.resume.is_none() => {
                let mut offer = say::offer(&mut self.input)?;
                if self.verify == Verify::Full {
                    offer.features.push(say::verify_full());
                }
                Message::Offer(offer)
            }
            Message::Hello(_) => {
                let (landed, lanes) = (Vec::new(), self.tickets(self.law.agreed()));
                Message::Resumed(Resumed { landed, lanes })
            }
            Message::Plan(plan) => {
                let lanes = self.tickets(plan.lanes);
                Message::Accepted(Accepted { lanes, resume_token: say::RESUME_TOKEN })
            }
            Message::LaneLost(lane) => {
                let mark = LaneMark { lane, batch: BatchSeq(1), sum: LeafSum(1) };
                let replacement = self.tickets(1).pop();
                Message::LaneClosed(LaneClosed { mark, replacement })
            }
            Message::Announce(term) => Message::Ready(term),
            Message::Prepare(prepare) if self.input.ratio(1, 4)? => {
                Message::Differs(prepare.term, say::root(&mut self.input)?)
            }
            Message::Prepare(prepare) => Message::Prepared(prepare.term, root()),
            Message::Grant(term) => Message::Running(term),
            Message::AskSums => {
                Message::Sums(Sums { region: RegionId(0), chunks: Vec::new(), last: true })
            }
            Message::Ping(number) => Message::Pong(number),
            _ => return Ok(None),
        }))
    }

    fn tickets(&mut self, count: u16) -> Vec<(LaneId, Token)> {
        let first = self.lanes;
        self.lanes += count;
        (first..self.lanes).map(|lane| (LaneId(lane), Token(lane.into()))).collect()
    }

    /// From here on the peer is silent, and this host does what it can: it must come to an end.
    fn wait_for_the_end(&mut self) {
        self.input = Unstructured::new(&[]);
        self.open.retain(|open| matches!(open, Open::Host(_)));
        for _ in 0..DEADLINES_MAX {
            if self.machine.ended() {
                assert!(self.machine.poll().is_none() && self.machine.deadline().is_none());
                return self.law.end();
            }
            // Whoever is gone cannot be connected to, and answers nothing.
            let mine = |open: &Open| !matches!(open, Open::Host(SourceAction::Connect));
            match self.open.iter().position(mine) {
                Some(at) => {
                    let open = self.open.remove(at);
                    if matches!(open, Open::Host(_)) {
                        self.finish(open).expect("what is missing reads as zeros");
                    }
                }
                None => self.tick(),
            }
        }
        panic!("no end: {} after {:?}", self.machine.phase(), self.now);
    }
}

/// The memory that honest sides agree on.
fn root() -> Root {
    Root { sum: LeafSum(0), unknown: PageCount::ZERO }
}

/// A record, by what it allows.
const fn gives_up(standing: Standing) -> bool {
    matches!(standing, Standing::Granted | Standing::Ceded)
}
