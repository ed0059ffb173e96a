//! A certificate authority of a test's own.

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

/// All in PEM.
pub struct Signed {
    /// The authority's own certificate.
    pub authority: String,
    pub certificate: String,
    pub key: String,
}

/// Makes an authority, and a certificate for a server of this DNS name that it signed.
pub fn certificate_for(name: &str) -> Signed {
    let mut params = CertificateParams::new(vec![]).expect("parameters");
    // OpenSSL takes a certificate for self-signed that has the name of who signed it.
    params.distinguished_name.push(DnType::CommonName, "an authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("an authority");
    let key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(vec![name.to_owned()]).expect("parameters");
    let certificate = params.signed_by(&key, &authority).expect("a certificate");
    Signed { authority: authority.pem(), certificate: certificate.pem(), key: key.serialize_pem() }
}
