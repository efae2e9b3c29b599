//! The address of a registry, as given by a caller.

use camino::Utf8PathBuf;
use http::uri::Authority;

use crate::error::{Error, Kind};
use crate::no_proxy::is_loopback;
use crate::reference::{authority, is_component};

/// The address at which a registry is actually reached.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Name or address, with its port unless it is the scheme's default, and optionally a prefix
    /// common to all its repositories: `host:5000/team`.
    pub host: String,
    pub plain_http: bool,
    /// An additional certificate authority, PEM.
    pub ca: Option<Utf8PathBuf>,
    /// It only stands in for the registry whose images it serves, and never gets that registry's
    /// account.
    pub anonymous: bool,
}

impl Endpoint {
    /// A name as people type it. Plain HTTP is used where Docker uses it by default, for this
    /// machine itself (`localhost`, `127.0.0.0/8`, `[::1]`).
    pub fn named(host: &str) -> Self {
        let plain_http = Authority::try_from(host.split('/').next().unwrap_or_default())
            .is_ok_and(|authority| is_loopback(authority.host()));
        Self { host: host.to_owned(), plain_http, ca: None, anonymous: false }
    }

    /// Host with port, and the prefix without a trailing slash.
    ///
    /// # Errors
    /// A name that no registry can have (for the prefix: OCI distribution spec, "Pulling
    /// manifests"), or one that contains an account, which would end up in logs.
    pub fn parts(&self) -> Result<(Authority, &str), Error> {
        let (host, prefix) = self.host.split_once('/').unwrap_or((&self.host, ""));
        let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
        if host.contains('@') {
            return Err(Error::new(Kind::Usage, "a registry's name cannot contain an account: use docker login"));
        }
        let authority = authority(host).filter(|_| prefix.is_empty() || prefix.split('/').all(is_component));
        let wrong = || Error::new(Kind::Usage, format!("{:?}: expected host[:port][/prefix]", self.host));
        Ok((authority.ok_or_else(wrong)?, prefix))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_is_spoken_to_in_plain_http_unasked() {
        for host in ["localhost", "localhost:5000", "127.0.0.1:5000", "127.1.2.3", "[::1]:5000", "localhost:5000/team"]
        {
            assert!(Endpoint::named(host).plain_http, "{host}");
        }
        for host in ["docker.io", "10.0.0.1:5000", "registry.example/localhost", "localhost.example", "[::2]:5000"] {
            assert!(!Endpoint::named(host).plain_http, "{host}");
        }
    }

    #[test]
    fn a_registry_is_a_host_perhaps_with_a_port_and_a_prefix() {
        let parts =
            |host: &str| Endpoint::named(host).parts().map(|(authority, prefix)| format!("{authority} {prefix}")).ok();
        for (host, expected) in [
            ("central.example", "central.example "),
            ("central.example:5000/team/third-party/", "central.example:5000 team/third-party"),
            ("[::1]:5000/a__b", "[::1]:5000 a__b"),
            ("[::1]", "[::1] "),
        ] {
            assert_eq!(parts(host).as_deref(), Some(expected), "{host}");
        }
        for host in [
            "",
            "http://central.example",
            "https://central.example/team",
            "central.example:",
            "central.example:port",
            "central.example:99999",
            "user:password@central.example",
            "central.example/Team",
            "central.example/team:1",
            "central.example/team//x",
            "central.example/-x",
            "two words",
            "/team",
        ] {
            assert_eq!(parts(host), None, "{host}");
        }
    }
}
