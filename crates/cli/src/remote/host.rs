//! `watch` without a guest: a host with all its guests, on a terminal or as lines for a log.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval};
use whimbrel_control::api::{self, MigrationStatus, Outcome};
use whimbrel_control::{Client, ClientError};

use crate::app::ALL_GO_ON;
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
        // Nothing may happen here that would be written, and fail to be.
        false => tokio::select! {
            ended = as_lines(view, looks) => ended,
            () = whimbrel_agent::reader_gone() => Ok(Exit::Done),
        },
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
                Some(Wish::Interrupt) => return Err(Stop::interrupted(ALL_GO_ON)),
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
    let mut follower = Follower::default();
    loop {
        ticks.tick().await;
        let seen = follower.look(&mut client).await;
        let seen = seen.map_err(|error| error.to_string());
        if looks.send(seen).await.is_err() {
            return;
        }
    }
}

/// Tells of each migration until it has ended, and of the end of each once, also of one that began
/// and ended between two looks.
#[derive(Debug, Default)]
struct Follower {
    /// Those that had not ended when they were last looked at.
    followed: Vec<String>,
    ended: Option<Ended>,
}

/// What is known to have ended; there is nothing to tell of what had before the first look.
#[derive(Debug, Default)]
struct Ended {
    /// The agent's mark of what it has told.
    mark: String,
    /// With how each one ended: a doubt that was settled ends again.
    known: BTreeMap<String, Outcome>,
}

impl Follower {
    async fn look(&mut self, client: &mut Client) -> Result<Seen, ClientError> {
        let host = client.get_host(api::GetHostRequest {}).await?;
        let listed = client.list_guests(api::ListGuestsRequest { include_gone: false }).await?;
        let moving = listed.guests.iter().filter(|guest| {
            let known = self.followed.contains(&guest.migration_id);
            guest.state() == api::GuestState::Migrating && !known
        });
        let moving: Vec<_> = moving.map(|guest| guest.migration_id.clone()).collect();
        self.followed.extend(moving);
        let (mut migrations, over) = self.followed(client).await?;
        migrations.extend(self.ended(client, over).await?);
        Ok(Seen { host, guests: listed.guests, migrations })
    }

    /// Those that are under way, and those that are not any more.
    async fn followed(
        &mut self,
        client: &mut Client,
    ) -> Result<(Vec<MigrationStatus>, Vec<MigrationStatus>), ClientError> {
        let (mut under_way, mut over) = (Vec::new(), Vec::new());
        for migration in self.followed.clone() {
            let request = api::GetMigrationRequest { migration: migration.clone() };
            match client.get_migration(request).await {
                Ok(status) if status.outcome() == Outcome::Unspecified => under_way.push(status),
                Ok(status) => over.push(status),
                // It is not known any more.
                Err(ClientError::Refused { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        self.followed = under_way.iter().map(|status| status.migration_id.clone()).collect();
        Ok((under_way, over))
    }

    /// All that have ended since the last look; `over` too if the agent could not write it down.
    async fn ended(
        &mut self,
        client: &mut Client,
        mut over: Vec<MigrationStatus>,
    ) -> Result<Vec<MigrationStatus>, ClientError> {
        let since = self.ended.as_ref().map_or_else(String::new, |ended| ended.mark.clone());
        let answer = client.list_migrations(api::ListMigrationsRequest { since }).await?;
        let mut listed = answer.migrations;
        over.retain(|one| !listed.iter().any(|ended| ended.migration_id == one.migration_id));
        listed.extend(over);
        let first = self.ended.is_none();
        let ended = self.ended.get_or_insert_default();
        ended.mark = answer.mark;
        let news = ended.take(listed);
        Ok(if first { Vec::new() } else { news })
    }
}

impl Ended {
    /// What is new among those that have ended, oldest first.
    fn take(&mut self, listed: Vec<MigrationStatus>) -> Vec<MigrationStatus> {
        let mut news = listed;
        news.retain(|ended| {
            let told = self.known.insert(ended.migration_id.clone(), ended.outcome());
            told != Some(ended.outcome())
        });
        news.sort_by_key(|ended| ended.ended_at_ms);
        news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(id: &str, at_ms: u64, outcome: Outcome) -> MigrationStatus {
        MigrationStatus {
            migration_id: id.into(),
            ended_at_ms: at_ms,
            outcome: outcome.into(),
            ..Default::default()
        }
    }

    fn ids(news: Vec<MigrationStatus>) -> Vec<String> {
        news.into_iter().map(|ended| ended.migration_id).collect()
    }

    #[test]
    fn each_end_is_told_once_and_a_doubt_that_is_settled_again() {
        let mut known = Ended::default();
        let (a, b) = (ended("a", 5, Outcome::Completed), ended("b", 7, Outcome::InDoubt));
        assert_eq!(ids(known.take(vec![b.clone(), a])), ["a", "b"]);
        // By a clock that has been put back.
        let c = ended("c", 3, Outcome::Aborted);
        assert_eq!(ids(known.take(vec![c.clone(), b.clone()])), ["c"]);
        assert!(known.take(vec![c.clone(), b]).is_empty() && known.take(Vec::new()).is_empty());
        let settled = ended("b", 9, Outcome::Completed);
        assert_eq!(ids(known.take(vec![settled.clone(), c])), ["b"]);
        assert!(known.take(vec![settled]).is_empty());
    }
}
