//! The smallest guest that can be moved: one thread that writes numbered words into random pages.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use whimbrel_engine::guest::{Guest, GuestDescription, GuestError, GuestFactory, Throttle};
use whimbrel_engine::memory::{Backing, GuestMemory, Writers};
use whimbrel_engine::page::{ByteCount, Layout, PAGE_SIZE, PageIndex, RegionId};
use whimbrel_engine::protocol::GuestUuid;

pub(crate) const R: RegionId = RegionId(0);

/// What both ends of a guest's thread see.
#[derive(Default)]
struct Desk {
    /// Whether the thread shall stand still, whether it does, whether it shall end.
    wanted: Mutex<(bool, bool, bool)>,
    changed: Condvar,
    /// Words written: the guest's whole state.
    written: AtomicU64,
    throttle: AtomicU64,
    /// Every throttle it was ever given.
    throttles: Mutex<Vec<u64>>,
    fails_to_load: AtomicBool,
    /// Whether the guest has stopped writing, for good.
    calm: AtomicBool,
    /// How many words it writes before it stands still when it is told to.
    last_words: AtomicU64,
}

pub(crate) struct Scribe {
    memory: GuestMemory,
    desk: Arc<Desk>,
    thread: Option<JoinHandle<()>>,
}

/// Where the n-th word goes: pages in an order that never repeats soon.
fn place(n: u64, pages: u64) -> PageIndex {
    PageIndex(n.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(17) % pages)
}

fn write(memory: &GuestMemory, n: u64, pages: u64) {
    let at = place(n, pages).offset() + ByteCount(n % 512 * 8);
    memory.store_u64(R, at, n).expect("inside");
}

fn work(memory: &GuestMemory, desk: &Desk, busy_pages: u64) {
    loop {
        let mut wanted = desk.wanted.lock().expect("no panics");
        if wanted.0 && !wanted.1 {
            for _ in 0..desk.last_words.load(Ordering::Relaxed) {
                write(memory, desk.written.fetch_add(1, Ordering::SeqCst), busy_pages);
            }
        }
        while wanted.0 && !wanted.2 {
            wanted.1 = true;
            desk.changed.notify_all();
            wanted = desk.changed.wait(wanted).expect("no panics");
        }
        if wanted.2 {
            return;
        }
        wanted.1 = false;
        drop(wanted);
        for _ in 0..64 {
            if busy_pages == 0 || desk.calm.load(Ordering::Relaxed) {
                std::thread::yield_now();
                continue;
            }
            write(memory, desk.written.fetch_add(1, Ordering::SeqCst), busy_pages);
        }
        let percent = desk.throttle.load(Ordering::Relaxed);
        if busy_pages > 0 && percent > 0 {
            std::thread::sleep(Duration::from_micros(20 * percent));
        }
    }
}

impl Scribe {
    /// A parked guest that will write into its first `busy_pages` pages.
    pub(crate) fn new(memory: GuestMemory, busy_pages: u64) -> Self {
        let desk = Arc::new(Desk::default());
        desk.wanted.lock().expect("no panics").0 = true;
        let (at, of) = (desk.clone(), memory.clone());
        let thread = std::thread::spawn(move || work(&of, &at, busy_pages));
        Self { memory, desk, thread: Some(thread) }
    }

    /// A running guest of `pages` pages, every one of them with content of its own but one in 8.
    pub(crate) fn filled(pages: u64, busy_pages: u64) -> Self {
        let written = (0..pages).filter(|page| page % 8 != 7);
        Self::running(ByteCount(pages * PAGE_SIZE as u64), written, busy_pages)
    }

    /// A running guest with `size` of memory and content of their own in these pages.
    pub(crate) fn running(
        size: ByteCount,
        written: impl Iterator<Item = u64>,
        busy_pages: u64,
    ) -> Self {
        Self::on(Backing::Private, size, written, busy_pages)
    }

    /// As [`Scribe::running`], on memory of this kind.
    pub(crate) fn on(
        backing: Backing,
        size: ByteCount,
        written: impl Iterator<Item = u64>,
        busy_pages: u64,
    ) -> Self {
        let layout = Layout::single(size).expect("valid");
        let memory = GuestMemory::allocate(&layout, backing).expect("memory");
        for page in written {
            for word in 0..8 {
                let at = PageIndex(page).offset() + ByteCount(word * 512);
                memory.store_u64(R, at, page * 8 + word + 1).expect("inside");
            }
        }
        let mut guest = Self::new(memory, busy_pages);
        guest.resume().expect("resume");
        guest
    }

    /// It writes so many words before each pause, however little of a processor it gets.
    pub(crate) fn with_last_words(self, words: u64) -> Self {
        self.desk.last_words.store(words, Ordering::Relaxed);
        self
    }

    /// What tells, also when the guest is elsewhere, every throttle it was given.
    pub(crate) fn throttles(&self) -> impl Fn() -> Vec<u64> + use<> {
        let desk = self.desk.clone();
        move || desk.throttles.lock().expect("no panics").clone()
    }
}

