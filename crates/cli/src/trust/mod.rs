//! Commands about identities, on this host's files; only `pair` looks at another host.

mod pair;
mod pki;
mod sign;

pub(crate) use pair::{pair, unpair};
pub(crate) use pki::pki;
pub(crate) use sign::{sign_for, ticket};

use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use serde::Serialize;
use whimbrel_control::identity::{Certificate, IdentityError, IdentityFolder, Trust};
use whimbrel_control::{Access, AgentAddress};

use crate::args::trust::{IdentityArgs, ShowArgs};
use crate::exit::{Ending, Exit, Stop};
use crate::{json, out};

impl From<IdentityError> for Stop {
    fn from(error: IdentityError) -> Self {
        let exit = match &error {
            IdentityError::Changed { .. } => Exit::Refused,
            _ => Exit::Failed,
        };
        Self::new(exit, error.to_string())
    }
}

impl IdentityArgs {
    /// The identity's folder: the one that was named, or the user's own, made where it is not
    /// there.
    pub(crate) fn folder(&self) -> Result<IdentityFolder, Stop> {
        if let Some(named) = &self.identity {
            return Ok(IdentityFolder::at(named));
        }
        let folder = IdentityFolder::at(own_folder()?);
        folder.ensure()?;
        Ok(folder)
    }

    /// How to speak with the agent at `address`: in plain words on this host, unless an identity
    /// was named.
    pub(crate) fn access(&self, address: &AgentAddress) -> Result<Access, Stop> {
        if self.identity.is_none() && address.is_loopback() {
            return Ok(Access::default());
        }
        self.trust().map(Access::always)
    }

    pub(crate) fn trust(&self) -> Result<Arc<Trust>, Stop> {
        let folder = self.folder()?;
        if !folder.key().exists() {
            let path = folder.path().display();
            let why = format!("there is no identity in {path}; `whimbrel identity` makes one");
            return Err(Stop::failed(why));
        }
        Ok(Trust::open(folder)?)
    }
}

fn own_folder() -> Result<PathBuf, Stop> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let config = set("XDG_CONFIG_HOME").map(PathBuf::from);
    let config = config.or_else(|| Some(PathBuf::from(set("HOME")?).join(".config")));
    let none = || Stop::usage("there is no home folder to keep an identity in: give --identity");
    Ok(config.ok_or_else(none)?.join("whimbrel/identity"))
}

#[derive(Serialize)]
struct Object {
    fingerprint: String,
    name: Option<String>,
    days_left: u64,
    folder: PathBuf,
}

/// Tells who one is, and makes an identity where there is none.
pub(crate) fn identity(args: ShowArgs) -> Ending {
    let folder = args.whose.folder()?;
    folder.ensure()?;
    let own = folder.own()?;
    let object = Object {
        fingerprint: own.fingerprint.to_string(),
        name: (!own.self_made).then(|| own.name.clone()),
        days_left: days_left(&own),
        folder: folder.path().to_owned(),
    };
    if args.json {
        out::line(json::line(&object));
        return Ok(Exit::Done);
    }
    out::line(&object.fingerprint);
    let days = object.days_left;
    eprintln!(
        "{}, for {days} more days; in {}",
        object.name.map_or_else(
            || "vouched for by nobody: to be paired".to_owned(),
            |name| format!("certified as {name}"),
        ),
        object.folder.display()
    );
    Ok(Exit::Done)
}

pub(crate) fn days_left(certificate: &Certificate) -> u64 {
    certificate.lasts(SystemTime::now()).unwrap_or_default().as_secs() / 86_400
}
