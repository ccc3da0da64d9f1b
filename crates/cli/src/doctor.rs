//! `doctor`: what this host offers for live migration, what it lacks, and what to do about it.

pub(crate) mod network;
mod trust;

use serde::Serialize;
use whimbrel_agent::{Device, HostFacts, Overcommit, host_facts};

use crate::args::DoctorArgs;
use crate::exit::{Ending, Exit};
use crate::view::paint::{Line, Tone, wrap};
use crate::view::screen::say_all;
use crate::view::units;
use crate::{json, out};

/// The first kernel that tracks writes by itself for everybody.
const KERNEL_WANTED: (u32, u32) = (6, 7);
/// What `whimbrel demo` needs with its defaults.
const MEMORY_WANTED: u64 = (2 << 30) + (128 << 20);
/// Enough for 128 lanes, their files and the guests of an agent.
const FILES_WANTED: u64 = 1024;
/// Enough for a tracker that splits mappings over a guest of some gibibytes.
const MAPPINGS_WANTED: u64 = 262_144;
/// A 10 Gbit/s link with a round trip of 3 ms is filled by this. QUIC asks for as much.
const BUFFER_WANTED: u64 = 4 << 20;
/// Congestion controls that hold back on a link that loses nothing.
const PACED: [&str; 3] = ["bbr", "bbr2", "bbr3"];

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Ok,
    Warn,
    Bad,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    subject: String,
    verdict: Verdict,
    found: String,
    advice: Option<String>,
}

impl Finding {
    fn ok(subject: &str, found: impl Into<String>) -> Self {
        Self { subject: subject.into(), verdict: Verdict::Ok, found: found.into(), advice: None }
    }

    fn warn(subject: &str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        let advice = Some(advice.into());
        Self { verdict: Verdict::Warn, advice, ..Self::ok(subject, found) }
    }

    fn bad(subject: &str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { verdict: Verdict::Bad, ..Self::warn(subject, found, advice) }
    }
}

/// Looks at this host, and at the paths to another one.
pub(crate) async fn doctor(args: DoctorArgs) -> Ending {
    let mut here = findings(&host_facts());
    here.extend(args.data.as_deref().map(trust::files).unwrap_or_default());
    let mut way = Vec::new();
    if let Some(peer) = &args.peer {
        match network::probe(&args.target, peer, &mut here).await {
            Ok(probed) => way.extend(network::findings(&probed, peer.host())),
            // What is wrong with the agents is one finding more.
            Err(stop) => way.push(network::unknown(&stop.why)),
        }
    }
    match args.json {
        true => out::line(json::line(&[here.as_slice(), &way].concat())),
        false => say_all(&lines(&here, &way)),
    }
    let bad = here.iter().chain(&way).any(|finding| finding.verdict == Verdict::Bad);
    Ok(if bad { Exit::Failed } else { Exit::Done })
}

fn findings(facts: &HostFacts) -> Vec<Finding> {
    if let Some(system) = &facts.system {
        let mut found = vec![Finding::ok("system", system)];
        found.extend(trackers(facts));
        found.push(memory(facts));
        let lacks = facts.lacks.iter();
        found.extend(lacks.map(|lack| Finding::warn(lack.subject, lack.found, lack.advice)));
        return found;
    }
    let mut found = vec![kernel(facts)];
    found.extend(trackers(facts));
    found.extend([memory(facts), overcommit(facts), huge_pages(facts), mappings(facts)]);
    found.extend([files(facts), congestion(facts), buffers(facts), udp_buffers(facts), kvm(facts)]);
    found
}

fn unknown(subject: &str) -> Finding {
    Finding::warn(subject, "this system does not say", "nothing can be done; try `whimbrel demo`")
}

fn kernel(facts: &HostFacts) -> Finding {
    let Some(release) = &facts.kernel else { return unknown("kernel") };
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    let version = match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor),
        _ => return unknown("kernel"),
    };
    if version >= KERNEL_WANTED {
        return Finding::ok("kernel", format!("Linux {release}"));
    }
    let found = format!("Linux {release} cannot track writes by itself for everybody");
    Finding::warn("kernel", found, "Linux 6.7 or later moves busy guests with less disturbance")
}

