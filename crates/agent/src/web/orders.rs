//! What the page asks for: the same that the API can do, and refused in the same words.

use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;
use hyper::StatusCode;
use serde::Deserialize;
use tonic::{Code, Status};
use whimbrel_control::api::{self, Policy, resolve_guest_request::Decision};

use super::gate::WebRight;
use crate::access::Authenticated;
use crate::agent::Core;

/// Whoever came through the gate of the page, which has asked for the token and the right.
const ADMINISTRATOR: Authenticated = Authenticated(None);

/// Something that a page may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    Migrate,
    Cancel,
    Resolve,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Migrate {
    guest: String,
    destination: String,
    #[serde(default)]
    downtime_ms: Option<u64>,
    #[serde(default)]
    policy: Option<Wanted>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Wanted {
    Throttle,
    Switch,
    Wait,
    GiveUp,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Cancel {
    guest: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Resolve {
    guest: String,
    decision: Word,
    #[serde(default)]
    peer_is_off: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Word {
    RunHere,
    GiveUp,
}

impl Order {
    /// What it takes to give it.
    pub(super) const fn needs(self) -> WebRight {
        match self {
            Self::Migrate | Self::Cancel => WebRight::Order,
            Self::Resolve => WebRight::Manage,
        }
    }

    /// Carries it out to its end, also if the page goes away. What came of it is a sentence.
    pub(super) async fn carry_out(
        self,
        core: &Arc<Core>,
        body: &Bytes,
    ) -> Result<String, (StatusCode, String)> {
        let core = Arc::clone(core);
        let done = match self {
            Self::Migrate => {
                let request = migrate(read(body)?);
                to_its_end(async move {
                    let begun = core.migrate(request, ADMINISTRATOR).await?;
                    Ok(format!("migration {} has begun", begun.migration_id))
                })
                .await
            }
            Self::Cancel => {
                let Cancel { guest } = read(body)?;
                let request = api::CancelMigrationRequest { migration: guest };
                to_its_end(async move {
                    let answer = core.cancel_migration(request, ADMINISTRATOR).await?;
                    match answer.accepted {
                        true => Ok(answer.sentence),
                        false => Err(Status::failed_precondition(answer.sentence)),
                    }
                })
                .await
            }
            Self::Resolve => {
                let request = resolve(read(body)?);
                to_its_end(async move {
                    let guest = core.resolve_guest(request).await?;
                    Ok(format!("{} is decided about", guest.name))
                })
                .await
            }
        };
        done.map_err(|status| (http_status(status.code()), status.message().to_owned()))
    }
}

async fn to_its_end(
    work: impl Future<Output = Result<String, Status>> + Send + 'static,
) -> Result<String, Status> {
    let done = tokio::spawn(work).await;
    done.map_err(|error| Status::internal(format!("the call failed: {error}")))?
}

fn read<'a, T: Deserialize<'a>>(body: &'a Bytes) -> Result<T, (StatusCode, String)> {
    let unread = |why| (StatusCode::BAD_REQUEST, format!("this is not what is asked for: {why}"));
    serde_json::from_slice(body).map_err(unread)
}

fn migrate(asked: Migrate) -> api::MigrateRequest {
    let policy = match asked.policy {
        None => Policy::Unspecified,
        Some(Wanted::Throttle) => Policy::Throttle,
        Some(Wanted::Switch) => Policy::Switch,
        Some(Wanted::Wait) => Policy::Wait,
        Some(Wanted::GiveUp) => Policy::GiveUp,
    };
    let options = api::MigrationOptions {
        downtime_limit_us: asked.downtime_ms.map(|ms| ms.saturating_mul(1000)),
        policy: policy.into(),
        ..Default::default()
    };
    let (guest, destination) = (asked.guest, asked.destination);
    api::MigrateRequest { guest, destination, options: Some(options), ..Default::default() }
}

fn resolve(asked: Resolve) -> api::ResolveGuestRequest {
    let decision = match asked.decision {
        Word::RunHere => Decision::RunHere(true),
        Word::GiveUp => Decision::GiveUp(true),
    };
    let (guest, peer_is_off) = (asked.guest, asked.peer_is_off);
    api::ResolveGuestRequest { guest, decision: Some(decision), peer_is_off }
}

fn http_status(code: Code) -> StatusCode {
    match code {
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::InvalidArgument => StatusCode::BAD_REQUEST,
        Code::AlreadyExists | Code::FailedPrecondition | Code::ResourceExhausted => {
            StatusCode::CONFLICT
        }
        Code::Unavailable | Code::DeadlineExceeded => StatusCode::BAD_GATEWAY,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_read_strictly() {
        let body = Bytes::from(r#"{"guest":"web","destination":"b:1","downtime_ms":300}"#);
        let request = migrate(read(&body).unwrap());
        assert_eq!(request.destination, "b:1");
        assert_eq!(request.options.unwrap().downtime_limit_us, Some(300_000));
        for bad in ["", "{}", r#"{"guest":1}"#, r#"{"guest":"a","decision":"run","x":1}"#] {
            let (status, why) = read::<Resolve>(&Bytes::from(bad)).err().unwrap();
            assert_eq!(status, StatusCode::BAD_REQUEST, "{why}");
        }
        let body = Bytes::from(r#"{"guest":"a","decision":"give-up"}"#);
        let request = resolve(read(&body).unwrap());
        assert_eq!((request.decision, request.peer_is_off), (Some(Decision::GiveUp(true)), false));
    }
}
