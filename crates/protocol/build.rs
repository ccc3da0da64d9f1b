//! Generates the structs of `proto/whimbrel/session/v1/session.proto`; needs no protoc.

use std::error::Error;
use std::io::Write as _;

fn main() -> Result<(), Box<dyn Error>> {
    let (root, file) = ("../../proto", "whimbrel/session/v1/session.proto");
    writeln!(std::io::stdout(), "cargo::rerun-if-changed={root}/{file}")?;
    let descriptors = protox::compile([file], [root])?;
    prost_build::Config::new().bytes(["."]).compile_fds(descriptors)?;
    Ok(())
}
