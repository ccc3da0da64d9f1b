//! Carries a scenario out: a guest moves, the fault is done at its step, put right, and all that
//! can be seen afterwards is collected for the judge.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{interval, timeout};
use whimbrel_control::api::{self, GuestState};

use super::host::{Ending, HERE, Host, Sample};
use super::usher::{Led, Usher};
use super::way::{Held, Look, Seen, Way};
use super::{Draws, Fate, Fault, LONG, Prelude, SLACK, Scenario, Side, Step};
use crate::net::Namespace;
use crate::os;

/// Ten times the longest that a side may wait before it decides or says that it cannot.
const WATCHDOG: Duration = Duration::from_secs(100);
const MEMORY: u64 = 16 << 20;
const NAME: &str = "g";

/// What came of a scenario.
#[derive(Debug)]
pub struct Account {
    /// Which one it was.
    pub scenario: Scenario,
    /// Whether its step came and the fault has hit something.
    pub reached: bool,
    /// Who lived through an absence longer than all deadlines, and had decided nothing.
    pub hung: Vec<String>,
    /// How the source ended.
    pub source: Ending,
    /// How the destination ended.
    pub destination: Ending,
    /// What the source said all the time.
    pub at_source: Vec<Sample>,
    /// What the destination said all the time.
    pub at_destination: Vec<Sample>,
    /// From the end of the fault until both sides had settled; `None` if they never did.
    pub settled_in: Option<Duration>,
    /// The check of the surviving guest's memory, if one survived.
    pub check: Option<Result<api::CheckReport, String>>,
    /// What was left behind after everything was stopped.
    pub left: Vec<String>,
    /// What both sides have logged.
    pub logs: String,
}

/// Two hosts, and everything between them in the harness' hands.
struct World {
    source: Host,
    destination: Host,
    way: Arc<Way>,
    /// The one in the destination's place first.
    ushers: Vec<Usher>,
    uuid: String,
    /// The source's network and the destination's, where they are not on this host's.
    apart: Option<[Namespace; 2]>,
}

/// Runs a scenario from nothing to nothing.
///
/// # Panics
/// If the hosts cannot even be set up.
pub async fn run(scenario: Scenario) -> Account {
    run_in(World::begin(scenario, None).await, scenario).await
}

/// As [`run`], with each host on a network of its own: what is dark then is a cable.
///
/// # Panics
/// As [`run`].
pub async fn run_apart(scenario: Scenario, networks: [Namespace; 2]) -> Account {
    run_in(World::begin(scenario, Some(networks)).await, scenario).await
}

async fn run_in(mut world: World, scenario: Scenario) -> Account {
    let mut hung = Vec::new();
    let reached = world.go_wrong(scenario, &mut hung).await;
    let (settled_in, source, destination) = world.settle().await;
    let check = world.check(&source, &destination).await;
    let at_source = world.source.seen();
    let at_destination = world.destination.seen();
    let left = world.clean_up().await;
    let logs = format!("{}{}", world.source.agent.logs(), world.destination.agent.logs());
    Account {
        scenario,
        reached,
        hung,
        source,
        destination,
        at_source,
        at_destination,
        settled_in,
        check,
        left,
        logs,
    }
}

impl World {
    async fn begin(scenario: Scenario, apart: Option<[Namespace; 2]>) -> Self {
        let disk = scenario.fault.fills();
        let place = |number: usize| apart.as_ref().map(|networks| &networks[number]);
        let live = |number| place(number).map(|it| (it.name.clone(), it.inside));
        let near = |number| place(number).map_or(HERE, |it| it.outside);
        let mut source = Host::begin(disk, live(0)).await;
        let mut destination = Host::begin(disk, live(1)).await;
        let way = Arc::new(Way::begin(near(0), MEMORY).await);
        let back = Usher::stand(near(1), &source.agent.address, None).await;
        let led = Led { way: Arc::clone(&way), questions: back.address };
        let there = Usher::stand(near(0), &destination.agent.address, Some(led)).await;
        let uuid = start_guest(&source, scenario.seed).await;
        source.watch(&uuid);
        destination.watch(&uuid);
        Self { source, destination, way, ushers: vec![there, back], uuid, apart }
    }

