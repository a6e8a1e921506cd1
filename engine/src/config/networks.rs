//! Networks by CIDR, and the question whether an address is in one of them.
//!
//! Asked once per request, so a set is two sorted lists of ranges and an answer a binary search without allocation.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use sluice_sys::UNIX_PEER;

use super::problem::{Fault, Report};
use super::unix::UNIX_PEERS;
use super::values::Field;

/// A range of addresses of one family, as bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Network {
    V4(u32, u32),
    V6(u128, u128),
    /// Peers on Unix sockets.
    Unix,
}

/// First and last address, as bits.
type Range<T> = (T, T);

/// Addresses, by network. IPv4 addresses that are mapped into IPv6 count as what they are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Networks {
    // Sorted by their first address, and apart from each other.
    v4: Vec<Range<u32>>,
    v6: Vec<Range<u128>>,
    /// Peers on Unix sockets, which have no address.
    unix: bool,
}

impl Networks {
    /// Reads networks such as `10.0.0.0/8`, `2001:db8::/32`, or single addresses.
    ///
    /// # Errors
    /// The first that is none.
    pub fn parse<'t>(texts: impl IntoIterator<Item = &'t str>) -> Result<Self, Fault> {
        texts.into_iter().map(parse).collect::<Result<Vec<_>, _>>().map(Self::of)
    }

    /// The networks of a list in the configuration; those that are none are reported.
    pub(super) fn check(field: &Field<Vec<super::Located<String>>>, key: &str, report: &mut Report) -> Self {
        let texts = field.given().map_or(&[][..], |given| &given.value);
        let networks = texts
            .iter()
            .filter_map(|text| parse(&text.value).map_err(|fault| report.error(&text.at, key, fault)).ok());
        Self::of(networks.collect())
    }

    fn of(networks: Vec<Network>) -> Self {
        let (mut v4, mut v6, mut unix) = (Vec::new(), Vec::new(), false);
        for network in networks {
            match network {
                Network::V4(first, last) => v4.push((first, last)),
                Network::V6(first, last) => v6.push((first, last)),
                Network::Unix => unix = true,
            }
        }
        Self { v4: merged(v4), v6: merged(v6), unix }
    }

    /// Whether there is no address.
    pub fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty() && !self.unix
    }

    /// Whether an address is in one of the networks; that of [`UNIX_PEER`] stands for peers on Unix sockets.
    pub fn contains(&self, ip: IpAddr) -> bool {
        match ip.to_canonical() {
            // No network of addresses means those that have none.
            ip if ip == UNIX_PEER.ip() => self.unix,
            IpAddr::V4(v4) => is_within(&self.v4, v4.to_bits()),
            IpAddr::V6(v6) => is_within(&self.v6, v6.to_bits()),
        }
    }

    /// Whether peers on Unix sockets are among them.
    pub(crate) fn has_unix(&self) -> bool {
        self.unix
    }

    /// First and last addresses as bits, of IPv4 and of IPv6; sorted, and apart from each other.
    pub(crate) fn ranges(&self) -> (&[Range<u32>], &[Range<u128>]) {
        (&self.v4, &self.v6)
    }

    /// Whether all of these addresses are among the others. May say no where two networks that touch take one together.
    pub(super) fn is_subset(&self, others: &Self) -> bool {
        fn each<T: Ord + Copy>(ranges: &[(T, T)], others: &[(T, T)]) -> bool {
            ranges.iter().all(|one| others.iter().any(|other| other.0 <= one.0 && one.1 <= other.1))
        }
        each(&self.v4, &others.v4) && each(&self.v6, &others.v6) && (others.unix || !self.unix)
    }

    /// Whether an address is among both.
    pub(super) fn overlaps(&self, others: &Self) -> bool {
        fn any<T: Ord + Copy>(ranges: &[(T, T)], others: &[(T, T)]) -> bool {
            ranges.iter().any(|one| others.iter().any(|other| one.0 <= other.1 && other.0 <= one.1))
        }
        any(&self.v4, &others.v4) || any(&self.v6, &others.v6) || (self.unix && others.unix)
    }
}

fn is_within<T: Ord + Copy>(ranges: &[(T, T)], address: T) -> bool {
    let after = ranges.partition_point(|(first, _)| *first <= address);
    after > 0 && address <= ranges[after - 1].1
}

/// Sorted, and those that overlap made one.
fn merged<T: Ord + Copy>(mut ranges: Vec<(T, T)>) -> Vec<(T, T)> {
    ranges.sort_unstable();
    ranges.dedup_by(|next, kept| {
        let overlap = next.0 <= kept.1;
        if overlap {
            kept.1 = kept.1.max(next.1);
        }
        overlap
    });
    ranges
}

