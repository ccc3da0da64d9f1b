//! Generates the agent's API from its `.proto` files, without an installed protoc.

use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = Path::new("../../proto");
    println!("cargo:rerun-if-changed=../../proto/whimbrel/agent");
    let schemas = ["whimbrel/agent/v1/agent.proto", "whimbrel/agent/v1/ticket.proto"];
    let files = protox::compile(schemas, [root])?;
    tonic_prost_build::configure().compile_fds(files)?;
    Ok(())
}
