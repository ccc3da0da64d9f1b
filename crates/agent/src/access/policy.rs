//! The policy file: what each identity may do on this host.
//!
//! ```toml
//! send = ["host-a"]                # may send guests here
//! receive = ["host-a"]             # guests may be sent there from here
//! order = ["ops"]                  # may order moves, also by a ticket; and look
//! manage = ["SHA256:…"]            # may start, stop and resolve guests; and order and look
//! look = ["monitor"]               # may look
//! trusted-links = ["10.1.0.0/24"]  # networks on which memory may travel in clear, signed
//! ```
//!
//! An identity is written as the name that an authority certifies, the name by which it was
//! paired, or the fingerprint of its key. Who is not in the file may do nothing.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, ErrorKind};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use serde::Deserialize;
use whimbrel_engine::transport::{NoSubnet, Subnet};
use whimbrel_identity::{Fingerprint, Who, is_name};

/// The file is looked at again after so long, when somebody asks.
const LOOKED_AT_EVERY: Duration = Duration::from_millis(500);

/// What somebody wants to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Look,
    Order,
    Manage,
    Send,
    Receive,
}

impl Action {
    const ALL: [Self; 5] = [Self::Look, Self::Order, Self::Manage, Self::Send, Self::Receive];

    /// Its key in the file.
    const fn key(self) -> &'static str {
        match self {
            Self::Look => "look",
            Self::Order => "order",
            Self::Manage => "manage",
            Self::Send => "send",
            Self::Receive => "receive",
        }
    }

    const fn words(self) -> &'static str {
        match self {
            Self::Look => "look at the guests of this host",
            Self::Order => "order moves of guests of this host",
            Self::Manage => "start, stop and resolve guests on this host",
            Self::Send => "send guests to this host",
            Self::Receive => "receive guests from this host",
        }
    }

    /// The rights that this one follows from.
    const fn follows_from(self) -> &'static [Self] {
        match self {
            Self::Look => &[Self::Look, Self::Order, Self::Manage],
            Self::Order => &[Self::Order, Self::Manage],
            Self::Manage => &[Self::Manage],
            Self::Send => &[Self::Send],
            Self::Receive => &[Self::Receive],
        }
    }
}

/// Why a policy file cannot be used.
#[derive(Clone, Debug, thiserror::Error)]
#[error(
    "the policy {} cannot be used: {why}; nobody may do anything until it is mended",
    path.display()
)]
pub struct PolicyError {
    path: PathBuf,
    why: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Policy {
    look: Vec<String>,
    order: Vec<String>,
    manage: Vec<String>,
    send: Vec<String>,
    receive: Vec<String>,
    #[serde(rename = "trusted-links")]
    trusted_links: Vec<Link>,
}

/// A network that this host trusts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
struct Link(Subnet);

impl TryFrom<String> for Link {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let subnet = text.parse().map_err(|error: NoSubnet| format!("`{text}`: {error}"));
        subnet.map(Self)
    }
}

impl Policy {
    fn parse(text: &str) -> Result<Self, String> {
        let policy: Self = toml::from_str(text).map_err(|error| {
            let before = error.span().and_then(|span| text.get(..span.start));
            let line = 1 + before.map_or(0, |before| before.matches('\n').count());
            format!("line {line}: {}", error.message())
        })?;
        for action in Action::ALL {
            for entry in policy.of(action) {
                let good = match Fingerprint::is_meant(entry) {
                    true => entry.parse::<Fingerprint>().is_ok(),
                    false => is_name(entry),
                };
                if !good {
                    let key = action.key();
                    return Err(format!(
                        "`{key}` has `{entry}`, which is neither a name (letters, digits, - _ .) \
                         nor a fingerprint (SHA256:…)"
                    ));
                }
            }
        }
        Ok(policy)
    }

    fn of(&self, action: Action) -> &[String] {
        match action {
            Action::Look => &self.look,
            Action::Order => &self.order,
            Action::Manage => &self.manage,
            Action::Send => &self.send,
            Action::Receive => &self.receive,
        }
    }