fn parse(text: &str) -> Result<Network, Fault> {
    if text == UNIX_PEERS {
        return Ok(Network::Unix);
    }
    let (address, prefix) = match text.split_once('/') {
        Some((address, prefix)) => (address, Some(prefix)),
        None => (text, None),
    };
    let bad = || Fault::new(format!("`{text}` is not an address or a network"));
    let ip: IpAddr = address.parse().map_err(|_| bad().hint(meant_address(address)))?;
    let bits = if ip.is_ipv4() { 32 } else { 128 };
    let prefix = match prefix {
        None => bits,
        // `parse` alone would take "+8".
        Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => digits.parse().unwrap_or(u32::MAX),
        Some(_) => u32::MAX,
    };
    if prefix > bits {
        return Err(bad().hint(match text.split_once('/').and_then(|(_, mask)| prefix_of_mask(mask)) {
            Some(prefix) if ip.is_ipv4() => format!("did you mean {ip}/{prefix}"),
            _ => format!("the number behind the slash is 0 to {bits}"),
        }));
    }
    let (first, last): (IpAddr, IpAddr) = match ip {
        IpAddr::V4(v4) => {
            let free = u32::MAX.checked_shr(prefix).unwrap_or(0);
            (
                Ipv4Addr::from_bits(v4.to_bits() & !free).into(),
                Ipv4Addr::from_bits(v4.to_bits() | free).into(),
            )
        }
        IpAddr::V6(v6) => {
            let free = u128::MAX.checked_shr(prefix).unwrap_or(0);
            (
                Ipv6Addr::from_bits(v6.to_bits() & !free).into(),
                Ipv6Addr::from_bits(v6.to_bits() | free).into(),
            )
        }
    };
    if first != ip {
        let fault = Fault::new(format!("`{text}` is an address with a prefix, not a network"));
        return Err(fault.hint(format!("did you mean {first}/{prefix}, or {ip} alone")));
    }
    Ok(match (first.to_canonical(), last.to_canonical()) {
        (IpAddr::V4(first), IpAddr::V4(last)) => Network::V4(first.to_bits(), last.to_bits()),
        _ => Network::V6(v6_bits(first), v6_bits(last)),
    })
}

/// What to write in place of something that is no address.
fn meant_address(text: &str) -> String {
    if matches!(text, "*" | "all" | "any") {
        return "every address is 0.0.0.0/0 and ::/0".to_owned();
    }
    if let Ok(with_port) = text.parse::<SocketAddr>() {
        return format!("without the port: did you mean {}", with_port.ip());
    }
    let inner = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
    if let Some(ip) = inner.and_then(|inner| inner.parse::<Ipv6Addr>().ok()) {
        return format!("without brackets: did you mean {ip}");
    }
    "write an address, or a network such as 10.0.0.0/8 or 2001:db8::/32; names are not looked up here"
        .to_owned()
}

/// The prefix that 255.255.0.0 stands for.
fn prefix_of_mask(mask: &str) -> Option<u32> {
    let bits = mask.parse::<Ipv4Addr>().ok()?.to_bits();
    (bits.leading_ones() + bits.trailing_zeros() == 32).then(|| bits.leading_ones())
}

