//! The key-value guest as clients meet it that we did not write, at rest and on the move.
#![cfg(target_os = "linux")]

mod border;
mod breaking;
mod dumping;
mod library;
mod load;
mod moving;
mod said;
mod surface;
mod switching;

use whimbrel_tests::program::Agent;

/// An agent with a store on it, and where its clients connect.
async fn store(agent: &Agent, memory: &str) -> String {
    agent.guest("store", &["--guest", "kv", "--memory", memory]).await;
    moving::entrance(agent).await
}
