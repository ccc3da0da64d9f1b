//! What Windows says about this host, and what it has not.

use whimbrel_engine::memory::{Backing, probe_host};

use crate::os::{Device, HostFacts, Lack};

const LACKS: &[Lack] = &[
    Lack {
        subject: "post-copy",
        found: "Windows has no page faults that a program answers",
        advice: "guests are moved by pre-copy",
    },
    Lack {
        subject: "commitment",
        found: "all of a guest's memory is promised when it starts, and none is given back",
        advice: "let the page file be as large as the guests",
    },
    Lack {
        subject: "sharing",
        found: "writes to memory that processes share are not found",
        advice: "give guests private memory",
    },
    Lack {
        subject: "sockets",
        found: "`--transport unix` is refused",
        advice: "use tcp, tls or quic between two agents of this host",
    },
    Lack {
        subject: "marks",
        found: "`--dscp` and `--priority` are refused: Windows marks by its policies",
        advice: "New-NetQosPolicy, for the program whimbrel.exe",
    },
    Lack {
        subject: "congestion",
        found: "`--congestion` is refused over TCP: Windows has one for all connections",
        advice: "Set-NetTCPSetting",
    },
    Lack {
        subject: "interfaces",
        found: "a connection is bound to an address only, and no lane to processors",
        advice: "give each network a subnet of its own",
    },
];

/// Looks at this host.
pub(crate) fn host_facts() -> HostFacts {
    let version = whimbrel_win32::version().ok();
    let version = version.map(|(major, minor, build)| format!(" {major}.{minor}.{build}"));
    HostFacts {
        kernel: None,
        system: Some(format!("Windows{}", version.unwrap_or_default())),
        lacks: LACKS,
        trackers: probe_host(Backing::default()),
        memory_available: super::memory_available().ok(),
        overcommit: None,
        huge_pages: None,
        mappings_max: None,
        files_max: None,
        congestion: None,
        congestion_allowed: Vec::new(),
        tcp_buffers_max: None,
        udp_buffers_max: None,
        kvm: Device::Absent,
    }
}
