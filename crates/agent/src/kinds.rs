//! The kinds of guests there are, where it matters which one it is.

use tonic::Status;
use whimbrel_control::api::{self, guest_config};
use whimbrel_engine::guest::{Guest, GuestFactory};
use whimbrel_engine::memory::GuestMemory;
use whimbrel_engine::page::{ByteCount, Layout};
use whimbrel_engine::protocol::GuestUuid;
use whimbrel_guest::kv::{self, KvFactory, KvGuest, KvMonitor, KvMonitorSlot};
use whimbrel_guest::stress::{
    self, HostLimits, MonitorSlot, StressConfig, StressFactory, StressGuest, StressMonitor,
};

use crate::convert::micros;
use crate::units;

/// A guest that is asked for, checked.
pub(crate) enum Config {
    Stress(StressConfig),
    Kv(Layout),
}

impl Config {
    /// The guest that is asked for.
    pub(crate) fn of(asked: &api::GuestConfig) -> Result<Self, Status> {
        let memory = ByteCount(asked.memory_bytes);
        match &asked.kind {
            Some(guest_config::Kind::Stress(asked)) => {
                crate::stress::config(memory, asked).map(Self::Stress)
            }
            Some(guest_config::Kind::Kv(_)) => kv_layout(memory).map(Self::Kv),
            None => Err(Status::invalid_argument("a guest needs a kind: `stress` or `kv`")),
        }
    }

    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Stress(_) => stress::KIND,
            Self::Kv(_) => kv::KIND,
        }
    }

    pub(crate) fn layout(&self) -> &Layout {
        match self {
            Self::Stress(config) => config.layout(),
            Self::Kv(layout) => layout,
        }
    }

    /// Makes the guest, parked, with its first content.
    pub(crate) fn make(
        self,
        uuid: GuestUuid,
        name: &str,
        memory: GuestMemory,
    ) -> Result<(Box<dyn Guest>, Monitor), String> {
        match self {
            Self::Stress(config) => {
                let made = StressGuest::new(uuid, name, config, memory, HostLimits::default());
                let guest = made.map_err(|error| error.to_string())?;
                let monitor = Monitor::Stress(guest.monitor());
                Ok((Box::new(guest), monitor))
            }
            Self::Kv(_) => {
                let made = KvGuest::new(uuid, name, memory);
                let guest = made.map_err(|error| error.to_string())?;
                let monitor = Monitor::Kv(guest.monitor());
                Ok((Box::new(guest), monitor))
            }
        }
    }
}

fn kv_layout(memory: ByteCount) -> Result<Layout, Status> {
    let layout = Layout::single(memory).ok().filter(|_| memory >= kv::MEMORY_MIN);
    layout.ok_or_else(|| {
        Status::invalid_argument(format!(
            "a key-value guest cannot have {} bytes of memory: it takes whole pages, at least {}",
            memory.0,
            kv::MEMORY_MIN
        ))
    })
}

/// The version of the state that guests of this kind have here, if there are any.
pub(crate) fn state_version(kind: &str) -> Result<u32, String> {
    match kind {
        stress::KIND => Ok(stress::STATE_VERSION),
        kv::KIND => Ok(kv::STATE_VERSION),
        _ => Err(format!(
            "guests of kind {kind:?} cannot live here, only {:?} and {:?}",
            stress::KIND,
            kv::KIND
        )),
    }
}

/// What makes guests of this kind, and where to find the view of one.
pub(crate) fn factory(kind: &str) -> (Box<dyn GuestFactory>, Slot) {
    if kind == kv::KIND {
        let factory = KvFactory::default();
        let slot = Slot::Kv(factory.monitors());
        return (Box::new(factory), slot);
    }
    let factory = StressFactory::default();
    let slot = Slot::Stress(factory.monitors());
    (Box::new(factory), slot)
}

/// Where the view of a guest will be once it is made.
#[derive(Clone)]
pub(crate) enum Slot {
    Stress(MonitorSlot),
    Kv(KvMonitorSlot),
}

impl Slot {
    pub(crate) fn get(&self) -> Option<Monitor> {
        match self {
            Self::Stress(slot) => slot.get().map(Monitor::Stress),
            Self::Kv(slot) => slot.get().map(Monitor::Kv),
        }
    }
}

/// A view of a guest while a migration owns it.
#[derive(Clone)]
pub(crate) enum Monitor {
    Stress(StressMonitor),
    Kv(KvMonitor),
}

impl Monitor {
    /// The guest's account of gaps begins afresh.
    pub(crate) fn begin_move(&self) {
        match self {
            Self::Stress(monitor) => monitor.begin_move(),
            Self::Kv(monitor) => monitor.begin_move(),
        }
    }

