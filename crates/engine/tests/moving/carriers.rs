//! Whole migrations that are encrypted or signed, through a network that cuts or lies.

use std::sync::Arc;
use std::time::Duration;

use whimbrel_engine::page::ByteCount;
use whimbrel_engine::{Carrier, Credentials, Ended, Identity, IncomingOptions, Outcome};

use crate::relay::{Cut, Relay};
use crate::scribe::{Scribe, ScribeFactory};
use crate::{PAGES, assert_moved_whole, assert_writes, incoming, options, outgoing};

/// Each side's key, and the other's certificate.
pub(crate) fn credentials() -> (Credentials, Credentials) {
    let make = || Arc::new(Identity::generate().expect("random numbers"));
    let (one, other) = (make(), make());
    let near = Credentials { identity: one.clone(), peer: other.fingerprint() };
    (near, Credentials { identity: other, peer: one.fingerprint() })
}

async fn migrate(
    guest: Scribe,
    carriers: (Carrier, Carrier),
    cuts: Vec<(u64, Cut)>,
) -> (Ended, Ended) {
    let mut there = IncomingOptions::default();
    there.lanes.carrier = carriers.1;
    let (incoming, mut address) = incoming(ScribeFactory::default(), there);
    let relay = Relay::to(address.address, cuts).await;
    address.address = relay.address;
    let mut wanted = options(Duration::from_secs(1));
    wanted.source.lanes = 2;
    wanted.lanes.window = ByteCount::kib(512);
    wanted.lanes.carrier = carriers.0;
    let cancel = incoming.cancel();
    let source = outgoing(guest, address, wanted);
    let ends = async {
        let ended = source.run().await;
        // A destination that nobody got through to need not wait for anybody.
        cancel.cancel("the source has ended");
        ended
    };
    let (source, destination) = tokio::join!(ends, incoming.run());
    assert_eq!(relay.cuts_left(), 0, "every cut happened: {source:?}");
    (source, destination.expect("a destination"))
}

/// A new control connection has a new secret: lanes of the older one are not taken for its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_protected_link_that_is_lost_comes_back() {
    let (near, far) = credentials();
    for carriers in [
        (Carrier::Signed(near.clone()), Carrier::Signed(far.clone())),
        (Carrier::Tls(near), Carrier::Tls(far)),
    ] {
        let cuts = vec![(4 << 20, Cut::Everything), (10 << 20, Cut::Everything)];
        let (source, destination) = migrate(Scribe::filled(PAGES, 0), carriers, cuts).await;
        let said = |what: &str| source.report.progress.events.iter().any(|(_, e)| e.contains(what));
        assert!(said("the link is back"), "{:?}", source.report.progress.events);
        assert_moved_whole(source, destination);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_is_sent_to_nobody_but_the_one_that_was_told() {
    let ((near, _), (_, stranger)) = (credentials(), credentials());
    for carriers in [
        (Carrier::Signed(near.clone()), Carrier::Signed(stranger.clone())),
        (Carrier::Tls(near), Carrier::Tls(stranger)),
    ] {
        let (source, destination) = migrate(Scribe::filled(PAGES, 64), carriers, Vec::new()).await;
        let Outcome::Aborted(failure) = &source.outcome else { panic!("{source:?}") };
        assert!(failure.why.contains("is not who it should be"), "{failure}");
        assert!(matches!(destination.outcome, Outcome::Aborted(_)), "{destination:?}");
        assert_writes(source.guest.expect("back")).await;
    }
}
