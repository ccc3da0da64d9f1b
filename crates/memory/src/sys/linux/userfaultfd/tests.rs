use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use whimbrel_page::{ByteCount, Layout, PageIndex, RegionId, RegionLayout};

use super::super::own_process;
use super::super::tests::{skipped, usable};
use super::*;
use crate::{Backing, HugePages};

const REGIONS: [RegionId; 2] = [RegionId(2), RegionId(5)];
/// No whole number of blocks.
const PAGES: u64 = 13 * TABLE_PAGES + 77;

/// Runs `test` in a process in which nobody else has faults, with each kind of memory.
fn alone(name: &str, test: impl Fn(&GuestMemory, Userfaultfd)) {
    if !usable(TrackerKind::Userfaultfd, Backing::Private) {
        return;
    }
    if own_process::passes(name) {
        return;
    }
    let size = ByteCount(PAGES * PAGE_SIZE as u64);
    let layout = Layout::new(REGIONS.map(|id| RegionLayout { id, size }).to_vec()).expect("valid");
    for (backing, huge) in [
        (Backing::Private, HugePages::HostDefault),
        (Backing::Private, HugePages::Transparent),
        (Backing::Shared, HugePages::HostDefault),
    ] {
        let memory = GuestMemory::allocate_with(&layout, backing, huge).expect("a small memory");
        test(&memory, Userfaultfd::new(Writers::OwnThreads).expect("it is usable"));
    }
}

type How = fn(&mut Userfaultfd, &GuestMemory, &mut PageSet) -> Result<(), MemoryError>;

impl Userfaultfd {
    /// Armed, with a log that is complete, unless there is none.
    fn ready(&mut self, memory: &GuestMemory) -> bool {
        self.arm(memory).expect("armed");
        // On a busy host somebody may not be seen asleep at once.
        while self.suspects().has_log() && self.suspects().led == 0 {
            self.found(memory, Self::harvest);
            self.found(memory, Self::peek);
            thread::yield_now();
        }
        let known = self.suspects().has_log();
        if !known {
            skipped(&"page faults cannot be logged");
        }
        known
    }

    fn suspects(&mut self) -> &mut Suspects {
        &mut self.armed.as_mut().expect("armed").suspects
    }

    /// What is found by a look at suspected blocks only.
    fn led(&mut self, memory: &GuestMemory, how: How) -> Vec<(RegionId, u64)> {
        let before = self.suspects().led;
        let found = self.found(memory, how);
        assert_eq!(self.suspects().led, before + 1, "it looked everywhere");
        found
    }

    fn found(&mut self, memory: &GuestMemory, how: How) -> Vec<(RegionId, u64)> {
        let mut found = PageSet::new(memory.layout());
        how(self, memory, &mut found).expect("scanned");
        found.runs().flat_map(|run| run.pages().map(move |page| (run.region, page.0))).collect()
    }
}

fn write(memory: &GuestMemory, region: RegionId, page: u64) {
    memory.store_u64(region, PageIndex(page).offset(), page + 1).expect("in range");
}

/// In memory that is all there, the log leads to exactly what was written.
#[test]
fn the_log_leads_to_what_was_written() {
    alone("userfaultfd::tests::the_log_leads_to_what_was_written", |memory, mut tracker| {
        all().for_each(|(region, page)| write(memory, region, page));
        if !tracker.ready(memory) {
            return;
        }
        assert_eq!(tracker.led(memory, Userfaultfd::peek), []);
        let [one, other] = REGIONS;
        let written = [(one, 0), (one, 700), (other, 5), (other, PAGES - 1)];
        written.into_iter().for_each(|(region, page)| write(memory, region, page));
        assert_eq!(tracker.led(memory, Userfaultfd::peek), written, "looked at");
        assert_eq!(tracker.led(memory, Userfaultfd::peek), written, "and left there");
        assert_eq!(tracker.led(memory, Userfaultfd::harvest), written);
        assert_eq!(tracker.led(memory, Userfaultfd::harvest), []);
    });
}

