//! Who may ask the agent over HTTP, and from where.
//!
//! Goals: a web site that somebody visits on this host can neither read nor change anything here,
//! whatever name it has its address resolved to, nor listen where a browser says whose page asks;
//! elsewhere a token
//! is needed for everything but the page itself, which says nothing. Non-goals: encryption. Whoever
//! does not trust the network puts a proxy with TLS in front, or a tunnel.

use std::net::IpAddr;

use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderMap, HeaderName, ORIGIN};
use hyper::{Method, StatusCode};

use crate::secret;

/// How a browser says whose page asks: <https://www.w3.org/TR/fetch-metadata/>.
const SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Why somebody is turned away.
type Refusal = (StatusCode, String);

/// What a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Aim {
    /// The page, its style and its script, which are the same for everybody.
    Page,
    /// To know something of this host.
    Read,
    /// To change something, which takes this right.
    Change(WebRight),
}

/// What may be done over HTTP; each right has those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum WebRight {
    /// To look.
    Look,
    /// To order moves, and to cancel them.
    Order,
    /// To decide about guests in doubt.
    Manage,
}

impl WebRight {
    /// Its name, as a policy file has it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Look => "look",
            Self::Order => "order",
            Self::Manage => "manage",
        }
    }
}

/// The rules of one agent.
#[derive(Clone, Debug)]
pub(super) struct Gate {
    token: Option<String>,
    /// A name of this host beside `localhost`.
    name: Option<String>,
    may: WebRight,
}

impl Gate {
    pub(super) fn new(token: Option<String>, name: Option<String>, may: WebRight) -> Self {
        Self { token, name, may }
    }

    /// Whether there is no token to be shown.
    pub(super) const fn asks_nobody(&self) -> bool {
        self.token.is_none()
    }

    /// What whoever comes through may do.
    pub(super) const fn may(&self) -> WebRight {
        self.may
    }

    /// Whether a request may go on.
    pub(super) fn check(
        &self,
        aim: Aim,
        method: &Method,
        headers: &HeaderMap,
    ) -> Result<(), Refusal> {
        let host =
            text(headers, &HOST).ok_or_else(|| refusal(StatusCode::BAD_REQUEST, "no Host"))?;
        match &self.token {
            Some(_) if aim == Aim::Page => {}
            Some(token) => check_token(token, headers)?,
            // A name that somebody else has pointed here is not ours.
            None if !self.is_ours(host) => {
                let why = "this agent is asked by its address, or by the name it advertises";
                return Err(refusal(StatusCode::MISDIRECTED_REQUEST, why));
            }
            None => {}
        }
        let allowed = match aim {
            Aim::Page | Aim::Read => method == Method::GET || method == Method::HEAD,
            Aim::Change(_) => method == Method::POST,
        };
        if !allowed {
            return Err(refusal(StatusCode::METHOD_NOT_ALLOWED, "this is asked in another way"));
        }
        if aim != Aim::Page {
            check_site(host, headers)?;
        }
        let Aim::Change(needed) = aim else { return Ok(()) };
        check_json(headers)?;
        self.check_right(needed)
    }

    fn check_right(&self, needed: WebRight) -> Result<(), Refusal> {
        if needed <= self.may {
            return Ok(());
        }
        let (may, needed) = (self.may.name(), needed.name());
        let why = format!(
            "over HTTP one may {may} here, and this is to {needed}: an agent with \
             --http-may {needed} allows it, `whimbrel` with an identity does what the policy says"
        );
        Err((StatusCode::FORBIDDEN, why))
    }

    /// An address cannot be made to mean another host; a name can, unless nobody else gives it.
    fn is_ours(&self, host: &str) -> bool {
        let name = without_port(host);
        let address = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().is_ok();
        let named = |own: &String| own.eq_ignore_ascii_case(name);
        address || name.eq_ignore_ascii_case("localhost") || self.name.as_ref().is_some_and(named)
    }
}

fn check_token(token: &str, headers: &HeaderMap) -> Result<(), Refusal> {
    let shown = text(headers, &AUTHORIZATION).and_then(|shown| shown.strip_prefix("Bearer "));
    match shown.is_some_and(|shown| secret::same(token.as_bytes(), shown.as_bytes())) {
        true => Ok(()),
        false => {
            let how = "show the token: Authorization: Bearer TOKEN";
            Err(refusal(StatusCode::UNAUTHORIZED, how))
        }
    }
}

fn refusal(status: StatusCode, why: &str) -> Refusal {
    (status, why.to_owned())
}

/// Browsers say which page a request comes from. Another one could read nothing, but take the
/// places of those who look.
fn check_site(host: &str, headers: &HeaderMap) -> Result<(), Refusal> {
    let another = || Err(refusal(StatusCode::FORBIDDEN, "another page may not do this"));
    if text(headers, &SITE).is_some_and(|site| !matches!(site, "same-origin" | "none")) {
        return another();
    }
    let Some(origin) = headers.get(ORIGIN) else { return Ok(()) };
    let origin = origin.to_str().ok().and_then(|origin| origin.split_once("://"));
    match origin.is_some_and(|(_, origin)| origin.eq_ignore_ascii_case(host)) {
        true => Ok(()),
        false => another(),
    }
}