fn trackers(facts: &HostFacts) -> Vec<Finding> {
    let Some(choice) = facts.trackers.choice() else {
        let found = "none works: a guest cannot be moved while it runs";
        return vec![Finding::bad(
            "tracker",
            found,
            "see the reasons with `whimbrel doctor --json`",
        )];
    };
    let real = facts.trackers.candidates.iter().filter(|tracker| tracker.kind.name() != "model");
    let judged = real.map(|tracker| match (tracker.works, tracker.kind == choice) {
        (true, true) => {
            Finding::ok("tracker", format!("{} is used: {}", tracker.kind, tracker.reason))
        }
        (true, false) => Finding::ok("tracker", format!("{} works too", tracker.kind)),
        (false, _) => {
            let found = format!("{} does not work: {}", tracker.kind, tracker.reason);
            Finding::warn("tracker", found, format!("{choice} is used instead"))
        }
    });
    judged.collect()
}

fn memory(facts: &HostFacts) -> Finding {
    let Some(available) = facts.memory_available else { return unknown("memory") };
    let found = format!("{} available", units::bytes(available.0));
    if available.0 >= MEMORY_WANTED {
        return Finding::ok("memory", found);
    }
    let advice = format!(
        "`whimbrel demo` needs {}: give its guest less with --memory",
        units::bytes(MEMORY_WANTED)
    );
    Finding::warn("memory", found, advice)
}

fn overcommit(facts: &HostFacts) -> Finding {
    let subject = "overcommit";
    match facts.overcommit {
        None => unknown(subject),
        Some(Overcommit::Heuristic) => Finding::ok(subject, "heuristic: a sparse guest is welcome"),
        Some(Overcommit::Always) => Finding::ok(subject, "always: a sparse guest is welcome"),
        Some(Overcommit::Never) => Finding::warn(
            subject,
            "never: a guest's memory counts in full though it is hardly used",
            "sysctl vm.overcommit_memory=0, or keep guests small",
        ),
    }
}

fn huge_pages(facts: &HostFacts) -> Finding {
    let subject = "huge pages";
    match facts.huge_pages.as_deref() {
        None => unknown(subject),
        Some("never") => Finding::warn(
            subject,
            "never: arriving memory costs a page fault each 4 KiB",
            "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled",
        ),
        Some(when) => Finding::ok(subject, when),
    }
}

fn mappings(facts: &HostFacts) -> Finding {
    let subject = "mappings";
    let Some(most) = facts.mappings_max else { return unknown(subject) };
    let found = format!("at most {} a process", units::count(most));
    let splits = facts.trackers.choice().is_some_and(|choice| choice.name() == "mprotect");
    if !splits || most >= MAPPINGS_WANTED {
        return Finding::ok(subject, found);
    }
    let advice =
        format!("the mprotect tracker splits mappings: sysctl vm.max_map_count={MAPPINGS_WANTED}");
    Finding::warn(subject, found, advice)
}

fn files(facts: &HostFacts) -> Finding {
    let subject = "open files";
    match facts.files_max {
        None => unknown(subject),
        Some(u64::MAX) => Finding::ok(subject, "any number"),
        Some(most) if most >= FILES_WANTED => {
            Finding::ok(subject, format!("at most {} a process", units::count(most)))
        }
        Some(most) => {
            let found = format!("at most {} a process: too few for many lanes", units::count(most));
            Finding::warn(subject, found, format!("ulimit -n {FILES_WANTED}"))
        }
    }
}

fn congestion(facts: &HostFacts) -> Finding {
    let subject = "congestion";
    let Some(current) = &facts.congestion else { return unknown(subject) };
    if !PACED.contains(&current.as_str()) {
        return Finding::ok(subject, format!("TCP uses {current}"));
    }
    let found = format!("TCP uses {current}: on loopback and quiet links less than half as fast");
    let allowed = |name: &&str| facts.congestion_allowed.iter().any(|allowed| allowed == name);
    let advice = match ["cubic", "reno"].iter().find(|name| allowed(name)) {
        Some(name) => format!("whimbrel migrate --congestion {name}, where the link loses nothing"),
        None => "sysctl net.ipv4.tcp_congestion_control=cubic, where the link loses nothing".into(),
    };
    Finding::warn(subject, found, advice)
}

fn buffers(facts: &HostFacts) -> Finding {
    let subject = "TCP buffers";
    let Some((send, receive)) = facts.tcp_buffers_max else { return unknown(subject) };
    let (sent, received) = (units::bytes(send.0), units::bytes(receive.0));
    let found = format!("up to {sent} to send, {received} to receive");
    if send.0.min(receive.0) >= BUFFER_WANTED {
        return Finding::ok(subject, found);
    }
    let advice =
        "for long links: sysctl net.ipv4.tcp_wmem='4096 65536 16777216', tcp_rmem likewise";
    Finding::warn(subject, found, advice)
}