/// One fault may bring a whole block, whose other pages are then written without one.
#[test]
fn what_came_with_another_page_is_found() {
    alone("userfaultfd::tests::what_came_with_another_page_is_found", |memory, mut tracker| {
        if !tracker.ready(memory) {
            return;
        }
        let (region, mapping) = memory.regions().nth(1).expect("two");
        let start = mapping.addresses().start / PAGE_SIZE;
        let table = TABLE_PAGES as usize;
        // Tables that this region has for itself, each of them empty.
        for first in [table, 2 * table, 3 * table].map(|at| (at - start % table) as u64) {
            for page in [first + 3, first + 4, first + TABLE_PAGES - 1] {
                write(memory, region, page);
                assert!(tracker.led(memory, Userfaultfd::peek).contains(&(region, page)));
            }
            let mut found = tracker.led(memory, Userfaultfd::peek);
            found.retain(|(_, page)| (first..first + TABLE_PAGES).contains(page));
            let whole = memory.huge_pages() == HugePages::Transparent;
            assert_eq!(found.len() as u64, if whole { TABLE_PAGES } else { 3 });
        }
    });
}

/// What another process writes is found, unless it was said that none does.
#[test]
fn what_others_write_is_found() {
    let name = "userfaultfd::tests::what_others_write_is_found";
    alone(name, |memory, _| {
        all().for_each(|(region, page)| write(memory, region, page));
        let mut tracker = Userfaultfd::new(Writers::Anyone).expect("it is usable");
        tracker.arm(memory).expect("armed");
        let (region, mapping) = memory.regions().next().expect("two");
        let at = mapping.addresses().start + 1000 * PAGE_SIZE;
        for how in [Userfaultfd::harvest as How, Userfaultfd::peek] {
            assert_eq!(tracker.found(memory, how), []);
            write_from_another_process(at);
            assert_eq!(tracker.found(memory, how), [(region, 1000)]);
        }
    });
}

/// Writes a byte at an address of this process.
fn write_from_another_process(at: usize) {
    let byte = [7_u8];
    let from = libc::iovec { iov_base: byte.as_ptr().cast_mut().cast(), iov_len: 1 };
    let to = libc::iovec { iov_base: std::ptr::with_exposed_provenance_mut(at), iov_len: 1 };
    // SAFETY: the child calls nothing but the kernel, and the parent waits for it.
    let status = unsafe {
        // Where only parents may look into their children.
        libc::prctl(libc::PR_SET_PTRACER, libc::PR_SET_PTRACER_ANY);
        let parent = libc::getpid();
        let child = libc::fork();
        if child == 0 {
            let written = libc::process_vm_writev(parent, &raw const from, 1, &raw const to, 1, 0);
            libc::_exit(libc::c_int::from(written != 1));
        }
        let mut status = -1;
        assert_eq!(libc::waitpid(child, &raw mut status, 0), child);
        status
    };
    assert_eq!(status, 0, "the other process did not write");
}

/// A look at everything that protects nothing leaves what it finds to looks at suspected blocks.
#[test]
fn what_the_log_has_not_seen_stays_suspected() {
    alone(
        "userfaultfd::tests::what_the_log_has_not_seen_stays_suspected",
        |memory, mut tracker| {
            all().for_each(|(region, page)| write(memory, region, page));
            if !tracker.ready(memory) {
                return;
            }
            let unseen = (REGIONS[0], 2 * TABLE_PAGES + 9);
            thread::scope(|scope| {
                // A thread that is new.
                scope.spawn(|| write(memory, unseen.0, unseen.1)).join().expect("it ends");
            });
            let before = tracker.suspects().led;
            for how in [Userfaultfd::peek as How, Userfaultfd::rehearse] {
                assert_eq!(tracker.found(memory, how), [unseen]);
                assert_eq!(tracker.suspects().led, before, "it was not known where to look");
            }
            while tracker.suspects().led == before {
                assert_eq!(tracker.found(memory, Userfaultfd::rehearse), [unseen]);
                thread::yield_now();
            }
            assert_eq!(tracker.led(memory, Userfaultfd::peek), [unseen]);
            assert_eq!(tracker.led(memory, Userfaultfd::harvest), [unseen]);
            assert_eq!(tracker.led(memory, Userfaultfd::harvest), []);
        },
    );
}

