//! Puts the museum's defects back into copies of the source, and shows that a test fails with each.
#![forbid(unsafe_code)]

use std::fs;
use std::io;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use whimbrel_tests::museum::{MUTATIONS, Mutation};

/// What a build of the workspace needs.
const NEEDED: [&str; 8] =
    ["Cargo.toml", "Cargo.lock", "crates", "tests", "benches", "fuzz", "proto", "docs"];

fn main() -> ExitCode {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let missed = MUTATIONS.iter().filter(|mutation| {
        let found = try_one(mutation, &root, folder.path());
        let said = match &found {
            Ok(true) => "found out".to_owned(),
            Ok(false) => "NOT FOUND OUT".to_owned(),
            Err(why) => format!("could not be tried: {why}"),
        };
        println!("{}: {said} by {}", mutation.name, mutation.test.join(" "));
        !matches!(found, Ok(true))
    });
    if missed.count() > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Whether the test passes without the defect and fails with it, and the defect builds.
fn try_one(mutation: &Mutation, root: &Path, folder: &Path) -> io::Result<bool> {
    for needed in NEEDED {
        copy(&root.join(needed), &folder.join(needed))?;
    }
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or(root.join("target"), Into::into);
    let run = |more: &[&str]| {
        let mut cargo = Command::new("cargo");
        cargo.arg("test").args(mutation.test).args(more).current_dir(folder);
        cargo.env("CARGO_TARGET_DIR", &target).stdout(Stdio::null()).stderr(Stdio::null()).status()
    };
    // A test that fails anyway finds nothing out.
    if !run(&[])?.success() {
        return Err(io::Error::other("the test fails without it as well"));
    }
    let file = folder.join(mutation.file);
    let text = fs::read_to_string(&file)?;
    fs::write(&file, text.replacen(mutation.from, mutation.to, 1))?;
    if !run(&["--no-run"])?.success() {
        return Err(io::Error::other("it does not build"));
    }
    Ok(!run(&[])?.success())
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    if from.is_file() {
        return fs::copy(from, to).map(drop);
    }
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let name = entry?.file_name();
        if name != "target" {
            copy(&from.join(&name), &to.join(&name))?;
        }
    }
    Ok(())
}