    fn allows(&self, who: &Who, action: Action) -> bool {
        let named = |action: &Action| self.of(*action).iter().any(|entry| who.goes_by(entry));
        who.own || action.follows_from().iter().any(named)
    }

    fn trusts(&self, ip: IpAddr) -> bool {
        self.trusted_links.iter().any(|Link(subnet)| subnet.contains(ip.to_canonical()))
    }

    /// The line that would allow it.
    fn line(&self, who: &Who, action: Action) -> String {
        let mut entries = self.of(action).to_vec();
        entries.push(who.shortest());
        let quoted: Vec<_> = entries.iter().map(|entry| format!("\"{entry}\"")).collect();
        format!("{} = [{}]", action.key(), quoted.join(", "))
    }
}

/// The identities that a policy file names and does not give the keys of; none if it is not there.
///
/// # Errors
/// Why it cannot be used.
pub fn named_in_policy(path: &Path) -> Result<BTreeSet<String>, PolicyError> {
    let policy = read(path)?;
    let entries = Action::ALL.iter().flat_map(|action| policy.of(*action));
    Ok(entries.filter(|entry| !Fingerprint::is_meant(entry)).cloned().collect())
}

/// The policy as its file says now.
#[derive(Debug)]
pub(super) struct PolicyFile {
    path: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    looked: Instant,
    stamp: Option<(SystemTime, u64)>,
    policy: Result<Arc<Policy>, PolicyError>,
}

impl PolicyFile {
    /// Reads it; a file that is not there allows nobody anything.
    pub(super) fn open(path: PathBuf) -> Result<Self, PolicyError> {
        let stamp = stamp(&path);
        let policy = Ok(read(&path)?);
        let state = Mutex::new(State { looked: Instant::now(), stamp, policy });
        Ok(Self { path, state })
    }

    fn now(&self) -> Result<Arc<Policy>, PolicyError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.looked.elapsed() >= LOOKED_AT_EVERY {
            state.looked = Instant::now();
            let stamp = stamp(&self.path);
            if state.stamp != stamp {
                state.stamp = stamp;
                state.policy = read(&self.path);
                match &state.policy {
                    Ok(_) => tracing::info!("the policy was read again"),
                    Err(error) => tracing::error!("{error}"),
                }
            }
        }
        state.policy.clone()
    }

    /// Whether somebody may do something.
    pub(super) fn allows(&self, who: &Who, action: Action) -> Result<bool, PolicyError> {
        Ok(self.now()?.allows(who, action))
    }

    /// Whether an address is on a link on which memory may travel in clear.
    pub(super) fn trusts(&self, ip: IpAddr) -> Result<bool, PolicyError> {
        Ok(self.now()?.trusts(ip))
    }

    /// Why memory may not travel in clear by an address, and what would change that.
    pub(super) fn distrust(&self, ip: IpAddr) -> String {
        format!(
            "{ip} is on no link that this host trusts, and memory travels encrypted there: leave \
             out --encrypt off, or write the network under `trusted-links` in {}, as \
             `trusted-links = [\"{ip}/{}\"]`",
            self.path.display(),
            if ip.is_ipv4() { 24 } else { 64 }
        )
    }

    /// Why somebody may not do something, and what would change that.
    pub(super) fn refusal(&self, who: &Who, action: Action) -> String {
        let policy = self.now().unwrap_or_default();
        format!(
            "{who} may not {}: to allow it, write `{}` in {}",
            action.words(),
            policy.line(who, action),
            self.path.display()
        )
    }
}

fn stamp(path: &Path) -> Option<(SystemTime, u64)> {
    let data = fs::metadata(path).ok()?;
    Some((data.modified().ok()?, data.len()))
}

