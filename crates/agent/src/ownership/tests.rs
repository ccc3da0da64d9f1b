//! Agents whose guests' processes are dead, so that only the records speak.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use tempfile::TempDir;
use whimbrel_control::{AgentAddress, Client};
use whimbrel_engine::protocol::{GuestUuid, SessionId, rule};

use super::*;
use crate::agent::Agent;
use crate::folder::DataFolder;
use crate::options::AgentOptions;
use crate::process_api::{GuestFile, ProcessFile};
use crate::stub_process::StubProcess;

const GUEST: GuestUuid = GuestUuid(77);
const TERM: Term = Term { generation: 4, host: 1 };
const NOBODY: &str = "127.0.0.1:1";

/// When the record was written.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Boot {
    This,
    Earlier,
}

fn record(standing: Standing, peer: &str) -> Record {
    Record { guest: GUEST, term: TERM, session: SessionId(1), peer: peer.to_owned(), standing }
}

/// An agent that serves as long as it is held.
struct Host {
    folder: TempDir,
    core: Arc<Core>,
    address: AgentAddress,
    serving: tokio::task::JoinHandle<()>,
}

impl Drop for Host {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Host {
    /// An agent that begins on a folder with this record of a guest whose process is dead.
    async fn with(record: Option<Record>, boot: Boot) -> Self {
        Self::of(record, boot, None).await
    }

    /// One whose guest's process lives, where there is one.
    async fn of(record: Option<Record>, boot: Boot, process: Option<&ProcessFile>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        if let Some(record) = record {
            let data = DataFolder::open(folder.path()).unwrap();
            let guest = data.guest(GUEST);
            let name = "web".to_owned();
            let config = GuestFile { uuid: GUEST.to_string(), name, ..Default::default() };
            guest.write_config(&config).unwrap();
            process.into_iter().for_each(|file| guest.write_process(file).unwrap());
            let mut journal = FileJournal::open(&guest.journal()).unwrap();
            if boot == Boot::Earlier {
                journal = journal.of_an_earlier_boot();
            }
            journal.record(&record).unwrap();
        }
        let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let mut options = AgentOptions::new(folder.path(), listen);
        options.deadlines.ask_pause = std::time::Duration::from_millis(10);
        let agent = Agent::bound(options).await;
        let core = agent.core();
        let address = agent.address().to_string().parse().unwrap();
        let serving = tokio::spawn(async move {
            agent.serve(std::future::pending()).await.unwrap();
        });
        Self { folder, core, address, serving }
    }

    async fn client(&self) -> Client {
        Client::connect(&self.address, Default::default()).await.unwrap()
    }

    fn journal(&self) -> PathBuf {
        self.folder.path().join("guests").join(GUEST.to_string()).join("journal")
    }

    fn record(&self) -> Option<Record> {
        crate::journal::read(&self.journal()).unwrap().map(|entry| entry.record)
    }

    fn standing(&self) -> Option<Standing> {
        self.record().map(|record| record.standing)
    }

    async fn settled(&self) -> Option<Standing> {
        let settled = async {
            let mut looks = tokio::time::interval(std::time::Duration::from_millis(10));
            while self.core.guests.get(GUEST).is_some_and(|guest| self.core.is_in_doubt(&guest)) {
                looks.tick().await;
            }
        };
        timeout(std::time::Duration::from_secs(50), settled).await.expect("it is settled");
        self.standing()
    }

