//! How a migration ends, and whose fault a failure is.

use alloc::string::String;

use crate::Term;

/// How a migration ended. Both sides reach the same one, or one of them says that it cannot know.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The destination owns the guest and runs it.
    Completed {
        /// The term under which it runs there.
        term: Term,
    },
    /// The source owns the guest and runs it at full speed, as before the attempt.
    Aborted(Failure),
    /// The source granted the term and cannot learn what became of it. The guest stands still here
    /// until the destination answers or a person resolves it.
    InDoubt {
        /// The term that was granted.
        term: Term,
        /// What stands in the way of knowing.
        why: String,
    },
}

/// Why an attempt failed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[error("{fault}: {why}")]
pub struct Failure {
    /// Where to look for the cause, which decides what may be done next.
    pub fault: Fault,
    /// What happened, as a sentence that names the numbers.
    pub why: String,
}

impl Failure {
    /// A failure by `fault`, explained by `why`.
    #[must_use]
    pub fn new(fault: Fault, why: impl Into<String>) -> Self {
        Self { fault, why: why.into() }
    }
}

/// Where a failure comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fault {
    /// The peer broke the protocol: do not retry before it is looked at.
    Peer,
    /// The two sides do not fit each other: a retry will fail the same way.
    Incompatible,
    /// The destination has no room, or its policy says no: choose another one, or wait.
    Capacity,
    /// The connection was lost or too slow: a retry may work.
    Link,
    /// Guest memory or its tracking failed on this host.
    Memory,
    /// The guest did not do what it was asked.
    Guest,
    /// An ownership record could not be made durable.
    Journal,
    /// The guest writes faster than the link carries and the policy said to give up.
    NotConverging,
    /// A person or a program cancelled the migration.
    Cancelled,
}

impl core::fmt::Display for Fault {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::Peer => "the peer broke the protocol",
            Self::Incompatible => "the two sides do not fit",
            Self::Capacity => "the destination cannot take the guest",
            Self::Link => "the link failed",
            Self::Memory => "guest memory failed",
            Self::Guest => "the guest failed",
            Self::Journal => "the ownership journal failed",
            Self::NotConverging => "the guest does not converge",
            Self::Cancelled => "cancelled",
        })
    }
}

/// An event that the protocol does not allow in this phase: the one way in which a machine says
/// that something is wrong with what it was told.
#[derive(Clone, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[error("{event} is not allowed while {phase}")]
pub struct Violation {
    /// The phase the machine was in.
    pub phase: &'static str,
    /// What came.
    pub event: String,
    /// Whether the peer sent it; otherwise the driver is at fault.
    pub by_peer: bool,
}
