//! Only the guest that was announced, and admitted, is let in.

use whimbrel_engine::guest::{Guest, GuestDescription, GuestError, GuestFactory};
use whimbrel_engine::memory::GuestMemory;
use whimbrel_engine::page::Layout;

use crate::process_api::GuestFile;

/// A factory for one guest.
pub(super) struct Expected {
    factory: Box<dyn GuestFactory>,
    config: GuestFile,
}

impl Expected {
    pub(super) fn new(factory: Box<dyn GuestFactory>, config: &GuestFile) -> Self {
        Self { factory, config: config.clone() }
    }
}

impl GuestFactory for Expected {
    fn check(&self, guest: &GuestDescription, layout: &Layout) -> Result<(), String> {
        let GuestFile { uuid, name, kind, memory_bytes, .. } = &self.config;
        if guest.uuid.to_string() != *uuid || guest.name != *name || guest.kind != *kind {
            let (came, called) = (guest.uuid, &guest.name);
            return Err(format!(
                "the {kind} guest `{name}` ({uuid}) was announced, and {} guest `{called}` \
                 ({came}) has come",
                guest.kind
            ));
        }
        let bytes = layout.pages().bytes();
        if bytes.0 != *memory_bytes {
            return Err(format!(
                "{memory_bytes} bytes of memory were announced, and a guest with {bytes} has come"
            ));
        }
        self.factory.check(guest, layout)
    }

    fn create(
        &mut self,
        guest: &GuestDescription,
        memory: GuestMemory,
    ) -> Result<Box<dyn Guest>, GuestError> {
        self.factory.create(guest, memory)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use whimbrel_engine::page::ByteCount;
    use whimbrel_engine::protocol::GuestUuid;
    use whimbrel_guest::stress::{KIND, STATE_VERSION, StressFactory};

    #[test]
    fn another_guest_or_another_size_is_not_let_in() {
        let config = GuestFile {
            uuid: GuestUuid(3).to_string(),
            name: "web".to_owned(),
            kind: KIND.to_owned(),
            memory_bytes: 1 << 20,
            ..Default::default()
        };
        let expected = Expected::new(Box::new(StressFactory::default()), &config);
        let guest = GuestDescription {
            uuid: GuestUuid(3),
            name: "web".to_owned(),
            kind: KIND.to_owned(),
            state_version: STATE_VERSION,
        };
        let layout = |mib| Layout::single(ByteCount::mib(mib)).unwrap();
        expected.check(&guest, &layout(1)).unwrap();
        let wrong = expected.check(&guest, &layout(2)).unwrap_err();
        assert!(wrong.contains("1048576 bytes of memory were announced"), "{wrong}");
        for other in [
            GuestDescription { uuid: GuestUuid(4), ..guest.clone() },
            GuestDescription { name: "other".to_owned(), ..guest.clone() },
            GuestDescription { kind: "kv".to_owned(), ..guest.clone() },
        ] {
            let wrong = expected.check(&other, &layout(1)).unwrap_err();
            assert!(wrong.contains("was announced"), "{wrong}");
        }
        let newer = GuestDescription { state_version: STATE_VERSION + 1, ..guest };
        expected.check(&newer, &layout(1)).unwrap_err();
    }
}