    async fn answer(&self, question: Question, term: Term) -> Answer {
        let request = convert::ask_request(GUEST, term, question);
        convert::answer(&self.client().await.ask(request).await.unwrap()).unwrap()
    }
}

#[tokio::test]
async fn the_dead_are_spoken_for_by_their_records() {
    use Boot::{Earlier, This};
    let later = Term { generation: 5, host: 1 };
    let earlier = Term { generation: 3, host: 1 };
    let cases = [
        (None, This, Question::MayIRun, TERM, Answer::Unknown),
        (Some(Standing::Switching), This, Question::MayIRun, TERM, Answer::Yours),
        (Some(Standing::Granted), This, Question::MayIRun, TERM, Answer::Yours),
        (Some(Standing::Ceded), This, Question::MayIRun, TERM, Answer::Yours),
        (Some(Standing::Owner), This, Question::MayIRun, TERM, Answer::NotYours),
        (Some(Standing::Granted), This, Question::MayIRun, earlier, Answer::NotYours),
        (Some(Standing::Granted), This, Question::MayIRun, later, Answer::Unknown),
        (Some(Standing::MayOwn), This, Question::DoYouRun, TERM, Answer::NeverRan),
        (Some(Standing::MayOwn), Earlier, Question::DoYouRun, TERM, Answer::Unknown),
        (Some(Standing::Running), This, Question::DoYouRun, TERM, Answer::Runs),
        (Some(Standing::Refused), This, Question::DoYouRun, TERM, Answer::NeverRan),
        (Some(Standing::Owner), This, Question::DoYouRun, TERM, Answer::Runs),
    ];
    for (standing, boot, question, term, expected) in cases {
        let host = Host::with(standing.map(|standing| record(standing, NOBODY)), boot).await;
        let answer = host.answer(question, term).await;
        assert_eq!(answer, expected, "{standing:?} {question:?} {term}");
        // What an answer promises is in the record before it is given.
        let recorded = match (standing, answer) {
            (Some(Standing::Switching), Answer::Yours) => Some(Standing::Ceded),
            (Some(Standing::MayOwn), Answer::NeverRan) => Some(Standing::Refused),
            _ => standing,
        };
        assert_eq!(host.standing(), recorded, "{standing:?} {question:?} {term}");
    }
}

/// None, or one of each standing under terms before, at and after the one that is asked about.
fn every_record() -> Vec<Option<Record>> {
    let terms = [(3, 9), (4, 0), (4, 1), (4, 2), (5, 0)];
    let standings = Standing::ALL;
    let under = |(generation, host)| {
        let term = Term { generation, host };
        standings.map(|standing| Some(Record { term, ..record(standing, NOBODY) }))
    };
    std::iter::once(None).chain(terms.into_iter().flat_map(under)).collect()
}

/// `rule` is held against the table in wire.md by a test of its own.
#[tokio::test]
async fn every_case_of_the_table_is_answered_and_recorded() {
    let host = Host::with(Some(record(Standing::Ceded, NOBODY)), Boot::This).await;
    let mut client = host.client().await;
    let mut cases = 0;
    for boot in [Boot::This, Boot::Earlier] {
        let process = if boot == Boot::This { Process::Dead } else { Process::HostRestarted };
        for question in Question::ALL {
            for before in every_record() {
                // There is none after a case without a record.
                let _ = std::fs::remove_file(host.journal());
                if let Some(before) = &before {
                    let mut journal = FileJournal::open(&host.journal()).unwrap();
                    if boot == Boot::Earlier {
                        journal = journal.of_an_earlier_boot();
                    }
                    journal.record(before).unwrap();
                }
                let ruling = rule(question, TERM, before.as_ref(), process);
                let request = convert::ask_request(GUEST, TERM, question);
                let answer = convert::answer(&client.ask(request).await.unwrap()).unwrap();
                assert_eq!(answer, ruling.answer, "{question:?} {before:?} {process:?}");
                let kept = before.clone().map(|before| match ruling.record {
                    Some(standing) => Record { term: TERM, standing, ..before },
                    None => before,
                });
                assert_eq!(host.record(), kept, "{question:?} {before:?} {process:?}");
                cases += 1;
            }
        }
    }
    assert_eq!(cases, 2 * 4 * (1 + 5 * 7));
}

/// The guest was granted, and refused here. Before its source heard of that, somebody else brought
/// one of the same identity.
#[tokio::test]
async fn a_source_in_doubt_hears_of_its_refusal_whatever_came_here_since() {
    let later = Record { term: TERM.next(2), ..record(Standing::MayOwn, "127.0.0.1:2") };
    for came_to in [Standing::MayOwn, Standing::Refused, Standing::Running, Standing::Owner] {
        let there = Host::with(Some(record(Standing::Refused, NOBODY)), Boot::This).await;
        let mut journal = FileJournal::open(&there.journal()).unwrap();
        journal.record(&later).unwrap();
        journal.record(&Record { standing: came_to, ..later.clone() }).unwrap();
        let peer = there.address.to_string();
        let here = Host::with(Some(record(Standing::Granted, &peer)), Boot::This).await;
        assert_eq!(here.settled().await, Some(Standing::Owner), "{came_to:?}");
    }
}

#[tokio::test]
async fn a_source_that_died_in_doubt_learns_what_became_of_its_guest() {
    let cases = [
        (Standing::Running, Standing::Ceded),
        (Standing::Owner, Standing::Ceded),
        (Standing::MayOwn, Standing::Owner),
        (Standing::Refused, Standing::Owner),
    ];
    for (theirs, ours) in cases {
        let there = Host::with(Some(record(theirs, NOBODY)), Boot::This).await;
        for standing in [Standing::Switching, Standing::Granted] {
            let peer = there.address.to_string();
            let here = Host::with(Some(record(standing, &peer)), Boot::This).await;
            assert_eq!(here.settled().await, Some(ours), "{standing:?} {theirs:?}");
        }
    }
}

#[tokio::test]
async fn a_destination_that_died_unsure_with_its_host_asks_and_gives_up() {
    let there = Host::with(Some(record(Standing::Owner, NOBODY)), Boot::This).await;
    let peer = there.address.to_string();
    let here = Host::with(Some(record(Standing::MayOwn, &peer)), Boot::Earlier).await;
    assert_eq!(here.settled().await, Some(Standing::Refused));
}

#[tokio::test]
async fn without_an_answer_the_guest_stays_in_doubt_until_a_person_decides() {
    let here = Host::with(Some(record(Standing::Granted, NOBODY)), Boot::This).await;
    let mut client = here.client().await;
    let request = |decision, peer_is_off| {
        let decision = Some(decision);
        api::ResolveGuestRequest { guest: "web".to_owned(), decision, peer_is_off }
    };
    use api::resolve_guest_request::Decision::{GiveUp, RunHere};
    let view = client.get_guest(api::GetGuestRequest { guest: "web".to_owned() }).await.unwrap();
    assert_eq!(view.state(), api::GuestState::InDoubt);
    let stop = api::StopGuestRequest { guest: "web".to_owned(), force: false };
    let refused = client.stop_guest(stop).await.unwrap_err();
    assert!(refused.to_string().contains("in doubt"), "{refused}");
    let refused = client.resolve_guest(request(RunHere(true), false)).await.unwrap_err();
    assert!(refused.to_string().contains("--peer-is-off"), "{refused}");
    let refused = client.resolve_guest(request(RunHere(true), true)).await.unwrap_err();
    assert!(refused.to_string().contains("died with its process"), "{refused}");
    let refused = client.resolve_guest(request(GiveUp(false), false)).await.unwrap_err();
    assert_eq!(refused.refusal(), Some(tonic::Code::InvalidArgument));
    assert_eq!(here.standing(), Some(Standing::Granted));
    let view = client.resolve_guest(request(GiveUp(true), false)).await.unwrap();
    assert_eq!(view.state(), api::GuestState::Gone);
    assert_eq!(here.settled().await, Some(Standing::Ceded));
    let refused = client.resolve_guest(request(GiveUp(true), false)).await.unwrap_err();
    assert!(refused.to_string().contains("nothing to resolve"), "{refused}");
}

#[tokio::test]
async fn an_answer_that_promises_something_is_not_given_without_the_record() {
    let host = Host::with(Some(record(Standing::Switching, NOBODY)), Boot::This).await;
    let journal = host.journal();
    let whole = std::fs::read(&journal).unwrap();
    let request = || convert::ask_request(GUEST, TERM, Question::MayIRun);
    std::fs::write(&journal, vec![0xee; whole.len()]).unwrap();
    let refused = host.client().await.ask(request()).await.unwrap_err();
    assert!(refused.to_string().contains("damaged"), "{refused}");
    // What is there of a guest with such a journal is not touched.
    let list = api::ListGuestsRequest::default();
    let guests = host.client().await.list_guests(list).await.unwrap().guests;
    assert_eq!(guests[0].state(), api::GuestState::Failed, "{}", guests[0].state_reason);
    std::fs::write(&journal, whole).unwrap();
    assert_eq!(host.answer(Question::MayIRun, TERM).await, Answer::Yours);
}

/// Whoever asks for a dead process grants nothing by it and takes nothing.
#[test]
fn what_was_not_granted_is_not_granted_by_asking() {
    for standing in [Standing::Switching, Standing::MayOwn] {
        let question = question_of(standing);
        assert_ne!(question, Question::DoYouRun, "{standing:?}");
        for there in every_record() {
            let ruling = rule(question, TERM, there.as_ref(), Process::Dead);
            assert_ne!(ruling.record, Some(Standing::Ceded), "{standing:?} {there:?}");
        }
    }
    assert_eq!(question_of(Standing::Granted), Question::DoYouRun);
}

/// The destination never heard of the term, or knows it no more; and asks itself.
#[tokio::test]
async fn a_guest_that_died_before_it_was_granted_is_not_left_in_doubt() {
    for theirs in [None, Some(record(Standing::MayOwn, NOBODY))] {
        let there = Host::with(theirs, Boot::Earlier).await;
        let peer = there.address.to_string();
        let here = Host::with(Some(record(Standing::Switching, &peer)), Boot::This).await;
        assert_eq!(here.settled().await, Some(Standing::Owner));
        // Whoever comes to ask later is told so.
        assert_eq!(here.answer(Question::MayIRun, TERM).await, Answer::NotYours);
        // Granted, or perhaps so: only who knows may say.
        for (standing, boot) in
            [(Standing::Granted, Boot::This), (Standing::Switching, Boot::Earlier)]
        {
            let here = Host::with(Some(record(standing, &peer)), boot).await;
            here.core.try_to_settle(&here.core.guests.get(GUEST).unwrap()).await;
            assert_eq!(here.standing(), Some(standing), "{boot:?}");
        }
    }
    let here = Host::with(Some(record(Standing::Switching, NOBODY)), Boot::This).await;
    let there = record(Standing::MayOwn, &here.address.to_string());
    let there = Host::with(Some(there), Boot::Earlier).await;
    assert_eq!(there.settled().await, Some(Standing::Refused));
    assert_eq!(here.settled().await, Some(Standing::Owner));
}

/// The destination lives, has promised, and cannot ask here.
#[tokio::test]
async fn a_guest_whose_process_died_is_granted_to_who_has_all_of_it() {
    let mut process = StubProcess::of(GUEST).await;
    let promised = Some(record(Standing::MayOwn, NOBODY));
    let there = Host::of(promised, Boot::This, Some(&process.file)).await;
    let here = record(Standing::Switching, &there.address.to_string());
    let here = Host::with(Some(here), Boot::This).await;
    let granted = process.questions.wait_for(|it| it.contains(&api::Question::DoYouRun));
    let granted = timeout(std::time::Duration::from_secs(50), granted).await;
    let asked = granted.expect("it is granted in time").unwrap().clone();
    assert_eq!(asked[0], api::Question::DidYouRun, "what grants was recorded before: {asked:?}");
    assert_eq!(here.standing(), Some(Standing::Granted));
}

/// What was decided about one record is not written over another one.
#[tokio::test]
async fn a_record_that_has_changed_meanwhile_is_not_written_over() {
    let host = Host::with(Some(record(Standing::Ceded, NOBODY)), Boot::This).await;
    let guest = host.core.guests.get(GUEST).unwrap();
    let read = record(Standing::Switching, NOBODY);
    let refused = host.core.succeed(&guest, &read, Standing::Owner).unwrap_err();
    assert_eq!(refused.code(), tonic::Code::Aborted);
    assert_eq!(host.standing(), Some(Standing::Ceded));
}

#[tokio::test]
async fn nobody_answers_for_what_cannot_be_read() {
    let host = Host::with(Some(record(Standing::Ceded, NOBODY)), Boot::This).await;
    let unread = GuestUuid(78);
    let answer = |guest| {
        let request = convert::ask_request(guest, TERM, Question::DidYouRun);
        async { host.client().await.ask(request).await }
    };
    let told = answer(unread).await.unwrap();
    assert_eq!(convert::answer(&told), Some(Answer::Unknown), "it never was here");
    std::fs::create_dir(host.folder.path().join("guests").join(unread.to_string())).unwrap();
    let refused = answer(unread).await.unwrap_err();
    assert!(refused.to_string().contains("cannot be read"), "{refused}");
}

#[tokio::test]
async fn a_guest_that_was_granted_and_did_not_run_is_refused_for_a_process_that_could_not() {
    let cases = [
        (Standing::Running, Standing::Refused),
        (Standing::Owner, Standing::Owner),
        (Standing::Ceded, Standing::Ceded),
    ];
    for (standing, recorded) in cases {
        let host = Host::with(Some(record(standing, NOBODY)), Boot::This).await;
        let guest = host.core.guests.get(GUEST).unwrap();
        host.core.refuse_for_dead(&guest);
        assert_eq!(host.standing(), Some(recorded), "{standing:?}");
    }
}