    /// Whether the guest has seen the clock since it came here, so that its gaps have the move.
    /// One that is gone will not.
    pub(crate) fn has_beaten(&self) -> bool {
        match self {
            Self::Stress(monitor) => monitor.report().is_none_or(|report| report.beats_here.0 > 0),
            Self::Kv(monitor) => monitor.report().is_none_or(|report| report.beats_here > 0),
        }
    }

    /// Longest gap and lost time since the last move began, in microseconds.
    pub(crate) fn gaps(&self) -> Option<(u64, u64)> {
        match self {
            Self::Stress(monitor) => {
                crate::stress::report(monitor).map(|report| (report.blackout_us, report.lost_us))
            }
            Self::Kv(monitor) => {
                monitor.report().map(|report| (micros(report.blackout), micros(report.lost)))
            }
        }
    }

    /// What the guest says of itself, put where it belongs.
    pub(crate) fn describe(&self, guest: &mut api::Guest) {
        match self {
            Self::Stress(monitor) => guest.stress = crate::stress::report(monitor),
            Self::Kv(monitor) => guest.kv = monitor.report().map(|report| kv_report(&report)),
        }
    }

    /// The guest looks at all it has in memory.
    pub(crate) fn check(&self) -> Result<api::CheckReport, Status> {
        let failed = |error: &dyn std::fmt::Display| Status::failed_precondition(error.to_string());
        match self {
            Self::Stress(monitor) => {
                let report = monitor.self_check().map_err(|error| failed(&error))?;
                Ok(crate::stress::checked(&report))
            }
            Self::Kv(monitor) => {
                let found = monitor.self_check().map_err(|error| failed(&error))?;
                Ok(kv_checked(&found))
            }
        }
    }

    /// The service port of a guest that has one.
    pub(crate) fn port(&self) -> Option<&KvMonitor> {
        match self {
            Self::Stress(_) => None,
            Self::Kv(monitor) => Some(monitor),
        }
    }
}

fn kv_report(report: &kv::KvReport) -> api::KvReport {
    api::KvReport {
        keys: report.keys,
        clients: report.clients,
        commands: report.commands,
        used_bytes: report.used,
        blackout_us: micros(report.blackout),
        lost_us: micros(report.lost),
        throttle_percent: report.throttle.as_percent().into(),
    }
}

fn kv_checked(found: &kv::KvCheck) -> api::CheckReport {
    let (keys, bytes) = (found.keys, found.bytes);
    let sentence = match &found.damage {
        None => {
            let (keys, held) = (units::counted(keys, "key"), units::bytes(bytes));
            format!("the store hangs together: {keys}, {held}")
        }
        Some(damage) => format!("the store is damaged: {damage}"),
    };
    api::CheckReport {
        sound: found.damage.is_none(),
        pages_checked: bytes.div_ceil(4096),
        sentence,
        findings: found.damage.iter().cloned().collect(),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_is_asked_for_by_its_name() {
        let kv = Some(guest_config::Kind::Kv(api::KvConfig::default()));
        let asked = |memory_bytes| api::GuestConfig { memory_bytes, kind: kv.clone() };
        let config = Config::of(&asked(8 << 20)).unwrap();
        assert_eq!((config.kind(), config.layout().bytes()), ("kv", ByteCount::mib(8)));
        for memory in [0, 4096, (8 << 20) + 1] {
            let status = Config::of(&asked(memory)).err().unwrap();
            assert_eq!(status.code(), tonic::Code::InvalidArgument, "{memory}");
        }
        assert!(Config::of(&api::GuestConfig { memory_bytes: 8 << 20, kind: None }).is_err());
        assert!(state_version("kv").is_ok() && state_version("stress").is_ok());
        assert!(state_version("toaster").unwrap_err().contains("toaster"));
    }

    #[test]
    fn a_store_says_of_itself_what_there_is_to_say() {
        let kv = Some(guest_config::Kind::Kv(api::KvConfig::default()));
        let config = Config::of(&api::GuestConfig { memory_bytes: 4 << 20, kind: kv }).unwrap();
        let memory =
            GuestMemory::allocate(config.layout(), whimbrel_engine::memory::Backing::Private);
        let (guest, monitor) = config.make(GuestUuid(1), "g", memory.unwrap()).unwrap();
        let mut view = api::Guest::default();
        monitor.describe(&mut view);
        assert!(view.kv.is_some() && view.stress.is_none());
        let report = monitor.check().unwrap();
        assert!(report.sound && report.pages_checked > 0, "{report:?}");
        drop(guest);
        assert!(monitor.check().is_err());
    }
}
