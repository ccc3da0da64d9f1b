//! The two machines of one attempt, before they have met.

use std::time::Duration;

use whimbrel_page::{ByteCount, Layout};
use whimbrel_protocol::{
    Convergence, Destination, DestinationOptions, Feature, GuestUuid, Now, Policy, SessionId,
    Source, SourceOptions, Subject, Term, Token, VERIFY_FULL, Verify,
};

use super::host::{DestinationHost, Life, Pages, SourceHost};

/// The unit that every deadline here is a multiple of: a clock moves by whole units, so that
/// states which differ in nothing else are met again.
pub(crate) const UNIT: Duration = Duration::from_secs(1);

/// The guest's first term: it was started where it is.
pub(crate) const FIRST: Term = Term { generation: 1, host: 0xa };

const fn units(count: u32) -> Duration {
    Duration::from_secs(count as u64)
}

const fn token(attempt: usize) -> Token {
    Token(100 + attempt as u128)
}

pub(crate) fn source(now: Now, attempt: usize, term: Term, verify: Verify) -> Source {
    let subject = Subject {
        guest: GuestUuid(1),
        name: String::new(),
        kind: String::new(),
        state_version: 1,
        layout: Layout::single(ByteCount::kib(4)).expect("one page"),
        state_size: ByteCount::ZERO,
        term,
        host: FIRST.host,
    };
    let options = SourceOptions {
        lanes: 1,
        convergence: Convergence { downtime_max: units(1), policy: Policy::SwitchOver },
        greeting_timeout: units(2),
        silence_timeout: units(1),
        ping_interval: units(1) / 5,
        resume_window: units(2),
        retry_delay: units(1),
        pause_budget: units(1),
        pauses_max: 2,
        pause_timeout: units(1),
        harvest_timeout: units(1),
        doubt_timeout: units(3),
        verify,
    };
    Source::new(now, subject, token(attempt), options)
}

pub(crate) fn source_host(verify: Verify) -> SourceHost {
    let mut life = Life::new(true);
    let to = super::host::Host::B;
    life.journal.record((whimbrel_protocol::Standing::Owner, FIRST, to));
    SourceHost {
        machine: source(life.clock, 0, FIRST, verify).into(),
        life,
        to: 0,
        jobs: Default::default(),
        inbox: Default::default(),
        connecting: false,
        pass: None,
        lane: None,
        opening: None,
        cold: 0,
        there: Pages::default(),
        cold_goes: false,
        spoiled: [false; 2],
    }
}

pub(crate) fn destination(clock: Now, attempt: usize) -> DestinationHost {
    let options = DestinationOptions {
        session: SessionId(10 + attempt as u128),
        token: token(attempt),
        resume_token: Token(200 + attempt as u128),
        lane_tokens: (0..12).map(Token).collect(),
        features: vec![Feature { name: VERIFY_FULL.into(), mandatory: false }],
        lanes_max: 1,
        batch_bytes_max: 1 << 16,
        greeting_timeout: units(2),
        silence_timeout: units(1),
        resume_window: units(2),
        step_timeout: units(2),
        doubt_timeout: units(3),
    };
    DestinationHost {
        machine: Destination::new(clock, options).into(),
        life: Life { clock, ..Life::new(false) },
        tasks: Default::default(),
        inbox: Default::default(),
        links: Vec::new(),
        lane: None,
        landed: Default::default(),
        awaited: None,
        memory: Pages::default(),
        known: Pages::default(),
        compared: None,
        state: None,
        ran: None,
    }
}
