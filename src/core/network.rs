//! Whose connection it is: the one notion of an address that all limits count by.
//!
//! ```text
//! 192.0.2.7                        counts as itself, however it is written (::ffff:192.0.2.7)
//! 2001:db8:1:2::9                  counts as its /64, out of which one host can choose any
//! behind a trusted reverse proxy   the last hop before the proxies that the operator named
//! ```

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

/// The bits of an IPv6 address that say which network it is in; the rest is the host's choice (RFC 4291 §2.5.4).
const IPV6_NETWORK_BITS: u8 = 64;

/// What counts as one client for limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientAddress(IpAddr);

impl ClientAddress {
    /// The client at `address`.
    pub fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self(address.into()),
            IpAddr::V6(address) => Self(masked_v6(address, IPV6_NETWORK_BITS).into()),
        }
    }
}

/// A block of addresses, such as `10.0.0.0/8`; without a length one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    base: IpAddr,
    bits: u8,
}

/// The text is no block of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it should be an address such as 127.0.0.1 or ::1, or a network such as 10.0.0.0/8")]
pub struct NetworkError;

impl Network {
    /// Whether the address is in the block.
    pub fn contains(&self, address: IpAddr) -> bool {
        masked(address.to_canonical(), self.bits) == Some(self.base)
    }
}

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits.parse::<u8>().map_err(|_| NetworkError)?)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| NetworkError)?;
        let all = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.unwrap_or(all);
        if bits > all {
            return Err(NetworkError);
        }
        let (address, bits) = match address.to_canonical() {
            // `::ffff:10.0.0.0/104` is `10.0.0.0/8`.
            canonical if canonical.is_ipv4() && address.is_ipv6() => {
                (canonical, bits.checked_sub(96).ok_or(NetworkError)?)
            }
            canonical => (canonical, bits),
        };
        let base = masked(address, bits).ok_or(NetworkError)?;
        Ok(Self { base, bits })
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.bits)
    }
}

/// The first `bits` of an address; `None` if it has not so many.
fn masked(address: IpAddr, bits: u8) -> Option<IpAddr> {
    match address {
        IpAddr::V4(_) if bits > 32 => None,
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
            Some(IpAddr::V4((u32::from(address) & mask).into()))
        }
        IpAddr::V6(_) if bits > 128 => None,
        IpAddr::V6(address) => Some(masked_v6(address, bits).into()),
    }
}

fn masked_v6(address: Ipv6Addr, bits: u8) -> Ipv6Addr {
    let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
    (u128::from(address) & mask).into()
}

/// The reverse proxies whose word about their clients is taken. By default nobody's is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrustedProxies(pub Vec<Network>);

/// What the headers of a request say about where it came from. Anybody can write them.
#[derive(Debug, Clone, Copy, Default)]
pub struct Forwarding<'a> {
    /// All `X-Forwarded-For` headers, in order.
    pub x_forwarded_for: &'a [&'a str],
    /// All `Forwarded` headers (RFC 7239), in order.
    pub forwarded: &'a [&'a str],
}

impl TrustedProxies {
    /// Whether `address` is one of them.
    pub fn trusts(&self, address: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(address))
    }

    /// Who is behind a connection from `peer`: `peer` itself, unless it is a trusted proxy. Then each proxy has put the address
    /// it was called from behind those that it was told of, so that the last one which is no proxy's is true, and whatever
    /// stands before it may be made up.
    ///
    /// A proxy writes one of the two headers and may pass the other on as a stranger wrote it: where they disagree neither is
    /// believed.
    pub fn client(&self, peer: IpAddr, said: Forwarding<'_>) -> IpAddr {
        if !self.trusts(peer) {
            return peer;
        }
        let hops = said.x_forwarded_for.iter().flat_map(|line| line.split(','));
        let by_x = self.last_hop(peer, hops.map(node_address).collect());
        let elements = said.forwarded.iter().flat_map(|line| forwarded_for(line));
        let by_rfc = self.last_hop(peer, elements.collect());
        match (said.x_forwarded_for.is_empty(), said.forwarded.is_empty()) {
            (true, true) => peer,
            (false, true) => by_x,
            (true, false) => by_rfc,
            (false, false) if by_x == by_rfc => by_x,
            (false, false) => peer,
        }
    }

    /// From the proxy that is connected to us backwards, up to the first that is no trusted proxy. What can't be read ends
    /// the way: who wrote it is the last one known.
    fn last_hop(&self, peer: IpAddr, hops: Vec<Option<IpAddr>>) -> IpAddr {
        let mut last = peer;
        for hop in hops.into_iter().rev() {
            match hop {
                Some(hop) if self.trusts(hop) => last = hop,
                Some(hop) => return hop,
                None => return last,
            }
        }
        last
    }
}

