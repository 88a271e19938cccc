//! The certificates of the gateway: one authority for the life of this process, one client certificate for each build.
//!
//! The authority's key exists in memory only. Builds do not outlive the server, so nothing has to be kept, and a stolen data
//! directory opens no builder.

use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use sha2::{Digest, Sha256};

use super::DOMAIN;

/// SHA-256 of a client's certificate: what the gateway knows a build by.
pub(crate) type Fingerprint = [u8; 32];

/// Certificates are valid from this long ago, for clients whose clock is behind.
const CLOCK_SKEW: i64 = 3600;
/// How long a client certificate is accepted at most; a build that ends takes its certificate with it at once.
const CLIENT_LIFE: i64 = 24 * 3600;
/// How long the authority itself lasts: longer than any server runs.
const AUTHORITY_LIFE: i64 = 10 * 365 * 24 * 3600;

/// Certificates could not be made.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// A key or certificate.
    #[error("make a certificate")]
    Certificate(#[from] rcgen::Error),
    /// TLS refuses what was made.
    #[error("set up TLS for the gateway")]
    Tls(#[from] rustls::Error),
    /// The verifier of clients.
    #[error("set up the verification of clients")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
}

/// What the client of one build is given.
#[derive(Clone)]
pub(crate) struct ClientCertificate {
    /// The certificate, PEM.
    pub(crate) certificate: String,
    /// Its key, PEM (PKCS #8).
    pub(crate) key: String,
    /// What the gateway knows it by.
    pub(crate) fingerprint: Fingerprint,
}

/// Signs for the gateway and for the clients of builds.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    pem: String,
}

impl Authority {
    /// A new authority, known to nobody yet.
    pub(crate) fn new() -> Result<Self, AuthorityError> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(Vec::new())?;
        params.distinguished_name.push(DnType::CommonName, "Cofferdam gateway");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        valid_for(&mut params, AUTHORITY_LIFE);
        let certificate = params.self_signed(&key)?;
        let (der, pem) = (certificate.der().clone(), certificate.pem());
        Ok(Self { issuer: Issuer::new(params, key), certificate: der, pem })
    }

    /// What clients verify the gateway with, PEM.
    pub(crate) fn pem(&self) -> &str {
        &self.pem
    }

    /// A certificate for the client of one build.
    pub(crate) fn client(
        &self,
        project: &str,
        build: &str,
    ) -> Result<ClientCertificate, AuthorityError> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(Vec::new())?;
        params.distinguished_name.push(DnType::CommonName, build);
        let name = format!("spiffe://cofferdam/project/{project}/build/{build}");
        params.subject_alt_names = vec![SanType::URI(name.try_into()?)];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        valid_for(&mut params, CLIENT_LIFE);
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(ClientCertificate {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
            fingerprint: fingerprint(certificate.der()),
        })
    }

    /// TLS of the gateway: HTTP/2 only, and only for clients that hold a certificate of this authority.
    pub(crate) fn tls(&self) -> Result<Arc<ServerConfig>, AuthorityError> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(vec![format!("*.{DOMAIN}")])?;
        params.distinguished_name.push(DnType::CommonName, "Cofferdam builders");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        valid_for(&mut params, AUTHORITY_LIFE);
        let certificate = params.signed_by(&key, &self.issuer)?;
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone())?;
        let clients = WebPkiClientVerifier::builder(Arc::new(roots)).build()?;
        let chain = vec![certificate.der().clone(), self.certificate.clone()];
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let mut config = ServerConfig::builder()
            .with_client_cert_verifier(clients)
            .with_single_cert(chain, key)?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Arc::new(config))
    }
}

fn valid_for(params: &mut CertificateParams, seconds: i64) {
    let now = time::OffsetDateTime::now_utc();
    params.not_before = now - time::Duration::seconds(CLOCK_SKEW);
    params.not_after = now + time::Duration::seconds(seconds);
}

/// What the gateway knows a certificate by.
pub(super) fn fingerprint(certificate: &CertificateDer<'_>) -> Fingerprint {
    Sha256::digest(certificate).into()
}
