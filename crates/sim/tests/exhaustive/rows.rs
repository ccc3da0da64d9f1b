//! The law's table of answers, row by row: the worlds come to each of them, or it is said here why
//! they cannot. That each row's answer is the one of `proto/wire.md` is tested with the rule, and
//! that agents and processes give it, with them; in these worlds every answer is held against what
//! is true.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use whimbrel_protocol::{Process, Question, Standing};
use whimbrel_sim::exhaustive::handover::Row;

const TERMS: [Ordering; 3] = [Ordering::Less, Ordering::Equal, Ordering::Greater];

/// Every row there is.
fn table() -> impl Iterator<Item = Row> {
    let records = TERMS.into_iter().flat_map(|term| Standing::ALL.map(|standing| (term, standing)));
    let records: Vec<_> = std::iter::once(None).chain(records.map(Some)).collect();
    Question::ALL.into_iter().flat_map(move |question| {
        let of_record = move |record| Process::ALL.map(|process| (question, record, process));
        records.clone().into_iter().flat_map(of_record)
    })
}

/// Each row was met, or has a reason why it was not in worlds with so many faults.
#[track_caller]
pub(crate) fn account_for(met: &BTreeSet<Row>, faults: u32) {
    let (mut all, mut wrong) = (0, Vec::new());
    for row in table() {
        all += 1;
        match (met.contains(&row), why_not(row)) {
            (true, None) | (false, Some(_)) => {}
            (true, Some(Why::ThreeFaults)) if faults > 2 => {}
            (true, Some(Why::ThreeFaults)) => wrong.push(format!("{row:?} was met with {faults}")),
            (true, Some(Why::Never(why))) => wrong.push(format!("{row:?} was met, but {why}")),
            (false, None) => wrong.push(format!("{row:?} was not met")),
        }
    }
    println!("{} of {all} rows were met", met.len());
    assert!(wrong.is_empty(), "{} rows\n{}", wrong.len(), wrong.join("\n"));
}

/// Why no world here comes to a row.
enum Why {
    /// Such a world has no way there.
    Never(&'static str),
    /// On every way there more than two things go wrong.
    ThreeFaults,
}

/// Whatever it says: in every row the rule answers as the law does, and agents and processes with
/// it. That is tested there, record by record.
fn why_not((question, record, process): Row) -> Option<Why> {
    match (question, record) {
        (Question::MayIRun, Some((Ordering::Less, Standing::Owner))) => {
            Some(Why::Never("it is prepared once its source has recorded the term"))
        }
        // The destination's host restarted, the source took another term, and its process died.
        (Question::WasItMine, Some((Ordering::Greater, standing)))
            if process != Process::Alive && !is_of_a_destination(standing) =>
        {
            Some(Why::ThreeFaults)
        }
        (Question::MayIRun | Question::WasItMine, record) => source_is_not_asked(record, process),
        // Both sides make their records at once, so that the destination may have none yet.
        (Question::DoYouRun, None | Some((Ordering::Less, _))) => {
            Some(Why::Never("it records its promise before the term can be granted"))
        }
        (_, None) => None,
        (_, Some(record)) => destination_is_not_asked(question, record, process),
    }
}

fn is_of_a_destination(standing: Standing) -> bool {
    matches!(standing, Standing::MayOwn | Standing::Running | Standing::Refused)
}

fn source_is_not_asked(record: Option<(Ordering, Standing)>, process: Process) -> Option<Why> {
    use Standing::{Ceded, Granted, Owner, Switching};
    let Some((term, standing)) = record else {
        return Some(Why::Never("the guest was started there, which is recorded"));
    };
    match (term, standing) {
        (_, standing) if is_of_a_destination(standing) => {
            Some(Why::Never("nobody brings a guest to its source"))
        }
        // It took the last term back, announced another one, and lost the note of that.
        (Ordering::Less, Switching) if process == Process::HostRestarted => Some(Why::ThreeFaults),
        (Ordering::Less, Switching | Granted | Ceded) => {
            Some(Why::Never("a term is taken back before the next one is announced"))
        }
        // It took two terms back and restarted, while the first one's destination still waits.
        (Ordering::Greater, Owner) if process == Process::HostRestarted => Some(Why::ThreeFaults),
        _ => None,
    }
}

fn destination_is_not_asked(
    question: Question,
    (term, standing): (Ordering, Standing),
    process: Process,
) -> Option<Why> {
    use Standing::{Ceded, Granted, MayOwn, Owner, Refused, Running, Switching};
    match (term, standing) {
        (_, Switching | Granted | Ceded) => Some(Why::Never("no destination sends a guest on")),
        (Ordering::Equal, Owner | MayOwn | Running | Refused) => None,
        (_, Owner | Running) => {
            Some(Why::Never("it runs under the term that its source has recorded last"))
        }
        (Ordering::Greater, _) if question == Question::DoYouRun => {
            Some(Why::Never("a source that has lost its last term knows that it may have"))
        }
        // The first pause was taken back, and the source died in the second one: two faults.
        (Ordering::Less | Ordering::Greater, MayOwn | Refused) => {
            (process != Process::Alive).then_some(Why::ThreeFaults)
        }
    }
}
