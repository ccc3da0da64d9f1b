use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use whimbrel_memory::{GuestMemory, TrackerKind};
use whimbrel_page::{ByteCount, Layout, RegionId};
use whimbrel_protocol::{Fault, GuestUuid, Outcome, Token};

use super::{Spawn, spawn};
use crate::guest::still::Still;
use crate::guest::{Guest, GuestDescription, GuestError, GuestFactory};
use crate::{
    DestinationAddress, Incoming, IncomingOptions, Journal, Outgoing, OutgoingOptions,
    VolatileJournal,
};

const WHY: &str = "there are no more threads";
const NO_THREAD: Spawn = |_| Err(io::Error::other(WHY));
const TOKEN: Token = Token(0x5eca7e);

/// Where nobody arrives, and why.
struct Nowhere(Arc<str>);

impl GuestFactory for Nowhere {
    fn check(&self, _: &GuestDescription, _: &Layout) -> Result<(), String> {
        Err(self.0.to_string())
    }

    fn create(
        &mut self,
        _: &GuestDescription,
        _: GuestMemory,
    ) -> Result<Box<dyn Guest>, GuestError> {
        unreachable!("nothing fits")
    }
}

fn outgoing(guest: Box<dyn Guest>, journal: Box<dyn Journal>, address: SocketAddr) -> Outgoing {
    let tracker = Some(TrackerKind::Model);
    let options = OutgoingOptions { tracker, host: 7, ..OutgoingOptions::default() };
    Outgoing::new(guest, journal, DestinationAddress { address, token: TOKEN }, options)
}

#[tokio::test]
async fn a_source_without_a_thread_gives_the_guest_back_as_it_was() {
    let still = Still::of_pages(16);
    let (memory, asked) = (still.memory(), Arc::clone(&still.asked));
    let word = || memory.load_u64(RegionId(0), ByteCount(8)).expect("inside");
    memory.store_u64(RegionId(0), ByteCount(8), 7).expect("inside");
    let mut guest: Box<dyn Guest> = Box::new(still);
    let mut journal: Box<dyn Journal> = Box::<VolatileJournal>::default();
    let nobody = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
    // The second attempt would find memory that the first one tracks still.
    for _ in 0..2 {
        let ended = outgoing(guest, journal, nobody).drive(NO_THREAD).await;
        let Outcome::Aborted(failure) = &ended.outcome else { panic!("{ended:?}") };
        assert_eq!(failure.why, format!("no thread could be started: {WHY}"));
        assert!(ended.hung.is_none());
        guest = ended.guest.expect("the guest comes back");
        journal = ended.journal;
    }
    assert_eq!(asked.load(Ordering::SeqCst), 0, "it runs on, untouched");
    assert_eq!((word(), guest.describe().uuid), (7, GuestUuid(1)));
    assert_eq!(journal.read().expect("readable"), None, "nothing has begun");
}

#[tokio::test]
async fn a_destination_without_a_thread_leaves_nothing_and_the_source_hears_of_it() {
    let why: Arc<str> = Arc::from("it is full");
    let anywhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let (factory, options) = (Nowhere(Arc::clone(&why)), IncomingOptions::default());
    let journal = Box::<VolatileJournal>::default();
    let incoming = Incoming::bind(anywhere, TOKEN, Box::new(factory), journal, options);
    let incoming = incoming.expect("a free port");
    let address = incoming.address();
    let guest = Box::new(Still::of_pages(16));
    let source = outgoing(guest, Box::<VolatileJournal>::default(), address);
    let (source, destination) = tokio::join!(source.drive(spawn), incoming.drive(NO_THREAD));
    assert_eq!(destination.expect_err("there is no thread").to_string(), WHY);
    assert_eq!(Arc::strong_count(&why), 1, "somebody has the factory still");
    // The door is closed, which is what the source is told.
    let Outcome::Aborted(failure) = &source.outcome else { panic!("{source:?}") };
    assert_eq!(failure.fault, Fault::Link, "{failure}");
    assert!(source.guest.is_some(), "the guest stays where it is");
}
