//! Clients of Linux stay connected while their store crosses the border to Windows and back.
//! Windows is Wine here.

use whimbrel_tests::program::{Agent, How};
use whimbrel_tests::windows;

use crate::load::Checker;
use crate::moving::{is_sound, migrate};
use crate::store;

const CROSSINGS: u32 = 10;

#[tokio::test(flavor = "multi_thread")]
async fn clients_do_not_notice_that_their_store_crosses_the_border() {
    if !windows::is_here() {
        return;
    }
    let how = How { windows: true, ..How::with(&["--die-with-parent"]) };
    let (here, there) = (Agent::start().await, Agent::start_as(&std::env::temp_dir(), how).await);
    let address = store(&here, "32MiB").await;
    let checker = Checker::start(&address, 3).await;
    for _ in 0..CROSSINGS {
        migrate(&here, &there).await;
        is_sound(&there).await;
        migrate(&there, &here).await;
    }
    assert!(checker.finish().await > 0);
    is_sound(&here).await;
}
