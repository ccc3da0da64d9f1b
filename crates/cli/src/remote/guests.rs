//! `run`, `list`, `status`, `resolve`, `release` and `stop`.

use std::time::{Duration, Instant};

use tokio::time::{MissedTickBehavior, interval};
use whimbrel_control::{Client, api};

use super::{Viewer, check};
use crate::args::{ListArgs, ReleaseArgs, ResolveArgs, RunArgs, StatusArgs, StopArgs};
use crate::exit::{Ending, Exit, Stop};
use crate::view::paint::Line;
use crate::view::screen::say_all;
use crate::view::{guests, units};
use crate::{json, plan};

/// How often a guest is asked whether it is ready.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// For a guest to come up and fill its memory, and a gibibyte of it.
const FILL_WITHIN: Duration = Duration::from_secs(30);
const FILL_WITHIN_PER_GIB: Duration = Duration::from_secs(30);

/// Starts a guest.
pub(crate) async fn run(args: RunArgs) -> Ending {
    let config = Some(plan::guest(&args.guest)?);
    let mut client = args.target.connect().await?;
    let name = args.name.unwrap_or_default();
    let mut guest = client.start_guest(api::StartGuestRequest { name, config }).await?;
    if !args.detach {
        let mut viewer = Viewer::new(args.json);
        let at_work = at_work(&mut client, guest, &mut viewer).await;
        viewer.clear();
        guest = at_work?;
    }
    tell(&guest, None, args.json);
    Ok(Exit::Done)
}

/// Waits until a guest that has been started has filled its memory: only then can it be moved.
pub(crate) async fn at_work(
    client: &mut Client,
    begun: api::Guest,
    viewer: &mut Viewer,
) -> Result<api::Guest, Stop> {
    let (name, memory) = (begun.name, begun.memory_bytes);
    let gib = u32::try_from(memory >> 30).unwrap_or(u32::MAX);
    let within = FILL_WITHIN + FILL_WITHIN_PER_GIB.saturating_mul(gib);
    let since = Instant::now();
    let mut ticks = interval(LOOK_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while since.elapsed() < within {
        ticks.tick().await;
        let guest = client.get_guest(api::GetGuestRequest { guest: name.clone() }).await?;
        if matches!(guest.state(), api::GuestState::Failed | api::GuestState::Gone) {
            return Err(Stop::failed(format!("the guest failed: {}", guest.state_reason)));
        }
        let filled = guest.stress.as_ref().is_none_or(|report| report.filled);
        if filled && guest.state() != api::GuestState::Starting {
            return Ok(guest);
        }
        let rss = units::bytes(guest.rss_bytes.min(memory));
        viewer.hint(format!("the guest fills its memory: {rss} of {}", units::bytes(memory)));
    }
    let within = units::time(within);
    let why = format!("the guest did not fill its memory within {within}; it is not stopped");
    Err(Stop::failed(why))
}

/// Lists the guests.
pub(crate) async fn list(args: ListArgs) -> Ending {
    let mut client = args.target.connect().await?;
    let request = api::ListGuestsRequest { include_gone: args.all };
    let list = client.list_guests(request).await?.guests;
    match args.json {
        true => crate::out::line(json::line(&guests::objects(&list))),
        false if list.is_empty() => crate::out::line(format!("no guests at {}", args.target.agent)),
        false => say_all(&guests::table(&list)),
    }
    Ok(Exit::Done)
}

/// Tells about one guest, and has it check itself where that is asked for.
pub(crate) async fn status(args: StatusArgs) -> Ending {
    let mut client = args.target.connect().await?;
    let guest = client.get_guest(api::GetGuestRequest { guest: args.guest.clone() }).await?;
    let report = match args.check {
        true => Some(client.check_guest(api::CheckGuestRequest { guest: args.guest }).await?),
        false => None,
    };
    let checked = report.as_ref().map(check);
    let unsound = checked.as_ref().is_some_and(|check| !check.sound);
    tell(&guest, checked.as_ref(), args.json);
    Ok(if unsound { Exit::Unverified } else { Exit::Done })
}

/// Decides about a guest in doubt.
pub(crate) async fn resolve(args: ResolveArgs) -> Ending {
    let mut client = args.target.connect().await?;
    let decision = match args.run_here {
        true => api::resolve_guest_request::Decision::RunHere(true),
        false => api::resolve_guest_request::Decision::GiveUp(true),
    };
    let guest = client
        .resolve_guest(api::ResolveGuestRequest {
            guest: args.guest,
            decision: Some(decision),
            peer_is_off: args.peer_is_off,
        })
        .await?;
    tell(&guest, None, false);
    Ok(Exit::Done)
}

/// Has the clients of a guest that has moved away let go.
pub(crate) async fn release(args: ReleaseArgs) -> Ending {
    let mut client = args.target.connect().await?;
    let guest = args.guest.clone();
    let released = client.release_guest(api::ReleaseGuestRequest { guest }).await?;
    let cut = units::counted(released.carried, "connection");
    crate::out::line(format!("cut {cut} to {}; no new ones come here", args.guest));
    Ok(Exit::Done)
}

/// Ends a guest.
pub(crate) async fn stop(args: StopArgs) -> Ending {
    let mut client = args.target.connect().await?;
    let guest = args.guest.clone();
    client.stop_guest(api::StopGuestRequest { guest, force: args.force }).await?;
    crate::out::line(format!("{} has ended", args.guest));
    Ok(Exit::Done)
}

fn tell(guest: &api::Guest, check: Option<&crate::view::state::Check>, json: bool) {
    if json {
        crate::out::line(json::line(&guests::object(guest, check)));
        return;
    }
    let mut lines = guests::status(guest);
    lines.extend(check.map(|check| Line::plain(format!("  checked      {}", check.sentence))));
    say_all(&lines);
}
