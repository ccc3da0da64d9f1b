//! What may go wrong, each at any step.

use std::time::Duration;

use whimbrel_protocol::{BatchSeq, DestinationEvent, SourceEvent, Standing, Term, Verify};

use super::host::{Batch, Cut, DestinationHost, End, Holds, Host, Pages, Said, Task};
use super::{Handover, attempt};

/// One thing that goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The control connection breaks with all that is on it; both sides can tell.
    Break,
    /// It carries nothing more, and nobody is told.
    Silence,
    /// The lane breaks with all that is on it.
    BreakLane,
    /// What is next on the lane is garbled, and lands like that.
    Garble,
    /// Something writes the source's memory, and the tracker does not see it. Only the full
    /// verification can find that, as the next one.
    SilentWrite,
    /// A page of the destination that has landed turns into something else.
    Rot(Host),
    /// A guest process dies; `true` if what it sent last is lost with it.
    Crash(Host, bool),
    /// An agent dies, with the questions it was asked and the answers it waited for.
    CrashAgent(Host),
    /// A host restarts; `true` if its notes are lost.
    Restart(Host, bool),
    /// A guest process is stopped until it goes on, which is later than all its deadlines.
    Stop(Host),
    /// Everything is late: a deadline passes first.
    Late(Host),
    /// Somebody wants the migration to end.
    Cancel(Host),
    /// The next thing that can fail on this host does.
    Fail(Host),
    /// After a failed attempt the guest is sent to the third host.
    ThirdHost,
}

/// Longer than every deadline there is.
const LONG: Duration = Duration::from_secs(60);

impl Handover {
    pub(crate) fn possible_faults(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        if self.faults == 0 {
            return faults;
        }
        let link = self.d[self.a.to].links.iter().find(|link| link.source);
        if link.is_some_and(|link| link.cut == Cut::Whole && link.end != End::Closed) {
            faults.extend([Fault::Break, Fault::Silence]);
        }
        if self.a.lane.is_some() && !self.lane_is_gone() {
            faults.push(Fault::BreakLane);
        }
        self.faults_of_memory(&mut faults);
        for host in self.hosts() {
            self.faults_of(host, &mut faults);
        }
        let life = &self.a.life;
        let again = life.acts() && life.agent && life.holds == Holds::Here;
        if again && life.said == Some(Said::Aborted) && self.d.len() == 1 && self.third_host {
            faults.push(Fault::ThirdHost);
        }
        faults
    }

    fn faults_of_memory(&self, faults: &mut Vec<Fault>) {
        let there = &self.d[self.a.to];
        let lane = there.lane.as_ref().filter(|_| there.life.acts());
        let next = lane.and_then(|lane| lane.wire.front());
        if next.is_some_and(|(_, batch)| batch.hot != Pages::GARBLED) {
            faults.push(Fault::Garble);
        }
        if self.verify != Verify::Full {
            return;
        }
        let writes = self.a.life.running && self.a.life.acts();
        if writes && self.a.cold == self.a.there.cold {
            faults.push(Fault::SilentWrite);
        }
        let rots = there.life.acts() && there.memory.cold != Pages::GARBLED;
        if rots && Self::looks_again(there) {
            faults.push(Fault::Rot(Host::DESTINATIONS[self.a.to]));
        }
    }

    /// Whether the memory will be looked at again before the guest may run on it: what rots later
    /// is beyond any digest.
    fn looks_again(there: &DestinationHost) -> bool {
        let is_landed = |event: &DestinationEvent| matches!(event, DestinationEvent::Landed(..));
        match there.machine.phase() {
            "pre-copy" => true,
            "preparing" => {
                there.awaited.is_some()
                    || there.inbox.iter().any(is_landed)
                    || there.tasks.iter().any(|task| matches!(task, Task::Verify(_)))
            }
            _ => false,
        }
    }

    fn next_on_lane(&mut self) -> Option<&mut (BatchSeq, Batch)> {
        self.d[self.a.to].lane.as_mut()?.wire.front_mut()
    }

    fn faults_of(&self, host: Host, faults: &mut Vec<Fault>) {
        let life = self.life(host);
        if life.alive {
            faults.push(Fault::Crash(host, false));
            if self.has_said_something(host) {
                faults.push(Fault::Crash(host, true));
            }
        }
        if life.agent && self.asks.iter().any(|ask| ask.asker == host || ask.to == host) {
            faults.push(Fault::CrashAgent(host));
        }
        if !life.restarted {
            faults.push(Fault::Restart(host, false));
            if life.journal.written != life.journal.durable {
                faults.push(Fault::Restart(host, true));
            }
        }
        if life.acts() && life.said.is_none() {
            faults.extend([Fault::Stop(host), Fault::Cancel(host)]);
            if self.deadline(host).is_some() {
                faults.push(Fault::Late(host));
            }
            if !life.failing {
                faults.push(Fault::Fail(host));
            }
        }
    }

    /// Whether something that this side has sent is on its way.
    fn has_said_something(&self, host: Host) -> bool {
        match host {
            Host::A => self.d.iter().flat_map(|d| &d.links).any(|l| !l.to_destination.is_empty()),
            host => self.d[host.place()].links.iter().any(|link| !link.to_source.is_empty()),
        }
    }

