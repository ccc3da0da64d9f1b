//! What Windows says about this host, and what it has not.

use whimbrel_engine::memory::{Backing, probe_host};
use whimbrel_engine::page::ByteCount;

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
        subject: "huge pages",
        found: "huge pages that are reserved are refused: writes to them are not found",
        advice: "give guests memory of ordinary pages",
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
        found: "a connection is bound to an address, not to the interface that has it",
        advice: "give each network a subnet of its own",
    },
    Lack {
        subject: "processors",
        found: "`--pin-lanes` is refused: no processors are told to be beside an interface",
        advice: "leave it out: lanes run on any processor",
    },
    Lack {
        subject: "peak",
        found: "the most memory of a migration is counted from the start of its process",
        advice: "take it for an upper bound",
    },
    Lack {
        subject: "page tables",
        found: "`bench` counts none: Windows tells nobody how large they are",
        advice: "compare the memory that it tells without them",
    },
    Lack {
        subject: "pipes",
        found: "`watch` goes on where nobody reads any more what it writes into a pipe",
        advice: "end it with Ctrl-C",
    },
];

/// Nobody is told which ones they may ask for.
pub(crate) fn congestion_allowed() -> Vec<String> {
    Vec::new()
}

/// Not told either: buffers grow by themselves.
pub(crate) fn tcp_buffers_max() -> Option<(ByteCount, ByteCount)> {
    None
}

/// Looks at this host.
pub(crate) fn host_facts() -> HostFacts {
    let version = whimbrel_win32::version().ok();
    let version = version.map(|(major, minor, build)| format!(" {major}.{minor}.{build}"));
    HostFacts {
        kernel: None,
        system: Some(format!("Windows{}", version.unwrap_or_default())),
        processor: std::env::var("PROCESSOR_IDENTIFIER").ok(),
        lacks: LACKS,
        trackers: probe_host(Backing::default()),
        memory_available: super::memory_available().ok(),
        overcommit: None,
        huge_pages: None,
        mappings_max: None,
        files_max: None,
        congestion: None,
        congestion_allowed: congestion_allowed(),
        tcp_buffers_max: tcp_buffers_max(),
        udp_buffers_max: None,
        kvm: Device::Absent,
    }
}
