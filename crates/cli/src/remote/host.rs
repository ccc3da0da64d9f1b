//! `watch` without a guest: a host with all its guests, on a terminal or as lines for a log.

use std::io::IsTerminal;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval};
use whimbrel_control::{Client, ClientError, api};

use crate::args::Target;
use crate::exit::{Ending, Exit, Stop};
use crate::view::host::{HostView, Seen};
use crate::view::screen::Ability;
use crate::view::terminal::{Taken, Wish};

/// How often the agent is asked.
const ASK_INTERVAL: Duration = Duration::from_millis(250);
/// A log gets a line of progress this often.
const LINE_INTERVAL: Duration = Duration::from_secs(1);

type Looks = mpsc::Receiver<Result<Seen, String>>;

/// Watches a host until its person has seen enough.
pub(crate) async fn watch_host(target: &Target) -> Ending {
    let client = target.connect().await?;
    let (sender, looks) = mpsc::channel(1);
    // Whoever draws does not wait for the agent.
    let asking = tokio::spawn(ask(client, sender));
    let view = HostView::new(target.agent.to_string());
    let ability = Ability::of_stdout();
    let ended = match ability.redraw && std::io::stdin().is_terminal() {
        true => on_terminal(view, looks, ability.colour).await,
        false => as_lines(view, looks).await,
    };
    asking.abort();
    ended
}

async fn on_terminal(mut view: HostView, mut looks: Looks, colour: bool) -> Ending {
    let failed = |why| Stop::failed(format!("the terminal cannot be drawn on: {why}"));
    let (mut terminal, mut wishes) = Taken::take(colour).map_err(failed)?;
    loop {
        terminal.draw(&view).map_err(failed)?;
        tokio::select! {
            Some(seen) = looks.recv() => view.take(seen),
            wish = wishes.recv() => match wish {
                Some(Wish::Leave) | None => return Ok(Exit::Done),
                Some(Wish::Interrupt) => return Err(Stop::interrupted("; migrations go on")),
                Some(Wish::Choose { below }) => view.choose(below),
                Some(Wish::Redraw) => {}
            },
        }
    }
}

/// What happens, sentence by sentence, and how far those are that move.
async fn as_lines(mut view: HostView, mut looks: Looks) -> Ending {
    let (mut told, mut progress_due) = (0, Instant::now());
    let mut first = true;
    while let Some(seen) = looks.recv().await {
        if let (true, Ok(seen)) = (first, &seen) {
            let lines = crate::view::guests::table(&seen.guests);
            lines.iter().for_each(|line| crate::out::line(line.render(false)));
            first = false;
        }
        view.take(seen);
        let (news, next) = view.news(told);
        news.for_each(crate::out::line);
        told = next;
        if Instant::now() >= progress_due {
            view.progress().for_each(crate::out::line);
            progress_due = Instant::now() + LINE_INTERVAL;
        }
    }
    Ok(Exit::Done)
}

/// Asks the agent again and again, until nobody wants to know.
async fn ask(mut client: Client, looks: mpsc::Sender<Result<Seen, String>>) {
    let mut ticks = interval(ASK_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut followed = Vec::new();
    loop {
        ticks.tick().await;
        let seen = look(&mut client, &mut followed).await;
        let seen = seen.map_err(|error| error.to_string());
        if looks.send(seen).await.is_err() {
            return;
        }
    }
}

/// One look. `followed` are the migrations that had not ended when they were last looked at.
async fn look(client: &mut Client, followed: &mut Vec<String>) -> Result<Seen, ClientError> {
    let host = client.get_host(api::GetHostRequest {}).await?;
    let listed = client.list_guests(api::ListGuestsRequest { include_gone: false }).await?;
    let moving = listed.guests.iter().filter(|guest| {
        guest.state() == api::GuestState::Migrating && !followed.contains(&guest.migration_id)
    });
    let moving: Vec<_> = moving.map(|guest| guest.migration_id.clone()).collect();
    followed.extend(moving);
    let mut migrations = Vec::new();
    for migration in std::mem::take(followed) {
        let request = api::GetMigrationRequest { migration: migration.clone() };
        match client.get_migration(request).await {
            Ok(status) => {
                if status.outcome() == api::Outcome::Unspecified {
                    followed.push(migration);
                }
                migrations.push(status);
            }
            // It is not known any more.
            Err(ClientError::Refused { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Seen { host, guests: listed.guests, migrations })
}
