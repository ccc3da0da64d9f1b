//! Arguments that make sense together, as what an agent is asked.

use std::time::Duration;

use whimbrel_control::api;

use crate::args::{GuestArgs, Kind, MoveArgs};
use crate::exit::Stop;
use crate::parse::{Rate, Size};
use crate::view::state::PAGE_BYTES;

const MEMORY_MIN: Size = Size(1 << 20);
const WORKING_SET_DEFAULT: Size = Size(256 << 20);
const DOWNTIME_MIN: Duration = Duration::from_millis(1);
const DOWNTIME_MAX: Duration = Duration::from_secs(60);

/// The guest that is asked for.
///
/// # Errors
/// A usage error: one sentence that names the options.
pub(crate) fn guest(args: &GuestArgs) -> Result<api::GuestConfig, Stop> {
    let memory = memory(args.memory)?;
    if args.kind == Kind::Kv {
        let listen = args.serve.map_or_else(String::new, |address| address.to_string());
        let kind = Some(api::guest_config::Kind::Kv(api::KvConfig { listen }));
        return Ok(api::GuestConfig { memory_bytes: memory.0, kind });
    }
    if args.serve.is_some() {
        let why = "--serve: only a key-value guest has clients; say --guest kv too";
        return Err(Stop::usage(why));
    }
    let working_set = working_set(args.working_set, memory)?;
    let pages = working_set.0 / PAGE_BYTES;
    if u64::from(args.vcpus) > pages {
        let why =
            format!("--vcpus {}: a working set of {working_set} has too few pages", args.vcpus);
        return Err(Stop::usage(why));
    }
    let stress = api::StressConfig {
        vcpus: args.vcpus,
        working_set_bytes: working_set.0,
        rate: rate(args.dirty_rate),
        pattern: api::Pattern::from(args.pattern).into(),
        fill: api::Fill::from(args.fill).into(),
        seed: args.seed,
    };
    let kind = Some(api::guest_config::Kind::Stress(stress));
    Ok(api::GuestConfig { memory_bytes: memory.0, kind })
}

/// The migration that is asked for.
///
/// # Errors
/// A usage error, as [`guest`].
pub(crate) fn migration(args: &MoveArgs) -> Result<api::MigrationOptions, Stop> {
    if args.downtime < DOWNTIME_MIN || args.downtime > DOWNTIME_MAX {
        let why = "--downtime is 1ms to 60s; write for example --downtime 300ms";
        return Err(Stop::usage(why));
    }
    let micros = u64::try_from(args.downtime.as_micros()).unwrap_or(u64::MAX);
    let options = api::MigrationOptions {
        lanes: args.lanes,
        downtime_limit_us: Some(micros),
        policy: api::Policy::from(args.policy).into(),
        throttle_limit_percent: args.throttle_limit,
        tracker: args.tracker.clone(),
        congestion: args.congestion.clone(),
        resume_window_ms: None,
        verify: api::Verify::from(args.verify).into(),
        scrub_percent: args.scrub,
        rate_limit_bytes_per_s: args.traffic.limit.map(|rate| rate.0),
        switchover_limit_bytes_per_s: args.traffic.switchover_limit.map(|rate| rate.0),
        weight: args.traffic.weight,
        guest_heartbeat_us: args
            .traffic
            .guest_heartbeat
            .map(|own| u64::try_from(own.as_micros()).unwrap_or(u64::MAX)),
        dscp: args.traffic.dscp,
        priority: args.traffic.priority,
        transport: api::Transport::from(args.travel.transport).into(),
        encrypt: args.travel.encrypt.map_or(api::Encrypt::Unspecified, Into::into).into(),
    };
    whimbrel_agent::check_travel(&options).map(|()| options).map_err(Stop::usage)
}

/// A guest's memory: whole pages, and enough of them.
///
/// # Errors
/// A usage error.
pub(crate) fn memory(memory: Size) -> Result<Size, Stop> {
    if memory < MEMORY_MIN {
        let why = format!("--memory {memory}: a guest has at least {MEMORY_MIN}");
        return Err(Stop::usage(why));
    }
    whole_pages("--memory", memory)
}

fn working_set(asked: Option<Size>, memory: Size) -> Result<Size, Stop> {
    let working_set = asked.unwrap_or(WORKING_SET_DEFAULT.min(memory));
    if working_set > memory {
        let why = format!("--working-set {working_set} is larger than --memory {memory}");
        return Err(Stop::usage(why));
    }
    if working_set.0 == 0 {
        let why = "--working-set 0: it has at least one page; for an idle guest say --dirty-rate 0";
        return Err(Stop::usage(why));
    }
    whole_pages("--working-set", working_set)
}

fn whole_pages(option: &str, size: Size) -> Result<Size, Stop> {
    if size.0.is_multiple_of(PAGE_BYTES) {
        return Ok(size);
    }
    let bytes = size.0;
    let why = format!("{option} {bytes}: it must be a multiple of 4KiB, the size of a page");
    Err(Stop::usage(why))
}

