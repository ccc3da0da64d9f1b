//! Trust that is withdrawn while a guest moves ends the migration, as long as it can be ended.

use std::sync::Arc;
use std::time::Duration;

use tonic::{Code, Status};
use whimbrel_control::Client;
use whimbrel_engine::transport::Path;

use crate::access::{Action, Caller};
use crate::agent::Core;
use crate::guests::{Guest, Migration};

/// How often each side looks whether it still trusts the other one.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Who is at the other end of a migration, and why they may be.
pub(crate) enum Other {
    /// The agent to which a guest goes, over these ways.
    Destination(Client, Vec<Path>),
    /// The agent from which a guest comes.
    Source(Caller),
}

/// A file that cannot be read says nothing of anybody.
fn refuses(status: &Status) -> bool {
    matches!(status.code(), Code::PermissionDenied | Code::Unauthenticated)
}

impl Core {
    /// Looks now and then until the migration has ended. A move that nothing but a ticket allowed
    /// goes on whatever the policy says: it never rested on that.
    pub(crate) async fn keep_trusted(
        self: Arc<Self>,
        guest: Arc<Guest>,
        migration: Arc<Migration>,
        other: Other,
        by_ticket: bool,
    ) {
        let stands = || match self.stands(&other) {
            Ok(()) => Some(true),
            Err(status) => refuses(&status).then_some(false),
        };
        let mut stood = if by_ticket { stands() } else { Some(true) };
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            if !migration.is_running() {
                return;
            }
            stood = stood.or_else(stands);
            let trusted = self.trusts(&migration, &other, stood == Some(true));
            let Some(status) = trusted.err().filter(refuses) else { continue };
            let reason = format!("trust was withdrawn: {}", status.message());
            tracing::warn!("{reason}");
            match guest.cancel(self.options.deadlines, reason).await {
                Ok(answer) => return tracing::info!("{}", answer.sentence),
                Err(status) => tracing::warn!("not cancelled: {}", status.message()),
            }
        }
    }

    /// Whether the policy allows what the other side does.
    fn stands(&self, other: &Other) -> Result<(), Status> {
        match other {
            Other::Source(caller) => self.guard.require(&self.guard.who(caller)?, Action::Send),
            Other::Destination(peer, _) => {
                let require = |who| self.guard.require_of(who, Action::Receive);
                peer.who().map_or(Ok(()), require)
            }
        }
    }

    fn trusts(&self, migration: &Migration, other: &Other, stood: bool) -> Result<(), Status> {
        let still = || if stood { self.stands(other) } else { Ok(()) };
        let (peer, paths) = match other {
            Other::Destination(peer, paths) => (peer, paths),
            Other::Source(caller) => return self.guard.who(caller).and_then(|_| still()),
        };
        let Some(who) = peer.who() else { return Ok(()) };
        peer.still_trusted().map_err(|doubt| {
            Status::unauthenticated(format!("{who} at {}: {doubt}", peer.address()))
        })?;
        still()?;
        // Lanes leave a link that is trusted no more where there is another one.
        let ways = paths.iter().map(|path| self.may_go(migration.carrier(), path));
        match ways.reduce(Result::or) {
            Some(Err(status)) => Err(Status::permission_denied(status.message())),
            Some(Ok(())) | None => Ok(()),
        }
    }
}
