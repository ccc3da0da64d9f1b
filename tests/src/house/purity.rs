//! What `page` and `protocol` stand on: read from `cargo tree`.
//!
//! Why this proves that they do no I/O: both are `#![no_std]` and forbid unsafe code, so their
//! own code can name `core` and `alloc` only, and those hold no file, socket, clock or thread.
//! What is left is a dependency that does it for them. A dependency without a `std` feature
//! turned on, and not one of the crates that reach the system by themselves, cannot either.
//! Macros and build scripts run in the compiler and do not count. Where rustc has the target
//! `x86_64-unknown-none`, which has no standard library at all, `.ci/run` builds both for it as
//! well: then not even a mistaken list can hide one.

use super::Breach;

/// Features that let a crate use the standard library.
const STD_FEATURES: [&str; 3] = ["std", "use_std", "full"];

/// Crates that reach the operating system by themselves.
const IO_CRATES: [&str; 14] = [
    "async-std",
    "getrandom",
    "libc",
    "memmap2",
    "mio",
    "nix",
    "quinn",
    "rand",
    "rustix",
    "smol",
    "socket2",
    "tokio",
    "windows-sys",
    "winapi",
];

/// Reads lines of `name features…` as `cargo tree --prefix none -f '{lib} {f}'` prints them.
#[must_use]
pub fn check(package: &str, tree: &str) -> Vec<Breach> {
    tree.lines().filter_map(impure).map(|w| Breach::new(package, 0, w)).collect()
}

fn impure(line: &str) -> Option<String> {
    let mut words = line.split([' ', ',']).filter(|word| !word.is_empty());
    let name = words.next()?.replace('_', "-");
    if IO_CRATES.contains(&name.as_str()) {
        return Some(format!("stands on `{name}`, which reaches the system"));
    }
    let feature = words.find(|feature| STD_FEATURES.contains(feature))?;
    Some(format!("turns on `{feature}` of `{name}`: leave its default features off"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pure_tree_passes_and_each_impurity_is_found() {
        let pure = "whimbrel_page \nbitvec alloc\nbytes \nradium \ntwox_hash xxhash3_128\n";
        assert_eq!(check("page", pure), []);
        assert_eq!(check("page", "bytes default,std\n").len(), 1);
        assert_eq!(check("page", "windows_sys \n").len(), 1);
        assert_eq!(check("page", "whimbrel_page \nbytes std\nlibc \n").len(), 2);
    }
}
