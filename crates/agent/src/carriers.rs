//! How a session travels: what was asked, what the agents agree on, what guest processes do.
//!
//! ```text
//!   Migrate ─► choose ─► announced to the other agent, which may refuse ─► both guest processes
//!                                                        with each other's certificate
//! ```

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use tonic::{Code, Status};
use whimbrel_control::AgentAddress;
use whimbrel_control::api::{self, Carrier, Encrypt, Transport};
use whimbrel_engine::transport::CONGESTION_CONTROLS;
use whimbrel_engine::{Carrier as Engines, Credentials, Fingerprint, Identity, Quic};

/// Whether an agent at this address is one of this host.
pub(crate) fn is_here(agent: &AgentAddress) -> bool {
    let ip: Option<IpAddr> = agent.host().parse().ok();
    agent.host() == "localhost" || ip.is_some_and(|ip| ip.is_loopback())
}

/// The largest priority that the host's own queues tell apart, and the first class of `tc`, which a
/// priority may name instead.
const PRIORITY_MAX: u32 = 15;
const CLASS_MIN: u32 = 1 << 16;

/// What does not go together, wherever the guest goes.
///
/// # Errors
/// One sentence that says what to leave out.
pub fn check_travel(asked: &api::MigrationOptions) -> Result<(), String> {
    let marked = asked.dscp.is_some() || asked.priority.is_some();
    let clear = asked.encrypt() == Encrypt::Off;
    let congestion = asked.congestion.as_deref();
    let foreign = congestion.filter(|name| !CONGESTION_CONTROLS.contains(name));
    if let Some(priority) = asked.priority.filter(|it| (PRIORITY_MAX + 1..CLASS_MIN).contains(it)) {
        return Err(format!(
            "a priority of {priority} is none: it is 0 to 6, and where guests' processes have \
             CAP_NET_ADMIN up to {PRIORITY_MAX}, or a class of tc as one number"
        ));
    }
    let why = match (asked.transport(), foreign) {
        (Transport::Tls | Transport::Quic, _) if clear => {
            "transports tls and quic encrypt; choose tcp to send memory signed and in clear"
        }
        (Transport::Quic, _) if marked => {
            "QUIC marks each packet by itself; choose tcp or tls, or no DSCP and priority"
        }
        (Transport::Quic, Some(name)) => {
            let all = CONGESTION_CONTROLS.join(", ");
            return Err(format!("QUIC has the congestion controls {all}, and not `{name}`"));
        }
        (Transport::Unix, _) if asked.encrypt() != Encrypt::Unspecified => {
            "a Unix socket stays within this host, where the permissions of its folder protect it; \
             leave encryption unsaid"
        }
        (Transport::Unix, _) if marked || congestion.is_some() => {
            "nothing that a Unix socket carries comes to a network; leave out DSCP, priority and \
             congestion control"
        }
        _ => return Ok(()),
    };
    Err(why.to_owned())
}

/// What carries a session to an agent that is `here`, on this host, or beyond it. In clear and
/// without MACs nothing goes beyond this host.
pub(crate) fn choose(asked: &api::MigrationOptions, here: bool) -> Result<Carrier, Status> {
    check_travel(asked).map_err(Status::invalid_argument)?;
    Ok(match (asked.transport(), asked.encrypt()) {
        (Transport::Unspecified | Transport::Tcp, Encrypt::Unspecified) if here => Carrier::Tcp,
        (Transport::Unspecified | Transport::Tcp, Encrypt::Off) => Carrier::Signed,
        (Transport::Unspecified | Transport::Tcp | Transport::Tls, _) => Carrier::Tls,
        (Transport::Quic, _) => Carrier::Quic,
        (Transport::Unix, _) if here => Carrier::Local,
        (Transport::Unix, _) => {
            let why = "a Unix socket connects two agents of one host; choose tcp, tls or quic";
            return Err(Status::invalid_argument(why));
        }
    })
}

/// How memory travels, in words.
#[must_use]
pub const fn in_words(carrier: Carrier) -> &'static str {
    match carrier {
        Carrier::Unspecified => "not known",
        Carrier::Tcp => "over TCP, in clear within one host",
        Carrier::Signed => "over TCP, in clear and signed",
        Carrier::Tls => "over TCP, encrypted with TLS 1.3",
        Carrier::Quic => "over QUIC, encrypted with TLS 1.3",
        Carrier::Local => "over a Unix socket within one host",
    }
}

/// Whether the agent that was asked takes part in that; `here` says that the other is of this host
/// (wire.md P9).
pub(crate) fn accept(carrier: Carrier, here: bool) -> Result<(), Status> {
    match carrier {
        Carrier::Unspecified | Carrier::Tcp | Carrier::Local if !here => {
            Err(Status::failed_precondition(
                "a session that nothing protects stays within one host; the source is to encrypt \
                 it, or sign it",
            ))
        }
        _ => Ok(()),
    }
}

