use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// One Rust file, schema or page of text.
#[derive(Clone, Debug)]
pub struct SourceFile {
    /// From the root of the workspace, with `/`.
    pub path: String,
    /// What is in it.
    pub text: String,
}

/// One package's `Cargo.toml`.
#[derive(Clone, Debug)]
pub struct Manifest {
    /// From the root of the workspace, with `/`.
    pub path: String,
    /// What is in it.
    pub table: toml::Table,
}

impl Manifest {
    /// Reads a manifest's text.
    ///
    /// # Panics
    /// If it is no TOML: cargo would not have come this far.
    #[must_use]
    pub fn parse(path: &str, text: &str) -> Self {
        let table = text.parse().unwrap_or_else(|why| panic!("{path}: {why}"));
        Self { path: path.to_owned(), table }
    }

    /// The package's name.
    #[must_use]
    pub fn name(&self) -> &str {
        let name = self.table.get("package").and_then(|package| package.get("name"));
        name.and_then(toml::Value::as_str).unwrap_or("")
    }

    /// The folder the package is in, from the root of the workspace.
    #[must_use]
    pub fn folder(&self) -> &str {
        self.path.strip_suffix("/Cargo.toml").unwrap_or("")
    }
}

/// Every package, Rust file and page of the project.
#[derive(Debug)]
pub struct Workspace {
    /// One for each package, in the order of their paths.
    pub manifests: Vec<Manifest>,
    /// In the order of their paths.
    pub sources: Vec<SourceFile>,
    /// Markdown and schemas, in the order of their paths.
    pub texts: Vec<SourceFile>,
}

/// Where packages and pages may be.
const FOLDERS: [&str; 6] = ["benches", "crates", "docs", "fuzz", "proto", "tests"];
/// Pages at the top.
const PAGES: [&str; 1] = ["README.md"];

impl Workspace {
    /// Reads the workspace that this package was built in.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub fn read() -> io::Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let mut paths = Vec::new();
        for folder in FOLDERS.map(|folder| root.join(folder)) {
            if folder.is_dir() {
                walk(&folder, &mut paths)?;
            }
        }
        paths.extend(PAGES.map(|page| root.join(page)).into_iter().filter(|page| page.is_file()));
        paths.sort();
        let mut found = Self { manifests: Vec::new(), sources: Vec::new(), texts: Vec::new() };
        for path in paths {
            found.add(&root, &path)?;
        }
        Ok(found)
    }

    /// Whether there is a file or folder at `path`, from the root.
    #[must_use]
    pub fn exists(path: &str) -> bool {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path).exists()
    }

    fn add(&mut self, root: &Path, path: &Path) -> io::Result<()> {
        let within = path.strip_prefix(root).expect("walked from the root");
        let within = within.to_string_lossy().replace('\\', "/");
        if within.ends_with("/Cargo.toml") {
            self.manifests.push(Manifest::parse(&within, &fs::read_to_string(path)?));
        } else if within.ends_with(".rs") {
            self.sources.push(SourceFile { path: within, text: fs::read_to_string(path)? });
        } else if within.ends_with(".md") || within.ends_with(".proto") {
            self.texts.push(SourceFile { path: within, text: fs::read_to_string(path)? });
        }
        Ok(())
    }
}

fn walk(folder: &Path, paths: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if !path.is_dir() {
            paths.push(path);
        } else if !path.ends_with("target") {
            walk(&path, paths)?;
        }
    }
    Ok(())
}
