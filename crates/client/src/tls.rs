//! TLS with certificates on both sides, all of them handed over by whoever sends us to the daemon.
//!
//! The authorities of the machine have no say here: exactly the given one is trusted. Nothing in this module prints a key.

use std::fmt;
use std::io;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// The protocol both sides must agree on.
const ALPN: &[u8] = b"h2";

/// What this side shows, and what it expects.
#[derive(Clone, PartialEq, Eq)]
pub struct MutualTls {
    /// The name in the daemon's certificate, which is also announced to it.
    pub server_name: String,
    /// The authority of the daemon's certificate, PEM.
    pub authority: String,
    /// This side's certificate, PEM, with the chain that leads to its authority.
    pub certificate: String,
    /// Its key, PEM.
    pub key: String,
}

impl fmt::Debug for MutualTls {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("MutualTls")
            .field("server_name", &self.server_name)
            .finish_non_exhaustive()
    }
}

/// TLS that does not come about.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// What was handed over is unusable.
    #[error("the {what} cannot be used")]
    Material {
        /// Which of it.
        what: &'static str,
    },
    /// What was handed over does not go together.
    #[error("certificate and key cannot be used")]
    Config(#[source] rustls::Error),
    /// One side does not accept the other.
    #[error("handshake failed")]
    Handshake(#[source] io::Error),
    /// The other side does not speak HTTP/2.
    #[error("the other side does not speak HTTP/2")]
    Protocol,
}

/// Everything read and checked.
pub(crate) struct Config {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl MutualTls {
    pub(crate) fn config(&self) -> Result<Config, TlsError> {
        let unusable = |what| TlsError::Material { what };
        let mut roots = RootCertStore::empty();
        for certificate in certificates(&self.authority, "authority")? {
            roots.add(certificate).map_err(|_| unusable("authority"))?;
        }
        let chain = certificates(&self.certificate, "certificate")?;
        let key =
            PrivateKeyDer::from_pem_slice(self.key.as_bytes()).map_err(|_| unusable("key"))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Config)?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)
            .map_err(TlsError::Config)?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        let name = ServerName::try_from(self.server_name.clone())
            .map_err(|_| unusable("server's name"))?;
        Ok(Config { config: Arc::new(config), name })
    }
}

impl Config {
    pub(crate) async fn handshake(
        self,
        stream: TcpStream,
    ) -> Result<TlsStream<TcpStream>, TlsError> {
        let stream = TlsConnector::from(self.config)
            .connect(self.name, stream)
            .await
            .map_err(TlsError::Handshake)?;
        if stream.get_ref().1.alpn_protocol() != Some(ALPN) {
            return Err(TlsError::Protocol);
        }
        Ok(stream)
    }
}

fn certificates(pem: &str, what: &'static str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    match read {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) | Err(_) => Err(TlsError::Material { what }),
    }
}
