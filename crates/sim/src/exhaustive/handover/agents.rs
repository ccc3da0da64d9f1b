//! The agents: they answer for their guests, and ask where it is in doubt who owns one.

use whimbrel_protocol::{
    Answer, DestinationEvent, Process, Question, SourceEvent, Standing, Term, rule,
};

use super::host::{Entry, Holds, Host, Journal, Life, Said};
use super::{Ask, Handover, Mutant};

impl Handover {
    pub(crate) fn life(&self, host: Host) -> &Life {
        match host {
            Host::A => &self.a.life,
            host => &self.d[host.place()].life,
        }
    }

    pub(crate) fn life_mut(&mut self, host: Host) -> &mut Life {
        match host {
            Host::A => &mut self.a.life,
            host => &mut self.d[host.place()].life,
        }
    }

    pub(crate) fn hosts(&self) -> impl Iterator<Item = Host> + use<> {
        [Host::A, Host::B, Host::C].into_iter().take(1 + self.d.len())
    }

    // --- answers ----------------------------------------------------------------------------

    /// The question arrives at the other side's agent.
    pub(crate) fn asked(&mut self, ask: Ask) {
        self.asks.remove(&ask);
        // Nobody answers for a living process that does not.
        if !self.life(ask.to).agent || self.life(ask.to).stopped {
            return;
        }
        let answer = match self.life(ask.to).alive {
            true => self.process_answers(ask),
            false => self.record_answers(ask),
        };
        self.check_answer(ask, answer);
        self.asks.insert(Ask { answer: Some(answer), ..ask });
    }

    fn record_answers(&mut self, ask: Ask) -> Answer {
        let silent = self.mutant == Some(Mutant::AnswerWithoutRecord);
        let journal = &mut self.life_mut(ask.to).journal;
        let (record, process) = (journal.read(), journal.process(false));
        let ruling = rule(ask.question, ask.term, record.as_ref(), process);
        if let Some(standing) = ruling.record.filter(|_| !silent) {
            let peer = journal.written.map_or(ask.asker, |(.., peer)| peer);
            journal.record((standing, ask.term, peer));
        }
        self.met(ask, record.map(|record| (record.standing, record.term)), process);
        ruling.answer
    }

    /// As the living guest process answers.
    fn process_answers(&mut self, ask: Ask) -> Answer {
        let life = self.life_mut(ask.to);
        let record = life.journal.read();
        let found = record.as_ref().map(|record| (record.standing, record.term));
        let mut answer = rule(ask.question, ask.term, record.as_ref(), Process::Alive).answer;
        if answer == Answer::AskProcess
            && let Some((standing, term)) = found
            && let Some(standing) = says_again(life.holds, standing)
        {
            let peer = life.journal.written.map_or(ask.asker, |(.., peer)| peer);
            life.journal.record((standing, term, peer));
            let again = life.journal.read();
            answer = rule(ask.question, ask.term, again.as_ref(), Process::Alive).answer;
        }
        if (answer, ask.question) == (Answer::AskProcess, Question::DoYouRun) && life.drives() {
            let (inbox, event) =
                (&mut self.d[ask.to.place()].inbox, DestinationEvent::Asked(ask.term));
            if !inbox.contains(&event) {
                inbox.push_back(event);
            }
        }
        self.met(ask, found, Process::Alive);
        answer
    }

    fn met(&self, ask: Ask, found: Option<(Standing, Term)>, process: Process) {
        let row = found.map(|(standing, term)| (term.cmp(&ask.term), standing));
        self.rows.borrow_mut().insert((ask.question, row, process));
    }

    /// The answer arrives.
    pub(crate) fn answered(&mut self, ask: Ask, answer: Answer) {
        self.asks.remove(&ask);
        match (ask.asker, ask.agent) {
            (host, true) => self.settled(host, ask.term, answer),
            (Host::A, false) if self.a.life.acts() => self.feed_a(SourceEvent::Answered(answer)),
            (Host::A, false) => {}
            (host, false) if self.life(host).acts() => {
                self.feed_d(host.place(), DestinationEvent::Answered(ask.term, answer));
            }
            (_, false) => {}
        }
    }

    // --- doubt ------------------------------------------------------------------------------

    /// The record of a side whose agent has to ask: its process is dead, or in doubt.
    pub(crate) fn doubt(&self, host: Host) -> Option<Entry> {
        let life = self.life(host);
        let open = !life.alive || (matches!(life.holds, Holds::InDoubt(_)) && !life.stopped);
        let entry = life.journal.written.filter(|_| life.agent && open)?;
        let doubtful = [Standing::Switching, Standing::Granted, Standing::MayOwn];
        doubtful.contains(&entry.0).then_some(entry)
    }

