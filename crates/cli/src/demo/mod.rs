//! `demo`: the main job in one command.
//!
//! ```text
//!  two agents ─► a guest on the first ─► it has filled its memory and works ─► migrate, follow
//!    ─► the guest checks itself on the second; the first has let go ─► summary ─► all is removed
//! ```

mod clients;
mod nest;

use std::time::{Duration, Instant};

use tokio::time::interval;
use whimbrel_agent::bench::memory;
use whimbrel_control::{Client, api};

use crate::args::DemoArgs;
use crate::exit::{Ending, Stop};
use crate::plan;
use crate::remote::{self, Context, Viewer};
use crate::view::state::{Account, Outcome};
use crate::view::units;
use clients::Clients;
use nest::Nest;

const GUEST: &str = "demo";
/// How often the source is asked whether it has let go.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// For the source to let go of a guest that has moved.
const LET_GO_WITHIN: Duration = Duration::from_secs(10);
/// What two agents and two guest processes need beside the guest's memory.
const OVERHEAD_BYTES: u64 = 128 << 20;

/// What is to be shown.
struct Plan {
    guest: api::GuestConfig,
    options: api::MigrationOptions,
    downtime_limit: Duration,
    /// What the destination needs is touched just before the order: on a virtual machine memory
    /// that was free for a while may have gone back to the host beneath.
    warmed: bool,
}

/// Runs the demo.
pub(crate) async fn demo(args: DemoArgs) -> Ending {
    let plan = Plan {
        guest: plan::guest(&args.guest)?,
        options: plan::migration(&args.movement)?,
        downtime_limit: args.movement.downtime,
        warmed: false,
    };
    let mut viewer = Viewer::new(args.json);
    let mut nest = Nest::new()?;
    let shown = tokio::select! {
        biased;
        () = crate::agent::interrupted() => Err(Stop::interrupted("")),
        shown = show(&plan, &mut nest, &mut viewer) => shown,
    };
    viewer.clear();
    let shown = shown.map_err(|stop| nest.obituary().unwrap_or(stop));
    nest.clear(GUEST).await;
    let (account, _) = shown?;
    viewer.conclude(&account);
    Ok(account.exit())
}

/// Moves one guest as the demo does, shown to nobody, to memory that was just touched; what came of
/// it, and how long it took from the order to the end.
pub(crate) async fn moved(
    guest: api::GuestConfig,
    options: api::MigrationOptions,
) -> Result<(Account, Duration), Stop> {
    let plan = Plan { guest, options, downtime_limit: Duration::ZERO, warmed: true };
    let mut nest = Nest::new()?;
    let shown = show(&plan, &mut nest, &mut Viewer::new(true)).await;
    let shown = shown.map_err(|stop| nest.obituary().unwrap_or(stop));
    nest.clear(GUEST).await;
    shown
}

async fn show(
    plan: &Plan,
    nest: &mut Nest,
    viewer: &mut Viewer,
) -> Result<(Account, Duration), Stop> {
    viewer.hint("starting two agents");
    let source = nest.hatch("source").await?;
    let destination = nest.hatch("destination").await?;
    enough_memory(plan, nest.agent(0).client.host())?;
    viewer.say(format!("Two agents on this host: {source} and {destination}."));
    let clients = start_guest(plan, &mut nest.agent(0).client, viewer).await?;
    let context = Context { here: source.to_string(), downtime_limit: Some(plan.downtime_limit) };
    let request = api::MigrateRequest {
        guest: GUEST.into(),
        destination: destination.to_string(),
        options: Some(plan.options.clone()),
        ticket: Vec::new(),
    };
    if plan.warmed {
        let bytes = plan.guest.memory_bytes as usize;
        let warmed = tokio::task::spawn_blocking(move || memory::warm(bytes)).await;
        warmed.map_err(|why| Stop::failed(why.to_string()))?;
    }
    let client = &mut nest.agent(0).client;
    let ordered = Instant::now();
    let begun = client.migrate(request).await?;
    let mut watch = client.watch(&begun.migration_id).await?;
    let ended = viewer.follow(&mut watch, &context).await?;
    let took = ordered.elapsed();
    let account = remote::account(&ended, &context);
    let account = match account.outcome {
        Outcome::Completed => proven(account, nest, clients, viewer).await?,
        _ => account,
    };
    Ok((account, took))
}

/// Refuses a guest that this host could not hold twice.
fn enough_memory(plan: &Plan, host: &api::Host) -> Result<(), Stop> {
    let (memory, free) = (plan.guest.memory_bytes, host.memory_free_bytes);
    let needed = memory.saturating_mul(2).saturating_add(OVERHEAD_BYTES);
    if needed <= free {
        return Ok(());
    }
    let fits = free.saturating_sub(OVERHEAD_BYTES) >> 21;
    let advice = match fits {
        0 => "free some memory first".to_owned(),
        mib => format!("try --memory {mib}MiB, or less"),
    };
    Err(Stop::failed(format!(
        "a guest of {} needs {} here, as both sides hold it for a moment; {} are free: {advice}",
        units::bytes(memory),
        units::bytes(needed),
        units::bytes(free),
    )))
}

