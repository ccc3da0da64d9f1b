//! What can be wrong with identities: certificates that end, files that others may change.

use std::path::Path;
use std::time::SystemTime;

use whimbrel_agent::named_in_policy;
use whimbrel_control::identity::{IdentityFolder, PairedFile, Trust, explain, writable_by_others};

use super::Finding;
use crate::trust::days_left;

/// A certificate that ends sooner is to be renewed.
const DAYS_WANTED: u64 = 30;

/// Looks at the files of an agent.
pub(super) fn files(data: &Path) -> Vec<Finding> {
    let folder = IdentityFolder::at(data.join("identity"));
    let mut found = vec![certificate(&folder), policy(&data.join("policy.toml"), &folder)];
    let mut open = folder.exposed();
    for path in [data.to_owned(), data.join("policy.toml"), data.join("tickets")] {
        if let Ok(Some(exposure)) = writable_by_others(&path) {
            open.push((path, exposure));
        }
    }
    let subject = "permissions";
    if open.is_empty() {
        found.push(Finding::ok(subject, "nobody else may change the agent's files"));
    }
    found.extend(open.into_iter().map(|(path, exposure)| {
        let shown = path.display();
        let told = format!("{shown} has {exposure}: others may change what the agent trusts");
        Finding::bad(subject, told, exposure.advice(&path))
    }));
    found
}

fn certificate(folder: &IdentityFolder) -> Finding {
    let subject = "certificate";
    let own = match folder.own() {
        Ok(own) => own,
        Err(error) => {
            let advice = "start the agent once, or `whimbrel pki issue` a new identity";
            return Finding::bad(subject, error.to_string(), advice);
        }
    };
    // One that an agent makes for itself it also renews.
    let advice = match own.self_made {
        true => "start the agent again: it renews a certificate that it has made itself",
        false => "`whimbrel pki issue` a new one, and bring it to DATA/identity",
    };
    let name = if own.self_made { "made by itself" } else { &own.name };
    match own.lasts(SystemTime::now()) {
        None => Finding::bad(subject, format!("{name}: it has expired"), advice),
        Some(_) if let Err((why, advice)) = believed(folder) => {
            Finding::bad(subject, format!("{name}: {why}"), advice)
        }
        Some(_) if days_left(&own) < DAYS_WANTED => {
            Finding::warn(subject, format!("{name}: it ends in {} days", days_left(&own)), advice)
        }
        Some(_) => Finding::ok(subject, format!("{name}, good for {} days", days_left(&own))),
    }
}

/// Whether others believe this identity who have its authorities and what these have taken back; if
/// not, why, and what to do.
fn believed(folder: &IdentityFolder) -> Result<(), (String, &'static str)> {
    let unread = |why: String| (why, "mend that file, or bring it here again");
    let trust = Trust::open(folder.clone()).map_err(|error| unread(error.to_string()))?;
    let rules = trust.rules().map_err(|error| unread(error.to_string()))?;
    let advice = "`whimbrel pki issue` a new identity, and bring it to DATA/identity";
    rules.own_who().map(drop).map_err(|error| (explain(&error).to_string(), advice))
}

fn policy(path: &Path, folder: &IdentityFolder) -> Finding {
    let subject = "policy";
    let named = match named_in_policy(path) {
        Err(error) => return Finding::bad(subject, error.to_string(), "mend that line"),
        Ok(_) if !path.exists() => {
            return Finding::ok(subject, "none: beyond this host nobody may do anything");
        }
        Ok(named) => named,
    };
    // An authority may certify any name.
    let paired = match folder.authority().exists() {
        true => None,
        false => PairedFile::read(folder).ok(),
    };
    let is_known = |name: &String| {
        paired.as_ref().is_none_or(|file| file.all.iter().any(|paired| paired.name == *name))
    };
    match named.iter().find(|name| !is_known(name)) {
        Some(name) => {
            let found = format!("{} names `{name}`, and nobody is paired as that", path.display());
            Finding::warn(subject, found, "correct the name, or `whimbrel pair` that host")
        }
        None => Finding::ok(subject, format!("{} is good", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use whimbrel_control::identity::{Authority, Wanted};

    use super::super::Verdict;
    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    fn verdicts(found: &[Finding]) -> Vec<(&str, Verdict)> {
        found.iter().map(|finding| (finding.subject.as_str(), finding.verdict)).collect()
    }

    #[test]
    fn what_an_agent_keeps_is_looked_at() {
        let temp = tempfile::tempdir().expect("a folder");
        let data = temp.path();
        let found = files(data);
        assert_eq!(verdicts(&found)[0], ("certificate", Verdict::Bad));
        IdentityFolder::at(data.join("identity")).ensure().expect("an identity");
        let good = ["certificate", "policy", "permissions"].map(|what| (what, Verdict::Ok));
        assert_eq!(verdicts(&files(data)), good);
        std::fs::write(data.join("policy.toml"), "send = ['hostb']").expect("a file");
        let found = files(data);
        assert_eq!(verdicts(&found)[1], ("policy", Verdict::Warn));
        assert!(found[1].found.contains("`hostb`"), "{found:?}");
        std::fs::write(data.join("policy.toml"), "sned = []").expect("a file");
        let found = files(data);
        assert_eq!(verdicts(&found)[1], ("policy", Verdict::Bad));
        assert!(found[1].found.contains("sned"), "{found:?}");
    }

    #[test]
    fn a_certificate_that_was_taken_back_is_not_good() {
        let temp = tempfile::tempdir().expect("a folder");
        let authority = Authority::at(temp.path().join("pki"));
        authority.init("tests", 400 * DAY).expect("an authority");
        let folder = IdentityFolder::at(temp.path().join("identity"));
        let wanted = Wanted { name: "host-a", hosts: &[], lifetime: 100 * DAY };
        authority.issue(&wanted, &folder).expect("an identity");
        authority.revoke("host-a").expect("it was issued");
        // Nobody has brought the list yet.
        assert_eq!(certificate(&folder).verdict, Verdict::Ok);
        std::fs::copy(temp.path().join("pki/revoked.pem"), folder.revoked()).expect("a list");
        let found = certificate(&folder);
        assert_eq!(found.verdict, Verdict::Bad);
        assert_eq!(found.found, "host-a: its certificate is revoked");
    }

    #[test]
    fn a_certificate_that_is_about_to_end_is_warned_of() {
        let temp = tempfile::tempdir().expect("a folder");
        let authority = Authority::at(temp.path().join("pki"));
        authority.init("tests", 400 * DAY).expect("an authority");
        let mut found = Vec::new();
        for days in [0, 5, 29, 31, 365] {
            // Half a day, so that it is not a matter of how long this takes.
            let lifetime = days * DAY + DAY / 2;
            let wanted = Wanted { name: "host-a", hosts: &[], lifetime };
            let folder = IdentityFolder::at(temp.path().join(days.to_string()));
            authority.issue(&wanted, &folder).expect("an identity");
            found.push(certificate(&folder));
        }
        let verdicts: Vec<_> = found.iter().map(|finding| finding.verdict).collect();
        let (warn, ok) = (Verdict::Warn, Verdict::Ok);
        assert_eq!(verdicts, [warn, warn, warn, ok, ok], "{found:?}");
        assert_eq!(found[1].found, "host-a: it ends in 5 days");
        assert!(found[1].advice.as_ref().is_some_and(|it| it.contains("whimbrel pki issue")));
    }
}
