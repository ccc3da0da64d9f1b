//! Follows a migration to its end, for a person or for a program.

use std::time::Duration;

use whimbrel_control::{Watch, api};

use super::convert::{self, Context};
use crate::exit::{Exit, Stop};
use crate::json;
use crate::view::follow::Follow;
use crate::view::paint::Line;
use crate::view::screen::Screen;
use crate::view::state::Account;
use crate::view::summary::summary;

/// Nobody sees more pictures than this.
const FRAME_INTERVAL: Duration = Duration::from_millis(40);

/// Shows everything to a person, or one object to a program.
pub(crate) struct Viewer {
    /// `None` where only the object is wanted.
    screen: Option<Screen<std::io::Stdout>>,
    follow: Follow,
    shown: Option<Duration>,
}

impl Viewer {
    pub(crate) fn new(json: bool) -> Self {
        let screen = (!json).then(Screen::stdout);
        Self { screen, follow: Follow::default(), shown: None }
    }

    /// A word to a person while there is nothing else to see.
    pub(crate) fn hint(&mut self, text: impl Into<String>) {
        if let Some(screen) = &mut self.screen {
            screen.hint(Line::plain(text));
        }
    }

    /// What is waited for, which may take long: a log has it too, and so has whoever waits for the
    /// object.
    pub(crate) fn announce(&mut self, text: impl Into<String>) {
        match &mut self.screen {
            Some(screen) => screen.announce(Line::plain(text)),
            None => crate::out::complain(text.into()),
        }
    }

    /// A line to a person that stays.
    pub(crate) fn say(&mut self, text: impl Into<String>) {
        if let Some(screen) = &mut self.screen {
            screen.say(&Line::plain(text));
        }
    }

    /// Shows each status until the one with the outcome, which is returned.
    ///
    /// # Errors
    /// The agent was lost, or ended the stream early. The migration may go on without it.
    pub(crate) async fn follow(
        &mut self,
        watch: &mut Watch,
        context: &Context,
    ) -> Result<api::MigrationStatus, Stop> {
        while let Some(status) = watch.next().await? {
            if status.outcome() != api::Outcome::Unspecified {
                self.clear();
                return Ok(status);
            }
            self.show(&status, context);
        }
        let why = "the agent stopped telling about the migration; ask `whimbrel status`";
        Err(Stop::new(Exit::Unreachable, why))
    }

    fn show(&mut self, status: &api::MigrationStatus, context: &Context) {
        let Some(screen) = &mut self.screen else { return };
        let look = convert::look(status, context);
        let due = self.shown.is_none_or(|shown| look.elapsed >= shown + FRAME_INTERVAL);
        let news = !self.follow.news(&look).is_empty();
        if due || news {
            self.shown = Some(look.elapsed);
            screen.show(&self.follow.take(look));
        }
    }

    /// Takes the progress from the screen.
    pub(crate) fn clear(&mut self) {
        if let Some(screen) = &mut self.screen {
            screen.clear();
        }
    }

    /// Shows how it ended, as the summary or as the object.
    pub(crate) fn conclude(&mut self, account: &Account) {
        match &mut self.screen {
            Some(screen) => summary(account).iter().for_each(|line| screen.say(line)),
            None => crate::out::line(json::object(account)),
        }
    }
}
