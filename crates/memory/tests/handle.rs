//! The memory handle and the landing, over both backings.

use std::io::{ErrorKind, Seek, SeekFrom, Write};

use whimbrel_memory::page::{
    ByteCount, Layout, PAGE_SIZE, PageCount, PageIndex, RegionId, RegionLayout, Run,
};
use whimbrel_memory::{Backing, GuestMemory, Landing, MemoryError};

const R: RegionId = RegionId(0);

/// What memory can be made of on this system.
fn backings() -> impl Iterator<Item = Backing> {
    let layout = Layout::single(PageCount(1).bytes()).expect("valid");
    [Backing::Private, Backing::Shared].into_iter().filter(move |backing| {
        match GuestMemory::allocate(&layout, *backing) {
            Err(MemoryError::Allocation { source, .. }) => {
                assert_eq!(source.kind(), ErrorKind::Unsupported, "{source}");
                false
            }
            other => other.is_ok(),
        }
    })
}

fn memory(pages: u64, backing: Backing) -> GuestMemory {
    let layout = Layout::single(PageCount(pages).bytes()).expect("valid");
    GuestMemory::allocate(&layout, backing).expect("a small memory")
}

fn page_of(memory: &GuestMemory, page: u64) -> Vec<u8> {
    let mut bytes = vec![0xee; PAGE_SIZE];
    memory.copy_run(Run::new(R, page, 1), &mut bytes).expect("in range");
    bytes
}

fn runs(memory: &GuestMemory) -> Vec<Run> {
    memory.touched().expect("listed").runs().collect()
}

#[test]
fn bytes_come_back_from_where_they_were_put() {
    for backing in backings() {
        let memory = memory(8, backing);
        memory.write(R, ByteCount(4090), b"across two pages").expect("in range");
        let mut bytes = [0; 18];
        memory.clone().read(R, ByteCount(4089), &mut bytes).expect("in range");
        assert_eq!(&bytes, b"\0across two pages\0");
        assert_eq!(memory.fetch_add_u64(R, ByteCount(64), 5).expect("in range"), 0);
        memory.store_u64(R, ByteCount(72), u64::MAX).expect("in range");
        assert_eq!(memory.load_u64(R, ByteCount(64)).expect("in range"), 5);
        assert_eq!(page_of(&memory, 0)[72..80], [0xff; 8]);
    }
}

#[test]
fn what_is_not_there_is_an_error() {
    let memory = memory(2, Backing::Private);
    let mut byte = [0];
    for (region, offset) in [(R, 8192), (R, u64::MAX), (RegionId(1), 0)] {
        let outcome = memory.read(region, ByteCount(offset), &mut byte);
        assert!(matches!(outcome, Err(MemoryError::OutOfRange { .. })), "{outcome:?}");
        assert!(memory.write(region, ByteCount(offset), &byte).is_err());
        assert!(memory.read_from(&mut &b"x"[..], region, ByteCount(offset), ByteCount(1)).is_err());
    }
    assert!(matches!(memory.load_u64(R, ByteCount(4)), Err(MemoryError::Misaligned { .. })));
    assert!(memory.store_u64(R, ByteCount(8192), 1).is_err());
    let past = Run::new(R, 1, 2);
    assert!(matches!(memory.discard(past), Err(MemoryError::NoSuchRun(_))));
    assert!(matches!(memory.copy_run(past, &mut [0; 8192]), Err(MemoryError::NoSuchRun(_))));
    let short = memory.copy_run(Run::new(R, 0, 1), &mut [0; 4095]);
    assert!(matches!(short, Err(MemoryError::BufferSize { .. })));
    assert_eq!(memory.touched().expect("listed").count(), PageCount(0));
}