/// Whether a session so carried may have an end at this address; `trusted` tells whether that is
/// on a link that this host trusts, and `distrust` says what to do where it is not. It is the
/// addresses of lanes that count: agents that meet on one host may send their guests elsewhere.
pub(crate) fn carries(
    carrier: Carrier,
    ip: IpAddr,
    trusted: impl FnOnce() -> Result<bool, Status>,
    distrust: impl FnOnce() -> String,
) -> Result<(), Status> {
    // wire.md P13. Within a host there is no link.
    if ip.to_canonical().is_loopback() {
        return Ok(());
    }
    match carrier {
        Carrier::Unspecified | Carrier::Tcp => Err(Status::failed_precondition(format!(
            "the guest's way is by {ip}, beyond this host, and nothing goes there in clear: move \
             it with --encrypt on"
        ))),
        Carrier::Signed if !trusted()? => Err(Status::failed_precondition(distrust())),
        Carrier::Signed | Carrier::Tls | Carrier::Quic | Carrier::Local => Ok(()),
    }
}

/// Whether both guest processes show certificates.
pub(crate) fn is_certified(carrier: Carrier) -> bool {
    matches!(carrier, Carrier::Signed | Carrier::Tls | Carrier::Quic)
}

/// Why a source's guest process makes no certificate.
pub(crate) fn uncertified(status: Status) -> Status {
    match status.code() {
        Code::Unimplemented => Status::failed_precondition(
            "the guest's process is of an older release, which sends in clear only",
        ),
        _ => status,
    }
}

/// What the engine is told. `own` and `peer` are needed where certificates are shown, `at` where
/// a path is.
pub(crate) fn engines(
    carrier: Carrier,
    own: Option<Arc<Identity>>,
    peer: &[u8],
    at: impl FnOnce() -> PathBuf,
) -> Result<Engines, Status> {
    let credentials = || {
        let identity = own.ok_or_else(|| Status::failed_precondition("no certificate was made"))?;
        let peer = Fingerprint::try_from(peer).map_err(|error| {
            let why = format!(
                "the other side's agent told no certificate: {error}; use one release on both hosts"
            );
            Status::failed_precondition(why)
        })?;
        Ok::<_, Status>(Credentials { identity, peer })
    };
    Ok(match carrier {
        Carrier::Unspecified | Carrier::Tcp => Engines::Tcp,
        Carrier::Signed => Engines::Signed(credentials()?),
        Carrier::Tls => Engines::Tls(credentials()?),
        Carrier::Quic => Engines::Quic(Quic::new(credentials()?)),
        Carrier::Local => Engines::Local(at()),
    })
}

/// A new identity for one session, where one is needed.
pub(crate) fn identity(carrier: Carrier) -> Result<Option<Arc<Identity>>, Status> {
    let made = is_certified(carrier).then(Identity::generate).transpose();
    let failed = |error| Status::internal(format!("no key could be made: {error}"));
    made.map(|made| made.map(Arc::new)).map_err(failed)
}

