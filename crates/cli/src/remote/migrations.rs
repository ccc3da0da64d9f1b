//! `migrate`, `watch` and `cancel`.

use std::cell::Cell;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};
use whimbrel_control::identity::Who;
use whimbrel_control::{Client, api};

use super::host::watch_host;
use super::{Context, Viewer, account, connect_as};
use crate::app::{ALL_GO_ON, MIGRATION_GOES_ON, NOTHING_MOVES};
use crate::args::{CancelArgs, Encrypt, MigrateArgs, WatchArgs};
use crate::exit::{Ending, Exit, Stop};
use crate::plan;
use crate::trust::sign_for;

/// How long a ticket is good that is spent at once.
const TICKET_FOR: Duration = Duration::from_secs(60);
/// How often a guest is looked at until a migration of it begins.
const WAIT_INTERVAL: Duration = Duration::from_millis(250);

/// Moves a guest and follows it.
pub(crate) async fn migrate(args: MigrateArgs) -> Ending {
    let options = plan::migration(&args.movement)?;
    let mut client = args.target.connect().await?;
    let begun = begin(&mut client, &args, options).await?;
    let mut viewer = Viewer::new(args.json);
    if args.detach {
        return detached(&begun, args.json);
    }
    let here = args.target.agent.to_string();
    let context = Context { here, downtime_limit: Some(args.movement.downtime) };
    conclude(&mut client, &begun.migration_id, &context, &mut viewer).await
}

/// Orders the move: as the policies of the agents say, or with a ticket.
async fn begin(
    client: &mut Client,
    args: &MigrateArgs,
    options: api::MigrationOptions,
) -> Result<api::MigrationStatus, Stop> {
    let request = |ticket| api::MigrateRequest {
        guest: args.guest.clone(),
        destination: args.destination.to_string(),
        options: Some(options.clone()),
        ticket,
    };
    if let Some(path) = &args.ticket {
        let unread = |error| Stop::failed(format!("no ticket in {}: {error}", path.display()));
        let ticket = std::fs::read(path).map_err(unread)?;
        return Ok(client.migrate(request(ticket)).await?);
    }
    match client.migrate(request(Vec::new())).await {
        Err(error) if error.refusal() == Some(tonic::Code::PermissionDenied) => {
            let Some(ticket) = ticket(client, args).await? else { return Err(error.into()) };
            match client.migrate(request(ticket)).await {
                // What was refused first is what the policies lack; nobody asked for a ticket.
                Err(other) if other.refusal() == Some(tonic::Code::PermissionDenied) => {
                    let why = format!("{error}. Nor by a ticket that was signed here: {other}");
                    Err(Stop::new(Exit::Refused, why))
                }
                begun => Ok(begun?),
            }
        }
        begun => Ok(begun?),
    }
}

/// A ticket that is signed here for this move, so that neither agent needs a standing right for
/// the other; none where the destination is not known, or not to be reached from here.
async fn ticket(client: &mut Client, args: &MigrateArgs) -> Result<Option<Vec<u8>>, Stop> {
    let Some(source) = client.who().map(Who::subject_by_key) else { return Ok(None) };
    let whose = &args.target.whose;
    let Ok(destination) = connect_as(&args.destination, whose).await else { return Ok(None) };
    let Some(destination) = destination.who().map(Who::subject_by_key) else { return Ok(None) };
    let asked = client.get_guest(api::GetGuestRequest { guest: args.guest.clone() }).await;
    // Who may not even look signs nothing that counts.
    let Ok(guest) = asked else { return Ok(None) };
    let trust = whose.trust()?;
    let unencrypted = args.movement.travel.encrypt == Some(Encrypt::Off);
    sign_for(&trust, &guest.uuid, (&source, &destination), TICKET_FOR, unencrypted).map(Some)
}

fn detached(begun: &api::MigrationStatus, json: bool) -> Ending {
    let id = &begun.migration_id;
    match json {
        true => crate::out::line(serde_json::json!({ "migration": id })),
        false => crate::out::line(format!("migration {id} of {} has begun", begun.guest_name)),
    }
    Ok(Exit::Done)
}

/// Watches a host, or follows a migration that somebody else has started, or will start.
/// `goes_on` is what is told whoever interrupts that.
pub(crate) async fn watch(args: WatchArgs, goes_on: &Cell<&'static str>) -> Ending {
    let Some(guest) = args.guest else {
        goes_on.set(ALL_GO_ON);
        return watch_host(&args.target).await;
    };
    let mut client = args.target.connect().await?;
    let mut viewer = Viewer::new(args.json);
    let idle = || goes_on.set(NOTHING_MOVES);
    let migration = begun(&mut client, &guest, &mut viewer, idle).await?;
    goes_on.set(MIGRATION_GOES_ON);
    let context = Context { here: args.target.agent.to_string(), downtime_limit: None };
    conclude(&mut client, &migration, &context, &mut viewer).await
}

/// Follows a migration to its end and tells how it ended.
async fn conclude(
    client: &mut Client,
    migration: &str,
    context: &Context,
    viewer: &mut Viewer,
) -> Ending {
    let mut watch = client.watch(migration).await?;
    let ended = viewer.follow(&mut watch, context).await;
    viewer.clear();
    let account = account(&ended?, context);
    viewer.conclude(&account);
    Ok(account.exit())
}

/// The id of a migration: `asked` itself, or the running or next migration of that guest; where it
/// has to be waited for, that is told to `idle`.
async fn begun(
    client: &mut Client,
    asked: &str,
    viewer: &mut Viewer,
    idle: impl Fn(),
) -> Result<String, Stop> {
    let request = || api::GetGuestRequest { guest: asked.to_owned() };
    let first = match client.get_guest(request()).await {
        Ok(guest) => guest,
        Err(error) if error.refusal() == Some(tonic::Code::NotFound) => {
            return Ok(asked.to_owned());
        }
        Err(error) => return Err(error.into()),
    };
    let mut ticks = interval(WAIT_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut guest = first.clone();
    if guest.state() != api::GuestState::Migrating {
        let gone = match guest.state() {
            api::GuestState::Gone => format!(" ({})", guest.state_reason),
            _ => String::new(),
        };
        idle();
        viewer.announce(format!(
            "{} does not move just now{gone}; waiting for its next migration to begin",
            first.name
        ));
    }
    while guest.state() != api::GuestState::Migrating && guest.migration_id == first.migration_id {
        ticks.tick().await;
        guest = client.get_guest(request()).await?;
    }
    Ok(guest.migration_id)
}

/// Gives a migration up.
pub(crate) async fn cancel(args: CancelArgs) -> Ending {
    let mut client = args.target.connect().await?;
    let request = api::CancelMigrationRequest { migration: args.guest };
    let answer = client.cancel_migration(request).await?;
    if !answer.accepted {
        return Err(Stop::new(Exit::Refused, answer.sentence));
    }
    crate::out::line(answer.sentence);
    Ok(Exit::Done)
}