    pub(crate) fn go_wrong(&mut self, fault: Fault) {
        self.faults -= 1;
        match fault {
            Fault::Break => self.cut(Cut::Broken),
            Fault::Silence => self.cut(Cut::Silent),
            Fault::Garble => {
                if let Some((_, batch)) = self.next_on_lane() {
                    batch.hot = Pages::GARBLED;
                }
            }
            Fault::SilentWrite => self.a.cold += 1,
            Fault::Rot(host) => self.d[host.place()].memory.cold = Pages::GARBLED,
            Fault::BreakLane => {
                if let Some(lane) = &mut self.d[self.a.to].lane {
                    lane.wire.clear();
                }
                self.lose_lane();
            }
            Fault::Crash(host, mute) => {
                self.saved |= host == Host::A && self.is_saved();
                self.crash(host, mute);
            }
            Fault::CrashAgent(host) => self.crash_agent(host),
            Fault::Restart(host, forget) => self.restart(host, forget),
            Fault::Stop(host) => self.life_mut(host).stopped = true,
            Fault::Late(host) => self.tick(host),
            Fault::Cancel(Host::A) => self.feed_a(SourceEvent::Cancel("enough".into())),
            Fault::Cancel(host) => {
                self.feed_d(host.place(), DestinationEvent::Cancel("enough".into()));
            }
            Fault::Fail(host) => self.life_mut(host).failing = true,
            Fault::ThirdHost => self.try_third_host(),
        }
    }

    fn cut(&mut self, how: Cut) {
        if let Some(link) = self.link_a() {
            link.cut = how;
            link.to_source.clear();
            link.to_destination.clear();
        }
        self.d[self.a.to].links.retain(|link| !link.is_over());
    }

    fn crash(&mut self, host: Host, mute: bool) {
        let life = self.life_mut(host);
        (life.alive, life.stopped, life.running) = (false, false, false);
        match host {
            Host::A => {
                self.a.jobs.clear();
                self.a.inbox.clear();
                (self.a.pass, self.a.opening, self.a.lane) = (None, None, None);
                self.a.connecting = false;
                for link in self.d.iter_mut().flat_map(|d| &mut d.links) {
                    link.source = false;
                    link.to_source.clear();
                    if mute {
                        link.to_destination.clear();
                    }
                }
            }
            host => {
                let there = &mut self.d[host.place()];
                there.tasks.clear();
                there.inbox.clear();
                (there.lane, there.awaited) = (None, None);
                for link in &mut there.links {
                    link.end = End::Closed;
                    link.to_destination.clear();
                    if mute {
                        link.to_source.clear();
                    }
                }
            }
        }
        self.d.iter_mut().for_each(|d| d.links.retain(|link| !link.is_over()));
        self.asks.retain(|ask| ask.asker != host || ask.agent);
    }

    /// Whether the guest outlives the source's process: it stands still and was promised to a
    /// destination that has all of it, and nothing else goes wrong.
    fn is_saved(&self) -> bool {
        let Some((standing, term, to)) = self.a.life.journal.written else { return false };
        if to == Host::A || self.planned != 1 {
            return false;
        }
        let (here, there) = (&self.a.life, &self.d[to.place()]);
        let stands = matches!(standing, Standing::Switching | Standing::Granted) && !here.running;
        let promised = (Standing::MayOwn, term, Host::A);
        let whole =
            there.machine.phase() == "prepared" && there.life.journal.written == Some(promised);
        stands && here.holds == Holds::Moving && whole && there.life.acts() && !there.life.failing
    }

    fn crash_agent(&mut self, host: Host) {
        self.life_mut(host).agent = false;
        let lost = |ask: &super::Ask| ask.to == host || (ask.asker == host && ask.agent);
        self.asks.retain(|ask| !lost(ask));
    }

    fn restart(&mut self, host: Host, forget: bool) {
        self.crash(host, true);
        self.crash_agent(host);
        let life = self.life_mut(host);
        life.restarted = true;
        life.journal.old = true;
        if forget {
            life.journal.written = life.journal.durable;
        }
    }

    /// The process goes on, and everything it waited for is overdue.
    pub(crate) fn go_on(&mut self, host: Host) {
        let life = self.life_mut(host);
        life.stopped = false;
        life.clock = life.clock.after(LONG);
    }

    /// The guest is at home again, and goes to another host: up to where the switchover begins.
    fn try_third_host(&mut self) {
        let term = self.a.life.journal.written.map_or(Term::default(), |(_, term, _)| term);
        self.asks.retain(|ask| ask.asker != Host::A);
        let clock = self.a.life.clock;
        // All pages go to it before its term is announced.
        let cold = self.a.cold;
        let there = Pages { cold, ..Pages::default() };
        let next = attempt::destination(clock, 1);
        self.d.push(DestinationHost { memory: there, known: there, ..next }.into());
        (self.a.there, self.a.cold_goes, self.a.spoiled) = (there, false, [false; 2]);
        self.a.to = 1;
        self.a.life.said = None;
        self.a.life.holds = Holds::Moving;
        self.a.machine = attempt::source(clock, 1, term, self.verify).into();
        self.moved = false;
        self.poll_a();
        self.set_up();
    }
}
