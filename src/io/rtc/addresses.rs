//! The local addresses that connections bind to.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use rtc::shared::ifaces::ifaces;
use tracing::warn;

use super::config::Bind;

/// Each address costs every connection a socket; a machine with more has bridges and tunnels that lead nowhere.
const ADDRESSES_MAX: usize = 8;

/// The addresses to bind for one connection, with port 0. Asked anew for each connection: interfaces come and go.
pub(super) fn bind_addresses(bind: &Bind) -> Vec<SocketAddr> {
    let addresses = match bind {
        Bind::Addresses(addresses) => addresses.clone(),
        Bind::Interfaces => usable(&interface_addresses()),
    };
    addresses.into_iter().map(|ip| SocketAddr::new(ip, 0)).collect()
}

fn interface_addresses() -> Vec<IpAddr> {
    match ifaces() {
        Ok(interfaces) => interfaces.into_iter().filter_map(|i| i.addr).map(|addr| addr.ip()).collect(),
        Err(error) => {
            warn!(%error, "cannot list the network interfaces");
            Vec::new()
        }
    }
}

/// Addresses that another peer can be reached from. Two processes on one machine without any network reach each
/// other over loopback, so it is used where nothing else is left.
fn usable(found: &[IpAddr]) -> Vec<IpAddr> {
    let mut addresses: Vec<IpAddr> = Vec::new();
    for ip in found {
        if !ip.is_loopback() && !ip.is_unspecified() && !is_link_local(ip) && !addresses.contains(ip) {
            addresses.push(*ip);
        }
    }
    addresses.truncate(ADDRESSES_MAX);
    if addresses.is_empty() {
        addresses.push(IpAddr::V4(Ipv4Addr::LOCALHOST));
    }
    addresses
}

/// A link-local address means nothing without its interface, which a candidate cannot name.
fn is_link_local(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn loopback_is_used_only_where_there_is_nothing_else() {
        let lan = [ip("127.0.0.1"), ip("::1"), ip("192.168.1.2"), ip("fe80::1"), ip("fd00::2")];
        assert_eq!(usable(&lan), [ip("192.168.1.2"), ip("fd00::2")]);
        assert_eq!(usable(&[ip("127.0.0.1"), ip("::1"), ip("169.254.3.4")]), [ip("127.0.0.1")]);
        assert_eq!(usable(&[]), [ip("127.0.0.1")]);
    }

    #[test]
    fn an_address_is_bound_once_and_their_number_is_bounded() {
        let twice = [ip("10.0.0.1"), ip("10.0.0.1")];
        assert_eq!(usable(&twice), [ip("10.0.0.1")]);
        let many: Vec<IpAddr> = (1..=40).map(|n| ip(&format!("10.0.0.{n}"))).collect();
        assert_eq!(usable(&many).len(), ADDRESSES_MAX);
    }
}
