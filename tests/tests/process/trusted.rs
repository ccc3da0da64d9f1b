//! What the tests of identities share: an authority, and two agents that it certifies.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use whimbrel_control::identity::{IdentityFolder, Trust};
use whimbrel_control::{Access, Client, Deadlines, api};
use whimbrel_tests::os;
use whimbrel_tests::program::{Agent, How, Said, run};

pub(crate) const SMALL: [&str; 4] = ["--memory", "32MiB", "--dirty-rate", "20MiB/s"];

/// An authority, and whom it certifies.
pub(crate) struct Authority {
    folder: TempDir,
}

impl Authority {
    pub(crate) async fn new() -> Self {
        let folder = TempDir::new().expect("a folder");
        let this = Self { folder };
        let _ = run(&["pki", "init", &this.path("pki")]).await.ended(0);
        this
    }

    /// A path within its folder.
    pub(crate) fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().expect("UTF-8").to_owned()
    }

    /// An identity for somebody who does not answer anywhere; where it is.
    pub(crate) async fn person(&self, name: &str, days: &str) -> String {
        let out = self.path(name);
        let words = ["pki", "issue", &self.path("pki"), name, "--out", &out, "--days", days];
        let _ = run(&words).await.ended(0);
        out
    }

    /// An agent of this name at this address of the loopback, which asks callers who they are.
    pub(crate) async fn agent(&self, name: &str, last: u8, policy: &str, more: &[&str]) -> Agent {
        let ip = IpAddr::V4(Ipv4Addr::new(127, 0, 0, last));
        let (out, host) = (self.path(name), ip.to_string());
        let words = ["pki", "issue", &self.path("pki"), name, "--out", &out, "--host", &host];
        let _ = run(&words).await.ended(0);
        secure_agent(ip, policy, more, |data| {
            fs::rename(&out, data.join("identity")).expect("one disk");
        })
        .await
    }

    /// Takes the certificates of a name back, as all these agents hear.
    pub(crate) async fn revoke(&self, name: &str, agents: &[&Agent]) {
        let _ = run(&["pki", "revoke", &self.path("pki"), name]).await.ended(0);
        for agent in agents {
            let list = agent.data().join("identity/revoked.pem");
            os::replace(&list, fs::read(self.path("pki/revoked.pem")).expect("one file"));
        }
    }
}

/// An agent that asks callers who they are also on loopback.
pub(crate) async fn secure_agent(
    ip: IpAddr,
    policy: &str,
    more: &[&str],
    prepare: impl FnOnce(&Path),
) -> Agent {
    let options = [&["--tls", "--die-with-parent"], more].concat();
    let how = How { ip: Some(ip), ..How::with(&options) };
    Agent::prepared(&std::env::temp_dir(), how, |data| {
        prepare(data);
        fs::write(data.join("policy.toml"), policy).expect("a file");
    })
    .await
}

/// Asks an agent as somebody.
pub(crate) async fn ask(agent: &Agent, identity: &str, words: &[&str]) -> Said {
    let asked = [words, &["--agent", &agent.address, "--identity", identity]].concat();
    run(&asked).await
}

/// Asks again and again until it is refused for this reason, which takes the agent a moment.
pub(crate) async fn until_refused(agent: &Agent, identity: &str, words: &[&str], why: &str) {
    let asking = async {
        loop {
            let said = ask(agent, identity, words).await;
            if said.status == Some(6) && said.err.contains(why) {
                return;
            }
            // Also where it hangs up before it has said why, or is late.
            assert!(matches!(said.status, Some(0 | 5 | 6)), "{said:?}");
        }
    };
    let within = std::time::Duration::from_secs(120);
    tokio::time::timeout(within, asking).await.unwrap_or_else(|_| panic!("never: {why}"));
}

/// Talks to an agent as whoever has the identity in `folder`.
pub(crate) async fn client(agent: &Agent, folder: impl Into<PathBuf>) -> Client {
    let trust = Trust::open(IdentityFolder::at(folder)).expect("an identity");
    let address = agent.address.parse().expect("an address");
    let access = Access::always(trust);
    let client = Client::connect_as(&address, Deadlines::default(), &access).await;
    client.expect("it is let in")
}

/// What the agent of a guest whose process has this certificate says before it comes.
pub(crate) fn announcement(uuid: &str, certificate: &[u8]) -> api::PrepareIncomingRequest {
    api::PrepareIncomingRequest {
        migration_id: "m-1".to_owned(),
        guest_uuid: uuid.to_owned(),
        guest_name: "web".to_owned(),
        kind: "stress".to_owned(),
        state_version: 1,
        memory_bytes: 16 << 20,
        protocol_version_min: 1,
        protocol_version_max: 1,
        agent_port: 1,
        carrier: api::Carrier::Tls.into(),
        certificate_sha256: certificate.to_vec(),
        ..Default::default()
    }
}

/// The identity that an agent has itself.
pub(crate) fn own(agent: &Agent) -> PathBuf {
    agent.data().join("identity")
}

/// Starts a guest; its uuid.
pub(crate) async fn guest(agent: &Agent, identity: &str, name: &str) -> String {
    let words = [&["run", "--name", name, "--json"], SMALL.as_slice()].concat();
    let said = ask(agent, identity, &words).await.ended(0).json();
    said["uuid"].as_str().expect("a uuid").to_owned()
}