/// The `for` of each element of one `Forwarded` header (RFC 7239 §4), in order. An element may hold what a stranger wrote,
/// such as the `Host` of the request: whatever is inside quotes separates nothing and names nothing. A header whose
/// quotes do not close says nothing about anybody, because where its elements end is anyone's guess.
fn forwarded_for(line: &str) -> Vec<Option<IpAddr>> {
    match split_unquoted(line, ',') {
        Some(elements) => elements.into_iter().map(element_for).collect(),
        None => vec![None],
    }
}

/// The address of the one `for` in an element. All of its pairs must be well-formed: a stranger's open quote before a proxy's
/// turns what that one quoted inside out, which shows in the backslashes that are then outside.
fn element_for(element: &str) -> Option<IpAddr> {
    let mut node = None;
    for pair in split_unquoted(element, ';')?.into_iter().filter(|pair| !pair.trim().is_empty()) {
        let (name, value) = pair.split_once('=')?;
        let value = unquoted(value.trim())?;
        if name.trim().eq_ignore_ascii_case("for") && node.replace(value).is_some() {
            return None;
        }
    }
    node_address(&node?)
}

/// The parts between separators that are in no quoted string (RFC 9110 §5.6.4); `None` if a quote does not close.
fn split_unquoted(text: &str, separator: char) -> Option<Vec<&str>> {
    let (mut parts, mut start) = (Vec::new(), 0);
    let mut chars = text.char_indices();
    let mut is_quoted = false;
    while let Some((at, char)) = chars.next() {
        match char {
            '"' => is_quoted = !is_quoted,
            '\\' if is_quoted => drop(chars.next()?),
            _ if char == separator && !is_quoted => {
                parts.push(&text[start..at]);
                start = at + char.len_utf8();
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    (!is_quoted).then_some(parts)
}

/// What a token or a quoted string stands for; `None` if it is neither.
fn unquoted(value: &str) -> Option<String> {
    let Some(inner) = value.strip_prefix('"') else {
        return (!value.contains(['"', '\\'])).then(|| value.to_owned());
    };
    let (mut text, mut chars) = (String::new(), inner.chars());
    loop {
        match chars.next()? {
            '"' => return chars.next().is_none().then_some(text),
            '\\' => text.push(chars.next()?),
            char => text.push(char),
        }
    }
}

/// `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]` or `[2001:db8::1]:80`.
fn node_address(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    if let Ok(address) = text.parse() {
        return Some(address);
    }
    if let Ok(address) = text.parse::<std::net::SocketAddr>() {
        return Some(address.ip());
    }
    text.strip_prefix('[')?.strip_suffix(']')?.parse().ok().map(IpAddr::V6)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn proxies(texts: &[&str]) -> TrustedProxies {
        TrustedProxies(texts.iter().map(|text| text.parse().expect("a network")).collect())
    }

    fn by_x<'a>(lines: &'a [&'a str]) -> Forwarding<'a> {
        Forwarding { x_forwarded_for: lines, forwarded: &[] }
    }

    #[test]
    fn one_ipv6_host_is_one_address_for_limits() {
        let of = |text| ClientAddress::of(ip(text));
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:1"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
    }

    #[test]
    fn a_network_has_the_addresses_that_begin_like_it() {
        for (network, inside, outside) in [
            ("10.0.0.0/8", "10.255.0.1", "11.0.0.1"),
            ("10.1.2.3/8", "10.0.0.0", "9.255.255.255"),
            ("192.0.2.7", "192.0.2.7", "192.0.2.8"),
            ("192.0.2.7", "::ffff:192.0.2.7", "::192.0.2.7"),
            ("::ffff:10.0.0.0/104", "10.9.9.9", "11.0.0.0"),
            ("0.0.0.0/0", "203.0.113.9", "::1"),
            ("::/0", "2001:db8::1", "10.0.0.1"),
            ("2001:db8::/32", "2001:db8:ffff::1", "2001:db9::1"),
            ("::1", "::1", "::2"),
        ] {
            let network: Network = network.parse().expect(network);
            assert!(network.contains(ip(inside)), "{network} {inside}");
            assert!(!network.contains(ip(outside)), "{network} {outside}");
        }
        for wrong in [
            "",
            "10.0.0.0/33",
            "::/129",
            "10.0.0.0/-1",
            "10.0.0.0/",
            "host",
            "10.0.0.0/8/8",
            "::ffff:10.0.0.0/8",
        ] {
            assert_eq!(wrong.parse::<Network>(), Err(NetworkError), "{wrong}");
        }
    }

    #[test]
    fn nobody_is_believed_who_is_not_trusted() {
        let said = by_x(&["203.0.113.9"]);
        assert_eq!(TrustedProxies::default().client(ip("192.0.2.1"), said), ip("192.0.2.1"));
        assert_eq!(proxies(&["10.0.0.1"]).client(ip("192.0.2.1"), said), ip("192.0.2.1"));
        assert_eq!(proxies(&["10.0.0.1"]).client(ip("10.0.0.1"), said), ip("203.0.113.9"));
        assert_eq!(proxies(&["10.0.0.1"]).client(ip("10.0.0.1"), Forwarding::default()), ip("10.0.0.1"));
    }

    #[test]
    fn what_a_stranger_wrote_before_the_proxy_is_not_believed() {
        let proxies = proxies(&["10.0.0.0/8"]);
        let client = |lines: &[&str]| proxies.client(ip("10.0.0.1"), by_x(lines));
        assert_eq!(client(&["1.1.1.1, 2.2.2.2, 203.0.113.9"]), ip("203.0.113.9"));
        assert_eq!(client(&["1.1.1.1", "203.0.113.9, 10.0.0.2"]), ip("203.0.113.9"));
        assert_eq!(client(&["10.0.0.7, 203.0.113.9"]), ip("203.0.113.9"));
        assert_eq!(client(&["203.0.113.9, unknown"]), ip("10.0.0.1"));
        assert_eq!(client(&["203.0.113.9, _hidden, 10.0.0.2"]), ip("10.0.0.2"));
        assert_eq!(client(&["10.0.0.3"]), ip("10.0.0.3"));
        assert_eq!(client(&["[2001:db8::1]:443"]), ip("2001:db8::1"));
        assert_eq!(client(&["203.0.113.9:5555"]), ip("203.0.113.9"));
    }

    #[test]
    fn the_standard_header_is_read_like_the_other() {
        let proxies = proxies(&["::1"]);
        let client =
            |lines: &[&str]| proxies.client(ip("::1"), Forwarding { x_forwarded_for: &[], forwarded: lines });
        assert_eq!(client(&["for=192.0.2.60;proto=http;by=203.0.113.43"]), ip("192.0.2.60"));
        assert_eq!(client(&[r#"for=1.1.1.1, For="[2001:db8:cafe::17]:4711""#]), ip("2001:db8:cafe::17"));
        assert_eq!(client(&["for=1.1.1.1, proto=https"]), ip("::1"));
        assert_eq!(client(&[r#"for="_gazonk""#]), ip("::1"));
    }

    #[test]
    fn headers_that_disagree_are_both_disbelieved() {
        let proxies = proxies(&["10.0.0.1"]);
        let said = |x: &'static [&'static str], rfc: &'static [&'static str]| {
            proxies.client(ip("10.0.0.1"), Forwarding { x_forwarded_for: x, forwarded: rfc })
        };
        assert_eq!(said(&["203.0.113.9"], &["for=1.1.1.1"]), ip("10.0.0.1"));
        assert_eq!(said(&["203.0.113.9"], &["for=203.0.113.9"]), ip("203.0.113.9"));
    }

    #[test]
    fn what_stands_in_quotes_names_nobody() {
        let proxies = proxies(&["10.0.0.1"]);
        let client = |line: &str| {
            proxies.client(ip("10.0.0.1"), Forwarding { x_forwarded_for: &[], forwarded: &[line] })
        };
        assert_eq!(client(r#"for=203.0.113.9;host="a, for=1.1.1.1""#), ip("203.0.113.9"));
        assert_eq!(client(r#"host="a;for=1.1.1.1";for=203.0.113.9"#), ip("203.0.113.9"));
        assert_eq!(client(r#"host="a\", for=1.1.1.1, \"";for=203.0.113.9"#), ip("203.0.113.9"));
        assert_eq!(client(r#"for="\203.0.113.9" ; "#), ip("203.0.113.9"));
        // What is malformed is no address at all.
        for line in [
            r#"for=203.0.113.9;host="a, for=1.1.1.1"#,
            r#"for=203.0.113.9;host="a\", for=1.1.1.1"#,
            r#"for="1.1.1.1"#,
            r#"for=1.1.1.1""#,
            r#"for="1.1.1.1"x"#,
            r#"for=1.1.1.1;for=203.0.113.9"#,
            r#"for=1.1.1.1;host="a"#,
            r#"host=a"b, for=1.1.1.1"#,
            r"for=\1.1.1.1",
            r#"x=", for=203.0.113.9;host=";for=1.1.1.1;x=\"""#,
        ] {
            assert_eq!(client(line), ip("10.0.0.1"), "{line}");
        }
    }

    proptest! {
        /// A proxy that quotes what it was told as the standard says can not be made to name another client.
        #[test]
        fn a_host_can_not_forge_the_client(
            host in r#"([",;=\\ a-z]|for=1\.1\.1\.1){0,12}"#,
            is_first in any::<bool>(),
            before in r#"[",;=\\ a-z0-9.]{0,24}"#,
        ) {
            let quoted = format!("\"{}\"", host.replace('\\', r"\\").replace('"', r#"\""#));
            let element = match is_first {
                true => format!("host={quoted};for=203.0.113.9"),
                false => format!("for=203.0.113.9;host={quoted}"),
            };
            let proxies = proxies(&["10.0.0.1"]);
            let client = |lines: &[&str]| {
                proxies.client(ip("10.0.0.1"), Forwarding { x_forwarded_for: &[], forwarded: lines })
            };
            prop_assert_eq!(client(&[&element]), ip("203.0.113.9"));
            prop_assert_eq!(client(&[&before, &element]), ip("203.0.113.9"));
            // What stands before it in the same line may open a quote, and then nobody is named.
            let merged = client(&[&format!("{before}, {element}")]);
            prop_assert!(merged == ip("203.0.113.9") || merged == ip("10.0.0.1"), "{}", merged);
        }

        #[test]
        fn any_header_is_read_without_a_panic(line in any::<String>(), quoted in r#"[",;=\\for1.:\[\]é]{0,40}"#) {
            let proxies = proxies(&["10.0.0.1"]);
            for line in [&line, &quoted] {
                let said = Forwarding { x_forwarded_for: &[line], forwarded: &[line] };
                proxies.client(ip("10.0.0.1"), said);
            }
        }
    }
}
