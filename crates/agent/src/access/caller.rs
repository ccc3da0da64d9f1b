//! Who is at the other end of a connection, as long as it lasts.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use tonic::Status;
use whimbrel_identity::rustls::pki_types::{CertificateDer, UnixTime};
use whimbrel_identity::{Rules, Trust, Who, explain};

/// The two ends of a connection, and who is at the other one.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    pub(crate) local: SocketAddr,
    pub(crate) remote: SocketAddr,
    proof: Option<Arc<Proof>>,
}

/// The certificates by which a caller was let in, and what they were worth when last looked at.
#[derive(Debug)]
struct Proof {
    chain: Vec<CertificateDer<'static>>,
    seen: Mutex<(Arc<Rules>, Who)>,
}

/// Who makes a call, looked up for this call; nobody in particular on a host that speaks only with
/// itself.
#[derive(Clone, Debug)]
pub(crate) struct Authenticated(pub(crate) Option<Who>);

impl Caller {
    /// Somebody on this host.
    pub(crate) fn local(local: SocketAddr, remote: SocketAddr) -> Self {
        Self { local, remote, proof: None }
    }

    /// Somebody who has proved who they are.
    pub(super) fn proven(
        (local, remote): (SocketAddr, SocketAddr),
        chain: Vec<CertificateDer<'static>>,
        rules: Arc<Rules>,
        who: Who,
    ) -> Self {
        let proof = Some(Arc::new(Proof { chain, seen: Mutex::new((rules, who)) }));
        Self { local, remote, proof }
    }

    /// Who it is now: a connection does not outlive the trust in whoever made it.
    pub(super) fn who(&self, trust: &Trust) -> Result<Authenticated, Status> {
        let Some(proof) = &self.proof else { return Ok(Authenticated(None)) };
        let rules =
            trust.rules().map_err(|error| Status::failed_precondition(error.to_string()))?;
        let mut seen = proof.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if !Arc::ptr_eq(&seen.0, &rules) || seen.1.until < SystemTime::now() {
            let who = rules.caller(&proof.chain, UnixTime::now()).map_err(|error| {
                let why = explain(&error);
                Status::unauthenticated(format!("{} is not trusted any more: {why}", seen.1))
            })?;
            *seen = (rules, who);
        }
        Ok(Authenticated(Some(seen.1.clone())))
    }
}