fn v6_bits(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(v4) => Ipv6Addr::to_bits(v4.to_ipv6_mapped()),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn set(texts: &[&str]) -> Networks {
        Networks::parse(texts.iter().copied()).unwrap()
    }

    #[test]
    fn addresses_are_found_in_their_networks() {
        let set =
            set(&["10.0.0.0/8", "192.0.2.7", "2001:db8::/32", "::1", "::ffff:172.16.0.0/108", "1.0.0.0/32"]);
        for (ip, is_in) in [
            ("10.0.0.0", true),
            ("10.255.255.255", true),
            ("11.0.0.0", false),
            ("9.255.255.255", false),
            ("192.0.2.7", true),
            ("192.0.2.8", false),
            ("1.0.0.0", true),
            ("1.0.0.1", false),
            ("255.255.255.255", false),
            ("172.31.255.255", true),
            ("172.32.0.0", false),
            ("::ffff:10.1.2.3", true),
            ("::ffff:11.1.2.3", false),
            ("2001:db8:ffff:ffff:ffff:ffff:ffff:ffff", true),
            ("2001:db9::", false),
            ("::1", true),
            ("::", false),
            // Not mapped but merely alike.
            ("::10.1.2.3", false),
        ] {
            assert_eq!(set.contains(ip.parse().unwrap()), is_in, "{ip}");
        }
        assert!(!Networks::default().contains("::1".parse().unwrap()) && Networks::default().is_empty());
    }

    #[test]
    fn everything_of_a_family_is_a_network() {
        let all_v4 = set(&["0.0.0.0/0"]);
        assert!(
            all_v4.contains("255.255.255.255".parse().unwrap())
                && all_v4.contains("0.0.0.1".parse().unwrap())
        );
        assert!(!all_v4.contains("::1".parse().unwrap()));
        let all_v6 = set(&["::/0"]);
        assert!(
            all_v6.contains("ffff::".parse().unwrap())
                && !all_v6.contains("::ffff:10.0.0.1".parse().unwrap())
        );
    }

    #[test]
    fn peers_on_unix_sockets_are_in_no_network_of_addresses() {
        let contains = |texts: &[&str]| set(texts).contains(UNIX_PEER.ip());
        assert!(contains(&["unix:"]) && contains(&["10.0.0.0/8", "unix:"]) && !set(&["unix:"]).is_empty());
        assert!(!contains(&["0.0.0.0/0", "::/0", "0.0.0.0"]));
        assert!(!set(&["unix:"]).contains("0.0.0.1".parse().unwrap()));
    }

    #[test]
    fn what_is_no_network_is_told() {
        for (text, words) in [
            ("", "10.0.0.0/8"),
            ("lb.internal", "names are not looked up"),
            ("10.0.0.0/33", "0 to 32"),
            ("::/129", "0 to 128"),
            ("10.0.0.0/", "0 to 32"),
            ("10.0.0.0/+8", "0 to 32"),
            ("10.0.0.0/255.0.0.0", "did you mean 10.0.0.0/8"),
            ("10.0.0.0/255.0.255.0", "0 to 32"),
            ("all", "0.0.0.0/0 and ::/0"),
            ("10.0.0.1/8", "did you mean 10.0.0.0/8, or 10.0.0.1 alone"),
            ("2001:db8::1/32", "did you mean 2001:db8::/32"),
            ("10.0.0/8", "not an address"),
            ("[::1]", "did you mean ::1"),
            ("10.0.0.1:80", "without the port: did you mean 10.0.0.1"),
            ("[::1]:80", "without the port: did you mean ::1"),
        ] {
            let fault = Networks::parse([text]).unwrap_err().to_string();
            assert!(fault.contains(words), "{text}: {fault}");
        }
    }

    proptest! {
        /// The same answer as looking at every network by its bits.
        #[test]
        fn a_set_answers_like_its_networks(
            networks in proptest::collection::vec((any::<bool>(), any::<u128>(), 0_u32..=128), 0..12),
            addresses in proptest::collection::vec((any::<bool>(), any::<u128>()), 0..20),
        ) {
            let ip = |is_v4: bool, bits: u128| -> IpAddr {
                if is_v4 { IpAddr::V4((bits as u32).into()) } else { IpAddr::V6(bits.into()) }
            };
            let networks: Vec<(IpAddr, u32)> = networks.into_iter().map(|(is_v4, bits, prefix)| {
                // Small numbers, so that networks meet.
                let (bits, prefix) = if is_v4 { (bits & 0xff00_0000, prefix % 33) } else { (bits & 0xf << 124, prefix) };
                let mask = if is_v4 { u128::from(u32::MAX.checked_shl(32 - prefix).unwrap_or(0)) } else { u128::MAX.checked_shl(128 - prefix).unwrap_or(0) };
                (ip(is_v4, bits & mask), prefix)
            }).collect();
            let texts: Vec<String> = networks.iter().map(|(ip, prefix)| format!("{ip}/{prefix}")).collect();
            let set = Networks::parse(texts.iter().map(String::as_str)).unwrap();
            for (is_v4, bits) in addresses {
                let address = ip(is_v4, if is_v4 { bits & 0xff00_0101 | 1 } else { bits & (0xf << 124 | 1) });
                let naive = networks.iter().any(|&(network, prefix)| match (network, address) {
                    (IpAddr::V4(network), IpAddr::V4(address)) => {
                        prefix == 0 || network.to_bits() >> (32 - prefix) == address.to_bits() >> (32 - prefix)
                    }
                    (IpAddr::V6(network), IpAddr::V6(address)) => {
                        prefix == 0 || network.to_bits() >> (128 - prefix) == address.to_bits() >> (128 - prefix)
                    }
                    _ => false,
                });
                prop_assert_eq!(set.contains(address), naive, "{} in {:?}", address, texts);
            }
        }
    }
}
