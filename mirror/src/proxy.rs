//! Which proxy is used for an address. Reads the environment as Go programs do, and so docker,
//! kubectl, helm and k3d (<https://pkg.go.dev/golang.org/x/net/http/httpproxy>). A malformed proxy,
//! which Go ignores silently, is an error here.

use std::fmt;
use std::net::IpAddr;

use http::uri::Authority;
use http::{HeaderValue, Uri};

use crate::auth::basic;
use crate::error::{Error, Kind};
use crate::no_proxy::NoProxy;

/// The protocol of a proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Speaks {
    /// Absolute form or CONNECT, optionally over TLS.
    Http,
    /// `local_dns`: names are resolved here (`socks5`), or by the proxy (`socks5h`).
    Socks5 { local_dns: bool },
}

/// A proxy: its address, and our account there.
#[derive(Clone, PartialEq, Eq)]
pub struct Proxy {
    /// Without the account; for a SOCKS proxy, the scheme here is `http`.
    pub(crate) uri: Uri,
    pub(crate) speaks: Speaks,
    /// Username and password.
    pub(crate) account: Option<(String, String)>,
}

/// The account is never printed.
impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.address())
    }
}

impl Proxy {
    /// `http://[user:password@]host[:port]`, `https`, `socks5`, `socks5h`; the scheme defaults to
    /// `http`.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let (scheme, rest) = text.split_once("://").unwrap_or(("http", text));
        let scheme = scheme.to_ascii_lowercase();
        let (speaks, port) = match scheme.as_str() {
            "http" => (Speaks::Http, 80),
            "https" => (Speaks::Http, 443),
            // Desktop environments write `socks`.
            "socks5" | "socks" => (Speaks::Socks5 { local_dns: true }, 1080),
            "socks5h" => (Speaks::Socks5 { local_dns: false }, 1080),
            _ => return None,
        };
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        // `http//host` is a scheme that lost its colon, not the host `http`.
        if !text.contains("://") && !matches!(&rest[end..], "" | "/") {
            return None;
        }
        let rest = &rest[..end];
        let (account, host) = match rest.rsplit_once('@') {
            Some((account, host)) => (Some(account), host),
            None => (None, rest),
        };
        let authority = authority(host)?;
        let account = account.map(|account| {
            let (username, password) = account.split_once(':').unwrap_or((account, ""));
            (percent_decoded(username), percent_decoded(password))
        });
        let scheme = if scheme == "https" { "https" } else { "http" };
        let host = format!("{}:{}", authority.host(), authority.port_u16().unwrap_or(port));
        let uri = Uri::builder().scheme(scheme).authority(host).path_and_query("/").build().ok()?;
        Some(Self { uri, speaks, account })
    }

    fn scheme(&self) -> &str {
        if self.is_socks() { "socks5" } else { self.uri.scheme_str().unwrap_or("http") }
    }

    fn host(&self) -> &str {
        self.uri.authority().map_or("", Authority::as_str)
    }

    /// `http://proxy.example:3128`: for display, without the account.
    pub fn address(&self) -> String {
        format!("{}://{}", self.scheme(), self.host())
    }

    pub fn is_socks(&self) -> bool {
        matches!(self.speaks, Speaks::Socks5 { .. })
    }

    /// Whether it is given a request itself, to pass on (absolute form, RFC 9112, 3.2.2), and not
    /// asked for a tunnel: without TLS, as in curl and Go programs. Many proxies open tunnels to the
    /// HTTPS port only.
    pub(crate) fn forwards(&self, uri: &Uri) -> bool {
        self.speaks == Speaks::Http && uri.scheme_str() == Some("http")
    }

    /// The account, for this proxy alone.
    pub(crate) fn authorization(&self) -> Option<HeaderValue> {
        self.account.as_ref().and_then(|(username, password)| basic(username, password))
    }

    pub fn has_account(&self) -> bool {
        self.account.is_some()
    }

    /// With the account, for a client that takes its proxy as a URL.
    pub fn url(&self) -> Option<Uri> {
        let account = self.account.as_ref();
        let account = account.map(|(username, password)| format!("{}:{}@", escaped(username), escaped(password)));
        format!("{}://{}{}/", self.scheme(), account.unwrap_or_default(), self.host()).parse().ok()
    }
}