#[test]
fn regions_are_apart() {
    let region = |id, pages: u64| RegionLayout { id: RegionId(id), size: PageCount(pages).bytes() };
    let layout = Layout::new(vec![region(9, 3), region(1, 5), region(2, 1)]).expect("valid");
    for backing in backings() {
        let memory = GuestMemory::allocate(&layout, backing).expect("a small memory");
        for region in layout.regions() {
            memory.store_u64(region.id, ByteCount(0), region.id.0.into()).expect("in range");
        }
        for region in layout.regions() {
            let first = memory.load_u64(region.id, ByteCount(0)).expect("in range");
            assert_eq!(first, u64::from(region.id.0));
        }
        assert_eq!(runs(&memory).len(), 3);
    }
}

/// Windows promises all of a memory from its start, and what is discarded is kept there.
#[cfg(unix)]
#[test]
fn touched_is_what_was_written_and_not_discarded() {
    for backing in backings() {
        let memory = memory(5000, backing);
        assert_eq!(memory.resident().expect("counted"), ByteCount(0));
        for page in [0, 1, 2, 700, 4999] {
            memory.write(R, PageIndex(page).offset(), &[1; PAGE_SIZE]).expect("in range");
        }
        let expected = [Run::new(R, 0, 3), Run::new(R, 700, 1), Run::new(R, 4999, 1)];
        assert_eq!(runs(&memory), expected, "{backing:?}");
        assert_eq!(memory.resident().expect("counted"), PageCount(5).bytes());
        memory.discard(Run::new(R, 1, 1000)).expect("in range");
        assert_eq!(runs(&memory), [Run::new(R, 0, 1), Run::new(R, 4999, 1)]);
    }
}

#[test]
fn what_is_discarded_is_zero_and_nothing_else_is() {
    for backing in backings() {
        let memory = memory(5000, backing);
        for page in [0, 1, 700, 1000, 1001, 4999] {
            memory.write(R, PageIndex(page).offset(), &[1; PAGE_SIZE]).expect("in range");
        }
        memory.discard(Run::new(R, 1, 1000)).expect("in range");
        for (page, byte) in [(0, 1), (1, 0), (700, 0), (1000, 0), (1001, 1), (4999, 1)] {
            assert_eq!(page_of(&memory, page), [byte; PAGE_SIZE], "page {page}, {backing:?}");
        }
    }
}

#[test]
fn reading_private_memory_does_not_touch_it() {
    let memory = memory(100, Backing::Private);
    assert_eq!(page_of(&memory, 50), [0; PAGE_SIZE]);
    assert_eq!(runs(&memory), []);
}

#[test]
fn a_file_is_read_into_guest_memory() {
    for backing in backings() {
        let memory = memory(64, backing);
        let mut file = tempfile::tempfile().expect("a temporary file");
        let content: Vec<u8> = (0..200_000_u32).map(|byte| (byte % 251) as u8).collect();
        file.write_all(&content).expect("a small file");
        file.seek(SeekFrom::Start(0)).expect("a file");
        let len = ByteCount(250_000);
        let count = memory.read_file(&file, R, ByteCount(100), len).expect("read");
        assert_eq!(count, ByteCount(200_000), "up to the end of the file");
        let mut bytes = vec![0; content.len()];
        memory.read(R, ByteCount(100), &mut bytes).expect("in range");
        assert!(bytes == content);
        file.seek(SeekFrom::Start(0)).expect("a file");
        let count = memory.read_from(&mut file, R, ByteCount(5), ByteCount(70_000)).expect("read");
        assert_eq!(count, ByteCount(70_000), "no more than asked for");
        memory.read(R, ByteCount(5), &mut bytes[..70_000]).expect("in range");
        assert!(bytes[..70_000] == content[..70_000]);
    }
}

/// Windows promises all of it, and has no room for that.
#[cfg(unix)]
#[test]
fn a_terabyte_is_only_an_address_range() {
    let layout = Layout::single(ByteCount(1 << 40)).expect("valid");
    for backing in backings() {
        let memory = GuestMemory::allocate(&layout, backing).expect("a sparse terabyte");
        let last = ByteCount((1 << 40) - 8);
        memory.store_u64(R, last, 7).expect("in range");
        assert_eq!(memory.load_u64(R, last).expect("in range"), 7);
        assert_eq!(memory.touched().expect("listed").count(), PageCount(1));
    }
}