fn udp_buffers(facts: &HostFacts) -> Finding {
    let subject = "UDP buffers";
    let Some((send, receive)) = facts.udp_buffers_max else { return unknown(subject) };
    let (sent, received) = (units::bytes(send.0), units::bytes(receive.0));
    let found = format!("up to {sent} to send, {received} to receive");
    if send.0.min(receive.0) >= BUFFER_WANTED {
        return Finding::ok(subject, found);
    }
    let found = format!("{found}: packets of --transport quic that come in a burst are lost");
    let advice = "sysctl net.core.wmem_max=4194304 net.core.rmem_max=4194304";
    Finding::warn(subject, found, advice)
}

fn kvm(facts: &HostFacts) -> Finding {
    let found = match facts.kvm {
        Device::Usable => "usable; no kind of guest needs it yet",
        Device::Forbidden => "there, but not for this user; no kind of guest needs it yet",
        Device::Absent => "not there; no kind of guest needs it yet",
    };
    Finding::ok("KVM", found)
}

const LABEL: usize = 14;
/// Columns beside the labels, so that all fits into 80.
const WRAP: usize = 66;

/// What was found on this host, and on the way to another one.
fn lines(here: &[Finding], way: &[Finding]) -> Vec<Line> {
    let mut lines = [listed(here), listed(way), vec![Line::default(), verdict(here)]].concat();
    if way.iter().any(|finding| finding.verdict == Verdict::Bad) {
        let said = "Between this host and the other one not everything works: see above.";
        lines.push(Line::default().put(Tone::Bad, said));
    }
    lines
}

/// Findings without a verdict on all of them.
pub(crate) fn listed(findings: &[Finding]) -> Vec<Line> {
    findings.iter().flat_map(shown).collect()
}

fn shown(finding: &Finding) -> Vec<Line> {
    let (mark, tone) = match finding.verdict {
        Verdict::Ok => ("✔ ", Tone::Good),
        Verdict::Warn => ("! ", Tone::Warn),
        Verdict::Bad => ("✘ ", Tone::Bad),
    };
    let mut found = wrap(&finding.found, WRAP).into_iter();
    let head = Line::default().put(tone, mark).put(Tone::Strong, &finding.subject).to(LABEL);
    let mut lines = vec![head.put(Tone::Plain, found.next().unwrap_or_default())];
    let below = |tone, text: String| Line::default().to(LABEL).put(tone, text);
    lines.extend(found.map(|text| below(Tone::Plain, text)));
    let advice = finding.advice.iter().flat_map(|advice| wrap(&format!("→ {advice}"), WRAP));
    lines.extend(advice.map(|text| below(Tone::Faint, text)));
    lines
}

fn verdict(findings: &[Finding]) -> Line {
    let count = |verdict| findings.iter().filter(|finding| finding.verdict == verdict).count();
    match (count(Verdict::Bad), count(Verdict::Warn)) {
        (0, 0) => Line::default().put(Tone::Good, "This host is ready for live migration."),
        (0, 1) => Line::default()
            .put(Tone::Good, "This host is ready for live migration; one thing could be better."),
        (0, some) => Line::default().put(
            Tone::Good,
            format!("This host is ready for live migration; {some} things could be better."),
        ),
        _ => Line::default().put(Tone::Bad, "This host cannot move running guests."),
    }
}

#[cfg(test)]
mod tests {
    use whimbrel_agent::ByteCount;

    use super::*;

    /// This host, with everything that is judged as one would wish it.
    fn good() -> HostFacts {
        let mut facts = host_facts();
        for tracker in &mut facts.trackers.candidates {
            tracker.works = true;
            tracker.reason = "it works".into();
        }
        HostFacts {
            kernel: Some("6.18.44-x".into()),
            processor: None,
            memory_available: Some(ByteCount(64 << 30)),
            overcommit: Some(Overcommit::Heuristic),
            huge_pages: Some("madvise".into()),
            mappings_max: Some(65_530),
            files_max: Some(20_000),
            congestion: Some("cubic".into()),
            congestion_allowed: vec!["reno".into(), "cubic".into()],
            tcp_buffers_max: Some((ByteCount(4 << 20), ByteCount(32 << 20))),
            udp_buffers_max: Some((ByteCount(4 << 20), ByteCount(4 << 20))),
            kvm: Device::Absent,
            ..facts
        }
    }

    fn without(facts: HostFacts, trackers: &[&str]) -> HostFacts {
        let mut facts = facts;
        for tracker in &mut facts.trackers.candidates {
            tracker.works &= !trackers.contains(&tracker.kind.name());
        }
        facts
    }