fn read(path: &Path) -> Result<Arc<Policy>, PolicyError> {
    let unusable = |why| PolicyError { path: path.to_owned(), why };
    let text: io::Result<String> = match fs::read_to_string(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(String::new()),
        read => read,
    };
    let text = text.map_err(|error| unusable(error.to_string()))?;
    Policy::parse(&text).map(Arc::new).map_err(unusable)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn who(certified: Option<&str>, paired: Option<&str>) -> Who {
        Who {
            fingerprint: Fingerprint::of(b"x"),
            certified: certified.map(str::to_owned),
            paired: paired.map(str::to_owned),
            own: false,
            until: SystemTime::now(),
        }
    }

    #[test]
    fn rights_follow_from_greater_ones_and_from_nothing_else() {
        let print = Fingerprint::of(b"x");
        let text = format!(
            "look = ['monitor']\norder = ['ops']\nmanage = ['{print}']\nsend = ['host-a']\n"
        );
        let policy = Policy::parse(&text).unwrap();
        let rights = |who: &Who| {
            Action::ALL.into_iter().filter(|action| policy.allows(who, *action)).collect::<Vec<_>>()
        };
        let mut other = who(Some("ops"), None);
        other.fingerprint = Fingerprint::of(b"y");
        assert_eq!(rights(&other), [Action::Look, Action::Order]);
        other.certified = Some("monitor".to_owned());
        assert_eq!(rights(&other), [Action::Look]);
        other.certified = Some("host-b".to_owned());
        assert_eq!(rights(&other), []);
        other.paired = Some("host-a".to_owned());
        assert_eq!(rights(&other), [Action::Send]);
        assert_eq!(rights(&who(None, None)), [Action::Look, Action::Order, Action::Manage]);
        other.own = true;
        assert_eq!(rights(&other), Action::ALL);
        assert!(!Policy::default().allows(&who(Some("ops"), None), Action::Look));
    }

    #[test]
    fn what_the_file_cannot_say_is_named() {
        for (text, why) in [
            ("look = []\nsned = ['a']", "line 2: unknown field `sned`"),
            ("look = 'a'", "line 1"),
            ("look = ['a b']", "`look` has `a b`"),
            ("send = ['SHA256:short']", "`send` has `SHA256:short`"),
            ("look", "line 1"),
            ("trusted-links = ['10.1.0.0/33']", "line 1: `10.1.0.0/33`: it is no subnet"),
            ("trusted-links = ['eth0']", "10.1.0.0/24"),
        ] {
            let error = Policy::parse(text).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn links_are_trusted_by_their_networks_and_none_by_default() {
        let policy = Policy::parse("trusted-links = ['10.1.0.0/24', 'fd00:1::/64']").unwrap();
        for (ip, trusted) in [
            ("10.1.0.7", true),
            ("::ffff:10.1.0.7", true),
            ("10.1.1.7", false),
            ("fd00:1::7", true),
            ("fd00:2::7", false),
        ] {
            assert_eq!(policy.trusts(ip.parse().unwrap()), trusted, "{ip}");
            assert!(!Policy::default().trusts(ip.parse().unwrap()));
        }
    }

    #[test]
    fn a_refusal_names_identity_action_and_the_line_to_add() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("policy.toml");
        let file = PolicyFile::open(path.clone()).unwrap();
        let who = who(Some("host-a"), None);
        assert!(!file.allows(&who, Action::Send).unwrap());
        fs::write(&path, "send = ['host-c']\n").unwrap();
        file.state.lock().unwrap().looked -= LOOKED_AT_EVERY;
        assert!(!file.allows(&who, Action::Send).unwrap());
        let why = file.refusal(&who, Action::Send);
        for part in ["host-a (SHA256:", "send guests to this host", "policy.toml"] {
            assert!(why.contains(part), "{why}");
        }
        let line = "send = [\"host-c\", \"host-a\"]";
        assert!(why.contains(line), "{why}");
        fs::write(&path, line).unwrap();
        file.state.lock().unwrap().looked -= LOOKED_AT_EVERY;
        assert!(file.allows(&who, Action::Send).unwrap());
        fs::write(&path, "nonsense").unwrap();
        file.state.lock().unwrap().looked -= LOOKED_AT_EVERY;
        let error = file.allows(&who, Action::Send).unwrap_err().to_string();
        assert!(error.contains("nobody may do anything"), "{error}");
        assert!(PolicyFile::open(path).is_err());
    }
}
