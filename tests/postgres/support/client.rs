//! Certificates that a client shows.

use std::fs;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use tempfile::TempDir;

use super::daemon;

/// A certificate in the name of a role, and who signed it.
pub struct ClientCertificate {
    /// As a Secret is mounted.
    mount: TempDir,
    /// The authority's own certificate, where a server may read it.
    pub authority: String,
}

impl ClientCertificate {
    /// One of an authority of its own.
    pub fn new(role: &str) -> Self {
        let mut params = CertificateParams::new(vec![]).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "an authority of clients");
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("an authority");
        let mut params = CertificateParams::new(vec![]).expect("parameters");
        params.distinguished_name.push(DnType::CommonName, role);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &issuer).expect("a certificate");
        let mount = tempfile::tempdir().expect("a directory");
        fs::write(mount.path().join("tls.crt"), certificate.pem()).expect("a mounted key");
        fs::write(mount.path().join("tls.key"), key.serialize_pem()).expect("a mounted key");
        let folder = daemon::new_directory();
        fs::write(folder.join("clients.crt"), issuer.pem()).expect("a file");
        daemon::give_to_postgres(&folder);
        Self { mount, authority: folder.join("clients.crt").display().to_string() }
    }

    /// What a task is told.
    pub fn arguments(&self) -> [String; 5] {
        let file = |name: &str| self.mount.path().join(name).display().to_string();
        let [cert, key, mode] = ["--client-cert-file", "--client-key-file", "--tls-mode=require"].map(str::to_owned);
        [mode, cert, file("tls.crt"), key, file("tls.key")]
    }
}

impl Drop for ClientCertificate {
    fn drop(&mut self) {
        let folder = std::path::Path::new(&self.authority).parent().expect("a folder");
        let _ = fs::remove_dir_all(folder);
    }
}
