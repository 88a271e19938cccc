//! A connection to a daemon.

use std::io;

use cofferdam_session::{MAX_MESSAGE, Transport};
use cofferdam_wire::moby::buildkit::v1::ControlClient;
use connectrpc::client::ClientConfig;
use connectrpc::{CompressionRegistry, Protocol};
use http::Uri;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use crate::address::{Address, AddressError};
use crate::tls::{MutualTls, TlsError};

/// A daemon that cannot be reached.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The address is malformed.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// Nothing answers there.
    #[error("connect to {address}")]
    Io {
        /// The address.
        address: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Something answers that does not speak HTTP/2.
    #[error("start HTTP/2 with {address}")]
    Handshake {
        /// The address.
        address: String,
        /// Why not.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The two sides do not trust each other.
    #[error("start TLS with {address}")]
    Tls {
        /// The address.
        address: String,
        /// Why not.
        #[source]
        source: TlsError,
    },
}

/// A client of one daemon; cheap to clone, one connection for everything.
#[derive(Clone)]
pub struct Client {
    transport: Transport,
}

impl Client {
    /// Connects to `address` (`unix://` or `tcp://`).
    ///
    /// # Errors
    /// A malformed address, or nobody there.
    pub async fn connect(address: &str) -> Result<Self, ConnectError> {
        let failed = |source| ConnectError::Io { address: address.to_string(), source };
        match address.parse()? {
            Address::Unix(path) => {
                Self::over(UnixStream::connect(path).await.map_err(failed)?, address).await
            }
            Address::Tcp { authority } => {
                let stream = TcpStream::connect(authority).await.map_err(failed)?;
                stream.set_nodelay(true).map_err(failed)?;
                Self::over(stream, address).await
            }
        }
    }

    /// Connects to `address` (`tcp://` only) with certificates on both sides.
    ///
    /// # Errors
    /// As [`Client::connect`], and certificates that one side does not accept.
    pub async fn connect_tls(address: &str, tls: &MutualTls) -> Result<Self, ConnectError> {
        let failed = |source| ConnectError::Io { address: address.to_string(), source };
        let Address::Tcp { authority } = address.parse()? else {
            return Err(AddressError::Encrypted { address: address.to_string() }.into());
        };
        let refused = |source| ConnectError::Tls { address: address.to_string(), source };
        let config = tls.config().map_err(refused)?;
        let stream = TcpStream::connect(authority).await.map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        Self::over(config.handshake(stream).await.map_err(refused)?, address).await
    }

    /// Speaks to a daemon over an established byte stream; `name` is for messages.
    ///
    /// # Errors
    /// The stream breaks at once.
    pub async fn over<I>(io: I, name: &str) -> Result<Self, ConnectError>
    where
        I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (transport, connection) = cofferdam_session::connect(io).await.map_err(|source| {
            ConnectError::Handshake { address: name.to_string(), source: Box::new(source) }
        })?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection to the daemon broke");
            }
        });
        Ok(Self { transport })
    }

    /// The generated client, for calls this crate does not wrap.
    #[must_use]
    pub fn control(&self) -> ControlClient<Transport> {
        ControlClient::new(self.transport.clone(), Self::config())
    }

    /// The transport, for generated clients of other services.
    #[must_use]
    pub const fn transport(&self) -> &Transport {
        &self.transport
    }

    /// The settings every call uses.
    #[must_use]
    pub fn config() -> ClientConfig {
        // The host is never checked for plain connections; every known client sends this one.
        ClientConfig::new(Uri::from_static("http://localhost"))
            .with_protocol(Protocol::Grpc)
            .with_compression(CompressionRegistry::new())
            .with_default_max_message_size(MAX_MESSAGE)
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Client")
    }
}