    fn host(&mut self, side: Side) -> &mut Host {
        match side {
            Side::Source => &mut self.source,
            Side::Destination => &mut self.destination,
        }
    }

    /// Begins the migration, and does what is to go wrong; false if its step never came, or
    /// nothing was there that it could hit.
    async fn go_wrong(&mut self, scenario: Scenario, hung: &mut Vec<String>) -> bool {
        let Scenario { step, fault, fate, absence, seed } = scenario;
        let first = step.prelude().filter(|it| it.is_in_first_round());
        let first = first.map(|it| (it, self.way.expect(Step::FirstRound)));
        if let Some(prelude) = step.prelude().filter(|it| !it.is_in_first_round()) {
            self.lead_to(prelude).await;
        }
        let held = match step.recorded() {
            Some((side, words)) => {
                let look = self.record_of(side, words).await;
                self.way.expect_record(step, look)
            }
            None => self.way.expect(step),
        };
        let migration = self.migrate(scenario).await;
        let mut waits = None;
        if let Some((prelude, held)) = first {
            let Some(held) = self.comes(held).await else { return false };
            self.lead_to(prelude).await;
            match prelude {
                // Else the round could be over before anybody hears of it.
                Prelude::Cancel(_) => waits = Some(held),
                _ => held.go(Fate::Delivered).await,
            }
        }
        let Some(held) = self.comes(held).await else { return false };
        drop(waits);
        // Whoever asked for the migration may lose the agent now, and hears of it later.
        migration.abort();
        match (fault, fate) {
            (Fault::Cut(_), Fate::Delivered) => {
                held.go(fate).await;
                self.inject(fault, seed).await
            }
            _ => {
                let hit = self.inject(fault, seed).await;
                let letting_go = tokio::spawn(held.go(fate));
                tokio::time::sleep(absence).await;
                if absence >= LONG {
                    *hung = self.hung(fault).await;
                }
                self.heal(fault).await;
                letting_go.await.expect("it goes");
                hit && (!matches!(fault, Fault::Damage(_)) || self.way.has_damaged())
            }
        }
    }

    /// All deadlines are over, and what is wrong still is: whoever lives and can be asked has
    /// settled, or says that it is in doubt. A slow machine is given some time for it.
    async fn hung(&self, fault: Fault) -> Vec<String> {
        let mut looks = interval(Duration::from_millis(50));
        let began = Instant::now();
        loop {
            looks.tick().await;
            let mut hung = Vec::new();
            for (side, host) in
                [(Side::Source, &self.source), (Side::Destination, &self.destination)]
            {
                // A host whose cable is out cannot be asked from here.
                if fault.silences(side) || self.apart.is_some() {
                    continue;
                }
                match host.ending(&self.uuid).await {
                    Some(ending) if ending.is_settled() || ending.is_in_doubt() => {}
                    other => hung.push(format!("the {side:?} in the absence: {other:?}")),
                }
            }
            if hung.is_empty() || began.elapsed() > SLACK {
                return hung;
            }
        }
    }