/// Percent-encodes everything but unreserved characters (RFC 3986, 2.3).
fn escaped(text: &str) -> String {
    let mut escaped = String::new();
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => escaped.push(byte.into()),
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}

/// A host that a URL can have, with a valid port.
fn authority(text: &str) -> Option<Authority> {
    let authority = Authority::try_from(text).ok()?;
    let host = authority.host();
    let named = host.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c)) && host != ".";
    let literal = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let good = !host.is_empty() && (named || literal.is_some_and(|host| host.parse::<IpAddr>().is_ok()));
    let whole = text == host || authority.port_u16().is_some_and(|port| port > 0);
    (good && whole).then_some(authority)
}

/// `%40` becomes `@`; invalid escapes are left alone.
pub fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let escaped = after.get(..2).filter(|_| *first == b'%').and_then(|hex| std::str::from_utf8(hex).ok());
        match escaped.filter(|hex| hex.bytes().all(|byte| byte.is_ascii_hexdigit())) {
            Some(hex) => {
                bytes.push(u8::from_str_radix(hex, 16).unwrap_or_default());
                rest = &after[2..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The proxies in effect; by default none.
#[derive(Clone, Debug, Default)]
pub struct Proxies {
    http: Option<Proxy>,
    https: Option<Proxy>,
    no_proxy: NoProxy,
    /// Hosts that are always reached directly.
    direct: Vec<String>,
}

impl Proxies {
    /// From `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY`, each in upper or lower case.
    ///
    /// # Errors
    /// `Kind::Usage` for a malformed one, naming its variable but never its value, which may hold a
    /// password. An `ALL_PROXY` that cannot be parsed is ignored.
    pub fn from_env() -> Result<Self, Error> {
        Self::from_variables(|name| std::env::var(name).ok())
    }

    /// Like [`Proxies::from_env`], with variables from elsewhere.
    ///
    /// # Errors
    /// As [`Proxies::from_env`].
    pub fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Result<Self, Error> {
        let set = |name: &str| variable(name).filter(|value| !value.trim().is_empty());
        let either = |name: &str| {
            // A server passes request headers to a CGI program as variables, `Proxy:` as HTTP_PROXY
            // (CVE-2016-5385).
            let upper = set(name).filter(|_| name != "HTTP_PROXY" || variable("REQUEST_METHOD").is_none());
            let lower = name.to_ascii_lowercase();
            upper.map(|value| (name.to_owned(), value)).or_else(|| set(&lower).map(|value| (lower, value)))
        };
        let proxy = |name: &str| {
            match either(name) {
                Some((name, value)) => named(&name, &value).map(Some),
                // Go programs do not read this one: a value that is meant for others and cannot be
                // parsed here is not an error.
                None => Ok(either("ALL_PROXY").and_then(|(_, value)| Proxy::parse(&value))),
            }
        };
        let no_proxy = either("NO_PROXY").map(|(_, value)| NoProxy::parse(&value)).unwrap_or_default();
        Ok(Self { http: proxy("HTTP_PROXY")?, https: proxy("HTTPS_PROXY")?, no_proxy, direct: Vec::new() })
    }

    /// The same proxy for everything but this machine itself.
    ///
    /// # Errors
    /// `Kind::Usage` if it is not a proxy's address.
    pub fn all(proxy: &str) -> Result<Self, Error> {
        let proxy = named("the proxy", proxy)?;
        Ok(Self { http: Some(proxy.clone()), https: Some(proxy), ..Self::default() })
    }

    /// This host is always reached directly: a cluster's own registry.
    #[must_use]
    pub fn never_for(mut self, host: &str) -> Self {
        self.direct.push(host.to_ascii_lowercase());
        self
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.http.is_none() && self.https.is_none()
    }

    /// The proxy for an address. This machine itself is never reached through one.
    pub(crate) fn to(&self, uri: &Uri) -> Option<&Proxy> {
        let (host, tls) = (uri.host()?.to_ascii_lowercase(), uri.scheme_str() != Some("http"));
        let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
        let proxy = if tls { self.https.as_ref() } else { self.http.as_ref() }?;
        let direct = self.direct.contains(&host) || self.no_proxy.covers(&host, port);
        (!direct).then_some(proxy)
    }
}

fn named(variable: &str, value: &str) -> Result<Proxy, Error> {
    Proxy::parse(value).ok_or_else(|| {
        let message = format!(
            "{variable} is not a proxy address: expected http://[user:password@]host:port, or the same with https, socks5 or socks5h"
        );
        Error::new(Kind::Usage, message)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies(variables: &[(&str, &str)]) -> Result<Proxies, Error> {
        Proxies::from_variables(|name| {
            variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn an_address_is_reached_directly_by_its_host_and_port() {
        let rows: &[(&str, &str, bool)] = &[
            ("registry.example:5000", "https://registry.example:5000", true),
            ("registry.example:5000", "https://registry.example", false),
            ("registry.example:443", "https://registry.example", true),
            ("registry.example:443", "http://registry.example", false),
            ("registry.example:80", "http://registry.example/v2/", true),
            ("registry.example", "https://REGISTRY.Example", true),
            ("registry.example", "https://registry.example./v2/", true),
            ("a.example registry.example", "https://registry.example", true),
            ("[fd12::1]:6443", "https://[fd12::1]:6443", true),
            ("[fd12::1]:6443", "https://[fd12::1]", false),
            // This machine, whatever NO_PROXY says.
            ("", "https://localhost:6443", true),
            ("", "https://127.3.2.1:6443", true),
            ("", "https://[::1]:6443", true),
            ("", "https://k3d-ameide.localhost:5001", true),
        ];
        for (no_proxy, address, direct) in rows {
            let proxies = proxies(&[
                ("HTTPS_PROXY", "http://proxy.example:3128"),
                ("HTTP_PROXY", "http://proxy.example:3128"),
                ("NO_PROXY", no_proxy),
            ]);
            assert_eq!(proxies.unwrap().to(&address.parse().unwrap()).is_none(), *direct, "{no_proxy:?} {address}");
        }
    }

    #[test]
    fn each_scheme_has_its_proxy_and_either_case_will_do() {
        let to = |variables: &[(&str, &str)], address: &str| {
            let proxies = proxies(variables).unwrap();
            proxies.to(&address.parse().unwrap()).map(|proxy| proxy.uri.to_string())
        };
        let (plain, tls) = ("http://x.example", "https://x.example");
        assert_eq!(to(&[], tls), None);
        assert_eq!(to(&[("HTTPS_PROXY", "")], tls), None);
        assert_eq!(to(&[("HTTPS_PROXY", "p:1")], tls).as_deref(), Some("http://p:1/"));
        assert_eq!(to(&[("HTTPS_PROXY", "p:1")], plain), None);
        assert_eq!(to(&[("https_proxy", "http://p:1/")], tls).as_deref(), Some("http://p:1/"));
        assert_eq!(to(&[("HTTPS_PROXY", ""), ("https_proxy", "p:1")], tls).as_deref(), Some("http://p:1/"));
        assert_eq!(to(&[("HTTPS_PROXY", "p:1"), ("https_proxy", "p:2")], tls).as_deref(), Some("http://p:1/"));
        assert_eq!(to(&[("http_proxy", "p")], plain).as_deref(), Some("http://p:80/"));
        assert_eq!(to(&[("ALL_PROXY", "p:1")], plain).as_deref(), Some("http://p:1/"));
        assert_eq!(to(&[("ALL_PROXY", "p:1"), ("HTTPS_PROXY", "p:2")], tls).as_deref(), Some("http://p:2/"));
        assert_eq!(to(&[("HTTP_PROXY", "p:1"), ("no_proxy", "x.example")], plain), None);
        assert_eq!(to(&[("HTTP_PROXY", "p:1"), ("REQUEST_METHOD", "GET")], plain), None);
        assert_eq!(to(&[("HTTPS_PROXY", "https://p")], tls).as_deref(), Some("https://p:443/"));
        assert_eq!(to(&[("HTTPS_PROXY", "socks5h://p")], tls).as_deref(), Some("http://p:1080/"));
    }

    #[test]
    fn a_mistyped_proxy_is_an_error_that_names_its_variable_and_no_secret() {
        for wrong in [
            "htp://anna:s3cret@proxy.example:3128",
            "http:/anna:s3cret@proxy.example:3128",
            "http//anna:s3cret@proxy.example:3128",
            "http://anna:s3cret@",
            "http://anna:s3cret@:3128",
            "http://anna:s3cret@proxy.example:31280000",
            "http://anna:s3cret@proxy.example:port",
            "http://anna:s3cret@proxy example:3128",
            "http://anna:s3cret@proxy.example:0",
            "\"http://anna:s3cret@proxy.example:3128\"",
            "://s3cret",
            "ftp://s3cret",
            "http://[::s3cret]:3128",
        ] {
            let error = proxies(&[("https_proxy", wrong)]).unwrap_err();
            let said = error.to_string();
            assert!(error.kind() == Kind::Usage && said.contains("https_proxy"), "{said}");
            assert!(!format!("{error:?}").contains("s3cret"), "{said}");
        }
    }

    #[test]
    fn a_proxy_for_all_is_read_as_desktops_write_it_and_passed_over_where_it_cannot_be() {
        let tls = "https://x.example".parse().unwrap();
        for name in ["ALL_PROXY", "all_proxy"] {
            let found = proxies(&[(name, "socks://127.0.0.1:7891/")]).unwrap();
            let proxy = found.to(&tls).unwrap();
            let expected = ("http://127.0.0.1:7891/".to_owned(), Speaks::Socks5 { local_dns: true });
            assert_eq!((proxy.uri.to_string(), proxy.speaks), expected);
            assert!(proxies(&[(name, "socks4a://127.0.0.1:7891/")]).unwrap().is_empty());
            let both = proxies(&[(name, "no proxy"), ("HTTPS_PROXY", "p:1")]).unwrap();
            assert_eq!(both.to(&tls).unwrap().uri.to_string(), "http://p:1/");
            assert!(proxies(&[(name, "p:1"), ("HTTPS_PROXY", "htp://p:1")]).is_err());
        }
    }

    #[test]
    fn every_form_of_a_proxy_is_read_or_refused() {
        for (text, address) in [
            ("proxy.example:3128", "http://proxy.example:3128"),
            (" proxy.example:3128\n", "http://proxy.example:3128"),
            ("http://proxy.example", "http://proxy.example:80"),
            ("https://proxy.example/", "https://proxy.example:443"),
            ("socks5://proxy.example", "socks5://proxy.example:1080"),
            ("socks5h://proxy.example:9", "socks5://proxy.example:9"),
            ("http://me:p%40ss@proxy.example:3128", "http://proxy.example:3128"),
            ("http://[fd00::1]:3128", "http://[fd00::1]:3128"),
        ] {
            assert_eq!(Proxy::parse(text).map(|proxy| proxy.address()).as_deref(), Some(address), "{text}");
        }
        for text in [
            "",
            "http://",
            "ftp://proxy.example",
            "proxy.example:port",
            "http://proxy.example:99999",
            "two words",
            "http:/x",
        ] {
            assert_eq!(Proxy::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_url_carries_the_account_so_that_it_is_read_back_the_same() {
        for (text, url) in [
            ("http://proxy.example", "http://proxy.example:80/"),
            ("https://me@proxy.example", "https://me:@proxy.example:443/"),
            ("http://me:p%40ss:%2f%zz@[fd00::1]:3128", "http://me:p%40ss%3A%2F%25zz@[fd00::1]:3128/"),
            ("socks5h://an@na:é@proxy.example", "socks5://an%40na:%C3%A9@proxy.example:1080/"),
        ] {
            let proxy = Proxy::parse(text).unwrap();
            let found = proxy.url().unwrap().to_string();
            assert_eq!(found, url, "{text}");
            let again = Proxy::parse(&found).unwrap();
            assert_eq!((again.account, again.uri), (proxy.account, proxy.uri), "{text}");
        }
    }

    #[test]
    fn an_account_is_decoded_and_never_printed() {
        let proxies = proxies(&[("HTTPS_PROXY", "http://an%6ea:s3%40cr%zzet%@proxy.example:3128")]).unwrap();
        let proxy = proxies.to(&"https://x.example".parse().unwrap()).unwrap();
        assert_eq!(proxy.account, Some(("anna".to_owned(), "s3@cr%zzet%".to_owned())));
        assert!(!format!("{proxies:?}").contains("s3@cr"), "{proxies:?}");
    }

    #[test]
    fn a_host_that_is_named_is_reached_directly() {
        let proxies = Proxies::all("http://proxy.example:3128").unwrap().never_for("Registry.example");
        assert!(proxies.to(&"http://registry.example:5000".parse().unwrap()).is_none());
        assert!(proxies.to(&"http://other.example:5000".parse().unwrap()).is_some());
        assert!(Proxies::all("no proxy").is_err());
    }
}
