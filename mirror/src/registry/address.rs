//! The URLs of one registry: those of its content, those its answers lead to, and which of them are
//! its own, so that no other host gets our account.

use std::net::IpAddr;

use http::uri::Authority;
use http::{HeaderMap, Uri, header};

use crate::endpoint::Endpoint;
use crate::error::{Error, Kind};
use crate::no_proxy::is_loopback;
use crate::reference::is_docker_hub;

pub(crate) struct Address {
    /// As images name it, for messages and credentials: `docker.io`.
    pub name: String,
    scheme: &'static str,
    authority: String,
    /// The prefix of all repositories here, with its slash; usually empty.
    prefix: String,
}

impl Address {
    /// # Errors
    /// A name that no URL can hold; plain HTTP to Docker Hub.
    pub fn new(name: &str, endpoint: &Endpoint) -> Result<Self, Error> {
        let (authority, prefix) = endpoint.parts()?;
        let hub = is_docker_hub(&authority.host().to_ascii_lowercase());
        if hub && endpoint.plain_http {
            return Err(Error::new(Kind::Usage, format!("{authority}: Docker Hub is never contacted over plain HTTP")));
        }
        Ok(Self {
            name: name.to_owned(),
            scheme: if endpoint.plain_http { "http" } else { "https" },
            // Docker Hub's API has its own host name.
            authority: if hub { "registry-1.docker.io".to_owned() } else { authority.to_string() },
            prefix: if prefix.is_empty() { String::new() } else { format!("{prefix}/") },
        })
    }

    /// The endpoint that every registry answers (OCI distribution spec, "Determining Support").
    pub fn root(&self) -> String {
        format!("{}://{}/v2/", self.scheme, self.authority)
    }

    /// A repository's full name here.
    pub fn repository(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    pub fn url(&self, repository: &str, rest: &str) -> String {
        format!("{}{}{repository}/{rest}", self.root(), self.prefix)
    }

    /// Resolves a `Location` against the URL that returned it (RFC 9110, 10.2.2).
    ///
    /// # Errors
    /// There is none; it contains an account; or no registry leads there (`never_led_to`).
    pub fn resolve(&self, from: &str, headers: &HeaderMap) -> Result<String, Error> {
        let location = headers.get(header::LOCATION).and_then(|value| value.to_str().ok());
        let location = location.ok_or_else(|| self.error(Kind::Protocol, from, "sent no Location"))?;
        self.lead(from, location)
    }

    /// Like [`Self::resolve`], for any reference.
    pub fn lead(&self, from: &str, reference: &str) -> Result<String, Error> {
        let wrong = |why: &str| self.error(Kind::Protocol, from, &format!("leads to {why}"));
        let base: Uri = from.parse().map_err(|_| self.error(Kind::Protocol, from, "is not a URL"))?;
        let (scheme, authority) =
            (base.scheme_str().unwrap_or(self.scheme), base.authority().map_or("", |a| a.as_str()));
        let absolute = if has_scheme(reference) {
            reference.to_owned()
        } else if let Some(rest) = reference.strip_prefix("//") {
            format!("{scheme}://{rest}")
        } else if reference.starts_with('/') {
            format!("{scheme}://{authority}{reference}")
        } else if reference.starts_with('?') {
            format!("{scheme}://{authority}{}{reference}", base.path())
        } else {
            let folder = base.path().rsplit_once('/').map_or("", |(folder, _)| folder);
            format!("{scheme}://{authority}{folder}/{reference}")
        };
        let uri: Uri = absolute.parse().map_err(|_| wrong("something that is not a URL"))?;
        let host = uri.host().ok_or_else(|| wrong("no host"))?;
        if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
            return Err(wrong("an address with an account in it"));
        }
        if !self.is_our_host(host) && never_led_to(host) {
            return Err(wrong(&format!("{host}, an address where machines keep their own secrets")));
        }
        // A registry behind a proxy that terminates TLS writes its own address with http: it is the
        // same registry, and still only spoken to over TLS.
        if self.scheme == "https" && uri.scheme_str() == Some("http") && self.is_our_host(host) {
            let port = uri.port_u16();
            if port.is_none() || port == Some(80) || port == self.port() {
                let rest = uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
                return Ok(format!("{}://{}{rest}", self.scheme, self.authority));
            }
        }
        Ok(absolute)
    }

    fn port(&self) -> Option<u16> {
        let port = self.authority.parse::<Authority>().ok().and_then(|authority| authority.port_u16());
        port.or(if self.scheme == "https" { Some(443) } else { Some(80) })
    }

    fn is_our_host(&self, host: &str) -> bool {
        self.authority.parse::<Authority>().is_ok_and(|own| own.host().eq_ignore_ascii_case(host))
    }

    /// Whether an address belongs to this registry; only then is our account sent. The scheme's
    /// default port may be written out or not.
    pub fn is_ours(&self, uri: &Uri) -> bool {
        let (host, scheme) = (uri.host().unwrap_or_default(), uri.scheme_str());
        let port = uri.port_u16().or(if scheme == Some("https") { Some(443) } else { Some(80) });
        let account = uri.authority().is_some_and(|authority| authority.as_str().contains('@'));
        scheme == Some(self.scheme) && self.is_our_host(host) && port == self.port() && !account
    }

