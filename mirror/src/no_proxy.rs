//! `NO_PROXY`, parsed as Go programs (Docker, kubectl, Helm) do, so that all of them and this one
//! agree: the rules of `golang.org/x/net/http/httpproxy`.

use std::net::IpAddr;

/// The hosts that are reached without a proxy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NoProxy {
    entries: Vec<Entry>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Entry {
    /// `*`
    Everything,
    /// `10.0.0.0/8`, with the prefix length in bits.
    Network(IpAddr, u8),
    /// `10.1.2.3`, `10.1.2.3:443`, `[::2]:443`
    Address(IpAddr, Option<u16>),
    /// `example.com` (including subdomains), `.example.com` or `*.example.com` (subdomains only),
    /// each with an optional port. The suffix starts with its dot.
    Domain { suffix: String, itself: bool, port: Option<u16> },
}

impl NoProxy {
    /// Entries that cannot be parsed are ignored, as in Go, and so are empty ones.
    pub fn parse(list: &str) -> Self {
        // Go splits at commas only; but no valid entry contains a blank.
        Self { entries: list.split(|c: char| c == ',' || c.is_whitespace()).filter_map(entry).collect() }
    }

    /// Whether this host is reached directly. `localhost`, its subdomains and loopback addresses
    /// always are.
    pub fn covers(&self, host: &str, port: u16) -> bool {
        let host = bare(host).to_ascii_lowercase();
        // A fully qualified name may end in a dot.
        let host = host.strip_suffix('.').unwrap_or(&host);
        let address = host.parse::<IpAddr>().ok().map(|address| address.to_canonical());
        if is_loopback(host) {
            return true;
        }
        let on = |wanted: &Option<u16>| wanted.is_none_or(|wanted| wanted == port);
        self.entries.iter().any(|entry| match (entry, address) {
            (Entry::Everything, _) => true,
            (Entry::Network(network, prefix), Some(address)) => contains(*network, *prefix, address),
            (Entry::Address(wanted, port), Some(address)) => *wanted == address && on(port),
            (Entry::Domain { suffix, itself, port }, None) => {
                (host.ends_with(suffix.as_str()) || (*itself && *host == suffix[1..])) && on(port)
            }
            _ => false,
        })
    }
}

/// `localhost`, names below it (RFC 6761, 6.3), `127.0.0.0/8` and `::1`.
pub(crate) fn is_loopback(host: &str) -> bool {
    let host = bare(host).to_ascii_lowercase();
    let address = host.parse::<IpAddr>().map(|address| address.to_canonical());
    host == "localhost" || host.ends_with(".localhost") || address.is_ok_and(|address| address.is_loopback())
}

fn entry(text: &str) -> Option<Entry> {
    let text = text.trim().to_ascii_lowercase();
    if text.is_empty() {
        return None;
    }
    if text == "*" {
        return Some(Entry::Everything);
    }
    if let Some((network, prefix)) = text.split_once('/')
        && let (Ok(network), Ok(prefix)) = (network.parse::<IpAddr>(), prefix.parse::<u8>())
        && prefix <= bits(network)
    {
        return Some(Entry::Network(network, prefix));
    }
    if let Ok(address) = bare(&text).parse::<IpAddr>() {
        return Some(Entry::Address(address.to_canonical(), None));
    }
    // IPv6 addresses, which contain colons themselves, were handled above.
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) => (host, Some(port.parse::<u16>().ok()?)),
        None => (text.as_str(), None),
    };
    if let Ok(address) = bare(host).parse::<IpAddr>() {
        return Some(Entry::Address(address.to_canonical(), port));
    }
    let host = host.strip_prefix('*').filter(|rest| rest.starts_with('.')).unwrap_or(host);
    match host {
        "" => None,
        below if below.starts_with('.') => Some(Entry::Domain { suffix: below.to_owned(), itself: false, port }),
        host => Some(Entry::Domain { suffix: format!(".{host}"), itself: true, port }),
    }
}

fn bare(host: &str) -> &str {
    host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host)
}

fn bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn contains(network: IpAddr, prefix: u8, address: IpAddr) -> bool {
    let number = |address: IpAddr| match address {
        IpAddr::V4(address) => u128::from(address.to_bits()) << 96,
        IpAddr::V6(address) => address.to_bits(),
    };
    let mask = u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
    network.is_ipv4() == address.is_ipv4() && (number(network) ^ number(address)) & mask == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_covers_what_it_covers_in_go() {
        for (list, host, port, covered) in [
            ("example.com", "example.com", 443, true),
            ("example.com", "EXAMPLE.com", 443, true),
            ("example.com", "api.example.com", 443, true),
            ("example.com", "notexample.com", 443, false),
            (".example.com", "api.example.com", 443, true),
            (".example.com", "example.com", 443, false),
            ("*.example.com", "api.example.com", 443, true),
            ("*.example.com", "example.com", 443, false),
            ("example.com:6443", "example.com", 6443, true),
            ("example.com:6443", "example.com", 443, false),
            (".example.com:6443", "api.example.com", 6443, true),
            ("10.1.2.3", "10.1.2.3", 6443, true),
            ("10.1.2.3", "10.1.2.30", 6443, false),
            ("10.1.2.3:6443", "10.1.2.3", 6443, true),
            ("10.1.2.3:6443", "10.1.2.3", 443, false),
            ("10.0.0.0/8", "10.200.0.1", 443, true),
            ("10.9.9.9/8", "10.200.0.1", 443, true),
            ("10.0.0.0/8", "11.0.0.1", 443, false),
            ("10.0.0.0/8", "ten.example", 443, false),
            ("0.0.0.0/0", "93.184.216.34", 443, true),
            ("0.0.0.0/0", "2001:db8::1", 443, false),
            ("10.0.0.0/33", "10.0.0.1", 443, false),
            ("fd00::/8", "fd12::1", 443, true),
            ("fd00::/8", "[fd12::1]", 443, true),
            ("[fd12::1]:6443", "fd12::1", 6443, true),
            ("[fd12::1]:6443", "fd12::1", 443, false),
            ("fd12::1", "fd12::1", 443, true),
            ("[fd12::1]", "fd12::1", 443, true),
            ("::ffff:10.1.2.3", "10.1.2.3", 443, true),
            ("*", "anything.example", 443, true),
            ("*", "10.1.2.3", 443, true),
            ("a.example, b.example ,,", "b.example", 443, true),
            (" ,, ", "b.example", 443, false),
            ("", "b.example", 443, false),
            (":443", "b.example", 443, false),
            ("b.example:https", "b.example", 443, false),
            ("com", "example.com", 443, true),
            ("", "localhost", 6443, true),
            ("", "127.0.0.1", 6443, true),
            ("", "127.8.8.8", 6443, true),
            ("", "[::1]", 6443, true),
            ("", "::1", 6443, true),
            ("", "k3d-ameide.localhost", 5001, true),
            ("a.example b.example", "b.example", 443, true),
            ("b.example", "b.example.", 443, true),
            ("", "localhost.example", 6443, false),
        ] {
            assert_eq!(NoProxy::parse(list).covers(host, port), covered, "NO_PROXY={list} for {host}:{port}");
        }
    }
}
