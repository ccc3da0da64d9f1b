//! Where a migration's lanes go, as far as that changes while it runs.

use std::net::{IpAddr, SocketAddr};

use tonic::Status;
use whimbrel_engine::Limits;
use whimbrel_engine::page::ByteRate;

use super::worker::Worker;
use crate::networks;
use crate::process_api as process;

impl Worker {
    /// Has the lanes of the running migration go over these paths.
    pub(super) fn reroute(
        &self,
        request: &process::RerouteRequest,
    ) -> Result<process::RerouteResponse, Status> {
        let paths = networks::from_agent(&request.paths)?;
        self.traffic().ok_or_else(not_moving)?.set_paths(paths);
        Ok(process::RerouteResponse {})
    }

    /// Has the lanes of the running migration keep within these limits.
    pub(super) fn limit(
        &self,
        request: &process::LimitRequest,
    ) -> Result<process::LimitResponse, Status> {
        let limits = limits(request.limits.as_ref())?;
        self.traffic().ok_or_else(not_moving)?.set_limits(limits);
        Ok(process::LimitResponse {})
    }

    /// Listens at more addresses for the guest that is expected, as far as it can.
    pub(super) fn listen_also(
        &self,
        request: &process::ListenRequest,
    ) -> Result<process::ListenResponse, Status> {
        let key = self.door_key().ok_or_else(not_moving)?;
        let ports = super::moving::port_range(request.port_first, request.port_last)?;
        let open = |ip: &String| {
            let ip: IpAddr = ip
                .parse()
                .map_err(|_| Status::invalid_argument(format!("`{ip}` is not an IP address")))?;
            let mut why = None;
            let opened = ports.clone().find_map(|port| {
                let opened = key.open_also(SocketAddr::new(ip, port));
                opened.map_err(|error| why = Some(error)).ok()
            });
            if let (None, Some(error)) = (opened, why) {
                tracing::debug!(%ip, "no port can be listened on: {error}");
            }
            Ok(opened.map(|address| address.to_string()).unwrap_or_default())
        };
        let addresses = request.ips.iter().map(open).collect::<Result<_, Status>>()?;
        Ok(process::ListenResponse { addresses })
    }
}

/// Limits as the agent said them.
pub(super) fn limits(said: Option<&process::Limits>) -> Result<Limits, Status> {
    let Some(said) = said else { return Ok(Limits::default()) };
    let path = |path: &process::PathLimit| {
        let wrong = |_| Status::invalid_argument(format!("`{}` is no address", path.local));
        Ok((path.local.parse().map_err(wrong)?, ByteRate(path.bytes_per_s)))
    };
    Ok(Limits {
        rounds: said.rounds_bytes_per_s.map(ByteRate),
        switchover: said.switchover_bytes_per_s.map(ByteRate),
        share: said.share_bytes_per_s.map(ByteRate),
        paths: said.paths.iter().map(path).collect::<Result<_, Status>>()?,
    })
}

fn not_moving() -> Status {
    Status::failed_precondition("the guest is not moving")
}
