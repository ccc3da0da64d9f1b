//! What must hold in every state, and how a world may end.

use whimbrel_protocol::{Answer, Standing, Term};

use super::host::{Holds, Host, Said};
use super::{Ask, Handover, Mutant};

impl Handover {
    pub(crate) fn broken_law(&self) -> Option<String> {
        if let Some(what) = self.breach {
            return Some(what.into());
        }
        let running: Vec<Host> = self.hosts().filter(|host| self.life(*host).running).collect();
        if running.len() > 1 {
            return Some(format!("the guest runs on {running:?}"));
        }
        let recorded = self.mutant.is_none_or(Mutant::keeps_records);
        running.first().filter(|_| recorded).and_then(|host| self.not_owning(*host))
    }

    /// Law 7: nobody runs without owning, and the records say so.
    fn not_owning(&self, host: Host) -> Option<String> {
        let own = self.life(host).journal.written;
        let source = self.a.life.journal.written;
        match (host, own) {
            (Host::A, Some((Standing::Granted | Standing::Ceded, term, to))) => {
                let there = &self.life(to).journal;
                let refused = there.is_durably(Standing::Refused, term);
                (!refused).then(|| format!("A runs the guest, and has granted {term} to {to:?}"))
            }
            (Host::A, _) => None,
            (host, Some((Standing::Running | Standing::Owner, term, _))) => {
                let gives = [Standing::Switching, Standing::Granted, Standing::Ceded];
                let given = source.is_some_and(|(standing, of, to)| {
                    gives.contains(&standing) && (of, to) == (term, host)
                });
                (!given).then(|| format!("{host:?} runs the guest under {term}, not given"))
            }
            (host, entry) => Some(format!("{host:?} runs the guest, and its record is {entry:?}")),
        }
    }

    pub(crate) fn breach(&mut self, what: &'static str) {
        self.breach.get_or_insert(what);
    }

    /// Section O in these worlds: an answer is true.
    pub(crate) fn check_answer(&mut self, ask: Ask, answer: Answer) {
        let (here, there) = (self.life(ask.to), self.life(ask.asker));
        let term = ask.term;
        let is_true = match answer {
            Answer::Yours => !here.running || self.is_given_back(ask),
            Answer::NotYours => {
                let refused = there.journal.is_durably(Standing::Refused, term);
                !self.ran(ask.asker, term) && (self.granted != Some(term) || refused)
            }
            // The note comes before the run: who dies in between has had the guest.
            Answer::Runs => {
                let noted = here.journal.written;
                let noted = noted.is_some_and(|(standing, ..)| standing == Standing::Running);
                self.ran(ask.to, term) || (!here.alive && noted)
            }
            Answer::NeverRan => {
                !self.ran(ask.to, term) && here.journal.is_durably(Standing::Refused, term)
            }
            Answer::AskProcess => here.alive,
            Answer::Unknown => {
                let entry = here.journal.written;
                here.restarted || entry.is_none_or(|(_, of, _)| of != term)
            }
        };
        if !is_true {
            self.breach(match answer {
                Answer::Yours => "Yours is not true",
                Answer::NotYours => "NotYours is not true",
                Answer::Runs => "Runs is not true",
                Answer::NeverRan => "NeverRan is not true",
                Answer::AskProcess => "AskProcess where no process lives",
                Answer::Unknown => "Unknown is not true",
            });
        }
    }

    /// Whether the destination that asks has refused the guest, and the source runs it again.
    fn is_given_back(&self, ask: Ask) -> bool {
        self.life(ask.asker).journal.is_durably(Standing::Refused, ask.term)
    }

    fn ran(&self, host: Host, term: Term) -> bool {
        host != Host::A && self.d[host.place()].ran == Some(term)
    }

    // --- ends -------------------------------------------------------------------------------

    /// One owner who runs the guest; or nobody, for a reason that everybody gives.
    pub(crate) fn judge(&self) -> Result<&'static str, String> {
        let runs = self.hosts().find(|host| self.life(*host).running);
        let ended = self.hosts().find(|host| {
            let life = self.life(*host);
            life.alive && life.holds == Holds::Moving
        });
        if let Some(host) = ended {
            return Err(format!("{host:?} waits for ever"));
        }
        match runs {
            Some(Host::A) => self.judge_at_home(),
            Some(host) => self.judge_away(host),
            None => self.judge_gone(),
        }
    }

    fn judge_at_home(&self) -> Result<&'static str, String> {
        if self.a.life.said != Some(Said::Aborted) {
            return Err(format!("the guest runs at A, which says {:?}", self.a.life.said));
        }
        self.agree(|said| said == Said::Aborted)?;
        Ok("aborted")
    }

    fn judge_away(&self, host: Host) -> Result<&'static str, String> {
        let term = self.d[host.place()].ran;
        let completed = |said: Said| matches!(said, Said::Completed(of) if Some(of) == term);
        let a = &self.a.life;
        if a.alive && !a.said.is_some_and(completed) {
            return Err(format!("the guest runs at {host:?}, and A says {:?}", a.said));
        }
        if !self.life(host).said.is_some_and(completed) {
            return Err(format!("the guest runs at {host:?}, which does not say so"));
        }
        // An agent that died knows of it only once it has asked.
        let standing = a.journal.written.map(|(standing, ..)| standing);
        match standing {
            Some(Standing::Ceded) => Ok("completed"),
            other => Err(format!("the guest runs at {host:?}, and A's record is {other:?}")),
        }
    }

    /// The guest runs nowhere: the process that had it died, or nobody can know.
    fn judge_gone(&self) -> Result<&'static str, String> {
        let a = &self.a.life;
        if let (true, Holds::InDoubt(term)) = (a.alive, a.holds) {
            // Only a destination whose host has forgotten cannot say what became of it.
            let to = a.journal.written.map_or(Host::B, |(.., to)| to);
            return match self.life(to).restarted {
                true => Ok("in doubt"),
                false => Err(format!("A is in doubt about {term} for ever")),
            };
        }
        let died = self.hosts().any(|host| !self.life(host).alive);
        // Only who has forgotten something, or asks somebody who has, may be left in doubt.
        let doubted = self.hosts().find(|host| {
            self.doubt(*host).is_some_and(|(standing, _, other)| {
                let forgot = self.life(*host).restarted;
                let forgotten = self.life(other).restarted && standing != Standing::Switching;
                !forgot && !forgotten
            })
        });
        let here = self.hosts().find(|host| self.life(*host).holds == Holds::Here);
        match here.filter(|host| self.life(*host).alive) {
            Some(host) => Err(format!("{host:?} has the guest, which stands still")),
            None if self.saved => {
                Err("the guest is lost, and the destination had all of it".into())
            }
            None if let Some(host) = doubted => {
                Err(format!("{host:?} waits for a person for ever"))
            }
            None if died => Ok("lost with its process"),
            None => Err("the guest is nowhere, and nothing died".into()),
        }
    }

    /// All sides that live say what fits.
    fn agree(&self, fits: impl Fn(Said) -> bool) -> Result<(), String> {
        let wrong = self.hosts().find(|host| {
            let life = self.life(*host);
            life.alive && !life.said.is_some_and(&fits)
        });
        wrong.map_or(Ok(()), |host| Err(format!("{host:?} says {:?}", self.life(host).said)))
    }
}