    /// All that is not well, as `subject: found → advice`.
    fn troubles(facts: &HostFacts) -> Vec<String> {
        let findings = findings(facts).into_iter();
        let troubles = findings.filter(|finding| finding.verdict != Verdict::Ok);
        let told = |finding: Finding| {
            let advice = finding.advice.expect("advice");
            format!("{}: {} → {advice}", finding.subject, finding.found)
        };
        troubles.map(told).collect()
    }

    #[test]
    fn a_good_host_is_ready() {
        assert_eq!(troubles(&good()), [""; 0]);
        let last = lines(&findings(&good()), &[]).pop().expect("a verdict").render(false);
        assert_eq!(last, "This host is ready for live migration.");
    }

    #[test]
    fn each_lack_is_found_and_comes_with_advice() {
        let cases = [
            (
                HostFacts { kernel: Some("5.15.0-1-arm64".into()), ..good() },
                "kernel",
                "6.7 or later",
            ),
            (
                HostFacts { memory_available: Some(ByteCount(1 << 30)), ..good() },
                "memory",
                "--memory",
            ),
            (HostFacts { overcommit: Some(Overcommit::Never), ..good() }, "overcommit", "sysctl"),
            (HostFacts { huge_pages: Some("never".into()), ..good() }, "huge pages", "madvise"),
            (HostFacts { files_max: Some(256), ..good() }, "open files", "ulimit -n 1024"),
            (
                HostFacts { congestion: Some("bbr".into()), ..good() },
                "congestion",
                "--congestion cubic",
            ),
            (
                HostFacts { tcp_buffers_max: Some((ByteCount(1), ByteCount(9 << 20))), ..good() },
                "TCP buffers",
                "tcp_wmem",
            ),
            (
                HostFacts { udp_buffers_max: Some((ByteCount(4 << 20), ByteCount(1))), ..good() },
                "UDP buffers",
                "net.core.rmem_max=4194304",
            ),
            (without(good(), &["userfaultfd"]), "tracker", "mprotect is used instead"),
        ];
        for (facts, subject, advice) in cases {
            let told = troubles(&facts);
            let found = told.iter().find(|told| told.starts_with(subject)).expect(subject);
            assert!(found.contains(advice), "{found}");
        }
    }

    #[test]
    fn what_another_user_may_not_ask_for_is_not_advised() {
        let only_reno = vec!["reno".to_owned(), "bbr".to_owned()];
        let congestion = Some("bbr".to_owned());
        let facts = HostFacts { congestion, congestion_allowed: only_reno, ..good() };
        assert!(troubles(&facts)[0].contains("--congestion reno"));
        let facts = HostFacts { congestion_allowed: Vec::new(), ..facts };
        assert!(troubles(&facts)[0].contains("sysctl net.ipv4.tcp_congestion_control=cubic"));
    }

    #[test]
    fn mappings_matter_only_to_a_tracker_that_splits_them() {
        let facts = without(good(), &["userfaultfd"]);
        assert!(troubles(&facts).iter().any(|told| told.contains("vm.max_map_count=262144")));
        let facts = HostFacts { mappings_max: Some(1 << 20), ..facts };
        assert!(!troubles(&facts).iter().any(|told| told.starts_with("mappings")));
    }

    #[test]
    fn without_a_tracker_no_guest_can_move() {
        let facts = without(good(), &["userfaultfd", "mprotect"]);
        let findings = findings(&facts);
        assert!(findings.iter().any(|finding| finding.verdict == Verdict::Bad));
        let last = lines(&findings, &[]).pop().expect("a verdict").render(false);
        assert_eq!(last, "This host cannot move running guests.");
    }

    #[test]
    fn a_system_that_says_nothing_is_no_reason_to_stop() {
        let silent = HostFacts {
            kernel: None,
            memory_available: None,
            overcommit: None,
            huge_pages: None,
            mappings_max: None,
            files_max: None,
            congestion: None,
            tcp_buffers_max: None,
            udp_buffers_max: None,
            ..good()
        };
        let told = troubles(&silent);
        assert_eq!(told.len(), 9);
        assert!(told.iter().all(|told| told.contains("this system does not say")), "{told:?}");
    }

    #[test]
    fn everything_fits_into_80_columns() {
        for facts in [good(), without(good(), &["mprotect"]), host_facts()] {
            let lines = lines(&findings(&facts), &[]);
            let long = lines.iter().find(|line| line.width() > 80);
            assert_eq!(long.map(|line| line.render(false)), None);
        }
    }
}
