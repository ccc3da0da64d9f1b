//! What a harvest finds while writers never pause: a mirror that is kept by harvesting and then
//! copying must equal the memory once the writers have stopped.

use std::fs::File;
use std::io::{Seek, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use whimbrel_memory::page::{ByteCount, PAGE_SIZE, PageIndex, PageSet, Run};
use whimbrel_memory::{DirtyTracker, GuestMemory};

use super::cases::{Case, R};

const PAGES: u64 = 3000;
/// Harvests under fire. Each must see writers at work: it waits for so many writes.
const ROUNDS: u64 = 40;
const WRITES_A_ROUND: u64 = 150;

/// A small deterministic generator (Marsaglia's xorshift64), so that a failure repeats.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// A copy of the memory, as a destination would have it.
struct Mirror {
    bytes: Vec<u8>,
    pages: u64,
}

impl Mirror {
    fn new(memory: &GuestMemory) -> Self {
        let pages = memory.layout().pages().0;
        Self { bytes: vec![0; pages as usize * PAGE_SIZE], pages }
    }

    fn copy(&mut self, memory: &GuestMemory, found: &PageSet) {
        for run in found.runs() {
            let start = run.first.offset().0 as usize;
            let into = &mut self.bytes[start..start + run.count.bytes().0 as usize];
            memory.copy_run(run, into).expect("in range");
        }
    }

    fn round(&mut self, memory: &GuestMemory, tracker: &mut dyn DirtyTracker) {
        let mut found = PageSet::new(memory.layout());
        tracker.harvest(&mut found).expect("harvested");
        self.copy(memory, &found);
    }

    /// Names the pages that were lost.
    fn compare(&self, memory: &GuestMemory) {
        let mut live = vec![0; PAGE_SIZE];
        let lost = (0..self.pages).filter(|page| {
            memory.copy_run(Run::new(R, *page, 1), &mut live).expect("in range");
            live != self.bytes[*page as usize * PAGE_SIZE..][..PAGE_SIZE]
        });
        assert_eq!(lost.collect::<Vec<_>>(), [0; 0], "pages whose last write was not harvested");
    }
}

/// What all writers share.
struct Fire<'a> {
    memory: &'a GuestMemory,
    stop: &'a AtomicBool,
    writes: &'a AtomicU64,
}

