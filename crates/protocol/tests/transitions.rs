//! The whole table of phase × event, for both machines, as files that a change has to change too.
//!
//! `WHIMBREL_BLESS=1 cargo test -p whimbrel-protocol --test transitions` writes them anew.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use whimbrel_page::{ByteCount, ByteRate, Layout, LeafSum, PageCount, RegionId, Root};
use whimbrel_protocol::{
    Accepted, Answer, BatchSeq, Destination, DestinationAction, DestinationEvent,
    DestinationOptions, Failure, Fault, Feature, GuestUuid, Harvest, Hello, LaneClosed, LaneId,
    LaneMark, Message, Now, Offer, Plan, Prepare, Rejected, Resumed, SessionId, Source,
    SourceAction, SourceEvent, SourceOptions, Standing, Subject, Sums, Term, Token, VERIFY_FULL,
    Verify,
};

const T1: Term = Term { generation: 1, host: 5 };
const T2: Term = Term { generation: 2, host: 5 };
const ROOT: Root = Root { sum: LeafSum(42), unknown: PageCount::ZERO };
const OTHER: Root = Root { sum: LeafSum(43), unknown: PageCount::ZERO };
const MARK: LaneMark = LaneMark { lane: LaneId(0), batch: BatchSeq(4), sum: LeafSum(1) };

/// The name of a value: its `Debug` up to the first bracket, or the message's name.
fn name(value: &impl std::fmt::Debug) -> String {
    let text = format!("{value:?}");
    text.split(['(', ' ', '{']).next().unwrap_or_default().to_string()
}

fn layout() -> Layout {
    Layout::single(ByteCount::mib(1)).expect("valid")
}

fn check(file: &str, table: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(file);
    if std::env::var_os("WHIMBREL_BLESS").is_some() {
        std::fs::write(&path, table).expect("the table can be written");
    }
    let known = std::fs::read_to_string(&path).unwrap_or_default();
    let changed = known.lines().zip(table.lines()).find(|(old, new)| old != new);
    assert!(
        known == table,
        "the table of transitions has changed, first here: {changed:?}; if that is meant, write \
         it anew with WHIMBREL_BLESS=1 and look at the difference"
    );
}

// --- the source ------------------------------------------------------------------------------

fn source(verify: Verify) -> Source {
    let subject = Subject {
        guest: GuestUuid(1),
        name: "g".into(),
        kind: "model".into(),
        state_version: 1,
        layout: layout(),
        state_size: ByteCount::ZERO,
        term: Term { generation: 0, host: 5 },
        host: 5,
    };
    let options = SourceOptions { verify, ..SourceOptions::default() };
    Source::new(Now::default(), subject, Token(7), options)
}

fn drain(source: &mut Source) -> String {
    let mut actions = Vec::new();
    while let Some(action) = source.poll() {
        actions.push(match action {
            SourceAction::Send(message) => message.name().to_string(),
            SourceAction::Record(standing, _) => format!("record {standing:?}"),
            SourceAction::Note(standing, _) => format!("note {standing:?}"),
            SourceAction::Finish(outcome) => format!("finish {}", name(&outcome)),
            SourceAction::Say(_) => continue,
            other => name(&other),
        });
    }
    actions.join(", ")
}

fn messages_to_source() -> Vec<Message> {
    let why = || "why".to_string();
    vec![
        Message::Offer(Offer {
            session: SessionId(9),
            version_min: 1,
            version_max: 1,
            features: vec![Feature { name: VERIFY_FULL.into(), mandatory: false }],
            lanes_max: 4,
            batch_bytes_max: 1 << 18,
        }),
        Message::Accepted(Accepted { lanes: vec![(LaneId(0), Token(1))], resume_token: Token(8) }),
        Message::Rejected(Rejected { fault: Fault::Capacity, why: why() }),
        Message::Resumed(Resumed { landed: vec![MARK], lanes: vec![(LaneId(1), Token(2))] }),
        Message::LaneClosed(LaneClosed { mark: MARK, replacement: None }),
        Message::Ready(T1),
        Message::Prepared(T1, ROOT),
        Message::Prepared(T1, OTHER),
        Message::Differs(T1, OTHER),
        Message::Sums(Sums { region: RegionId(0), chunks: Vec::new(), last: true }),
        Message::Running(T1),
        Message::Refused(T1, why()),
        Message::Pong(1),
        Message::Digested(ByteCount::mib(1), Duration::from_millis(1)),
        Message::Grant(T1),
    ]
}

