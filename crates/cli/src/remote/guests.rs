//! `run`, `list`, `status`, `resolve` and `stop`.

use whimbrel_control::api;

use super::{check, connect};
use crate::args::{ListArgs, ResolveArgs, RunArgs, StatusArgs, StopArgs};
use crate::exit::{Ending, Exit};
use crate::view::guests;
use crate::view::paint::Line;
use crate::view::screen::say_all;
use crate::{json, plan};

/// Starts a guest.
pub(crate) async fn run(args: RunArgs) -> Ending {
    let config = Some(plan::guest(&args.guest)?);
    let mut client = connect(&args.target.agent).await?;
    let name = args.name.unwrap_or_default();
    let guest = client.start_guest(api::StartGuestRequest { name, config }).await?;
    tell(&guest, None, args.json);
    Ok(Exit::Done)
}

/// Lists the guests.
pub(crate) async fn list(args: ListArgs) -> Ending {
    let mut client = connect(&args.target.agent).await?;
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
    let mut client = connect(&args.target.agent).await?;
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
    let mut client = connect(&args.target.agent).await?;
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

/// Ends a guest.
pub(crate) async fn stop(args: StopArgs) -> Ending {
    let mut client = connect(&args.target.agent).await?;
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
