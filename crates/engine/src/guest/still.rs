//! A guest for tests that is nothing but its memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use whimbrel_memory::{Backing, GuestMemory};
use whimbrel_page::{Layout, PageCount};
use whimbrel_protocol::GuestUuid;

use super::{Guest, GuestDescription, GuestError, Throttle};

/// It does nothing, and counts what is asked of it.
pub(crate) struct Still {
    memory: GuestMemory,
    pub(crate) asked: Arc<AtomicU32>,
}

impl Still {
    pub(crate) fn of_pages(pages: u64) -> Self {
        let layout = Layout::single(PageCount(pages).bytes()).expect("valid");
        let memory = GuestMemory::allocate(&layout, Backing::Private).expect("memory");
        Self { memory, asked: Arc::default() }
    }

    fn asked<T>(&self, answer: T) -> Result<T, GuestError> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        Ok(answer)
    }
}

impl Guest for Still {
    fn describe(&self) -> GuestDescription {
        let (name, kind) = ("still".to_owned(), "still".to_owned());
        GuestDescription { uuid: GuestUuid(1), name, kind, state_version: 1 }
    }

    fn memory(&self) -> GuestMemory {
        self.memory.clone()
    }

    fn pause(&mut self) -> Result<(), GuestError> {
        self.asked(())
    }

    fn resume(&mut self) -> Result<(), GuestError> {
        self.asked(())
    }

    fn save_state(&mut self) -> Result<Bytes, GuestError> {
        self.asked(Bytes::new())
    }

    fn load_state(&mut self, _: &Bytes) -> Result<(), GuestError> {
        self.asked(())
    }

    fn throttle(&mut self, _: Throttle) -> Result<(), GuestError> {
        self.asked(())
    }
}