/// Rounds of a guest that writes while it is harvested and then parks, as a migration's end has
/// them, over and over: a copy made of what is found is the memory.
#[test]
fn a_parked_guest_has_no_page_that_was_not_found() {
    const ROUNDS: u64 = 200;
    let name = "userfaultfd::tests::a_parked_guest_has_no_page_that_was_not_found";
    alone(name, |memory, mut tracker| {
        if !tracker.ready(memory) {
            return;
        }
        let (turn, over, writes) = (Barrier::new(3), AtomicBool::new(false), AtomicU64::new(0));
        let (mut lost, mut led) = (Vec::new(), 0);
        thread::scope(|scope| {
            for seed in [1, 2] {
                let (turn, over, writes) = (&turn, &over, &writes);
                scope.spawn(move || write_in_turns(memory, seed, turn, over, writes));
            }
            let mut copy = vec![0; 2 * PAGES as usize];
            for round in 0..ROUNDS {
                let begun = writes.load(Ordering::SeqCst);
                turn.wait();
                if round % 3 != 0 {
                    while writes.load(Ordering::SeqCst) < begun + WRITES {
                        thread::yield_now();
                    }
                    take_over(&mut copy, memory, &tracker.found(memory, Userfaultfd::harvest));
                }
                turn.wait();
                let before = tracker.suspects().led;
                take_over(&mut copy, memory, &tracker.found(memory, Userfaultfd::peek));
                led += tracker.suspects().led - before;
                let differs = all().filter(|at| copy[index(*at)] != load(memory, *at));
                lost.extend(differs.map(|at| (round, at)));
                // Where the log was wanting after a harvest under fire, it begins anew.
                tracker.found(memory, Userfaultfd::rehearse);
            }
            over.store(true, Ordering::SeqCst);
            turn.wait();
        });
        assert_eq!(lost, [], "round and page");
        // A third of the rounds have no harvest under fire.
        assert!(led > ROUNDS / 4, "it was known where to look {led} times");
    });
}

/// Writes of each thread in a round.
const WRITES: u64 = 60;

fn write_in_turns(
    memory: &GuestMemory,
    mut random: u64,
    turn: &Barrier,
    over: &AtomicBool,
    writes: &AtomicU64,
) {
    loop {
        turn.wait();
        if over.load(Ordering::SeqCst) {
            return;
        }
        for _ in 0..WRITES {
            // Knuth's MMIX generator.
            random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            // Not in so many blocks that all are looked at.
            let page = (random >> 33) % 900;
            let (region, page) =
                [(REGIONS[0], page), (REGIONS[1], 1200 + page)][(random >> 20) as usize % 2];
            memory.store_u64(region, PageIndex(page).offset(), random).expect("in range");
            writes.fetch_add(1, Ordering::SeqCst);
        }
        turn.wait();
    }
}

fn load(memory: &GuestMemory, (region, page): (RegionId, u64)) -> u64 {
    memory.load_u64(region, PageIndex(page).offset()).expect("in range")
}

fn all() -> impl Iterator<Item = (RegionId, u64)> {
    REGIONS.into_iter().flat_map(|region| (0..PAGES).map(move |page| (region, page)))
}

fn index((region, page): (RegionId, u64)) -> usize {
    (page + if region == REGIONS[0] { 0 } else { PAGES }) as usize
}

fn take_over(copy: &mut [u64], memory: &GuestMemory, found: &[(RegionId, u64)]) {
    found.iter().for_each(|at| copy[index(*at)] = load(memory, *at));
}