#[cfg(unix)]
impl Scribe {
    /// Makes it stop writing, for good, when it is called.
    pub(crate) fn calm(&self) -> impl Fn() + use<> {
        let desk = self.desk.clone();
        move || desk.calm.store(true, Ordering::Relaxed)
    }
}

impl Drop for Scribe {
    fn drop(&mut self) {
        self.desk.wanted.lock().expect("no panics").2 = true;
        self.desk.changed.notify_all();
        self.thread.take().map(JoinHandle::join);
    }
}

fn failed(what: &'static str, why: &str) -> GuestError {
    GuestError { what, why: why.into() }
}

impl Guest for Scribe {
    fn describe(&self) -> GuestDescription {
        GuestDescription {
            uuid: GuestUuid(0xfeed),
            name: "scribe".into(),
            kind: "scribe".into(),
            state_version: 1,
        }
    }

    fn memory(&self) -> GuestMemory {
        self.memory.clone()
    }

    fn writers(&self) -> Writers {
        Writers::OwnThreads
    }

    fn pause(&mut self) -> Result<(), GuestError> {
        let mut wanted = self.desk.wanted.lock().expect("no panics");
        wanted.0 = true;
        while !wanted.1 {
            wanted = self.desk.changed.wait(wanted).expect("no panics");
        }
        Ok(())
    }

    fn resume(&mut self) -> Result<(), GuestError> {
        let mut wanted = self.desk.wanted.lock().expect("no panics");
        (wanted.0, wanted.1) = (false, false);
        self.desk.changed.notify_all();
        Ok(())
    }

    fn save_state(&mut self) -> Result<Bytes, GuestError> {
        Ok(Bytes::copy_from_slice(&self.desk.written.load(Ordering::SeqCst).to_le_bytes()))
    }

    fn load_state(&mut self, state: &Bytes) -> Result<(), GuestError> {
        if self.desk.fails_to_load.load(Ordering::Relaxed) {
            return Err(failed("load its state", "it was told not to"));
        }
        let bytes = state.as_ref().try_into().map_err(|_| failed("load its state", "8 bytes"))?;
        self.desk.written.store(u64::from_le_bytes(bytes), Ordering::SeqCst);
        Ok(())
    }

    fn throttle(&mut self, throttle: Throttle) -> Result<(), GuestError> {
        let percent = u64::from(throttle.as_percent());
        self.desk.throttle.store(percent, Ordering::Relaxed);
        self.desk.throttles.lock().expect("no panics").push(percent);
        Ok(())
    }
}

/// What the destination makes of it.
#[derive(Clone, Copy, Default)]
pub(crate) struct ScribeFactory {
    pub(crate) busy_pages: u64,
    pub(crate) fails_to_load: bool,
}

impl GuestFactory for ScribeFactory {
    fn check(&self, guest: &GuestDescription, _: &Layout) -> Result<(), String> {
        if guest.kind == "scribe" { Ok(()) } else { Err(format!("no {} lives here", guest.kind)) }
    }

    fn create(
        &mut self,
        _: &GuestDescription,
        memory: GuestMemory,
    ) -> Result<Box<dyn Guest>, GuestError> {
        let guest = Scribe::new(memory, self.busy_pages);
        guest.desk.fails_to_load.store(self.fails_to_load, Ordering::Relaxed);
        Ok(Box::new(guest))
    }
}

/// Writes in parked `behind` what parked `ahead` wrote since the two were the same.
pub(crate) fn catch_up(behind: &mut dyn Guest, ahead: &mut dyn Guest, busy_pages: u64) {
    let written = |guest: &mut dyn Guest| {
        let state = guest.save_state().expect("state");
        u64::from_le_bytes(state.as_ref().try_into().expect("8 bytes"))
    };
    let memory = behind.memory();
    let (from, to) = (written(behind), written(ahead));
    assert!(from <= to, "{to} words were written in the end, {from} before the move");
    (from..to).for_each(|n| write(&memory, n, busy_pages));
    let state = ahead.save_state().expect("state");
    behind.load_state(&state).expect("load");
}

/// Every page of two parked guests, compared; panics at the first that differs.
pub(crate) fn assert_same_memory(a: &mut dyn Guest, b: &mut dyn Guest) {
    b.pause().expect("pause");
    let layout = a.memory().layout().clone();
    let (mut left, mut right) = (vec![0; PAGE_SIZE], vec![0; PAGE_SIZE]);
    for region in layout.regions() {
        for page in region.run().pages() {
            a.memory().read(region.id, page.offset(), &mut left).expect("inside");
            b.memory().read(region.id, page.offset(), &mut right).expect("inside");
            assert!(left == right, "{page} of {} differs", region.id);
        }
    }
    let written = |guest: &mut dyn Guest| guest.save_state().expect("state");
    assert_eq!(written(a), written(b), "the state moved with the memory");
}
