//! The connection to a server: made at the first call, made again after it broke.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use connectrpc::client::{Http2Connection, SharedHttp2Connection};
use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::error::ApiError;
use crate::url::ServerUrl;

/// Most that connecting may take, name resolution and handshakes included.
const CONNECT: Duration = Duration::from_secs(20);

/// A connection is asked for a sign of life after this silence, so that a wait of minutes notices a server that is gone.
const ALIVE: Duration = Duration::from_secs(20);

/// Calls that may wait for their turn; a command makes few at once.
const QUEUE: usize = 64;

/// A handle on the connection; cheap to clone.
pub(crate) type Transport = SharedHttp2Connection;

/// A connection to `url`; nothing is sent yet.
pub(crate) fn transport(url: &ServerUrl) -> Result<Transport, ApiError> {
    let tls = if url.is_encrypted() { Some(encryption(url)?) } else { None };
    let place = url.place();
    let connector = tower::service_fn(move |_: Uri| dial(place.clone(), tls.clone()));
    let connection = Http2Connection::builder()
        .establishment_timeout(CONNECT)
        .keep_alive_interval(ALIVE)
        .lazy_with_connector(connector, url.uri());
    Ok(connection.shared(QUEUE))
}

#[derive(Clone)]
struct Encryption {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

fn encryption(url: &ServerUrl) -> Result<Encryption, ApiError> {
    let mut roots = RootCertStore::empty();
    // Certificates that cannot be read are as good as absent: without any, nobody can be trusted.
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::debug!(%error, "cannot read an authority");
    }
    let (added, _) = roots.add_parsable_certificates(found.certs);
    if added == 0 {
        return Err(ApiError::Authorities);
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|_| ApiError::Authorities)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let (host, _) = url.place();
    let name = ServerName::try_from(host).map_err(|_| ApiError::Authorities)?;
    Ok(Encryption { config: Arc::new(config), name })
}

async fn dial(place: (String, u16), tls: Option<Encryption>) -> io::Result<TokioIo<Wire>> {
    let stream = TcpStream::connect(place).await?;
    stream.set_nodelay(true)?;
    let Some(tls) = tls else { return Ok(TokioIo::new(Wire::Open(stream))) };
    let stream = TlsConnector::from(tls.config).connect(tls.name, stream).await?;
    if stream.get_ref().1.alpn_protocol() != Some(b"h2") {
        return Err(io::Error::other("the server does not speak HTTP/2 over TLS"));
    }
    Ok(TokioIo::new(Wire::Encrypted(Box::new(stream))))
}

enum Wire {
    Open(TcpStream),
    Encrypted(Box<TlsStream<TcpStream>>),
}

impl AsyncRead for Wire {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Open(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Encrypted(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Open(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Encrypted(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Open(stream) => Pin::new(stream).poll_flush(context),
            Self::Encrypted(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Open(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Encrypted(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}