/// On Windows it was taken before.
#[cfg(unix)]
#[test]
fn zero_pages_land_without_taking_memory() {
    for backing in backings() {
        let landing = Landing::new(memory(1000, backing)).expect("listed");
        landing.write_pages(Run::new(R, 100, 20), &[9; 20 * PAGE_SIZE]).expect("landed");
        landing.zero(Run::new(R, 0, 110)).expect("zeroed");
        assert_eq!(runs(&landing.into_live()), [Run::new(R, 110, 10)], "{backing:?}");
    }
}

#[test]
fn zero_pages_land_on_what_is_there_and_on_what_is_not() {
    for backing in backings() {
        let memory = memory(1000, backing);
        memory.write(R, PageIndex(5).offset(), &[3; PAGE_SIZE]).expect("in range");
        let landing = Landing::new(memory).expect("listed");
        landing.zero(Run::new(R, 0, 5)).expect("zeroed");
        assert!(!landing.is_untouched(R, PageIndex(5)), "what was there before may not be zero");
        landing.write_pages(Run::new(R, 100, 20), &[9; 20 * PAGE_SIZE]).expect("landed");
        landing.zero(Run::new(R, 0, 110)).expect("zeroed");
        let mut bytes = vec![1; 1000 * PAGE_SIZE];
        assert!(
            landing.is_untouched(R, PageIndex(109)) && !landing.is_untouched(R, PageIndex(110))
        );
        let live = landing.into_live();
        live.copy_run(Run::new(R, 0, 1000), &mut bytes).expect("in range");
        let (zeros, rest) = bytes.split_at(110 * PAGE_SIZE);
        assert!(zeros.iter().all(|byte| *byte == 0));
        assert!(rest[..10 * PAGE_SIZE].iter().all(|byte| *byte == 9));
        assert!(rest[10 * PAGE_SIZE..].iter().all(|byte| *byte == 0));
    }
}

#[test]
fn a_landing_refuses_what_does_not_fit() {
    let landing = Landing::new(memory(4, Backing::Private)).expect("listed");
    let short = landing.write_pages(Run::new(R, 0, 2), &[1; PAGE_SIZE]);
    assert!(matches!(short, Err(MemoryError::BufferSize { .. })));
    assert!(landing.write_pages(Run::new(R, 3, 2), &[1; 2 * PAGE_SIZE]).is_err());
    assert!(landing.zero(Run::new(R, u64::MAX, 2)).is_err());
    assert!(landing.is_untouched(R, PageIndex(0)));
}

#[test]
fn threads_share_a_memory_and_a_landing() {
    fn shared<T: Send + Sync>(what: T) -> T {
        what
    }
    let landing = shared(Landing::new(shared(memory(64, Backing::Private))).expect("listed"));
    std::thread::scope(|scope| {
        for lane in 0..4 {
            let landing = &landing;
            scope.spawn(move || {
                let run = Run::new(R, 16 * lane, 16);
                landing.write_pages(run, &[lane as u8 + 1; 16 * PAGE_SIZE]).expect("landed");
                landing.zero(Run::new(R, 16 * lane, 1)).expect("zeroed");
            });
        }
    });
    let live = landing.into_live();
    // Page, offset in it, and byte of whatever is not what its lane left there.
    let wrong = (0..64).filter_map(|page| {
        let expected = if page % 16 == 0 { 0 } else { page as u8 / 16 + 1 };
        let bytes = page_of(&live, page);
        let at = bytes.iter().position(|byte| *byte != expected)?;
        Some((page, at, bytes[at]))
    });
    assert_eq!(wrong.collect::<Vec<_>>(), []);
}
