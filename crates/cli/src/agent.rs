//! `agent`, and the line by which it says where it listens.

use whimbrel_control::AgentAddress;

/// How an agent's first line begins; the address follows.
const LISTENING: &str = "whimbrel agent listening on ";

#[cfg(test)]
/// The line by which an agent says where it listens.
pub(crate) fn announcement(address: std::net::SocketAddr) -> String {
    format!("{LISTENING}{address}")
}

/// The address in an agent's announcement.
pub(crate) fn address_of(line: &str) -> Option<AgentAddress> {
    line.strip_prefix(LISTENING)?.trim().parse().ok()
}

/// Returns when a person or the system asks this program to end.
pub(crate) async fn interrupted() {
    // A program that cannot be interrupted this way is still ended by a signal's default action.
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending::<()>().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_announcement_is_understood() {
        let address = "[::1]:7".parse().expect("an address");
        let heard = address_of(&announcement(address)).expect("heard");
        assert_eq!(heard.to_string(), "[::1]:7");
        assert_eq!(address_of("something else"), None);
        assert_eq!(address_of("whimbrel agent listening on nowhere at all"), None);
    }
}
