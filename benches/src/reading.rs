//! A guest that mostly reads: one thread, fifteen reads of a page to one write.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use bytes::Bytes;
use whimbrel_engine::guest::{Guest, GuestDescription, GuestError, GuestFactory, Throttle};
use whimbrel_engine::memory::{GuestMemory, Writers};
use whimbrel_engine::page::{ByteCount, Layout, PageIndex, RegionId, Run};
use whimbrel_engine::protocol::GuestUuid;

const R: RegionId = RegionId(0);
/// Of so many operations one writes.
const WRITES_EVERY: u64 = 16;
/// Operations between looks at whether the guest is parked.
const BURST: u64 = 16;

/// What the thread and its guest share.
#[derive(Default)]
struct Shared {
    /// Held by the thread while it works, and by whoever parked it.
    works: Mutex<()>,
    parked: AtomicBool,
    ended: AtomicBool,
    operations: AtomicU64,
}

/// How many operations were done, on whichever side.
#[derive(Clone, Default)]
pub struct Operations(Arc<Mutex<Vec<Arc<Shared>>>>);

impl Operations {
    /// All of them.
    #[must_use]
    pub fn done(&self) -> u64 {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().map(|shared| shared.operations.load(Ordering::Relaxed)).sum()
    }
}

/// The guest.
pub struct Reader {
    memory: GuestMemory,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Reader {
    /// A parked guest on `memory`, whose operations are counted with those of `counted`.
    ///
    /// # Errors
    /// If the host starts no thread.
    pub fn new(memory: GuestMemory, counted: &Operations) -> std::io::Result<Self> {
        let shared = Arc::new(Shared { parked: AtomicBool::new(true), ..Shared::default() });
        counted.0.lock().unwrap_or_else(PoisonError::into_inner).push(shared.clone());
        let (of, at) = (memory.clone(), shared.clone());
        let thread =
            std::thread::Builder::new().name("reader".into()).spawn(move || at.work(&of))?;
        Ok(Self { memory, shared, thread: Some(thread) })
    }
}

impl Shared {
    fn work(&self, memory: &GuestMemory) {
        let pages = memory.layout().pages().0;
        let mut page = vec![0; 4096];
        while !self.ended.load(Ordering::Acquire) {
            let working = self.hold();
            // Looked at while held: who parks it waits for that.
            if self.parked.load(Ordering::Acquire) {
                drop(working);
                std::thread::park();
                continue;
            }
            for _ in 0..BURST {
                let n = self.operations.load(Ordering::Relaxed);
                let at = n.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23) % pages;
                let done = match n % WRITES_EVERY {
                    0 => memory.store_u64(R, PageIndex(at).offset(), n),
                    _ => memory.copy_run(Run::new(R, at, 1), &mut page),
                };
                done.expect("inside the region");
                self.operations.store(n + 1, Ordering::Relaxed);
            }
            drop(working);
        }
    }

    fn hold(&self) -> MutexGuard<'_, ()> {
        self.works.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Guest for Reader {
    fn describe(&self) -> GuestDescription {
        let (name, kind) = ("reader".into(), "reader".into());
        GuestDescription { uuid: GuestUuid(2), name, kind, state_version: 1 }
    }

    fn memory(&self) -> GuestMemory {
        self.memory.clone()
    }

    fn writers(&self) -> Writers {
        Writers::OwnThreads
    }

    fn state_size_hint(&self) -> Option<ByteCount> {
        Some(ByteCount(0))
    }

    fn pause(&mut self) -> Result<(), GuestError> {
        self.shared.parked.store(true, Ordering::Release);
        // Whoever is at work is at work no more once this was had.
        drop(self.shared.hold());
        Ok(())
    }

    fn resume(&mut self) -> Result<(), GuestError> {
        self.shared.parked.store(false, Ordering::Release);
        self.thread.iter().for_each(|thread| thread.thread().unpark());
        Ok(())
    }

    fn save_state(&mut self) -> Result<Bytes, GuestError> {
        Ok(Bytes::new())
    }

    fn load_state(&mut self, _: &Bytes) -> Result<(), GuestError> {
        Ok(())
    }

    fn throttle(&mut self, _: Throttle) -> Result<(), GuestError> {
        Ok(())
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // A panic of it was a failed measurement, which has been told.
            let _ = thread.join();
        }
    }
}

/// Makes the guest at the destination.
pub struct ReaderFactory(pub Operations);

impl GuestFactory for ReaderFactory {
    fn check(&self, _: &GuestDescription, _: &Layout) -> Result<(), String> {
        Ok(())
    }

    fn create(
        &mut self,
        _: &GuestDescription,
        memory: GuestMemory,
    ) -> Result<Box<dyn Guest>, GuestError> {
        let made = Reader::new(memory, &self.0);
        let failed = |why: std::io::Error| GuestError { what: "start", why: why.to_string() };
        Ok(Box::new(made.map_err(failed)?))
    }
}
