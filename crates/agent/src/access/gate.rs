//! Before each call: who makes it, and whether they may.

use std::convert::Infallible;
use std::future::{Future, ready};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tonic::Status;
use tonic::body::Body;
use tonic::codegen::{Service, http};

use super::guard::Guard;
use super::{Action, Caller};

/// What a caller needs for a method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Needs {
    /// Nothing but a proven identity.
    Identity,
    /// This right.
    Right(Action),
    /// A part in the matter itself (the guest, the migration, a ticket), which the method checks.
    Part,
}

/// Every method of the API, and what it needs. One that is not here cannot be called.
const METHODS: [(&str, Needs); 23] = [
    // Says who this agent is; what it has is only for those who may look.
    ("GetHost", Needs::Identity),
    ("ListGuests", Needs::Right(Action::Look)),
    ("ListMigrations", Needs::Right(Action::Look)),
    ("GetGuest", Needs::Right(Action::Look)),
    // Reads all of a guest's memory, so to look is not enough.
    ("CheckGuest", Needs::Right(Action::Manage)),
    ("StartGuest", Needs::Right(Action::Manage)),
    ("StopGuest", Needs::Right(Action::Manage)),
    ("ResolveGuest", Needs::Right(Action::Manage)),
    ("ReleaseGuest", Needs::Right(Action::Manage)),
    // To order, or a ticket.
    ("Migrate", Needs::Part),
    // To look, or to have begun it, or to be the other side of it.
    ("GetMigration", Needs::Part),
    ("WatchMigration", Needs::Part),
    // To order, or to have begun it.
    ("CancelMigration", Needs::Part),
    ("SetLimits", Needs::Right(Action::Order)),
    // Sends for some seconds as fast as it can.
    ("ProbePaths", Needs::Right(Action::Order)),
    ("OpenProbe", Needs::Right(Action::Send)),
    // Who knows the token.
    ("CloseProbe", Needs::Right(Action::Send)),
    // To send, or a ticket.
    ("PrepareIncoming", Needs::Part),
    // The other side of a migration of this guest.
    ("CancelIncoming", Needs::Part),
    ("RefreshEndpoints", Needs::Part),
    ("Ask", Needs::Part),
    ("Meet", Needs::Part),
    // Those who had the guest, whose clients may still be connected to them.
    ("Relay", Needs::Part),
];

/// Where methods stand in the path of a call.
const SERVICE: &str = "/whimbrel.agent.v1.Agent/";

fn needs(path: &str) -> Option<Needs> {
    let method = path.strip_prefix(SERVICE)?;
    METHODS.iter().find(|(known, _)| *known == method).map(|(_, needs)| *needs)
}

/// The service behind its gate.
#[derive(Clone)]
pub(crate) struct Gate<S> {
    inner: S,
    guard: Arc<Guard>,
}

impl<S> Gate<S> {
    pub(crate) fn new(inner: S, guard: Arc<Guard>) -> Self {
        Self { inner, guard }
    }

    fn check(&self, request: &mut http::Request<Body>) -> Result<(), Status> {
        let path = request.uri().path();
        let unknown = || Status::unimplemented(format!("there is no method {path}"));
        let needs = needs(path).ok_or_else(unknown)?;
        let caller = request.extensions().get::<Caller>();
        let caller = caller.ok_or_else(|| Status::unauthenticated("nobody knows who calls"))?;
        let who = self.guard.who(caller)?;
        if let Needs::Right(action) = needs {
            self.guard.require(&who, action)?;
        }
        request.extensions_mut().insert(who);
        Ok(())
    }
}

impl<S> Service<http::Request<Body>> for Gate<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        match self.check(&mut request) {
            Ok(()) => Box::pin(self.inner.call(request)),
            Err(status) => Box::pin(ready(Ok(status.into_http()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_method_has_its_need_and_no_other_has() {
        let api = include_str!("../../../../proto/whimbrel/agent/v1/agent.proto");
        let declared = api.lines().filter_map(|line| line.strip_prefix("  rpc "));
        let declared: Vec<_> = declared.filter_map(|line| line.split('(').next()).collect();
        assert!(declared.len() > 10, "the schema was not read");
        for method in &declared {
            let path = format!("{SERVICE}{method}");
            assert!(needs(&path).is_some(), "{method} has no need: add it to the table");
        }
        for (method, _) in METHODS {
            assert!(declared.contains(&method), "{method} is in the table and not in the schema");
        }
        for path in ["", "/", SERVICE, "/other.Agent/GetHost", "/whimbrel.agent.v1.Agent/gethost"] {
            assert_eq!(needs(path), None, "{path}");
        }
    }
}