    /// Whether an account may be sent there: over TLS, or to this machine if the registry is on it
    /// too.
    pub fn may_send_account_to(&self, scheme: &str, authority: &str) -> bool {
        let host = |authority: &str| authority.parse::<Authority>().map(|it| it.host().to_owned()).unwrap_or_default();
        scheme == "https" || is_loopback(&host(authority)) && is_loopback(&host(&self.authority))
    }

    /// Refuses to go from TLS to an address without it: whoever is on the way there could answer
    /// anything.
    ///
    /// # Errors
    /// `Kind::Protocol`.
    pub fn keep_tls(&self, from: &str, to: &str) -> Result<(), Error> {
        if !leaves_tls(from, to) {
            return Ok(());
        }
        // The query may contain a signature.
        let to = to.split('?').next().unwrap_or_default();
        Err(self.error(Kind::Protocol, from, &format!("leads from TLS to {to}, without it")))
    }

    /// Whether an account may be sent to the registry itself.
    pub fn may_send_account(&self) -> bool {
        self.may_send_account_to(self.scheme, &self.authority)
    }

    /// The name for messages about the whole registry: with the host that is actually contacted, if
    /// it is another one.
    pub fn full_name(&self) -> String {
        if self.name == self.authority { self.name.clone() } else { format!("{} ({})", self.name, self.authority) }
    }

    /// The message of [`Self::error`] without the URL.
    pub fn without_address<'a>(&self, message: &'a str) -> &'a str {
        // `registry: address: text`; addresses contain no blanks.
        match message.strip_prefix(&format!("{}: ", self.name)) {
            Some(rest) => rest.split_once(": ").filter(|(at, _)| has_scheme(at)).map_or(rest, |(_, text)| text),
            None => message,
        }
    }

    pub fn error(&self, kind: Kind, url: &str, text: &str) -> Error {
        // The query may contain a signature.
        let url = url.split('?').next().unwrap_or_default();
        Error::new(kind, format!("{}: {url}: {text}", self.name))
    }
}

fn begins(text: &str, scheme: &str) -> bool {
    text.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme))
}

fn has_scheme(text: &str) -> bool {
    begins(text, "http://") || has_tls(text)
}

/// Whether a redirect from one URL to another leads from TLS to an address without it.
pub(crate) fn leaves_tls(from: &str, to: &str) -> bool {
    has_tls(from) && !has_tls(to)
}

pub(crate) fn has_tls(url: &str) -> bool {
    begins(url, "https://")
}

/// Cloud metadata services, link-local and unspecified addresses: no registry has a reason to
/// redirect there.
pub(crate) fn never_led_to(host: &str) -> bool {
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let bare = bare.trim_end_matches('.').to_ascii_lowercase();
    let address = match bare.parse::<IpAddr>() {
        Ok(address) => address.to_canonical(),
        // Resolvers also accept an address as a single number, or with hexadecimal parts.
        Err(_) => match bare.split('.').next_back() {
            Some(last) if last.starts_with("0x") || !last.is_empty() && last.bytes().all(|b| b.is_ascii_digit()) => {
                return true;
            }
            _ => return bare == "metadata.google.internal",
        },
    };
    match address {
        IpAddr::V4(address) => {
            address.is_link_local() || address.is_unspecified() || address.octets() == [100, 100, 100, 200]
        }
        IpAddr::V6(address) => {
            let first = address.segments()[0];
            first & 0xffc0 == 0xfe80 || address.is_unspecified() || address.segments()[..2] == [0xfd00, 0xec2]
        }
    }
}

