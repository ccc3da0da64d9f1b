//! The table of answers in `proto/wire.md` is what the code answers, in every case there is.

use std::collections::BTreeSet;

use whimbrel_protocol::{
    Answer, GuestUuid, Process, Question, Record, Ruling, SessionId, Standing, Term, rule,
};

const LAW: &str = include_str!("../../../proto/wire.md");
const HEAD: &str = "| question | record's term | standing | alive | dead | restarted |";

const ANSWERS: [Answer; 6] = [
    Answer::Yours,
    Answer::NotYours,
    Answer::Runs,
    Answer::NeverRan,
    Answer::AskProcess,
    Answer::Unknown,
];

/// The term that is asked about.
const ASKED: Term = Term { generation: 5, host: 5 };

/// The terms a record can have that a word of the table means; the host decides between equals.
fn terms(word: &str) -> Vec<Term> {
    let term = |generation, host| Term { generation, host };
    match word {
        "earlier" => vec![term(4, 9), term(5, 4)],
        "same" => vec![ASKED],
        "later" => vec![term(6, 1), term(5, 6)],
        other => panic!("no term of a record: {other:?}"),
    }
}

/// Those of `all` that `word` means: some of them by their names, or any.
fn named<T: Copy + std::fmt::Debug>(all: &[T], word: &str) -> Vec<T> {
    let named = |item: &T| word.split(", ").any(|name| format!("{item:?}") == name);
    let found = all.iter().copied().filter(|item| word == "any" || named(item));
    let found: Vec<T> = found.collect();
    assert!(!found.is_empty(), "the table says {word:?}, which is none of {all:?}");
    found
}

fn ruling(cell: &str) -> Ruling {
    let (answer, record) = match cell.split_once(" → ") {
        Some((answer, standing)) => (answer, Some(named(&Standing::ALL, standing)[0])),
        None => (cell, None),
    };
    Ruling { answer: named(&ANSWERS, answer)[0], record }
}

fn records(term: &str, standing: &str) -> Vec<Option<Record>> {
    if term == "no record" {
        return vec![None];
    }
    let record = |term, standing| Record {
        guest: GuestUuid(1),
        term,
        session: SessionId(2),
        peer: "peer:1".into(),
        standing,
    };
    let standings = named(&Standing::ALL, standing);
    let each = |term| standings.iter().map(move |standing| Some(record(term, *standing)));
    terms(term).into_iter().flat_map(each).collect()
}

fn rows() -> Vec<Vec<&'static str>> {
    let mut lines = LAW.lines().skip_while(|line| *line != HEAD);
    assert_eq!(lines.next(), Some(HEAD), "wire.md has no table with this head");
    let body = lines.skip(1).take_while(|line| line.starts_with('|'));
    body.map(|line| line.trim_matches('|').split('|').map(str::trim).collect()).collect()
}

#[test]
fn the_table_says_what_the_code_answers_in_every_case() {
    let mut seen = BTreeSet::new();
    for row in rows() {
        let [question, term, standing, cells @ ..] = &row[..] else { panic!("{row:?}") };
        assert_eq!(cells.len(), Process::ALL.len(), "{row:?}");
        for question in named(&Question::ALL, question) {
            for record in records(term, standing) {
                for (process, cell) in Process::ALL.into_iter().zip(cells) {
                    let answered = rule(question, ASKED, record.as_ref(), process);
                    assert_eq!(answered, ruling(cell), "{row:?} {process:?}");
                    let case = record.as_ref().map(|record| (record.term, record.standing));
                    assert!(seen.insert((question, case, process)), "{row:?} is there twice");
                }
            }
        }
    }
    // Four questions, three kinds of process; no record, or five terms with seven standings.
    assert_eq!(seen.len(), 4 * 3 * (1 + 5 * 7), "the table leaves cases out");
}
