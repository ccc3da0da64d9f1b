//! The rules of the house, held against the workspace as it is.

use std::process::Command;

use whimbrel_tests::house::{
    Breach, Workspace, arrows, citations, heads, purity, reach, sizes, words,
};

fn workspace() -> Workspace {
    let workspace = Workspace::read().expect("the workspace can be read");
    assert!(workspace.manifests.len() >= 12, "the walk has missed packages");
    assert!(workspace.sources.len() >= 20, "the walk has missed sources");
    workspace
}

#[track_caller]
fn none(breaches: &[Breach]) {
    let lines: Vec<_> = breaches.iter().map(ToString::to_string).collect();
    assert!(lines.is_empty(), "{} breaches:\n{}", lines.len(), lines.join("\n"));
}

#[test]
fn arrows_point_one_way() {
    none(&arrows::check(&workspace().manifests));
}

#[test]
fn lines_functions_and_files_are_short() {
    let sources = workspace().sources;
    let product = sources.iter().filter(|source| source.path.starts_with("crates/"));
    let functions: Vec<_> = product.flat_map(sizes::functions).collect();
    let (median, tenth) = (sizes::percentile(&functions, 50), sizes::percentile(&functions, 90));
    println!("{} functions in crates/: median {median} lines, 90 % ≤ {tenth}", functions.len());
    none(&sizes::check(&sources));
}

#[test]
fn no_file_is_forgotten() {
    let workspace = workspace();
    none(&reach::check(&workspace.manifests, &workspace.sources));
}

#[test]
fn crates_say_what_they_do_not_do() {
    none(&heads::check(&workspace().sources));
}

#[test]
fn words_stay_in_their_rooms() {
    let workspace = workspace();
    let reached = reach::reached(&workspace.manifests, &workspace.sources);
    none(&words::check(&workspace.sources, &reached));
}

#[test]
fn code_cites_the_law_of_the_wire() {
    let workspace = workspace();
    let law = workspace.texts.iter().find(|text| text.path == "proto/wire.md");
    let crates = workspace.sources.iter().filter(|source| source.path.starts_with("crates/"));
    let code: Vec<_> = crates.cloned().collect();
    let citing = [code.as_slice(), workspace.texts.as_slice()].concat();
    let law = law.expect("the law is there");
    none(&citations::check(law, &citing));
    none(&citations::uncited(law, &code));
}

#[test]
fn claims_about_threats_are_tested() {
    let workspace = workspace();
    let page = workspace.texts.iter().find(|text| text.path == "docs/THREAT_MODEL.md");
    none(&citations::unproven(page.expect("the page is there"), &workspace.sources));
}

#[test]
fn links_of_the_pages_lead_somewhere() {
    let pages = workspace().texts;
    let dead = pages.iter().flat_map(|page| citations::dead_links(page, Workspace::exists));
    none(&dead.collect::<Vec<_>>());
}

#[test]
fn page_and_protocol_stand_on_nothing_that_does_io() {
    for package in ["whimbrel-page", "whimbrel-protocol"] {
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["tree", "--offline", "--locked", "--package", package, "--prefix", "none"]);
        cargo.args(["--edges", "normal,no-proc-macro", "--format", "{lib} {f}"]);
        let tree = cargo.current_dir(env!("CARGO_MANIFEST_DIR")).output().expect("cargo runs");
        let said = String::from_utf8_lossy(&tree.stderr);
        assert!(tree.status.success(), "cargo tree: {said}");
        let tree = String::from_utf8(tree.stdout).expect("names are ASCII");
        assert!(tree.contains(&package.replace('-', "_")), "a tree of {package}: {tree}");
        none(&purity::check(package, &tree));
    }
}