/// The URL of `<…>; rel="next"`, possibly among others.
pub(crate) fn next_page(link: &str) -> Option<String> {
    let mut rest = link;
    while let Some((_, after)) = rest.split_once('<') {
        let (address, parameters) = after.split_once('>')?;
        let end = parameters.find('<').unwrap_or(parameters.len());
        let is_next = parameters[..end].split([';', ',']).any(|parameter| {
            let (name, value) = parameter.split_once('=').unwrap_or_default();
            let mut relations = value.trim().trim_matches('"').split_whitespace();
            name.trim().eq_ignore_ascii_case("rel") && relations.any(|relation| relation.eq_ignore_ascii_case("next"))
        });
        if is_next && !address.is_empty() {
            return Some(address.to_owned());
        }
        rest = &parameters[end..];
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(host: &str, plain_http: bool) -> Result<Address, Error> {
        Address::new(host, &Endpoint { host: host.to_owned(), plain_http, ca: None, anonymous: false })
    }

    fn resolved(location: &str) -> String {
        let mut headers = HeaderMap::new();
        headers.insert(header::LOCATION, location.parse().unwrap());
        let from = "http://127.0.0.1:5000/v2/a/blobs/uploads/";
        address("127.0.0.1:5000", true).unwrap().resolve(from, &headers).unwrap()
    }

    #[test]
    fn a_location_may_have_any_form() {
        assert_eq!(resolved("/v2/a/blobs/uploads/1?s=2"), "http://127.0.0.1:5000/v2/a/blobs/uploads/1?s=2");
        assert_eq!(resolved("https://cdn.example/x"), "https://cdn.example/x");
        assert_eq!(resolved("//cdn.example/x"), "http://cdn.example/x");
        assert_eq!(resolved("1?s=2"), "http://127.0.0.1:5000/v2/a/blobs/uploads/1?s=2");
    }

    #[test]
    fn docker_hub_is_never_spoken_to_in_plain_http_and_has_its_api_elsewhere() {
        assert_eq!(address("docker.io", true).err().unwrap().kind(), Kind::Usage);
        let hub = address("docker.io", false).unwrap();
        assert_eq!(hub.url("library/redis", "tags/list"), "https://registry-1.docker.io/v2/library/redis/tags/list");
    }

    #[test]
    fn only_the_registry_itself_is_told_who_we_are() {
        let ours = address("127.0.0.1:5000", true).unwrap();
        assert!(ours.is_ours(&"http://127.0.0.1:5000/v2/".parse().unwrap()));
        for other in ["http://127.0.0.1:50000/", "https://127.0.0.1:5000/", "http://127.0.0.1:5000@evil.example/"] {
            assert!(!ours.is_ours(&other.parse().unwrap()), "{other}");
        }
        let ours = address("Registry.example", false).unwrap();
        for own in ["https://registry.example/v2/", "https://registry.example:443/v2/", "https://REGISTRY.example/x"] {
            assert!(ours.is_ours(&own.parse().unwrap()), "{own}");
        }
        for other in ["https://registry.example:5000/", "http://registry.example:443/", "https://a.registry.example/"] {
            assert!(!ours.is_ours(&other.parse().unwrap()), "{other}");
        }
        assert!(address("user:password@central.example", false).is_err());
    }

    /// A proxy that terminates TLS makes the registry behind it believe that there is none.
    #[test]
    fn a_location_that_forgets_tls_is_led_back_to_it() {
        let ours = address("registry.example", false).unwrap();
        let from = "https://registry.example/v2/a/blobs/uploads/";
        for location in [
            "http://registry.example/v2/x?y=1",
            "http://registry.example:80/v2/x?y=1",
            "HTTP://Registry.example/v2/x?y=1",
        ] {
            assert_eq!(ours.lead(from, location).unwrap(), "https://registry.example/v2/x?y=1", "{location}");
        }
        assert_eq!(ours.lead(from, "http://cdn.example/x").unwrap(), "http://cdn.example/x");
        assert_eq!(ours.lead(from, "?n=2").unwrap(), "https://registry.example/v2/a/blobs/uploads/?n=2");
    }

    #[test]
    fn nobody_is_led_to_where_machines_keep_their_secrets() {
        let ours = address("registry.example", false).unwrap();
        for host in [
            "169.254.169.254",
            "169.254.170.2:80",
            "[fe80::1]",
            "[::ffff:169.254.169.254]",
            "[fd00:ec2::254]",
            "100.100.100.200",
            "metadata.google.internal",
            "2852039166",
            "0xa9fea9fe",
            "0xa9.0xfe.0xa9.0xfe",
            "0251.0376.0251.0376",
            "0.0.0.0",
            "[::]",
            "user:password@cdn.example",
        ] {
            let error = ours.lead("https://registry.example/v2/", &format!("http://{host}/x")).unwrap_err();
            assert!(error.kind() == Kind::Protocol && !error.to_string().contains("password"), "{error}");
        }
        for host in ["10.0.0.1", "cdn.example", "127.0.0.1:5000", "[::1]:5000", "192.168.1.1", "100.100.100.201"] {
            assert!(ours.lead("https://registry.example/v2/", &format!("http://{host}/x")).is_ok(), "{host}");
        }
        // Unless the user names such a host.
        let named = address("169.254.1.1:5000", false).unwrap();
        assert!(named.lead("https://169.254.1.1:5000/v2/", "/v2/x").is_ok());
    }

    #[test]
    fn the_next_page_is_found_among_links() {
        for (link, expected) in [
            (r#"</v2/a/referrers/sha256:1?n=2>; rel="next""#, Some("/v2/a/referrers/sha256:1?n=2")),
            ("<x>;rel=next", Some("x")),
            (r#"<a>; rel="prev", <b>; title="x"; REL="next last""#, Some("b")),
            (r#"<a>; rel="prev""#, None),
            ("<a", None),
            ("", None),
            ("<>; rel=next", None),
        ] {
            assert_eq!(next_page(link).as_deref(), expected, "{link}");
        }
    }

    #[test]
    fn a_prefix_is_part_of_every_repository() {
        let central = address("central.example/team/", false).unwrap();
        assert_eq!(
            central.url("third-party/redis", "blobs/x"),
            "https://central.example/v2/team/third-party/redis/blobs/x"
        );
        assert_eq!(central.repository("third-party/redis"), "team/third-party/redis");
    }
}
