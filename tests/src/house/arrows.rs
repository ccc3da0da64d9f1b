//! Who may use whom: the arrow table of the design, and who holds which foreign crate.

use super::{Breach, Manifest};

/// Each crate of the product and the sisters it may use. Arrows point one way.
const ARROWS: [(&str, &[&str]); 12] = [
    ("win32", &[]),
    ("page", &[]),
    ("protocol", &["page"]),
    ("memory", &["page"]),
    ("transport", &["page", "win32"]),
    ("engine", &["page", "protocol", "memory", "transport"]),
    ("guest", &["engine", "memory"]),
    ("sim", &["page", "protocol"]),
    ("identity", &["win32"]),
    ("control", &["identity"]),
    ("agent", &["engine", "guest", "identity", "control", "win32"]),
    ("cli", &["control", "agent"]),
];

/// Packages outside the product: they may use every crate, and no crate may use them.
const OUTSIDE: [&str; 3] = ["tests", "benches", "fuzz"];

/// All that the crates without I/O may stand on at run time, each without its `std` feature.
const PURE: [(&str, &[&str]); 2] = [
    ("page", &["bitvec", "bytes", "thiserror", "twox-hash"]),
    ("protocol", &["bytes", "prost", "thiserror", "twox-hash"]),
];

/// Foreign crates that belong to some crates only: the operating system to those with a room
/// for it, untyped errors to the ones behind binaries, each format to one place.
const HOLDERS: [(&str, &[&str]); 14] = [
    ("libc", &["memory", "transport", "agent"]),
    ("rustix", &["memory", "transport", "agent"]),
    ("nix", &[]),
    ("windows-sys", &["memory", "win32"]),
    ("memmap2", &["memory"]),
    ("socket2", &["transport", "agent"]),
    ("tokio", &["transport", "engine", "control", "agent", "cli"]),
    ("anyhow", &["agent", "cli"]),
    ("clap", &["cli"]),
    ("prost", &["protocol", "control", "agent"]),
    ("tonic", &["control", "agent", "cli"]),
    ("userfaultfd", &[]),
    ("if-addrs", &["transport"]),
    ("quinn", &["transport"]),
];

/// One line of a manifest that names another package.
struct Dependency<'a> {
    name: &'a str,
    /// `dependencies`, `dev-dependencies` or `build-dependencies`.
    section: &'a str,
}

/// Every breach of the tables above.
#[must_use]
pub fn check(manifests: &[Manifest]) -> Vec<Breach> {
    manifests.iter().flat_map(check_one).collect()
}

fn check_one(manifest: &Manifest) -> Vec<Breach> {
    let short = manifest.name().strip_prefix("whimbrel-").unwrap_or(manifest.name());
    if OUTSIDE.contains(&short) {
        return Vec::new();
    }
    let Some((_, sisters)) = ARROWS.iter().find(|(name, _)| *name == short) else {
        return vec![Breach::new(&manifest.path, 0, "not in the arrow table: add a row")];
    };
    let complaints = dependencies(&manifest.table).into_iter().filter_map(|dependency| {
        match dependency.name.strip_prefix("whimbrel-") {
            Some(sister) => check_arrow(short, sister, sisters),
            None => check_foreign(short, &dependency),
        }
    });
    complaints.map(|what| Breach::new(&manifest.path, 0, what)).collect()
}

fn check_arrow(from: &str, to: &str, allowed: &[&str]) -> Option<String> {
    let forbidden =
        || format!("{from} ─► {to} is not in the arrow table: {from} may use {allowed:?}");
    (!allowed.contains(&to)).then(forbidden)
}

fn check_foreign(short: &str, dependency: &Dependency<'_>) -> Option<String> {
    let Dependency { name, section } = dependency;
    let pure = PURE.iter().find(|(pure, _)| *pure == short);
    if let Some((_, allowed)) = pure.filter(|_| *section == "dependencies") {
        let forbidden = || format!("{short} does no I/O and may stand on {allowed:?} only: {name}");
        return (!allowed.contains(name)).then(forbidden);
    }
    let (_, holders) = HOLDERS.iter().find(|(held, _)| held == name)?;
    let forbidden = || format!("{name} belongs to {holders:?}, not to {short}");
    (*section == "dependencies" && !holders.contains(&short)).then(forbidden)
}

/// Every dependency of a manifest, also those of one platform, under the package's own name.
fn dependencies(table: &toml::Table) -> Vec<Dependency<'_>> {
    let platforms = table.get("target").and_then(toml::Value::as_table);
    let platforms = platforms.into_iter().flat_map(|t| t.values()).filter_map(|v| v.as_table());
    let mut found = Vec::new();
    for table in std::iter::once(table).chain(platforms) {
        for section in ["dependencies", "dev-dependencies", "build-dependencies"] {
            let lines = table.get(section).and_then(toml::Value::as_table);
            found.extend(lines.into_iter().flatten().map(|(key, value)| {
                let renamed = value.get("package").and_then(toml::Value::as_str);
                Dependency { name: renamed.unwrap_or(key), section }
            }));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn breaches(name: &str, rest: &str) -> Vec<String> {
        let text = format!("[package]\nname = \"whimbrel-{name}\"\n{rest}");
        let manifest = Manifest::parse("crates/x/Cargo.toml", &text);
        check(&[manifest]).into_iter().map(|breach| breach.what).collect()
    }

    #[test]
    fn arrows_of_the_table_pass() {
        let text = "[dependencies]\nwhimbrel-page.workspace = true\nlibc = \"0.2\"";
        assert_eq!(breaches("memory", text), [""; 0]);
        assert_eq!(breaches("tests", "[dependencies]\nwhimbrel-cli = \"0\"\nnix = \"1\""), [""; 0]);
    }

    #[test]
    fn a_sister_is_not_seen_in_any_section() {
        for section in ["dependencies", "dev-dependencies", "target.'cfg(unix)'.dependencies"] {
            let text = format!("[{section}]\nwhimbrel-transport.workspace = true");
            assert!(breaches("memory", &text)[0].contains("memory ─► transport"));
        }
    }

    #[test]
    fn a_renamed_sister_is_recognised() {
        let text = "[dependencies]\np = { package = \"whimbrel-page\", path = \"../page\" }";
        assert!(breaches("guest", text)[0].contains("guest ─► page"));
    }

    #[test]
    fn no_arrow_points_back() {
        for (at, (_, sisters)) in ARROWS.iter().enumerate() {
            for sister in *sisters {
                let below = ARROWS[..at].iter().any(|(name, _)| name == sister);
                assert!(below, "{sister} stands after its user in the table");
            }
        }
    }

    #[test]
    fn a_crate_without_a_row_is_refused() {
        assert!(breaches("helpers", "")[0].contains("not in the arrow table"));
    }

    #[test]
    fn pure_crates_and_holders_are_held() {
        let tokio = "[dependencies]\ntokio = \"1\"";
        assert!(breaches("protocol", tokio)[0].contains("does no I/O"));
        assert!(breaches("memory", tokio)[0].contains("tokio belongs to"));
        assert_eq!(breaches("protocol", "[dev-dependencies]\nproptest = \"1\""), [""; 0]);
        assert_eq!(breaches("engine", "[dependencies]\nanyhow = \"1\"").len(), 1);
    }
}
