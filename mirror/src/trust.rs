//! The trusted certificates: the machine's, and an additional authority.

use std::ffi::OsString;
use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use camino::Utf8PathBuf;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls_native_certs::{CertificateResult, load_certs_from_paths, load_native_certs};

use crate::error::{Error, Kind};

/// Where Linux distributions keep their certificates (Go's crypto/x509, root_linux.go): the first
/// of the files that exists, and all of the folders.
const FILES: [&str; 6] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/tls/cacert.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
];
const FOLDERS: [&str; 2] = ["/etc/ssl/certs", "/etc/pki/tls/certs"];

/// Certificates are read when an address first needs them, since that takes longer than a warm run.
#[derive(Default)]
pub(crate) struct Trust {
    ca: Option<Utf8PathBuf>,
    read: OnceLock<Read>,
}

struct Read {
    config: rustls::ClientConfig,
    /// What could not be read, if other certificates could.
    trouble: Option<String>,
}

impl Trust {
    pub fn with(ca: Option<Utf8PathBuf>) -> Self {
        Self { ca, read: OnceLock::new() }
    }

    /// # Errors
    /// `Kind::Usage` for an additional authority that cannot be read, or if no certificate can.
    pub fn config(&self) -> Result<rustls::ClientConfig, Error> {
        if let Some(read) = self.read.get() {
            return Ok(read.config.clone());
        }
        let read = self.read_from(of_this_machine(|name| std::env::var_os(name)))?;
        Ok(self.read.get_or_init(|| read).config.clone())
    }

    /// Adds to an error about a certificate what could not be read here, which may be the cause.
    pub fn explain(&self, error: Error) -> Error {
        let trouble = self.read.get().and_then(|read| read.trouble.as_ref()).filter(|_| error.kind == Kind::Tls);
        match trouble {
            Some(trouble) => Error { message: format!("{}; {trouble}", error.message), ..error },
            None => error,
        }
    }

    fn read_from(&self, machine: CertificateResult) -> Result<Read, Error> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add_parsable_certificates(machine.certs);
        if let Some(path) = &self.ca {
            let failed =
                |error: &dyn Display| Error::new(Kind::Usage, format!("{path}: expected certificates in PEM: {error}"));
            let certificates = CertificateDer::pem_file_iter(path).map_err(|error| failed(&error))?;
            for certificate in certificates {
                let certificate = certificate.map_err(|error| failed(&error))?;
                roots.add(certificate).map_err(|error| failed(&error))?;
            }
        }
        let trouble = machine.errors.first().map(|error| format!("of this machine's certificates: {error}"));
        if let Some(trouble) = trouble.as_ref().filter(|_| roots.is_empty()) {
            return Err(Error::new(Kind::Usage, format!("there are none to trust; {trouble}")));
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| Error::new(Kind::Tls, error.to_string()))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Read { config, trouble })
    }
}

fn of_this_machine(variable: impl Fn(&str) -> Option<OsString>) -> CertificateResult {
    let Some((file, folders)) = named(variable) else { return load_native_certs() };
    let mut all = load_certs_from_paths(file.as_deref(), None);
    for folder in folders {
        let more = load_certs_from_paths(None, Some(&folder));
        all.certs.extend(more.certs);
        all.errors.extend(more.errors);
    }
    // Folders have what the file has, and the same under several names.
    all.certs.sort_unstable_by(|one, other| one.as_ref().cmp(other.as_ref()));
    all.certs.dedup();
    all
}

/// The file and the folders to read, if the environment names any, as in Go programs (crypto/x509,
/// root_unix.go), and so docker and helm: each variable stands for its own half of the usual places
/// only, and an empty one is none.
fn named(variable: impl Fn(&str) -> Option<OsString>) -> Option<(Option<PathBuf>, Vec<PathBuf>)> {
    let (file, folders) = (variable("SSL_CERT_FILE"), variable("SSL_CERT_DIR"));
    if file.is_none() && folders.is_none() {
        return None;
    }
    let file = file.filter(|file| !file.is_empty()).map(PathBuf::from);
    let file = file.or_else(|| FILES.map(PathBuf::from).into_iter().find(|file| file.exists()));
    let folders = folders.map(|all| std::env::split_paths(&all).filter(|one| *one != Path::new("")).collect());
    let usual = || FOLDERS.map(PathBuf::from).into_iter().filter(|folder| folder.exists()).collect();
    Some((file, folders.filter(|folders: &Vec<PathBuf>| !folders.is_empty()).unwrap_or_else(usual)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(variables: &[(&str, &str)]) -> Option<(Option<PathBuf>, Vec<PathBuf>)> {
        named(|name| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into()))
    }

    #[test]
    fn each_variable_stands_for_its_own_half_of_the_usual_places() {
        let (usual_file, usual_folders) = places(&[("SSL_CERT_FILE", "")]).unwrap();
        assert!(usual_file.iter().all(|file| FILES.iter().any(|usual| file == Path::new(usual))), "{usual_file:?}");
        assert!(usual_folders.iter().all(|folder| folder.exists()), "{usual_folders:?}");
        let (file, folders) = (Some("/corp.pem".into()), vec!["/a".into(), "/b".into()]);
        assert_eq!(places(&[]), None);
        assert_eq!(places(&[("SSL_CERT_FILE", "/corp.pem")]), Some((file.clone(), usual_folders.clone())));
        assert_eq!(places(&[("SSL_CERT_DIR", "/a::/b")]), Some((usual_file.clone(), folders.clone())));
        assert_eq!(places(&[("SSL_CERT_FILE", "/corp.pem"), ("SSL_CERT_DIR", "/a:/b")]), Some((file, folders)));
        assert_eq!(places(&[("SSL_CERT_FILE", ""), ("SSL_CERT_DIR", "")]), Some((usual_file, usual_folders)));
    }

    #[test]
    fn a_file_of_certificates_that_cannot_be_read_is_named() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a.pem"), "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n")
            .unwrap();
        let read = of_this_machine(|name| match name {
            "SSL_CERT_FILE" => Some("/missing.pem".into()),
            _ => Some(folder.path().into()),
        });
        assert_eq!((read.certs.len(), read.errors.len()), (1, 1));
        // It is in PEM, but is no certificate: there is nothing to trust.
        let error = Trust::default().read_from(read).err().unwrap();
        assert!(error.kind() == Kind::Usage && error.to_string().contains("/missing.pem"), "{error}");
        // With others, it is what an untrusted certificate may need.
        let trust = Trust::default();
        let mut machine = load_native_certs();
        machine.errors = load_certs_from_paths(Some(Path::new("/missing.pem")), None).errors;
        if let Ok(read) = trust.read_from(machine) {
            trust.read.set(read).ok().unwrap();
            let told = |kind: Kind| trust.explain(Error::new(kind, "not trusted")).to_string();
            assert!(told(Kind::Tls).starts_with("not trusted; ") && told(Kind::Tls).contains("/missing.pem"));
            assert_eq!(told(Kind::TlsTime), "not trusted");
        }
    }
}
