//! Guests move between real processes, and at each step of the protocol something goes wrong.
//!
//! `WHIMBREL_FAULT_RUNS=1000 cargo test -p whimbrel-tests --test faults chance` draws as many runs;
//! `WHIMBREL_FAULT_SEED` begins them elsewhere, so that one run can be had again.
#![cfg(target_os = "linux")]

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use whimbrel_tests::faults::judge::judge;
use whimbrel_tests::faults::run::{Account, run, run_apart};
use whimbrel_tests::faults::{Fault, Scenario, Step};
use whimbrel_tests::net::Namespace;
use whimbrel_tests::{os, skipped};

/// A run mostly waits; so many share the processors.
const AT_ONCE: usize = 4;
/// A step may be missed where another wait ends the migration first, as where the harness looks at
/// records for longer than a pause may last; then it is tried again.
const TRIES: usize = 8;

/// How the runs went, one line each of which something is wrong.
#[derive(Default)]
struct Tally {
    runs: usize,
    reached: usize,
    slowest: Duration,
    wrong: String,
}

impl Tally {
    fn add(&mut self, scenario: Scenario, account: Result<Finding, String>) {
        self.runs += 1;
        let wrong = match account {
            Ok(finding) => {
                self.reached += usize::from(finding.reached);
                self.slowest = self.slowest.max(finding.settled_in);
                finding.wrong
            }
            Err(panic) => vec![panic],
        };
        if !wrong.is_empty() {
            let _ = writeln!(self.wrong, "{scenario:?}");
            for wrong in &wrong {
                let _ = writeln!(self.wrong, "    {wrong}");
            }
        }
    }

    #[track_caller]
    fn assert_good(&self, all_reached: bool) {
        let Self { runs, reached, slowest, wrong } = self;
        println!("{runs} runs, the fault was done in {reached}; settled within {slowest:?}");
        assert!(wrong.is_empty(), "\n{wrong}");
        assert!(!all_reached || reached == runs, "only {reached} of {runs} steps came");
    }
}

struct Finding {
    reached: bool,
    settled_in: Duration,
    wrong: Vec<String>,
}

/// What came of it, in a line.
fn told(account: &Account) -> String {
    let reasons = [&account.source, &account.destination].map(|ending| {
        ending.migration.as_ref().map(|it| format!("{:?}: {}", it.outcome(), it.reason))
    });
    let reached = if account.reached { "done" } else { "missed" };
    format!("{:?} {reached} {reasons:?}", account.scenario)
}

/// Runs until the step came, or something is wrong, so many times at most.
async fn tried<F: Future<Output = Account>>(tries: usize, mut run: impl FnMut() -> F) -> Account {
    let mut account = run().await;
    for _ in 1..tries {
        if account.reached || !judge(&account).is_empty() {
            break;
        }
        println!("{}", told(&account));
        account = run().await;
    }
    account
}

async fn judged(scenario: Scenario, tries: usize) -> Finding {
    let account = tried(tries, || run(scenario)).await;
    let wrong = judge(&account);
    println!("{}", told(&account));
    if !wrong.is_empty() {
        println!("{scenario:?}: {wrong:#?}\n{}", account.logs);
    }
    let settled_in = account.settled_in.unwrap_or_default();
    Finding { reached: account.reached, settled_in, wrong }
}

/// Runs scenarios, some at a time.
async fn all(scenarios: impl IntoIterator<Item = Scenario>, tries: usize) -> Tally {
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let mut running = JoinSet::new();
    let fills = os::SmallDisk::mount().is_some();
    for scenario in scenarios {
        if scenario.fault.fills() && !fills {
            skipped("only root may mount a disk");
            continue;
        }
        let places = Arc::clone(&places);
        running.spawn(async move {
            let _place = places.acquire_owned().await.expect("never closed");
            let judged = tokio::spawn(judged(scenario, tries)).await;
            (scenario, judged.map_err(|panic| panic.to_string()))
        });
    }
    let mut tally = Tally::default();
    while let Some(ended) = running.join_next().await {
        let (scenario, account) = ended.expect("panics are caught within");
        tally.add(scenario, account);
    }
    tally
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect(name))
}

/// Where the source may believe one thing and the destination another.
#[tokio::test(flavor = "multi_thread")]
async fn who_owns_the_guest_is_never_in_doubt_for_good() {
    let scenarios = Scenario::all().filter(|it| it.step.is_switchover());
    all(scenarios, TRIES).await.assert_good(true);
}

/// How much of the steps before the switchover is tried at a time.
const PART: usize = 7;

/// A peer that is dead to the other at each step, and a part of all other faults at all steps, as
/// the seed says which.
#[tokio::test(flavor = "multi_thread")]
async fn before_the_switchover_the_guest_stays_whole() {
    let seed = number("WHIMBREL_FAULT_SEED").unwrap_or(1);
    println!("WHIMBREL_FAULT_SEED={seed}");
    let scenarios = Scenario::all().filter(|it| !it.step.is_switchover());
    let first = seed as usize % PART;
    let today = |number: usize, fault| number % PART == first || fault == Fault::Dark;
    let part = scenarios.enumerate().filter(|(number, it)| today(*number, it.fault));
    all(part.map(|(_, scenario)| scenario), TRIES).await.assert_good(true);
}

#[tokio::test(flavor = "multi_thread")]
async fn by_chance() {
    let runs = number("WHIMBREL_FAULT_RUNS").unwrap_or(8);
    let seed = number("WHIMBREL_FAULT_SEED").unwrap_or(1);
    println!("WHIMBREL_FAULT_SEED={seed} WHIMBREL_FAULT_RUNS={runs}");
    let tally = all((seed..seed + runs).map(Scenario::random), 1).await;
    tally.assert_good(false);
    // A run whose step did not come shows little.
    assert!(2 * tally.reached >= tally.runs, "{} of {} steps came", tally.reached, tally.runs);
}

/// The cable of the source's host is pulled out, and put back when all deadlines are over. Between
/// hosts a session is encrypted: what is said cannot be read on the wire, and the steps of the
/// switchover are those that are in the records.
#[tokio::test(flavor = "multi_thread")]
async fn a_network_that_is_cut() {
    let steps = [Step::FirstRound, Step::LaterRound].into_iter().chain(Step::RECORDED);
    let mut running = JoinSet::new();
    for step in steps {
        let networks = Namespace::make().zip(Namespace::make());
        let Some((source, destination)) = networks else {
            return skipped("only root may make networks");
        };
        let scenario = Scenario::plain(step, Fault::Dark);
        running.spawn(async move {
            let mut first = Some([source, destination]);
            let account = tried(TRIES, || {
                let again = || [(); 2].map(|()| Namespace::make().expect("as before"));
                run_apart(scenario, first.take().unwrap_or_else(again))
            });
            let account = account.await;
            (account.reached, judge(&account), account)
        });
    }
    while let Some(ended) = running.join_next().await {
        let (reached, wrong, account) = ended.expect("the harness does not panic");
        println!("{}", told(&account));
        assert_eq!(wrong, Vec::<String>::new(), "{:?}\n{}", account.scenario, account.logs);
        assert!(reached, "{:?} did not come", account.scenario);
    }
}
