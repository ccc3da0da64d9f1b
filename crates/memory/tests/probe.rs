//! What a probe says of this host must be true.

use whimbrel_memory::page::{ByteCount, Layout};
use whimbrel_memory::{Backing, GuestMemory, MemoryError, TrackerKind, open, probe, probe_host};

#[test]
fn whatever_can_be_opened_works() {
    for backing in [Backing::Private, Backing::Shared] {
        let layout = Layout::single(ByteCount::mib(2)).expect("valid");
        let memory = match GuestMemory::allocate(&layout, backing) {
            Err(MemoryError::Allocation { source, .. })
                if source.kind() == std::io::ErrorKind::Unsupported =>
            {
                println!("{source}");
                continue;
            }
            other => other.expect("a small memory"),
        };
        let found = probe(&memory);
        let host = probe_host(backing);
        assert_eq!(found.choice(), host.choice());
        for (here, there) in found.candidates.iter().zip(&host.candidates) {
            assert_eq!((here.kind, here.works), (there.kind, there.works));
            // It says what its harvests cost as well.
            assert!(there.reason.starts_with(&here.reason), "{there:?}");
        }
        for candidate in &found.candidates {
            match open(candidate.kind, &memory) {
                Ok(_) => assert!(candidate.works, "{candidate:?}"),
                Err(MemoryError::Unsupported { .. }) => assert!(!candidate.works),
                Err(error) => panic!("{}: {error}", candidate.kind),
            }
            assert!(!candidate.reason.is_empty() && !candidate.reason.contains('\n'));
        }
        let works = |kind: &_| found.candidates.iter().any(|one| one.kind == *kind && one.works);
        let choice = found.choice().expect("every system has one that always works");
        assert_eq!(Some(choice), TrackerKind::here().find(works));
    }
}