    /// Looks whether the record of a side is in one of these words.
    async fn record_of(&mut self, side: Side, words: &'static [&'static str]) -> Look {
        let uuid = self.uuid.clone();
        let client = self.host(side).patient().await.expect("nothing is wrong yet");
        Arc::new(move || -> Seen {
            let (mut client, guest) = (client.clone(), uuid.clone());
            Box::pin(async move {
                let seen = client.get_guest(api::GetGuestRequest { guest }).await;
                seen.is_ok_and(|guest| words.contains(&guest.standing.as_str()))
            })
        })
    }

    async fn lead_to(&mut self, prelude: Prelude) {
        match prelude {
            Prelude::Cut(cut) => {
                self.way.cut(cut);
            }
            Prelude::AnotherRoot => self.way.falsify_root(),
            Prelude::Cancel(side) => {
                let uuid = self.uuid.clone();
                let host = self.host(side);
                let mut client = host.patient().await.expect("nothing is wrong yet");
                let moving = api::GetMigrationRequest { migration: uuid };
                let moving = client.get_migration(moving).await.expect("it moves");
                let migration = moving.migration_id;
                // The answer has what came of it, which is to be held up.
                tokio::spawn(async move {
                    let request = api::CancelMigrationRequest { migration };
                    let _ = client.cancel_migration(request).await;
                });
            }
        }
    }

    async fn migrate(&self, scenario: Scenario) -> JoinHandle<()> {
        let full = scenario.verifies_in_full();
        let verify = if full { api::Verify::Full } else { api::Verify::Digest };
        let options = api::MigrationOptions {
            lanes: Some(2),
            downtime_limit_us: Some(10_000),
            policy: api::Policy::Switch.into(),
            verify: verify.into(),
            ..Default::default()
        };
        let request = api::MigrateRequest {
            guest: self.uuid.clone(),
            destination: self.ushers[0].address.to_string(),
            options: Some(options),
            ..Default::default()
        };
        let mut client = self.source.patient().await.expect("nothing is wrong yet");
        let known = api::GetMigrationRequest { migration: self.uuid.clone() };
        tokio::spawn(async move {
            // The deadlines of this harness are short, and nothing is tried yet: an order that took
            // too long is given again. How it ends is asked for afterwards.
            let mut looks = interval(Duration::from_millis(50));
            while client.migrate(request.clone()).await.is_err()
                && client.get_migration(known.clone()).await.is_err()
            {
                looks.tick().await;
            }
        })
    }

    /// Waits for a step, as long as the migration goes on.
    async fn comes(&self, mut held: oneshot::Receiver<Held>) -> Option<Held> {
        let mut looks = interval(Duration::from_millis(50));
        let waiting = async {
            loop {
                tokio::select! {
                    held = &mut held => return held.ok(),
                    _ = looks.tick() => {
                        let outcome = self.source.ending(&self.uuid).await;
                        let outcome = outcome.and_then(|ending| ending.outcome());
                        if outcome.is_some_and(|it| it != api::Outcome::Unspecified) {
                            return held.try_recv().ok();
                        }
                    }
                }
            }
        };
        timeout(WATCHDOG, waiting).await.ok().flatten()
    }

    /// Does what is to go wrong; false if there was nothing to do it to.
    async fn inject(&mut self, fault: Fault, seed: u64) -> bool {
        let uuid = self.uuid.clone();
        match fault {
            Fault::KillGuest(side) => {
                return self.host(side).guest(&uuid).await.map(os::kill).is_some();
            }
            Fault::StopGuest(side) => {
                return self.host(side).guest(&uuid).await.map(os::stop).is_some();
            }
            Fault::KillAgent(side) => self.host(side).agent.kill().await,
            Fault::StopAgent(side) => os::stop(self.host(side).agent.pid()),
            Fault::FillDisk(side) => self.host(side).fill_disk(&uuid).await,
            Fault::Cut(cut) => return self.way.cut(cut),
            Fault::Dark => self.darken(true),
            Fault::Damage(kind) => self.way.damage(kind, Draws(seed)),
        }
        true
    }

    async fn heal(&mut self, fault: Fault) {
        match fault {
            Fault::StopGuest(side) => self.host(side).remains().into_iter().for_each(os::go_on),
            Fault::KillAgent(side) => self.host(side).agent.start_again().await,
            Fault::StopAgent(side) => os::go_on(self.host(side).agent.pid()),
            Fault::FillDisk(side) => self.host(side).empty_disk(),
            Fault::Dark => self.darken(false),
            Fault::KillGuest(_) | Fault::Cut(_) | Fault::Damage(_) => {}
        }
    }

    fn darken(&self, dark: bool) {
        if let Some([source, _]) = &self.apart {
            source.cut(dark);
            // Of what was on its way nothing arrives either.
            return self.way.darken(dark);
        }
        self.way.darken(dark);
        self.ushers.iter().for_each(|usher| usher.darken(dark));
    }

    /// Waits until both sides have nothing more to decide.
    async fn settle(&self) -> (Option<Duration>, Ending, Ending) {
        let began = Instant::now();
        let mut last = (Ending::default(), Ending::default());
        let waiting = async {
            let mut looks = interval(Duration::from_millis(50));
            loop {
                looks.tick().await;
                let source = self.source.ending(&self.uuid).await;
                let destination = self.destination.ending(&self.uuid).await;
                let (Some(source), Some(destination)) = (source, destination) else { continue };
                let settled = source.is_settled() && destination.is_settled();
                last = (source, destination);
                if settled {
                    return;
                }
            }
        };
        let settled = timeout(WATCHDOG, waiting).await.is_ok().then(|| began.elapsed());
        (settled, last.0, last.1)
    }

    /// Has a guest that runs look at all its memory.
    async fn check(
        &self,
        source: &Ending,
        destination: &Ending,
    ) -> Option<Result<api::CheckReport, String>> {
        let runs = |ending: &Ending| ending.state() == GuestState::Running;
        let host = match (runs(source), runs(destination)) {
            (true, _) => &self.source,
            (_, true) => &self.destination,
            _ => return None,
        };
        let checking = async {
            let mut client = host.patient().await.map_err(|error| error.to_string())?;
            let request = api::CheckGuestRequest { guest: self.uuid.clone() };
            client.check_guest(request).await.map_err(|error| error.to_string())
        };
        Some(checking.await)
    }

    /// Stops everything, and says what is left of it.
    async fn clean_up(&mut self) -> Vec<String> {
        let uuid = self.uuid.clone();
        let mut left = Vec::new();
        self.way.forget();
        for side in [Side::Source, Side::Destination] {
            if let Ok(mut client) = self.host(side).patient().await {
                let request = api::StopGuestRequest { guest: uuid.clone(), force: true };
                // Where it has gone from there is nothing to stop.
                let _ = client.stop_guest(request).await;
            }
        }
        self.ushers.clear();
        for side in [Side::Source, Side::Destination] {
            let remains = remains(self.host(side), &uuid).await;
            left.extend(remains.into_iter().map(|what| format!("{side:?}: {what}")));
        }
        left
    }
}