/// The fingerprint as it is told; nothing where there is no certificate.
pub(crate) fn told(identity: Option<&Arc<Identity>>) -> Vec<u8> {
    identity.map(|identity| identity.fingerprint().as_bytes().to_vec()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(transport: Transport, encrypt: Encrypt, here: bool) -> Result<Carrier, String> {
        let asked = api::MigrationOptions {
            transport: transport.into(),
            encrypt: encrypt.into(),
            ..Default::default()
        };
        choose(&asked, here).map_err(|status| status.message().to_owned())
    }

    #[test]
    fn in_clear_nothing_leaves_this_host() {
        use {Encrypt as E, Transport as T};
        for (transport, encrypt, here, there) in [
            (T::Unspecified, E::Unspecified, Carrier::Tcp, Carrier::Tls),
            (T::Tcp, E::Unspecified, Carrier::Tcp, Carrier::Tls),
            (T::Tcp, E::On, Carrier::Tls, Carrier::Tls),
            (T::Tcp, E::Off, Carrier::Signed, Carrier::Signed),
            (T::Tls, E::Unspecified, Carrier::Tls, Carrier::Tls),
            (T::Tls, E::On, Carrier::Tls, Carrier::Tls),
            (T::Quic, E::Unspecified, Carrier::Quic, Carrier::Quic),
            (T::Quic, E::On, Carrier::Quic, Carrier::Quic),
        ] {
            assert_eq!(chosen(transport, encrypt, true), Ok(here), "{transport:?} {encrypt:?}");
            assert_eq!(chosen(transport, encrypt, false), Ok(there), "{transport:?} {encrypt:?}");
            accept(there, false).unwrap();
        }
        assert_eq!(chosen(T::Unix, E::Unspecified, true), Ok(Carrier::Local));
        for (transport, encrypt, here, why) in [
            (T::Unix, E::Unspecified, false, "one host; choose tcp"),
            (T::Unix, E::On, true, "leave encryption unsaid"),
            (T::Tls, E::Off, true, "choose tcp"),
            (T::Quic, E::Off, true, "choose tcp"),
        ] {
            let refused = chosen(transport, encrypt, here).unwrap_err();
            assert!(refused.contains(why), "{refused}");
        }
        for carrier in [Carrier::Unspecified, Carrier::Tcp, Carrier::Local] {
            accept(carrier, true).unwrap();
            let refused = accept(carrier, false).unwrap_err();
            assert_eq!(refused.code(), Code::FailedPrecondition);
        }
    }

    #[test]
    fn what_a_transport_does_not_do_is_refused_at_once() {
        let asked = |transport: Transport, change: fn(&mut api::MigrationOptions)| {
            let mut asked =
                api::MigrationOptions { transport: transport.into(), ..Default::default() };
            change(&mut asked);
            choose(&asked, true).map(drop).map_err(|status| status.message().to_owned())
        };
        use Transport as T;
        type Case = (Transport, fn(&mut api::MigrationOptions), &'static str);
        let cases: [Case; 6] = [
            (T::Quic, |it| it.dscp = Some(8), "no DSCP"),
            (T::Quic, |it| it.congestion = Some("vegas".to_owned()), "not `vegas`"),
            (T::Unix, |it| it.dscp = Some(0), "leave out DSCP"),
            (T::Unix, |it| it.priority = Some(1), "leave out DSCP"),
            (T::Unix, |it| it.congestion = Some("cubic".to_owned()), "congestion control"),
            (T::Tcp, |it| it.priority = Some(99), "0 to 6, and where"),
        ];
        for (transport, change, why) in cases {
            let refused = asked(transport, change).unwrap_err();
            assert!(refused.contains(why), "{transport:?}: {refused}");
        }
        asked(T::Quic, |it| it.congestion = Some("bbr".to_owned())).unwrap();
        asked(T::Tcp, |it| it.congestion = Some("vegas".to_owned())).unwrap();
        asked(T::Tls, |it| it.priority = Some(15)).unwrap();
        asked(T::Tls, |it| it.priority = Some(0x1_0010)).unwrap();
    }

    #[test]
    fn the_addresses_of_lanes_decide_what_protects_them() {
        use Carrier as C;
        let (here, there) = (IpAddr::from([127, 0, 0, 1]), IpAddr::from([10, 1, 0, 7]));
        let judge = |carrier, ip, trusted| {
            let judged = carries(carrier, ip, || Ok(trusted), || "distrusted".to_owned());
            judged.map_err(|status| status.message().to_owned())
        };
        for carrier in [C::Unspecified, C::Tcp, C::Signed, C::Tls, C::Quic] {
            judge(carrier, here, false).unwrap();
        }
        for (carrier, trusted, why) in [
            (C::Unspecified, true, "10.1.0.7, beyond this host"),
            (C::Tcp, true, "--encrypt on"),
            (C::Signed, false, "distrusted"),
        ] {
            let refused = judge(carrier, there, trusted).unwrap_err();
            assert!(refused.contains(why), "{refused}");
        }
        judge(C::Signed, there, true).unwrap();
        judge(C::Tls, there, false).unwrap();
        judge(C::Quic, there, false).unwrap();
    }

    #[test]
    fn a_session_is_protected_with_both_certificates_or_not_at_all() {
        let no_path = || -> PathBuf { panic!("no path is needed") };
        for carrier in [Carrier::Signed, Carrier::Tls, Carrier::Quic] {
            let own = identity(carrier).unwrap();
            let peer = told(Some(&Arc::new(Identity::generate().unwrap())));
            assert_eq!((told(own.as_ref()).len(), peer.len()), (32, 32));
            engines(carrier, own.clone(), &peer, no_path).unwrap();
            let missing = engines(carrier, own, &[], no_path).unwrap_err();
            assert!(missing.message().contains("use one release on both hosts"), "{missing}");
            assert!(engines(carrier, None, &peer, no_path).is_err());
        }
        assert!(identity(Carrier::Tcp).unwrap().is_none());
        let local = engines(Carrier::Local, None, &[], || "/x/y".into()).unwrap();
        assert!(matches!(local, Engines::Local(path) if path.ends_with("y")));
    }

    #[test]
    fn loopback_is_this_host() {
        for (agent, here) in [
            ("localhost:1", true),
            ("127.3.0.1:1", true),
            ("[::1]:1", true),
            ("10.0.0.1:1", false),
            ("host-b", false),
        ] {
            assert_eq!(is_here(&agent.parse().unwrap()), here, "{agent}");
        }
    }
}