fn source_events() -> Vec<SourceEvent> {
    let flushed = |flush| SourceEvent::Flushed {
        flush,
        root: ROOT,
        sent: BTreeMap::from([(LaneId(0), BatchSeq(4))]),
    };
    let mut events = vec![
        SourceEvent::LinkUp,
        SourceEvent::LinkLost("cut".into()),
        SourceEvent::LaneUp(LaneId(0)),
        SourceEvent::LaneFailed(LaneId(0), "cut".into()),
        SourceEvent::Armed,
        SourceEvent::RoundTaken,
        SourceEvent::Harvested(Harvest::default()),
        SourceEvent::Looked(Harvest::default()),
        SourceEvent::Quiesced(1),
        SourceEvent::Quiesced(9),
        SourceEvent::Paused { pending: PageCount(1), state: Bytes::new() },
        SourceEvent::Rehearsed { memory: ByteCount::mib(1), takes: Duration::from_millis(1) },
        SourceEvent::Limited { rounds: Some(ByteRate(1 << 30)), last: None },
        SourceEvent::Verified,
        flushed(0),
        flushed(9),
        SourceEvent::Recorded(Standing::Switching),
        SourceEvent::Recorded(Standing::Granted),
        SourceEvent::Recorded(Standing::Ceded),
        SourceEvent::Spoiled { pages: PageCount(512), again: false },
        SourceEvent::Spoiled { pages: PageCount(512), again: true },
        SourceEvent::Answered(Answer::Runs),
        SourceEvent::Answered(Answer::NeverRan),
        SourceEvent::Answered(Answer::Unknown),
        SourceEvent::Failed(Failure::new(Fault::Journal, "full")),
        SourceEvent::Cancel("enough".into()),
    ];
    events.extend(messages_to_source().into_iter().map(SourceEvent::Message));
    events
}

/// One machine in each phase, reached the ordinary way.
fn sources() -> Vec<(&'static str, Source)> {
    let mut machine = source(Verify::Digest);
    let mut verifying = source(Verify::Full);
    let mut phases = Vec::new();
    let mut step = |machine: &mut Source, events: &[SourceEvent]| {
        drain(machine);
        phases.push((machine.phase(), machine.clone()));
        for event in events {
            machine.handle(Now::default(), event.clone()).expect("the ordinary way");
        }
    };
    let events = source_events();
    let find = |name: &str| events.iter().find(|e| event_name(e).starts_with(name)).expect("known");
    let of = |names: &[&str]| names.iter().map(|name| find(name).clone()).collect::<Vec<_>>();
    step(&mut machine, &of(&["LinkUp", "Offer"]));
    step(&mut machine, &of(&["Accepted", "LaneUp"]));
    step(&mut machine, &of(&["Armed", "RoundTaken", "Harvested", "Recorded Switching", "Ready"]));
    let copying = machine.clone();
    step(&mut machine, &of(&["Harvested"]));
    step(&mut machine, &of(&["Quiesced", "Looked"]));
    step(&mut machine, &of(&["Paused"]));
    step(&mut machine, &of(&["Flushed"]));
    let preparing = machine.clone();
    step(&mut machine, &of(&["Prepared", "Recorded Granted"]));
    step(&mut machine, &of(&["Running", "Recorded Ceded"]));
    step(&mut machine, &[]);
    let mut relinking = copying;
    step(&mut relinking, &of(&["LinkLost"]));
    relinking.handle(Now::default(), SourceEvent::LinkUp).expect("the ordinary way");
    step(&mut relinking, &[]);
    let mut repairing = preparing;
    // The second quiescing of this migration.
    step(&mut repairing, &[find("Differs").clone(), SourceEvent::Quiesced(2)]);
    step(&mut repairing, &[]);
    let way = ["LinkUp", "Offer", "Accepted", "LaneUp", "Armed", "RoundTaken", "Harvested"];
    let rest = ["Recorded Switching", "Ready", "Harvested", "Quiesced", "Looked", "Paused"];
    for event in of(&way).into_iter().chain(of(&rest)) {
        verifying.handle(Now::default(), event).expect("the ordinary way");
    }
    step(&mut verifying, &[]);
    let mut seen = Vec::new();
    phases.retain(|(phase, _)| {
        !seen.contains(phase) && {
            seen.push(*phase);
            true
        }
    });
    assert!(seen.contains(&"repairing") && seen.contains(&"reconnecting"), "{seen:?}");
    phases
}