/// Browsers ask before they send JSON for another page.
fn check_json(headers: &HeaderMap) -> Result<(), Refusal> {
    let kind = text(headers, &CONTENT_TYPE);
    match kind.is_some_and(|kind| kind.starts_with("application/json")) {
        true => Ok(()),
        false => Err(refusal(StatusCode::UNSUPPORTED_MEDIA_TYPE, "say it in JSON")),
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// `[::1]:80` without `:80`.
fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(HeaderName, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect()
    }

    fn refused(gate: &Gate, aim: Aim, method: &Method, pairs: &[(HeaderName, &str)]) -> u16 {
        gate.check(aim, method, &headers(pairs)).map_or_else(|(status, _)| status.as_u16(), |()| 0)
    }

    #[test]
    fn without_a_token_only_names_that_nobody_else_gives_are_answered() {
        let gate = Gate::new(None, Some("host-a".to_owned()), WebRight::Look);
        let get = |host| refused(&gate, Aim::Read, &Method::GET, &[(HOST, host)]);
        for ours in ["127.0.0.1:9117", "[::1]:9117", "localhost:9117", "LOCALHOST", "host-a:1"] {
            assert_eq!(get(ours), 0, "{ours}");
        }
        for theirs in ["evil.example:9117", "127.0.0.1.evil.example", "localhost.evil.example"] {
            assert_eq!(get(theirs), 421, "{theirs}");
        }
        assert_eq!(refused(&gate, Aim::Read, &Method::GET, &[]), 400);
    }

    #[test]
    fn with_a_token_nothing_but_the_page_is_had_without_it() {
        let gate = Gate::new(Some("sesame-sesame-sesame".to_owned()), None, WebRight::Look);
        let host = (HOST, "host-a.example");
        assert_eq!(refused(&gate, Aim::Page, &Method::GET, std::slice::from_ref(&host)), 0);
        assert_eq!(refused(&gate, Aim::Read, &Method::GET, std::slice::from_ref(&host)), 401);
        let shown = |token| [host.clone(), (AUTHORIZATION, token)];
        let read = |token| refused(&gate, Aim::Read, &Method::GET, &shown(token));
        assert_eq!(read("Bearer sesame-sesame-sesame"), 0);
        for wrong in ["Bearer sesame", "Bearer ", "sesame-sesame-sesame", "Basic x"] {
            assert_eq!(read(wrong), 401, "{wrong}");
        }
    }

    #[test]
    fn nothing_is_changed_by_a_look_or_from_another_page() {
        let gate = Gate::new(None, None, WebRight::Order);
        let (host, json) = ((HOST, "127.0.0.1:9"), (CONTENT_TYPE, "application/json"));
        let change = |method: &Method, pairs: &[(HeaderName, &str)]| {
            refused(
                &gate,
                Aim::Change(WebRight::Order),
                method,
                &[std::slice::from_ref(&host), pairs].concat(),
            )
        };
        assert_eq!(change(&Method::POST, std::slice::from_ref(&json)), 0);
        assert_eq!(change(&Method::POST, &[json.clone(), (ORIGIN, "http://127.0.0.1:9")]), 0);
        assert_eq!(change(&Method::GET, std::slice::from_ref(&json)), 405);
        assert_eq!(change(&Method::POST, &[(CONTENT_TYPE, "text/plain")]), 415);
        for page in ["http://127.0.0.1:8", "http://evil.example", "null", "http://127.0.0.1:9.x"] {
            assert_eq!(change(&Method::POST, &[json.clone(), (ORIGIN, page)]), 403, "{page}");
        }
    }

    #[test]
    fn another_page_does_not_look_either() {
        let gate = Gate::new(None, None, WebRight::Look);
        let read = |pairs: &[(HeaderName, &str)]| {
            let pairs = [&[(HOST, "127.0.0.1:9")], pairs].concat();
            let refused = |aim| refused(&gate, aim, &Method::GET, &pairs);
            assert_eq!(refused(Aim::Page), 0, "a link leads to the page: {pairs:?}");
            refused(Aim::Read)
        };
        for (site, status) in
            [("same-origin", 0), ("none", 0), ("same-site", 403), ("cross-site", 403)]
        {
            assert_eq!(read(&[(SITE, site)]), status, "{site}");
        }
        assert_eq!(read(&[(ORIGIN, "http://127.0.0.1:9")]), 0);
        assert_eq!(read(&[(ORIGIN, "http://127.0.0.1:8")]), 403);
    }

    #[test]
    fn nobody_does_more_than_is_allowed_over_http() {
        let order = [WebRight::Look, WebRight::Order, WebRight::Manage];
        for may in order {
            let gate = Gate::new(None, None, may);
            let pairs = [(HOST, "127.0.0.1:9"), (CONTENT_TYPE, "application/json")];
            for needed in order {
                let status = refused(&gate, Aim::Change(needed), &Method::POST, &pairs);
                assert_eq!(status, if needed <= may { 0 } else { 403 }, "{may:?} {needed:?}");
            }
        }
    }
}