impl Fire<'_> {
    /// Writes every way there is, all over the memory and again and again to a few pages.
    fn write(&self, seed: u64, mut file: File) {
        let mut random = Numbers(seed);
        let mut sequence = seed << 32;
        while !self.stop.load(Ordering::Relaxed) {
            sequence += 1;
            let page = random.below(if sequence.is_multiple_of(3) { 8 } else { PAGES });
            let offset = PageIndex(page).offset() + ByteCount(8 * random.below(500));
            match random.below(40) {
                0 => {
                    file.rewind().expect("a file");
                    let len = ByteCount(random.below(9000).min(PAGES * 4096 - offset.0));
                    self.memory.read_file(&file, R, offset, len).expect("read");
                }
                1..20 => self.memory.store_u64(R, offset, sequence).expect("in range"),
                20..30 => drop(self.memory.fetch_add_u64(R, offset, 1).expect("in range")),
                _ => {
                    let bytes = sequence.to_le_bytes().repeat(12);
                    self.memory.write(R, offset, &bytes).expect("in range");
                }
            }
            self.writes.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Receives from a socket, all over the memory, until the writers are to stop.
    fn receive(&self, seed: u64, mut socket: TcpStream) {
        let mut random = Numbers(seed);
        while !self.stop.load(Ordering::Relaxed) {
            let offset = ByteCount(random.below((PAGES - 20) * PAGE_SIZE as u64));
            let len = ByteCount(1 + random.below(20 * PAGE_SIZE as u64));
            let received = self.memory.read_from(&mut socket, R, offset, len);
            assert_eq!(received.expect("received"), len);
            self.writes.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn discard(&self, seed: u64) {
        let mut random = Numbers(seed);
        while !self.stop.load(Ordering::Relaxed) {
            let run = Run::new(R, random.below(PAGES - 20), 1 + random.below(20));
            self.memory.discard(run).expect("discarded");
            self.writes.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn random_file() -> File {
    let mut file = tempfile::tempfile().expect("a temporary file");
    let bytes: Vec<u8> = (0..10_000_u32).map(|byte| (byte % 241) as u8 + 1).collect();
    file.write_all(&bytes).expect("a small file");
    file
}

/// A socket from which there is no end of bytes, as long as it is open.
fn spring() -> TcpStream {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let drinks = TcpStream::connect(listener.local_addr().expect("an address")).expect("connected");
    let (mut flows, _) = listener.accept().expect("accepted");
    thread::spawn(move || {
        let mut bytes = [0; 50_000];
        for number in 1_u64.. {
            bytes.fill(number as u8);
            if flows.write_all(&bytes).is_err() {
                return;
            }
        }
    });
    drinks
}

/// Who changes memory while it is harvested.
#[derive(Default)]
struct Fighters {
    writers: u64,
    discarders: u64,
    receivers: u64,
}

/// Runs `rounds` under fire, then lets the fighters stop.
fn under_fire(memory: &GuestMemory, fighters: Fighters, rounds: impl FnOnce(&dyn Fn())) {
    let (stop, writes) = (AtomicBool::new(false), AtomicU64::new(0));
    let fire = Fire { memory, stop: &stop, writes: &writes };
    let wait = || {
        let until = writes.load(Ordering::Relaxed) + WRITES_A_ROUND;
        while writes.load(Ordering::Relaxed) < until {
            thread::yield_now();
        }
    };
    thread::scope(|scope| {
        let fire = &fire;
        for seed in 1..=fighters.writers {
            scope.spawn(move || fire.write(seed, random_file()));
        }
        for seed in 1..=fighters.discarders {
            scope.spawn(move || fire.discard(seed + 100));
        }
        for seed in 1..=fighters.receivers {
            let socket = spring();
            scope.spawn(move || fire.receive(seed + 200, socket));
        }
        rounds(&wait);
        stop.store(true, Ordering::Relaxed);
    });
}

pub(crate) fn racing_writers_lose_nothing(case: Case) {
    mirrored(case, Fighters { writers: 2, ..Fighters::default() });
}

pub(crate) fn racing_discards_lose_nothing(case: Case) {
    mirrored(case, Fighters { writers: 1, discarders: 1, ..Fighters::default() });
}

/// A kernel that received straight into memory that Windows watches would lose pages.
pub(crate) fn what_sockets_bring_is_not_lost(case: Case) {
    mirrored(case, Fighters { writers: 1, receivers: 2, ..Fighters::default() });
}

fn mirrored(case: Case, fighters: Fighters) {
    let memory = case.memory(PAGES);
    let mut tracker = case.tracker(&memory);
    let mut mirror = Mirror::new(&memory);
    under_fire(&memory, fighters, |wait| {
        wait();
        tracker.arm().expect("armed");
        mirror.copy(&memory, &memory.touched().expect("listed"));
        for _ in 0..ROUNDS {
            wait();
            mirror.round(&memory, &mut *tracker);
        }
    });
    mirror.round(&memory, &mut *tracker);
    mirror.compare(&memory);
}

pub(crate) fn arming_again_and_again_under_writers(case: Case) {
    let memory = case.memory(PAGES);
    let mut tracker = case.tracker(&memory);
    let mut mirror = Mirror::new(&memory);
    under_fire(&memory, Fighters { writers: 2, ..Fighters::default() }, |wait| {
        for _ in 0..10 {
            wait();
            tracker.disarm().expect("disarmed");
            wait();
            tracker.arm().expect("armed");
            mirror.copy(&memory, &memory.touched().expect("listed"));
            wait();
            mirror.round(&memory, &mut *tracker);
        }
    });
    mirror.round(&memory, &mut *tracker);
    mirror.compare(&memory);
}
