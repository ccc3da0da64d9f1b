//! Generates what an agent says to its guest processes, without an installed protoc.

use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = Path::new("../../proto");
    println!("cargo:rerun-if-changed=../../proto/whimbrel");
    let files = protox::compile(["whimbrel/process/v1/process.proto"], [root])?;
    tonic_prost_build::configure()
        // What both services speak of exists once, in `control`.
        .extern_path(".whimbrel.agent.v1", "::whimbrel_control::api")
        .compile_fds(files)?;
    Ok(())
}
