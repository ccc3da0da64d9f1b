//! The stress guest in the words of the API.

use std::time::Duration;

use tonic::Status;
use whimbrel_control::api;
use whimbrel_engine::page::{ByteCount, Layout};
use whimbrel_guest::stress::{
    CheckReport, DirtyRate, Fill, Pattern, Seed, StressConfig, StressMonitor, StressSpec, VcpuCount,
};

use crate::convert::micros;

/// The guest that is asked for, checked against its memory.
pub(crate) fn config(memory: ByteCount, asked: &api::StressConfig) -> Result<StressConfig, Status> {
    let layout = Layout::single(memory).map_err(|error| {
        Status::invalid_argument(format!(
            "a guest cannot have {} bytes of memory: {error}",
            memory.0
        ))
    })?;
    StressConfig::new(spec(memory, asked)?, layout)
        .map_err(|error| Status::invalid_argument(error.to_string()))
}

fn spec(memory: ByteCount, asked: &api::StressConfig) -> Result<StressSpec, Status> {
    let default = StressSpec::default();
    let vcpus = match asked.vcpus {
        0 => default.vcpus,
        // What is too many here is too many for the guest too, and it says how many it takes.
        vcpus => VcpuCount(u16::try_from(vcpus).unwrap_or(u16::MAX)),
    };
    let working_set = match asked.working_set_bytes {
        0 => default.working_set.min(memory),
        bytes => ByteCount(bytes),
    };
    Ok(StressSpec {
        working_set,
        rate: rate(asked),
        pattern: pattern(asked)?,
        fill: fill(asked)?,
        vcpus,
        seed: Seed(asked.seed),
    })
}

fn rate(asked: &api::StressConfig) -> DirtyRate {
    use api::stress_config::Rate;
    match asked.rate {
        None | Some(Rate::DirtyRateBytesPerS(0) | Rate::DirtyRateMax(false)) => DirtyRate::Idle,
        Some(Rate::DirtyRateBytesPerS(bytes)) => DirtyRate::PerSecond(ByteCount(bytes)),
        Some(Rate::DirtyRateMax(true)) => DirtyRate::Max,
    }
}

fn pattern(asked: &api::StressConfig) -> Result<Pattern, Status> {
    Ok(match api::Pattern::try_from(asked.pattern) {
        Ok(api::Pattern::Unspecified | api::Pattern::Uniform) => Pattern::Uniform,
        Ok(api::Pattern::Zipf) => Pattern::Zipf,
        Ok(api::Pattern::Sequential) => Pattern::Sequential,
        Ok(api::Pattern::Phases) => Pattern::Phases,
        Ok(api::Pattern::HotSpot) => Pattern::HotSpot,
        Err(_) => return Err(unknown("pattern", asked.pattern)),
    })
}

fn fill(asked: &api::StressConfig) -> Result<Fill, Status> {
    Ok(match api::Fill::try_from(asked.fill) {
        Ok(api::Fill::Unspecified | api::Fill::Random) => Fill::Random,
        Ok(api::Fill::Zero) => Fill::Zero,
        Ok(api::Fill::Text) => Fill::Text,
        Ok(api::Fill::Mixed) => Fill::Mixed,
        Err(_) => return Err(unknown("fill", asked.fill)),
    })
}

fn unknown(what: &str, number: i32) -> Status {
    Status::invalid_argument(format!(
        "this agent knows no {what} with the number {number}: it is older than the program that \
         asks; upgrade it"
    ))
}

/// What the guest says about itself; nothing before it has come to life.
pub(crate) fn report(monitor: &StressMonitor) -> Option<api::StressReport> {
    let report = monitor.report()?;
    Some(api::StressReport {
        filled: report.spec.is_some(),
        operations: report.operations.0,
        operations_per_s: report.operations_per_second.0,
        heartbeats: report.beats.0,
        heartbeats_here: report.beats_here.0,
        blackout_us: micros(report.blackout),
        lost_us: micros(report.lost),
        throttle_percent: report.throttle.as_percent().into(),
        config: report.spec.map(|spec| described(&spec)),
    })
}

fn described(spec: &StressSpec) -> api::StressConfig {
    use api::stress_config::Rate;
    let pattern = match spec.pattern {
        Pattern::Uniform => api::Pattern::Uniform,
        Pattern::Zipf => api::Pattern::Zipf,
        Pattern::Sequential => api::Pattern::Sequential,
        Pattern::Phases => api::Pattern::Phases,
        Pattern::HotSpot => api::Pattern::HotSpot,
    };
    let fill = match spec.fill {
        Fill::Random => api::Fill::Random,
        Fill::Zero => api::Fill::Zero,
        Fill::Text => api::Fill::Text,
        Fill::Mixed => api::Fill::Mixed,
    };
    api::StressConfig {
        vcpus: spec.vcpus.0.into(),
        working_set_bytes: spec.working_set.0,
        rate: match spec.rate {
            DirtyRate::Idle => None,
            DirtyRate::PerSecond(bytes) => Some(Rate::DirtyRateBytesPerS(bytes.0)),
            DirtyRate::Max => Some(Rate::DirtyRateMax(true)),
        },
        pattern: pattern.into(),
        fill: fill.into(),
        seed: spec.seed.0,
    }
}

/// What a self-check found.
pub(crate) fn checked(report: &CheckReport) -> api::CheckReport {
    api::CheckReport {
        sound: report.is_clean(),
        pages_checked: report.pages_checked.0,
        pages_lost: report.lost.0,
        pages_stale: report.stale.0,
        pages_ahead: report.ahead.0,
        pages_torn: report.torn.0,
        pages_foreign: report.foreign.0,
        sentence: report.to_string(),
        findings: report.examples.iter().map(ToString::to_string).collect(),
    }
}

/// How often to look whether a guest that has just arrived has had its first heartbeat.
pub(crate) const BEAT_LOOK: Duration = Duration::from_millis(2);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_asked_for_is_what_is_described() {
        use api::stress_config::Rate;
        let memory = ByteCount::mib(64);
        for rate in [None, Some(Rate::DirtyRateBytesPerS(1 << 20)), Some(Rate::DirtyRateMax(true))]
        {
            let asked = api::StressConfig {
                vcpus: 2,
                working_set_bytes: 8 << 20,
                rate,
                pattern: api::Pattern::Zipf.into(),
                fill: api::Fill::Text.into(),
                seed: 9,
            };
            assert_eq!(described(&config(memory, &asked).unwrap().spec()), asked);
        }
    }

    #[test]
    fn what_cannot_be_is_refused_with_a_sentence() {
        let default = api::StressConfig::default();
        assert_eq!(config(ByteCount::mib(4), &default).unwrap().spec().working_set.0, 4 << 20);
        let bad = [
            (0, default),
            (4097, default),
            (4 << 20, api::StressConfig { working_set_bytes: 5 << 20, ..default }),
            (4 << 20, api::StressConfig { vcpus: 1 << 20, ..default }),
            (4 << 20, api::StressConfig { pattern: 77, ..default }),
            (4 << 20, api::StressConfig { fill: 77, ..default }),
        ];
        for (memory, asked) in bad {
            let status = config(ByteCount(memory), &asked).unwrap_err();
            assert_eq!(status.code(), tonic::Code::InvalidArgument);
            assert!(status.message().len() > 20, "{status}");
        }
    }
}