    /// A destination that died before it ran says so by itself.
    pub(crate) fn gives_up_alone(&self, host: Host) -> bool {
        let life = self.life(host);
        let dead = life.journal.process(life.alive) == Process::Dead;
        dead && self.doubt(host).is_some_and(|(standing, ..)| standing == Standing::MayOwn)
    }

    pub(crate) fn give_up_alone(&mut self, host: Host) {
        let journal = &mut self.life_mut(host).journal;
        if let Some((_, term, peer)) = journal.written {
            journal.record((Standing::Refused, term, peer));
        }
    }

    /// Whom the agent asks.
    pub(crate) fn settling(&self, host: Host) -> Option<Ask> {
        let (standing, term, to) = self.doubt(host).filter(|_| !self.gives_up_alone(host))?;
        let question = match standing {
            Standing::MayOwn => Question::WasItMine,
            Standing::Switching => Question::DidYouRun,
            _ => Question::DoYouRun,
        };
        Some(Ask { asker: host, question, agent: true, to, term, answer: None })
    }

    /// Whether asking changes anything: where it does not, it is done again and again until
    /// something else has changed. What it would be answered is held against what is true too.
    pub(crate) fn asking_helps(&self, ask: Ask) -> bool {
        if !self.life(ask.to).agent {
            return false;
        }
        let mut after = self.clone();
        after.asked(ask);
        // The process that is asked hears of it, where it hears of nothing else first.
        if let Some(there) = after.d.get_mut(ask.to.place()).filter(|_| ask.to != Host::A)
            && there.life.acts()
            && self.d[ask.to.place()].inbox.is_empty()
            && let Some(event) =
                there.inbox.pop_front_if(|e| *e == DestinationEvent::Asked(ask.term))
        {
            after.feed_d(ask.to.place(), event);
        }
        let answered = after.asks.difference(&self.asks).copied().collect::<Vec<Ask>>();
        for ask in answered {
            after.answered(ask, ask.answer.unwrap_or(Answer::Unknown));
        }
        after.number() != self.number()
    }

    fn settled(&mut self, host: Host, about: Term, answer: Answer) {
        let Some((standing, term, peer)) = self.doubt(host).filter(|(_, term, _)| *term == about)
        else {
            return;
        };
        let mutant = self.mutant;
        let life = self.life_mut(host);
        let dead = life.journal.process(life.alive) == Process::Dead;
        let ungranted = dead && standing == Standing::Switching;
        let gives_up = match answer {
            _ if ungranted && mutant == Some(Mutant::OwnAtOnce) => false,
            Answer::AskProcess if ungranted => {
                life.journal.record((Standing::Granted, term, peer));
                self.granted = Some(term);
                return;
            }
            Answer::Runs | Answer::NotYours => true,
            Answer::NeverRan => false,
            // wire.md O9.
            Answer::Unknown if ungranted && mutant != Some(Mutant::WaitAfterUnknown) => false,
            // A dead process cannot take what is offered.
            Answer::Yours | Answer::AskProcess | Answer::Unknown => return,
        };
        let decided = match (gives_up, standing) {
            (true, Standing::MayOwn) => Standing::Refused,
            (true, _) => Standing::Ceded,
            (false, _) => Standing::Owner,
        };
        life.journal.record((decided, term, peer));
        if !life.alive {
            return;
        }
        // Only a source is in doubt while it lives.
        if gives_up {
            (life.holds, life.alive) = (Holds::Gone, false);
            life.said = Some(Said::Completed(term));
        } else {
            life.holds = Holds::Here;
            life.said = Some(Said::Aborted);
            self.run_on();
        }
    }

    /// A process that has nothing is ended by its agent, so that its record may speak.
    pub(crate) fn is_idle(&self, host: Host) -> bool {
        let life = self.life(host);
        let standing = life.journal.written.map(|(standing, ..)| standing);
        let told = [Standing::Granted, Standing::MayOwn, Standing::Running];
        let open = standing.is_some_and(|standing| told.contains(&standing));
        life.alive && life.agent && life.holds == Holds::Gone && open
    }

    /// The process has said that the guest never ran here, which its note may not say.
    pub(crate) fn end_process(&mut self, host: Host) {
        let life = self.life_mut(host);
        life.alive = false;
        if let Some((Standing::Running, term, peer)) = life.journal.written {
            life.journal.record((Standing::Refused, term, peer));
        }
    }
}

/// What a process whose engine has ended records now, because it could not be recorded then.
const fn says_again(holds: Holds, standing: Standing) -> Option<Standing> {
    match (holds, standing) {
        (Holds::Here, Standing::Switching | Standing::Running) => Some(Standing::Owner),
        (Holds::Gone, Standing::MayOwn | Standing::Running) => Some(Standing::Refused),
        _ => None,
    }
}

impl Journal {
    /// What it says of one term, made durable.
    pub(crate) fn is_durably(&self, standing: Standing, term: Term) -> bool {
        self.durable.is_some_and(|(said, of, _)| said == standing && of >= term)
    }
}