fn rate(rate: Rate) -> Option<api::stress_config::Rate> {
    match rate {
        Rate::PerSecond(0) => None,
        Rate::PerSecond(bytes) => Some(api::stress_config::Rate::DirtyRateBytesPerS(bytes)),
        Rate::Max => Some(api::stress_config::Rate::DirtyRateMax(true)),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Cli, Command, DemoArgs};
    use crate::exit::Exit;

    fn demo(options: &str) -> DemoArgs {
        let words = ["whimbrel", "demo"].into_iter().chain(options.split_whitespace());
        match Cli::try_parse_from(words).expect(options).command {
            Command::Demo(args) => args,
            other => panic!("{other:?}"),
        }
    }

    fn planned(options: &str) -> api::GuestConfig {
        guest(&demo(options).guest).expect(options)
    }

    fn refused(options: &str) -> String {
        let args = demo(options);
        let stop = match guest(&args.guest) {
            Ok(_) => migration(&args.movement).expect_err(options),
            Err(stop) => stop,
        };
        assert_eq!(stop.exit, Exit::Usage);
        stop.why
    }

    #[test]
    fn the_defaults_are_those_of_the_contract() {
        let guest = planned("");
        assert_eq!(guest.memory_bytes, 1 << 30);
        let Some(api::guest_config::Kind::Stress(stress)) = guest.kind else { panic!("stress") };
        assert_eq!(stress.working_set_bytes, 256 << 20);
        let rate = api::stress_config::Rate::DirtyRateBytesPerS(400 << 20);
        assert_eq!(stress.rate, Some(rate));
        assert_eq!(stress.fill(), api::Fill::Random);
        assert_eq!(stress.pattern(), api::Pattern::Uniform);
        let options = migration(&demo("").movement).expect("defaults");
        assert_eq!(options.downtime_limit_us, Some(300_000));
        assert_eq!(options.policy(), api::Policy::Throttle);
        assert_eq!((options.lanes, options.tracker), (None, None));
        assert_eq!(options.verify, i32::from(api::Verify::Digest));
    }

    #[test]
    fn who_verifies_all_is_taken_to_allow_the_time_for_it() {
        let limit = |options| {
            let options = migration(&demo(options).movement).expect("allowed");
            (options.verify(), options.downtime_limit_us.expect("a limit"))
        };
        assert_eq!(limit("--verify full"), (api::Verify::Full, 5_000_000));
        assert_eq!(limit("--verify full --downtime 400ms"), (api::Verify::Full, 400_000));
        assert_eq!(limit("--verify digest"), (api::Verify::Digest, 300_000));
        let scrub = |options| migration(&demo(options).movement).expect(options).scrub_percent;
        assert_eq!((scrub(""), scrub("--scrub 0")), (None, Some(0)));
    }

    #[test]
    fn a_small_guest_has_a_small_working_set() {
        let Some(api::guest_config::Kind::Stress(stress)) = planned("--memory 2MiB").kind else {
            panic!("stress")
        };
        assert_eq!(stress.working_set_bytes, 2 << 20);
    }

    #[test]
    fn a_store_is_asked_for_with_its_address() {
        for (options, address) in [("", ""), (" --serve [::1]:6379", "[::1]:6379")] {
            let kind = planned(&format!("--guest kv{options}")).kind;
            let listen = address.to_owned();
            assert_eq!(kind, Some(api::guest_config::Kind::Kv(api::KvConfig { listen })));
        }
    }

    #[test]
    fn rates_reach_the_agent() {
        let rate = |options| match planned(options).kind {
            Some(api::guest_config::Kind::Stress(stress)) => stress.rate,
            _ => panic!("stress"),
        };
        assert_eq!(rate("--dirty-rate 0"), None);
        let max = api::stress_config::Rate::DirtyRateMax(true);
        assert_eq!(rate("--dirty-rate max"), Some(max));
    }

    #[test]
    fn what_does_not_fit_together_is_refused_with_both_numbers() {
        let cases = [
            ("--memory 512KiB", "at least 1 MiB"),
            ("--memory 1048577", "--memory 1048577: it must be a multiple of 4KiB"),
            ("--memory 64MiB --working-set 65MiB", "65 MiB is larger than --memory 64 MiB"),
            ("--working-set 0", "say --dirty-rate 0"),
            ("--working-set 5000", "multiple of 4KiB"),
            ("--working-set 4KiB --vcpus 2", "--vcpus 2"),
            ("--serve 127.0.0.1:6379", "say --guest kv"),
            ("--guest kv --memory 512KiB", "at least 1 MiB"),
            ("--downtime 999us", "1ms to 60s"),
            ("--downtime 61s", "1ms to 60s"),
            ("--transport unix --dscp AF11", "leave out DSCP"),
            ("--transport quic --congestion vegas", "not `vegas`"),
            ("--priority 99", "0 to 6"),
        ];
        for (options, reason) in cases {
            let why = refused(options);
            assert!(why.contains(reason), "{options}: {why}");
        }
    }

    #[test]
    fn the_edges_are_allowed() {
        planned("--memory 1MiB --working-set 1MiB --vcpus 16");
        planned("--working-set 4KiB");
        for options in ["--downtime 1ms --lanes 1", "--downtime 60s --lanes 128"] {
            migration(&demo(options).movement).expect(options);
        }
    }
}