fn event_name(event: &SourceEvent) -> String {
    match event {
        SourceEvent::Message(message) => message.name().to_string(),
        SourceEvent::Recorded(standing) => format!("Recorded {standing:?}"),
        SourceEvent::Answered(answer) => format!("Answered {answer:?}"),
        SourceEvent::Quiesced(9) => "Stale quiescing".into(),
        SourceEvent::Flushed { flush: 9, .. } => "Stale flush".to_string(),
        SourceEvent::Spoiled { again: true, .. } => "Spoiled again".to_string(),
        other => name(other),
    }
}

#[test]
fn the_source_does_what_its_table_says() {
    let mut table = String::from("phase | event | next phase | what it does\n");
    for (phase, machine) in sources() {
        for event in source_events() {
            let mut machine = machine.clone();
            let verdict = machine.handle(Now::default(), event.clone());
            let note = if verdict.is_err() { " (not allowed)" } else { "" };
            let acts = drain(&mut machine);
            let next = machine.phase();
            if next != phase || !acts.is_empty() || verdict.is_err() {
                let event = event_name(&event);
                writeln!(table, "{phase} | {event} | {next}{note} | {acts}").expect("a string");
            }
        }
    }
    check("source.transitions.txt", &table);
}

#[test]
fn after_the_grant_only_a_refusal_resumes_the_source() {
    let (_, granted) =
        sources().into_iter().find(|(phase, _)| *phase == "granted").expect("a phase");
    for event in source_events() {
        let mut machine = granted.clone();
        let _ = machine.handle(Now::default(), event.clone());
        let resumes = drain(&mut machine).contains("Resume");
        let refusal = matches!(
            event,
            SourceEvent::Message(Message::Refused(..)) | SourceEvent::Answered(Answer::NeverRan)
        );
        assert_eq!(resumes, refusal, "museum M1, M3: {event:?}");
    }
}

/// Law 6. The peer is there and pings, and nothing else happens: no step of this host comes to its
/// end, and nobody says anything.
#[test]
fn a_source_that_is_left_alone_ends() {
    for (phase, mut machine) in sources() {
        let before_the_grant = !machine.granted();
        let (mut pings, mut acts) = (0, String::new());
        for _ in 0..10_000 {
            let Some(due) = machine.deadline() else { break };
            let acts_now = drain(&mut machine);
            acts = format!("{acts}, {acts_now}");
            pings += 1;
            let _ = machine.handle(due, SourceEvent::Message(Message::Pong(pings)));
            let _ = machine.handle(due, SourceEvent::Tick);
        }
        acts.push_str(&drain(&mut machine));
        assert!(machine.ended(), "{phase} waits for ever in {}", machine.phase());
        if phase == "pausing" {
            assert!(before_the_grant && acts.contains("note Owner, Resume"), "{acts}");
        }
        assert!(before_the_grant || !acts.contains("Resume"), "{phase}: {acts}");
    }
}

// --- the destination -------------------------------------------------------------------------

fn destination() -> Destination {
    let feature = Feature { name: VERIFY_FULL.into(), mandatory: false };
    let options = DestinationOptions {
        session: SessionId(9),
        token: Token(7),
        resume_token: Token(8),
        lane_tokens: (0..64).map(Token).collect(),
        features: vec![feature],
        lanes_max: 4,
        batch_bytes_max: 1 << 18,
        greeting_timeout: Duration::from_secs(10),
        silence_timeout: Duration::from_secs(5),
        resume_window: Duration::from_secs(30),
        step_timeout: Duration::from_secs(30),
        doubt_timeout: Duration::from_secs(30),
    };
    Destination::new(Now::default(), options)
}

fn drain_destination(destination: &mut Destination) -> String {
    let mut actions = Vec::new();
    while let Some(action) = destination.poll() {
        actions.push(match action {
            DestinationAction::Send(message) => message.name().to_string(),
            DestinationAction::Record(standing, _) => format!("record {standing:?}"),
            DestinationAction::Finish(outcome) => format!("finish {}", name(&outcome)),
            DestinationAction::Say(_) => continue,
            other => name(&other),
        });
    }
    actions.join(", ")
}

