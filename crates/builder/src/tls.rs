//! TLS of a builder's TCP listeners, from the PEM texts of its configuration.

use std::sync::Arc;

use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

use crate::config::TlsPem;
use crate::failure::Failure;

/// Protocols offered: gRPC needs HTTP/2, Connect works over both.
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// What accepts TLS connections.
///
/// # Errors
/// Texts that are no certificates or keys, or do not belong together.
pub(crate) fn acceptor(pem: &TlsPem) -> Result<TlsAcceptor, Failure> {
    let chain = certificates(&pem.cert)?;
    let key = PrivateKeyDer::from_pem_slice(pem.key.as_bytes())
        .map_err(|error| Failure::of(error).during("read the TLS key"))?;
    let builder = rustls::ServerConfig::builder();
    let builder = match &pem.ca {
        Some(ca) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(ca)? {
                roots.add(certificate).map_err(Failure::of)?;
            }
            let verifier =
                WebPkiClientVerifier::builder(Arc::new(roots)).build().map_err(Failure::of)?;
            builder.with_client_cert_verifier(verifier)
        }
        None => builder.with_no_client_auth(),
    };
    let mut config = builder
        .with_single_cert(chain, key)
        .map_err(|error| Failure::of(error).during("use the TLS certificate"))?;
    config.alpn_protocols = PROTOCOLS.iter().map(|protocol| protocol.to_vec()).collect();
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, Failure> {
    CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|error| Failure::of(error).during("read a TLS certificate"))
}
