//! Certificates made for a test, and connections that are encrypted with them.

use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use xshell::cmd;

use super::server::Connection;
use super::shell;

/// Signs the certificate of a server with all these names; created by openssl.
pub struct Authority {
    folder: PathBuf,
}

impl Authority {
    /// Stores its files in this folder.
    pub fn made_in(folder: &Path, names: &[&str]) -> Self {
        let shell = shell();
        shell.change_dir(folder);
        let openssl = |arguments: &[&str]| {
            let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"];
            cmd!(shell, "openssl req -x509 {arguments...} {key...}").quiet().ignore_stderr().run().unwrap();
        };
        openssl(&["-subj", "/CN=authority", "-keyout", "ca.key", "-out", "ca.pem"]);
        let leaf =
            ["-subj", "/CN=server", "-keyout", "key.pem", "-out", "cert.pem", "-CA", "ca.pem", "-CAkey", "ca.key"];
        let alternative: Vec<String> = names.iter().map(|name| format!("DNS:{name}")).collect();
        let names = format!("subjectAltName={}", alternative.join(","));
        openssl(&[&leaf[..], &["-addext", &names, "-addext", "basicConstraints=critical,CA:FALSE"]].concat());
        Self { folder: folder.to_owned() }
    }

    /// Its own certificate, for clients that trust it.
    pub fn certificate(&self) -> PathBuf {
        self.folder.join("ca.pem")
    }

    /// The configuration of the server whose certificate it has signed.
    pub fn tls(&self) -> Arc<rustls::ServerConfig> {
        let certificate = CertificateDer::from_pem_file(self.folder.join("cert.pem")).unwrap();
        let key = PrivateKeyDer::from_pem_file(self.folder.join("key.pem")).unwrap();
        let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .unwrap();
        Arc::new(config)
    }
}

pub fn encrypted(tls: &Arc<rustls::ServerConfig>, stream: TcpStream) -> Box<dyn Connection> {
    let session = rustls::ServerConnection::new(tls.clone()).unwrap();
    Box::new(rustls::StreamOwned::new(session, stream))
}