/// What is left at a host whose guests were all stopped; ends its agent.
async fn remains(host: &mut Host, uuid: &str) -> Vec<String> {
    let mut left = Vec::new();
    let gone = async {
        let mut looks = interval(Duration::from_millis(20));
        while !host.remains().is_empty() || host.open_sockets() > 0 {
            looks.tick().await;
        }
    };
    if timeout(WATCHDOG, gone).await.is_err() {
        left.push(format!("{:?} and {} sockets", host.remains(), host.open_sockets()));
    }
    let status = host.agent.end().await;
    if status != Some(0) {
        left.push(format!("the agent ended with {status:?}"));
    }
    left.extend(host.litter(uuid).iter().map(|path| path.display().to_string()));
    left
}

async fn start_guest(host: &Host, seed: u64) -> String {
    use api::stress_config::Rate;
    let stress = api::StressConfig {
        vcpus: 1,
        working_set_bytes: MEMORY / 4,
        rate: Some(Rate::DirtyRateBytesPerS(16 << 20)),
        seed,
        ..Default::default()
    };
    let kind = Some(api::guest_config::Kind::Stress(stress));
    let config = Some(api::GuestConfig { memory_bytes: MEMORY, kind });
    let request = api::StartGuestRequest { name: NAME.to_owned(), config };
    let mut refused = None;
    let running = async {
        let mut looks = interval(Duration::from_millis(20));
        loop {
            looks.tick().await;
            // The deadlines of this harness are short, and nothing is tried yet: what took too long
            // is asked for again.
            let Ok(mut client) = host.client().await else { continue };
            let asked = api::GetGuestRequest { guest: NAME.to_owned() };
            match client.get_guest(asked).await {
                Ok(now) if now.state() == GuestState::Running => return now.uuid,
                Ok(_) => {}
                Err(_) => refused = client.start_guest(request.clone()).await.err(),
            }
        }
    };
    let runs = timeout(WATCHDOG, running).await;
    runs.unwrap_or_else(|_| panic!("it does not run: {refused:?}"))
}
