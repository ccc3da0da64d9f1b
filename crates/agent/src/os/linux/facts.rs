//! What the kernel says about this host.

use std::fs::{self, OpenOptions};
use std::io::ErrorKind;

use whimbrel_engine::memory::{Backing, probe_host};
use whimbrel_engine::page::ByteCount;

use crate::os::{Device, HostFacts, Overcommit};

/// Looks at this host.
pub(crate) fn host_facts() -> HostFacts {
    HostFacts {
        kernel: read("/proc/sys/kernel/osrelease"),
        system: None,
        processor: read("/proc/cpuinfo").as_deref().and_then(processor).map(str::to_owned),
        lacks: &[],
        trackers: probe_host(Backing::default()),
        memory_available: super::memory_available().ok(),
        overcommit: read("/proc/sys/vm/overcommit_memory").as_deref().and_then(overcommit),
        huge_pages: read("/sys/kernel/mm/transparent_hugepage/enabled").as_deref().and_then(chosen),
        mappings_max: read("/proc/sys/vm/max_map_count").and_then(|text| text.parse().ok()),
        files_max: read("/proc/self/limits").as_deref().and_then(files_max),
        congestion: read("/proc/sys/net/ipv4/tcp_congestion_control"),
        congestion_allowed: congestion_allowed(),
        tcp_buffers_max: tcp_buffers_max(),
        udp_buffers_max: bytes("/proc/sys/net/core/wmem_max")
            .zip(bytes("/proc/sys/net/core/rmem_max")),
        kvm: device("/dev/kvm"),
    }
}

/// The congestion controls that this user may ask for.
pub(crate) fn congestion_allowed() -> Vec<String> {
    let text = read("/proc/sys/net/ipv4/tcp_allowed_congestion_control").unwrap_or_default();
    text.split_whitespace().map(str::to_owned).collect()
}

/// The most that TCP buffers of one connection hold: to send, to receive.
pub(crate) fn tcp_buffers_max() -> Option<(ByteCount, ByteCount)> {
    buffer_max("/proc/sys/net/ipv4/tcp_wmem").zip(buffer_max("/proc/sys/net/ipv4/tcp_rmem"))
}

fn read(path: &str) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

/// Some kinds of processors have no name there.
fn processor(told: &str) -> Option<&str> {
    let line = told.lines().find(|line| line.starts_with("model name"))?;
    line.split_once(':').map(|(_, name)| name.trim())
}

fn overcommit(text: &str) -> Option<Overcommit> {
    match text {
        "0" => Some(Overcommit::Heuristic),
        "1" => Some(Overcommit::Always),
        "2" => Some(Overcommit::Never),
        _ => None,
    }
}

/// The choice that stands in brackets among the others.
fn chosen(text: &str) -> Option<String> {
    let (_, rest) = text.split_once('[')?;
    rest.split_once(']').map(|(word, _)| word.to_owned())
}

/// The soft limit in the text of the process' limits.
fn files_max(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    match line.split_whitespace().next()? {
        "unlimited" => Some(u64::MAX),
        number => number.parse().ok(),
    }
}

/// The third of the three numbers: least, default, most.
fn buffer_max(path: &str) -> Option<ByteCount> {
    read(path)?.split_whitespace().nth(2)?.parse().ok().map(ByteCount)
}

fn bytes(path: &str) -> Option<ByteCount> {
    read(path)?.parse().ok().map(ByteCount)
}

fn device(path: &str) -> Device {
    match OpenOptions::new().read(true).write(true).open(path) {
        Ok(_) => Device::Usable,
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Device::Forbidden,
        Err(_) => Device::Absent,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_choice_in_brackets_is_found() {
        assert_eq!(chosen("always [madvise] never").as_deref(), Some("madvise"));
        assert_eq!(chosen("always madvise never"), None);
        assert_eq!(chosen("[never"), None);
    }

    #[test]
    fn the_soft_limit_of_files_is_found() {
        let text = "Limit   Soft Limit   Hard Limit   Units\n\
                    Max processes             7     8     processes\n\
                    Max open files            1024     524288    files\n";
        assert_eq!(files_max(text), Some(1024));
        assert_eq!(files_max("Max open files   unlimited   unlimited   files"), Some(u64::MAX));
        assert_eq!(files_max("nothing of the kind"), None);
    }

    #[test]
    fn what_the_kernel_promises_is_understood() {
        assert_eq!(overcommit("2"), Some(Overcommit::Never));
        assert_eq!(overcommit("3"), None);
    }

    #[test]
    fn a_processor_is_called_by_its_name() {
        let told = "processor\t: 0\nmodel name\t: Some CPU @ 2.10GHz\nflags\t: a b\n";
        assert_eq!(processor(told), Some("Some CPU @ 2.10GHz"));
        assert_eq!(processor("processor\t: 0\n"), None);
    }

    #[test]
    fn this_host_says_something() {
        let facts = host_facts();
        assert!(facts.kernel.is_some_and(|kernel| kernel.contains('.')));
        assert!(facts.mappings_max.is_some_and(|most| most > 1000));
        assert!(facts.files_max.is_some_and(|most| most > 10));
        assert!(!facts.trackers.candidates.is_empty());
    }

    #[test]
    fn a_device_that_is_not_there_is_absent() {
        assert_eq!(device("/dev/no-such-device"), Device::Absent);
        assert_eq!(device("/dev/null"), Device::Usable);
    }
}
