//! Networks of addresses, as people write them. Never resolves a name.

use crate::Speaks;
use serde::{Deserialize, Serialize};
use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    str::FromStr,
};

/// Addresses that begin alike: `10.0.0.0/8`, or one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Network {
    first: IpAddr,
    bits: u8,
}

/// Text that names no network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a network such as `10.0.0.0/8`, `2001:db8::/32` or one address")]
pub struct BadNetwork(String);

impl Network {
    pub fn contains(&self, address: IpAddr) -> bool {
        let shift = |width: u32| width - u32::from(self.bits);
        match (self.first, address.to_canonical()) {
            (IpAddr::V4(a), IpAddr::V4(b)) => (a.to_bits() ^ b.to_bits()).checked_shr(shift(32)).unwrap_or(0) == 0,
            (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits() ^ b.to_bits()).checked_shr(shift(128)).unwrap_or(0) == 0,
            _ => false,
        }
    }
}

impl FromStr for Network {
    type Err = BadNetwork;

    fn from_str(text: &str) -> Result<Self, BadNetwork> {
        let bad = || BadNetwork(text.to_owned());
        let (address, bits) = text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
        let first: IpAddr = address.parse().map_err(|_| bad())?;
        let width = if first.is_ipv4() { 32 } else { 128 };
        let bits = bits.map_or(Ok(width), |bits| bits.parse().map_err(|_| bad()))?;
        if bits <= width { Ok(Self { first, bits }) } else { Err(bad()) }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = if self.first.is_ipv4() { 32 } else { 128 };
        if self.bits == whole { write!(f, "{}", self.first) } else { write!(f, "{}/{}", self.first, self.bits) }
    }
}

impl TryFrom<String> for Network {
    type Error = BadNetwork;

    fn try_from(text: String) -> Result<Self, BadNetwork> {
        text.parse()
    }
}

impl From<Network> for String {
    fn from(network: Network) -> Self {
        network.to_string()
    }
}

/// This machine, or a network that the internet has no way into.
pub fn is_private(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(ip) => ip.is_loopback() || ip.is_private() || ip.is_link_local() || is_shared(ip),
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local(),
    }
}

/// 100.64.0.0/10 (RFC 6598). Made for networks of carriers, used by those who speak to machines there for a VPN such as
/// Tailscale, which encrypts. Refusing plain HTTP in it would only make people allow it everywhere.
const fn is_shared(ip: Ipv4Addr) -> bool {
    let [first, second, ..] = ip.octets();
    first == 100 && second & 0b1100_0000 == 0b0100_0000
}

/// Whether what is sent to a member at this address passes a public network without TLS. `speaks`: where the address does not
/// say it. Of a name nobody knows where it leads, and no resolver is asked.
pub fn is_in_the_open(address: &str, speaks: Speaks) -> bool {
    let (scheme, rest) = address.split_once("://").map_or((None, address), |(scheme, rest)| (Some(scheme), rest));
    let secure = scheme.map_or(speaks == Speaks::Https, |scheme| scheme == "https");
    let authority = rest.split('/').next().unwrap_or_default();
    let address = authority.parse::<SocketAddr>().map(|at| at.ip());
    let address = address.or_else(|_| authority.trim_start_matches('[').trim_end_matches(']').parse());
    !secure && address.is_ok_and(|address: IpAddr| !is_private(address))
}

#[cfg(test)]
mod tests {
    use super::{Network, is_in_the_open};
    use crate::Speaks;

    #[test]
    fn a_member_is_in_the_open_without_tls_at_an_address_that_is_not_private() {
        for (address, speaks, open) in [
            ("203.0.113.9:8000", Speaks::Http, true),
            ("203.0.113.9:8000", Speaks::H2c, true),
            ("203.0.113.9:8000", Speaks::Https, false),
            ("https://203.0.113.9:8000", Speaks::Http, false),
            ("h2c://203.0.113.9:8000", Speaks::Https, true),
            ("http://203.0.113.9", Speaks::Https, true),
            ("http://[2001:db8::1]:80/", Speaks::Http, true),
            ("http://[2001:db8::1]", Speaks::Http, true),
            ("[fd00::1]:80", Speaks::Http, false),
            ("127.0.0.1:8000", Speaks::Http, false),
            ("10.1.2.3:8000", Speaks::Http, false),
            ("100.101.102.103:8000", Speaks::Http, false),
            ("http://100.128.0.1:8000", Speaks::Http, true),
            ("http://app.example.com", Speaks::Http, false),
            ("", Speaks::Http, false),
        ] {
            assert_eq!(is_in_the_open(address, speaks), open, "{address}");
        }
    }

    #[test]
    fn a_network_has_the_addresses_that_begin_like_it() {
        for (network, address, inside) in [
            ("10.0.0.0/8", "10.255.0.1", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("127.0.0.1", "127.0.0.1", true),
            ("127.0.0.1", "127.0.0.2", false),
            ("0.0.0.0/0", "203.0.113.9", true),
            ("0.0.0.0/0", "::1", false),
            ("2001:db8::/32", "2001:db8:1::7", true),
            ("2001:db8::/32", "2001:db9::", false),
            ("10.0.0.0/8", "::ffff:10.0.0.1", true),
        ] {
            let network: Network = network.parse().unwrap();
            assert_eq!(network.contains(address.parse().unwrap()), inside, "{network:?} {address}");
        }
        for bad in ["", "10.0.0.0/33", "::/129", "10.0.0.0/", "ten", "10.0.0.0/-1", "10.0.0.0/8/8"] {
            assert!(bad.parse::<Network>().is_err(), "{bad}");
        }
        for text in ["10.0.0.0/8", "127.0.0.1", "2001:db8::/32", "::1", "0.0.0.0/0"] {
            assert_eq!(text.parse::<Network>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn private_is_what_the_internet_has_no_way_into() {
        for private in [
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.7.7",
            "100.64.0.0",
            "100.127.255.255",
            "::ffff:100.100.1.1",
            "::1",
            "fd00::1",
            "fe80::1",
            "::ffff:10.0.0.1",
        ] {
            assert!(super::is_private(private.parse().unwrap()), "{private}");
        }
        for open in
            ["1.1.1.1", "172.32.0.1", "100.63.255.255", "100.128.0.0", "101.64.0.1", "2001:db8::1", "::ffff:8.8.8.8"]
        {
            assert!(!super::is_private(open.parse().unwrap()), "{open}");
        }
    }
}