/// Starts the guest and waits until it works; a store gets clients.
async fn start_guest(
    plan: &Plan,
    client: &mut Client,
    viewer: &mut Viewer,
) -> Result<Option<Clients>, Stop> {
    let request = api::StartGuestRequest { name: GUEST.into(), config: Some(plan.guest.clone()) };
    let begun = client.start_guest(request).await?;
    let guest = remote::at_work(client, begun, viewer).await?;
    viewer.say(introduction(&guest));
    match guest.service_address.as_str() {
        "" => Ok(None),
        address => Clients::connect(address).await.map(Some),
    }
}

fn introduction(guest: &api::Guest) -> String {
    let memory = units::bytes(guest.memory_bytes);
    if !guest.service_address.is_empty() {
        let address = &guest.service_address;
        return format!("A key-value store of {memory} serves Redis clients at {address}.");
    }
    let config = guest.stress.as_ref().and_then(|report| report.config.as_ref());
    let Some(config) = config else {
        return format!("A guest of {memory} works on the first.");
    };
    let set = units::bytes(config.working_set_bytes);
    let work = match config.rate {
        None => "writes nothing".to_owned(),
        Some(api::stress_config::Rate::DirtyRateMax(_)) => {
            format!("writes to {set} as fast as it can")
        }
        Some(api::stress_config::Rate::DirtyRateBytesPerS(rate)) => {
            format!("writes {} to {set} of it", units::rate(rate))
        }
    };
    format!("A guest of {memory} works on the first: it {work}.")
}

/// Adds what can only be learnt after the move: the guest's own check, and who has it.
async fn proven(
    account: Account,
    nest: &mut Nest,
    clients: Option<Clients>,
    viewer: &mut Viewer,
) -> Result<Account, Stop> {
    viewer.hint("the guest checks every page of its memory");
    let request = || api::GetGuestRequest { guest: GUEST.into() };
    let client = &mut nest.agent(1).client;
    let report = client.check_guest(api::CheckGuestRequest { guest: GUEST.into() }).await?;
    let mut check = remote::check(&report);
    if let Some(clients) = clients {
        clients.conclude(&mut check).await;
    }
    let guest = client.get_guest(request()).await?;
    let gaps = guest.stress.as_ref();
    let micros = |gap: u64| Some(Duration::from_micros(gap));
    let source_let_go = Some(let_go(&mut nest.agent(0).client).await?);
    Ok(Account {
        blackout: account.blackout.or_else(|| micros(gaps?.blackout_us)),
        lost: account.lost.or_else(|| micros(gaps?.lost_us)),
        check: Some(check),
        runs_there: Some(guest.state() == api::GuestState::Running),
        source_let_go,
        ..account
    })
}

/// Whether the source says, in time, that the guest is gone from there.
async fn let_go(source: &mut Client) -> Result<bool, Stop> {
    let begun = Instant::now();
    let mut ticks = interval(LOOK_INTERVAL);
    while begun.elapsed() < LET_GO_WITHIN {
        ticks.tick().await;
        match source.get_guest(api::GetGuestRequest { guest: GUEST.into() }).await {
            Ok(guest) if guest.state() == api::GuestState::Gone => return Ok(true),
            Ok(_) => {}
            Err(error) if error.refusal() == Some(tonic::Code::NotFound) => return Ok(true),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::Exit;

    fn plan(mib: u64) -> Plan {
        Plan {
            guest: api::GuestConfig { memory_bytes: mib << 20, kind: None },
            options: api::MigrationOptions::default(),
            downtime_limit: Duration::ZERO,
            warmed: false,
        }
    }

    fn refused(mib: u64, free_mib: u64) -> Option<String> {
        let host = api::Host { memory_free_bytes: free_mib << 20, ..api::Host::default() };
        let stop = enough_memory(&plan(mib), &host).err()?;
        assert_eq!(stop.exit, Exit::Failed);
        Some(stop.why)
    }

    #[test]
    fn a_host_that_is_too_small_is_told_before_anything_starts() {
        assert_eq!(refused(1024, 2176), None);
        let why = refused(1024, 2175).expect("too small");
        assert!(why.contains("1 GiB needs 2.1 GiB") && why.contains("2.1 GiB are free"), "{why}");
        assert!(why.ends_with("try --memory 1023MiB, or less"), "{why}");
        let why = refused(64, 100).expect("too small");
        assert!(why.ends_with("free some memory first"), "{why}");
        assert!(refused(u64::MAX >> 20, 1 << 20).is_some());
    }

    #[test]
    fn the_guest_is_introduced_by_what_it_does() {
        let guest = |rate| api::Guest {
            memory_bytes: 1 << 30,
            stress: Some(api::StressReport {
                config: Some(api::StressConfig {
                    working_set_bytes: 256 << 20,
                    rate,
                    ..api::StressConfig::default()
                }),
                ..api::StressReport::default()
            }),
            ..api::Guest::default()
        };
        let rate = api::stress_config::Rate::DirtyRateBytesPerS(400 << 20);
        let start = "A guest of 1 GiB works on the first: it writes";
        let said = introduction(&guest(Some(rate)));
        assert_eq!(said, format!("{start} 400 MiB/s to 256 MiB of it."));
        let said = introduction(&guest(Some(api::stress_config::Rate::DirtyRateMax(true))));
        assert_eq!(said, format!("{start} to 256 MiB as fast as it can."));
        assert_eq!(introduction(&guest(None)), format!("{start} nothing."));
    }
}