fn prepare() -> Prepare {
    Prepare {
        term: T1,
        root: ROOT,
        sent: vec![(LaneId(0), BatchSeq(4))],
        state: Bytes::from_static(b"state"),
    }
}

fn plan() -> Plan {
    Plan {
        version: 1,
        features: Vec::new(),
        guest: GuestUuid(1),
        name: "g".into(),
        kind: "model".into(),
        state_version: 1,
        little_endian: cfg!(target_endian = "little"),
        layout: layout(),
        page_size: 4096,
        lanes: 2,
    }
}

fn destination_events() -> Vec<(&'static str, DestinationEvent)> {
    let message = DestinationEvent::Message;
    let failure = Failure::new(Fault::Guest, "no");
    vec![
        ("Plan", message(Message::Plan(plan()))),
        ("Announce 1", message(Message::Announce(T1))),
        ("Announce 2", message(Message::Announce(T2))),
        ("Prepare", message(Message::Prepare(prepare()))),
        ("Grant 1", message(Message::Grant(T1))),
        ("Grant 2", message(Message::Grant(T2))),
        ("Abort", message(Message::Abort("why".into()))),
        ("Done", message(Message::Done(T1))),
        ("AskSums", message(Message::AskSums)),
        ("LaneLost", message(Message::LaneLost(LaneId(0)))),
        ("Ping", message(Message::Ping(1))),
        ("Pong", message(Message::Pong(1))),
        ("LinkLost", DestinationEvent::LinkLost("cut".into())),
        ("LaneEnded", DestinationEvent::LaneEnded(MARK)),
        ("Reserved", DestinationEvent::Reserved),
        ("Created", DestinationEvent::Created),
        ("Landed", DestinationEvent::Landed(T1, ROOT)),
        ("Landed otherwise", DestinationEvent::Landed(T1, OTHER)),
        ("Verified", DestinationEvent::Verified(T1, ROOT)),
        ("Verified otherwise", DestinationEvent::Verified(T1, OTHER)),
        ("Digested", DestinationEvent::Digested(ByteCount::mib(1), Duration::from_millis(1))),
        ("Loaded", DestinationEvent::Loaded(T1)),
        ("Ran", DestinationEvent::Ran(T1)),
        ("Recorded MayOwn", DestinationEvent::Recorded(Standing::MayOwn)),
        ("Recorded Running", DestinationEvent::Recorded(Standing::Running)),
        ("Recorded Owner", DestinationEvent::Recorded(Standing::Owner)),
        ("Recorded Refused", DestinationEvent::Recorded(Standing::Refused)),
        ("Answered Yours", DestinationEvent::Answered(T1, Answer::Yours)),
        ("Answered NotYours", DestinationEvent::Answered(T1, Answer::NotYours)),
        ("Asked 1", DestinationEvent::Asked(T1)),
        ("Asked 2", DestinationEvent::Asked(T2)),
        ("Failed", DestinationEvent::Failed(failure)),
        ("Cancel", DestinationEvent::Cancel("enough".into())),
    ]
}

/// One machine in each phase, reached the ordinary way.
fn destinations() -> Vec<(&'static str, Destination)> {
    let mut machine = destination();
    let mut phases = vec![(machine.phase(), machine.clone())];
    let hello = Hello { version_min: 1, version_max: 1, token: Token(7), resume: None };
    machine.greet(Now::default(), &hello).expect("a good greeting");
    let events = destination_events();
    let ways: [&[&str]; 8] = [
        &["Plan"],
        &["Reserved"],
        &["Announce 1", "Created", "Recorded MayOwn", "Prepare"],
        &["Landed", "Loaded"],
        &["Grant 1"],
        &["Recorded Running", "Ran"],
        &["Done"],
        &[],
    ];
    for way in ways {
        drain_destination(&mut machine);
        phases.push((machine.phase(), machine.clone()));
        for step in way {
            let event = &events.iter().find(|(name, _)| name == step).expect("known").1;
            machine.handle(Now::default(), event.clone()).expect("the ordinary way");
        }
    }
    let (_, prepared) = phases.iter().find(|(phase, _)| *phase == "prepared").expect("a phase");
    let mut refusing = prepared.clone();
    let abort = DestinationEvent::Message(Message::Abort("why".into()));
    refusing.handle(Now::default(), abort).expect("the ordinary way");
    drain_destination(&mut refusing);
    phases.push((refusing.phase(), refusing));
    phases
}

