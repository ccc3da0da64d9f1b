//! What tracking costs on this host, best of several tries:
//! `cargo run --release -p whimbrel-memory --example figures`

use std::time::{Duration, Instant};

use whimbrel_memory::page::{ByteCount, Layout, PAGE_SIZE, PageIndex, PageSet, RegionId, Run};
use whimbrel_memory::{
    Backing, DirtyTracker, GuestMemory, HugePages, TrackerKind, Writers, open_for,
};

const R: RegionId = RegionId(0);
const SIZE: ByteCount = ByteCount::mib(512);
const PAGES: u64 = SIZE.0 / PAGE_SIZE as u64;
/// The best of so many is told: what else runs on the host only ever adds time.
const TRIES: usize = 7;

fn main() {
    figures_of_512_mib();
    figures_of_256_gib_of_which_512_mib_are_touched();
}

fn figures_of_512_mib() {
    let kinds = [
        (Backing::Private, HugePages::HostDefault),
        (Backing::Private, HugePages::Transparent),
        (Backing::Shared, HugePages::HostDefault),
    ];
    for (backing, huge) in kinds {
        let layout = Layout::single(SIZE).expect("valid");
        let memory = GuestMemory::allocate_with(&layout, backing, huge).expect("memory");
        println!("{backing:?}, {huge:?} huge pages");
        let fresh = once(|| write_pages(&memory, 1));
        tell("first touch of a page", fresh / PAGES as u32);
        tell("write of a touched page, untracked", best(|| write_pages(&memory, 1)) / PAGES as u32);
        tell("list what is touched", best(|| memory.touched()));
        tell("copy it all out, 1 MiB a run", best(|| copy(&memory)));
        for kind in [TrackerKind::Userfaultfd, TrackerKind::Mprotect] {
            match open_for(kind, &memory, Writers::OwnThreads) {
                Ok(tracker) => figures_of(tracker, &memory),
                Err(error) => println!("  {error}"),
            }
        }
    }
}

fn figures_of(mut tracker: Box<dyn DirtyTracker>, memory: &GuestMemory) {
    let mut found = PageSet::new(memory.layout());
    println!("  {}", tracker.name());
    tell("  arm", once(|| tracker.arm().expect("armed")));
    let first: Vec<_> = (0..TRIES)
        .map(|_| {
            let took = once(|| write_pages(memory, 2)) / (PAGES / 2) as u32;
            tracker.harvest(&mut found).expect("harvested");
            took
        })
        .collect();
    tell("  first write of every second page, each", first.into_iter().min().expect("some"));
    let mut clean = Vec::new();
    for (name, step) in [("all", 1), ("every second", 2), ("every hundredth", 100)] {
        let mut times = Vec::new();
        for _ in 0..TRIES {
            write_pages(memory, step);
            found.clear();
            times.push(once(|| tracker.harvest(&mut found).expect("harvested")));
            clean.push(once(|| tracker.harvest(&mut found).expect("harvested")));
        }
        let best = times.into_iter().min().expect("some");
        tell(&format!("  harvest with {name} of {PAGES} pages dirty"), best);
    }
    tell("  harvest with none dirty", clean.into_iter().min().expect("some"));
    tell("  disarm", once(|| tracker.disarm().expect("disarmed")));
}

fn figures_of_256_gib_of_which_512_mib_are_touched() {
    for backing in [Backing::Private, Backing::Shared] {
        let layout = Layout::single(ByteCount(256 << 30)).expect("valid");
        let memory = GuestMemory::allocate(&layout, backing).expect("memory");
        println!("{backing:?}, 256 GiB");
        write_pages(&memory, 1);
        tell("list what is touched", best(|| memory.touched()));
        for kind in [TrackerKind::Userfaultfd, TrackerKind::Mprotect] {
            let Ok(mut tracker) = open_for(kind, &memory, Writers::OwnThreads) else { continue };
            let mut found = PageSet::new(&layout);
            println!("  {kind}");
            tell("  arm", once(|| tracker.arm().expect("armed")));
            let clean = best(|| tracker.harvest(&mut found).expect("harvested"));
            tell("  harvest with none dirty", clean);
            write_pages(&memory, 2);
            tell(
                "  harvest with every second touched page dirty",
                once(|| tracker.harvest(&mut found).expect("harvested")),
            );
        }
    }
}

fn write_pages(memory: &GuestMemory, step: usize) {
    for page in (0..PAGES).step_by(step) {
        memory.store_u64(R, PageIndex(page).offset(), page).expect("in range");
    }
}

fn copy(memory: &GuestMemory) {
    let mut buffer = vec![0; 1 << 20];
    for first in (0..PAGES).step_by(256) {
        memory.copy_run(Run::new(R, first, 256), &mut buffer).expect("in range");
    }
}

fn once<T>(what: impl FnOnce() -> T) -> Duration {
    let start = Instant::now();
    what();
    start.elapsed()
}

fn best<T>(mut what: impl FnMut() -> T) -> Duration {
    (0..TRIES).map(|_| once(&mut what)).min().expect("some")
}

fn tell(what: &str, took: Duration) {
    println!("  {what}: {took:.2?}");
}
