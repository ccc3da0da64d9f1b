//! Who owns a guest: the records a host keeps, and what it may answer when it is asked.
//!
//! ```text
//!  source        Owner ──► Switching ──► Granted ──► Ceded         (Switching ──► Owner: aborted)
//!  destination            MayOwn ──► Running ──► Owner             (MayOwn ──► Refused)
//! ```
//!
//! `Granted` and `Running` are *notes*: single writes that survive the death of any process and
//! are lost only with the host. All others are durable before anything follows from them, but for
//! the `Owner` of a source that runs a paused guest on: it is noted first and made durable later.
//! The table *question × standing → answer* is part of the wire: `proto/wire.md`, section O.

use alloc::string::String;

use crate::{GuestUuid, SessionId, Term};

/// What a host has recorded about one guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The guest.
    pub guest: GuestUuid,
    /// The attempt the standing belongs to.
    pub term: Term,
    /// The session of that attempt; 0 for a guest that was started here.
    pub session: SessionId,
    /// Where the other side's agent answers questions; empty for a guest that was started here.
    pub peer: String,
    /// What this host may do.
    pub standing: Standing,
}

/// What a host may do with a guest under a term.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Standing {
    /// The guest is here and nowhere else.
    Owner,
    /// Source, durable before the pause: the term may be granted from here on.
    Switching,
    /// Source, a note: the term is granted.
    Granted,
    /// Source, durable: the guest runs here no more.
    Ceded,
    /// Destination, durable before the source pauses: a grant of the term may come.
    MayOwn,
    /// Destination, a note: the guest runs here.
    Running,
    /// Destination, durable: it never ran here under this term and never will.
    Refused,
}

impl Standing {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Owner,
        Self::Switching,
        Self::Granted,
        Self::Ceded,
        Self::MayOwn,
        Self::Running,
        Self::Refused,
    ];

    /// Whether this is a note, which is written without being waited for.
    #[must_use]
    pub const fn is_note(self) -> bool {
        matches!(self, Self::Granted | Self::Running)
    }
}

/// What is known of the guest process that a record speaks of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Process {
    /// It may be alive, and only it can answer.
    Alive,
    /// It is proven dead, and the host has not restarted since the record: notes are complete.
    Dead,
    /// The host has restarted since the record: notes may be lost.
    HostRestarted,
}

impl Process {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Alive, Self::Dead, Self::HostRestarted];
}

/// What one agent asks another about a term.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Question {
    /// The destination asks the source: you announced this term; may I run the guest?
    MayIRun,
    /// The destination asks the source: I promised to take the guest under this term, and whether
    /// it ran here is lost; was it given to me? This grants nothing.
    WasItMine,
    /// The source asks the destination: I granted this term; does the guest run with you? The
    /// question is the grant once more, for a grant that was lost.
    DoYouRun,
    /// The source asks the destination: I announced this term and know of no grant; does the guest
    /// run with you? This grants nothing.
    DidYouRun,
}

impl Question {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::MayIRun, Self::WasItMine, Self::DoYouRun, Self::DidYouRun];
}

/// What is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Answer {
    /// To the destination: the term is yours; the source will not run the guest.
    Yours,
    /// To the destination: the term was given up; you must never run it.
    NotYours,
    /// To the source: the guest runs here, or has run here under this or a later term.
    Runs,
    /// To the source: it never ran here under this term and never will.
    NeverRan,
    /// Only the living guest process can answer: ask it, or again.
    AskProcess,
    /// Nobody can know from here: it takes a person.
    Unknown,
}

/// An answer, and what must be durable before it is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ruling {
    /// What to answer.
    pub answer: Answer,
    /// The standing to record under the question's term first.
    pub record: Option<Standing>,
}

/// Decides what this host answers to `question` about `term`, from its record alone (wire.md O1),
/// and what it must record first (wire.md O2).
///
/// `record` is `None` where the host has never heard of the guest.
#[must_use]
pub fn rule(question: Question, term: Term, record: Option<&Record>, process: Process) -> Ruling {
    let say = |answer| Ruling { answer, record: None };
    let Some(record) = record else { return say(Answer::Unknown) };
    if record.term < term {
        return say(Answer::Unknown);
    }
    let later = record.term > term;
    match question {
        Question::MayIRun => may_i_run(record.standing, later, process),
        Question::WasItMine => match may_i_run(record.standing, later, process) {
            // Neither side has a process that could run it: it died here.
            Ruling { record: Some(_), .. } => {
                Ruling { answer: Answer::NotYours, record: Some(Standing::Owner) }
            }
            ruling => ruling,
        },
        Question::DoYouRun | Question::DidYouRun => do_you_run(record.standing, later, process),
    }
}

fn may_i_run(standing: Standing, later: bool, process: Process) -> Ruling {
    let say = |answer| Ruling { answer, record: None };
    match standing {
        // A later term was burned here, so this one was given up (or resolved away).
        _ if later => say(Answer::NotYours),
        Standing::Owner => say(Answer::NotYours),
        Standing::Granted | Standing::Ceded => say(Answer::Yours),
        Standing::Switching => match process {
            // wire.md O6: only the living process knows whether it has decided.
            Process::Alive => say(Answer::AskProcess),
            // It cannot run here again, so the destination may have it.
            Process::Dead => Ruling { answer: Answer::Yours, record: Some(Standing::Ceded) },
            // It may have run on after the pause, with a note that is lost.
            Process::HostRestarted => say(Answer::Unknown),
        },
        Standing::MayOwn | Standing::Running | Standing::Refused => say(Answer::Unknown),
    }
}

fn do_you_run(standing: Standing, later: bool, process: Process) -> Ruling {
    let say = |answer| Ruling { answer, record: None };
    match standing {
        // The note is written before the guest runs, and it may still fail to run.
        Standing::Running if !later && process == Process::Alive => say(Answer::AskProcess),
        Standing::Running => say(Answer::Runs),
        Standing::Refused if !later => say(Answer::NeverRan),
        Standing::MayOwn if !later => match process {
            Process::Alive => say(Answer::AskProcess),
            // The note Running is written before the guest runs; without it, it never ran.
            Process::Dead => Ruling { answer: Answer::NeverRan, record: Some(Standing::Refused) },
            Process::HostRestarted => say(Answer::Unknown),
        },
        // It came here under this term or it could not have moved on under a later one.
        Standing::Owner | Standing::Switching | Standing::Granted | Standing::Ceded => {
            say(Answer::Runs)
        }
        // A later attempt to bring it here says nothing about this one.
        Standing::MayOwn | Standing::Refused => say(Answer::Unknown),
    }
}