#[test]
fn the_destination_does_what_its_table_says() {
    let mut table = String::from("phase | event | next phase | what it does\n");
    for (phase, machine) in destinations() {
        for (event, given) in destination_events() {
            let mut machine = machine.clone();
            let verdict = machine.handle(Now::default(), given);
            let note = if verdict.is_err() { " (not allowed)" } else { "" };
            let acts = drain_destination(&mut machine);
            let next = machine.phase();
            if next != phase || !acts.is_empty() || verdict.is_err() {
                writeln!(table, "{phase} | {event} | {next}{note} | {acts}").expect("a string");
            }
        }
    }
    check("destination.transitions.txt", &table);
}

#[test]
fn the_destination_notes_that_it_runs_before_it_runs_and_never_without_a_grant() {
    for (phase, machine) in destinations() {
        for (event, given) in destination_events() {
            let mut machine = machine.clone();
            let _ = machine.handle(Now::default(), given);
            let acts = drain_destination(&mut machine);
            let runs = acts.split(", ").any(|act| act == "Run");
            assert_eq!(
                runs,
                phase == "starting" && event == "Recorded Running",
                "{phase}, {event}"
            );
            let noted = acts.contains("record Running");
            let grants = ["Grant 1", "Answered Yours", "Asked 1"];
            assert_eq!(noted, phase == "prepared" && grants.contains(&event), "{phase}, {event}");
        }
    }
}

/// Law 6, as for the source: the source pings, and no step of this host comes to its end.
#[test]
fn a_destination_that_is_left_alone_ends_unless_the_source_goes_on_with_its_copy() {
    for (phase, mut machine) in destinations() {
        let mut acts = String::new();
        for ping in 0..10_000 {
            let Some(due) = machine.deadline() else { break };
            let _ = machine.handle(due, DestinationEvent::Message(Message::Ping(ping)));
            let _ = machine.handle(due, DestinationEvent::Tick);
            acts = format!("{acts}, {}", drain_destination(&mut machine));
        }
        // How long pre-copy may take is for the source to say.
        assert_eq!(machine.ended(), phase != "pre-copy", "{phase}: {}", machine.phase());
        match phase {
            // Granted, and told to run: it is not for this side to say that it never will.
            "starting" => assert!(acts.ends_with("finish InDoubt"), "{acts}"),
            "preparing" => assert!(acts.contains("Rejected, record Refused"), "{acts}"),
            _ => assert!(!acts.contains("InDoubt"), "{phase}: {acts}"),
        }
        assert_eq!(acts.contains("Refused"), ["preparing", "prepared"].contains(&phase));
    }
}

#[test]
fn a_destination_that_does_not_get_ready_says_so() {
    let (_, mut machine) =
        destinations().into_iter().find(|(phase, _)| *phase == "pre-copy").expect("a phase");
    let announce = DestinationEvent::Message(Message::Announce(T1));
    machine.handle(Now::default(), announce).expect("allowed");
    let mut acts = drain_destination(&mut machine);
    for ping in 0..100 {
        let Some(due) = machine.deadline() else { break };
        let _ = machine.handle(due, DestinationEvent::Message(Message::Ping(ping)));
        let _ = machine.handle(due, DestinationEvent::Tick);
        acts = format!("{acts}, {}", drain_destination(&mut machine));
    }
    assert!(acts.contains("Rejected, record Refused"), "{acts}");
    assert!(machine.ended(), "{}", machine.phase());
}

/// Nothing that is done for its lanes may take longer.
#[test]
fn a_guest_that_stands_still_does_so_until_a_moment_that_is_known() {
    let still = ["pausing", "verifying", "sending the last pages", "switchover", "granted"];
    for (phase, mut machine) in sources() {
        let until = machine.paused_until();
        assert_eq!(until.is_some(), still.contains(&phase), "{phase}");
        let Some(until) = until else { continue };
        // The first one may be about a link that was silent.
        (0..2).for_each(|_| machine.handle(until, SourceEvent::Tick).expect("it is due"));
        assert!(machine.granted() || machine.paused_until().is_none(), "{phase}");
    }
}
