//! One client's session as the daemon sees it.

use std::collections::HashSet;

use connectrpc::client::{CallOptions, ClientConfig};
use connectrpc::{CompressionRegistry, ConnectError, ErrorCode, Protocol};
use http::Uri;
use tokio_util::sync::CancellationToken;

use crate::tunnel::{MAX_MESSAGE, Transport};

/// An open session: what the client said about itself and a way to call it.
///
/// Calls live next to the service they talk to; every one of them fails soon after
/// [`Session::closed`] fires.
pub struct Session {
    id: String,
    shared_key: String,
    methods: HashSet<String>,
    transport: Transport,
    closed: CancellationToken,
}

/// A call inside the tunnel that failed.
#[derive(Debug, thiserror::Error)]
#[error("call {method}")]
pub struct RpcError {
    method: &'static str,
    #[source]
    source: ConnectError,
}

impl RpcError {
    pub(crate) const fn new(method: &'static str, source: ConnectError) -> Self {
        Self { method, source }
    }

    /// The gRPC status code of the failure.
    #[must_use]
    pub const fn code(&self) -> ErrorCode {
        self.source.code
    }

    /// The whole status, with its details.
    #[must_use]
    pub const fn status(&self) -> &ConnectError {
        &self.source
    }

    /// Whether the other end does not serve the method, or cannot be reached any more.
    pub(crate) const fn is_absent(&self) -> bool {
        matches!(self.source.code, ErrorCode::Unimplemented | ErrorCode::Unavailable)
    }
}

impl Session {
    pub(crate) fn new(
        id: String,
        shared_key: String,
        methods: impl IntoIterator<Item = String>,
        transport: Transport,
        closed: CancellationToken,
    ) -> Self {
        let methods = methods.into_iter().map(|method| method.to_ascii_lowercase()).collect();
        Self { id, shared_key, methods, transport, closed }
    }

    /// The id the client chose.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Text that names the client's directories across invocations; part of reuse keys.
    #[must_use]
    pub fn shared_key(&self) -> &str {
        &self.shared_key
    }

    /// Whether the client announced `method` (`/package.Service/Method`, any case).
    #[must_use]
    pub fn supports(&self, method: &str) -> bool {
        self.methods.contains(&method.to_ascii_lowercase())
    }

    /// Fires when the tunnel has died, was replaced or was closed.
    #[must_use]
    pub const fn closed(&self) -> &CancellationToken {
        &self.closed
    }

    /// Ends the session; the tunnel's stream finishes.
    pub fn close(&self) {
        self.closed.cancel();
    }

    /// The transport for generated clients of services this crate does not wrap.
    #[must_use]
    pub const fn transport(&self) -> &Transport {
        &self.transport
    }

    /// The client settings every call in the tunnel uses.
    #[must_use]
    pub fn config(&self) -> ClientConfig {
        ClientConfig::new(Uri::from_static("http://localhost"))
            .with_protocol(Protocol::Grpc)
            .with_compression(CompressionRegistry::new())
            .with_default_max_message_size(MAX_MESSAGE)
    }

    pub(crate) fn options() -> CallOptions {
        CallOptions::default().with_max_message_size(MAX_MESSAGE)
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Session").field("id", &self.id).finish_non_exhaustive()
    }
}
