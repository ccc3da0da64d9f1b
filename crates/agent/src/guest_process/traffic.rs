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

    /// Listens at more addresses for the guest that is expected.
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
            let mut ports = ports.clone();
            let opened = ports.find_map(|port| key.open_also(SocketAddr::new(ip, port)).ok());
            let refused = || Status::internal(format!("no port of {ip} can be listened on"));
            opened.map(|address| address.to_string()).ok_or_else(refused)
        };
        let addresses = request.ips.iter().map(open).collect::<Result<_, _>>()?;
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
