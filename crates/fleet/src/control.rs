//! Connections to a builder: for builds, and for what the server itself asks.
//!
//! The first bytes of a connection say what it is for: eight bytes that name the protocol, one for the kind (`B` or `C`), one
//! for the length of the build's id, the id. The builder's end of this is its module `serving::preamble`.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::pin::Pin;
use std::time::Duration;

use cofferdam_session::{MAX_MESSAGE, Transport};
use cofferdam_wire::cofferdam::builder::v1 as wire;
use cofferdam_wire::grpc::health::v1::{HealthCheckRequest, HealthClient};
use connectrpc::client::ClientConfig;
use connectrpc::{CompressionRegistry, ConnectError, Protocol};
use futures::Stream;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio_util::sync::CancellationToken;

use crate::error::FleetError;
use crate::places::SOCKET;

/// What every connection begins with.
const MAGIC: &[u8; 8] = b"cofferd1";
/// The connection belongs to a build.
const BUILD: u8 = b'B';
/// The connection is the server's own.
const CONTROL: u8 = b'C';
/// Longest id of a build.
const MAX_ID: usize = 64;
/// How long a builder may take to answer a question that needs no work.
const ANSWER: Duration = Duration::from_secs(30);
/// How long it may take to collect a cache: some hundred thousand files are deleted.
const COLLECTION: Duration = Duration::from_secs(15 * 60);
/// Longest reason that is passed on: it is shown to people.
const MAX_REASON: usize = 1024;

/// Everything that happens in a build, see [`crate::Lease::watch`].
pub type Watch =
    Pin<Box<dyn Stream<Item = Result<wire::WatchBuildResponse, FleetError>> + Send + 'static>>;

type Client = wire::BuilderServiceClient<Transport>;

/// The server's own connection to a builder.
#[derive(Clone)]
pub(crate) struct Control {
    client: Client,
}

impl std::fmt::Debug for Control {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Control")
    }
}

fn preamble(kind: u8, id: &str) -> Result<Vec<u8>, FleetError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    let length =
        u8::try_from(id.len()).ok().filter(|_| id.len() <= MAX_ID && id.bytes().all(plain));
    let Some(length) = length.filter(|length| (*length == 0) == (kind == CONTROL)) else {
        return Err(FleetError::Build(id.to_owned()));
    };
    let mut bytes = MAGIC.to_vec();
    bytes.extend([kind, length]);
    bytes.extend(id.bytes());
    Ok(bytes)
}

async fn open(run: BorrowedFd<'_>, preamble: &[u8]) -> std::io::Result<UnixStream> {
    // Paths of sockets are short; one by way of a descriptor always is.
    let path = format!("/proc/self/fd/{}/{SOCKET}", run.as_raw_fd());
    let mut stream = UnixStream::connect(path).await?;
    stream.write_all(preamble).await?;
    Ok(stream)
}

/// A byte stream that belongs to `build`.
pub(crate) async fn connect(run: impl AsFd, build: &str) -> Result<UnixStream, FleetError> {
    let preamble = preamble(BUILD, build)?;
    open(run.as_fd(), &preamble).await.map_err(|error| failed("connect to the builder", &error))
}

fn failed(call: &'static str, error: &dyn std::error::Error) -> FleetError {
    FleetError::Call { call, reason: crate::error::chain(error) }
}

/// Opens a connection of the server's own. The token fires when it is lost.
async fn transport(run: BorrowedFd<'_>) -> Result<(Transport, CancellationToken), FleetError> {
    let connecting = |error: &dyn std::error::Error| failed("connect to the builder", error);
    let preamble = preamble(CONTROL, "")?;
    let stream = open(run, &preamble).await.map_err(|error| connecting(&error))?;
    let (transport, connection) =
        cofferdam_session::connect(stream).await.map_err(|error| connecting(&error))?;
    let lost = CancellationToken::new();
    let guard = lost.clone().drop_guard();
    tokio::spawn(async move {
        let _guard = guard;
        if let Err(error) = connection.await {
            tracing::debug!(%error, "connection to a builder broke");
        }
    });
    Ok((transport, lost))
}

fn config() -> ClientConfig {
    ClientConfig::new(http::Uri::from_static("http://builder"))
        .with_protocol(Protocol::Grpc)
        .with_compression(CompressionRegistry::new())
        .with_default_max_message_size(MAX_MESSAGE)
}

/// Watches a build over a connection of its own, so that a slow watcher holds up nobody else's.
pub(crate) async fn watch(run: impl AsFd, build: &str) -> Result<Watch, FleetError> {
    const CALL: &str = "watch a build";
    preamble(BUILD, build)?;
    let (transport, _) = transport(run.as_fd()).await?;
    let client = Client::new(transport, config());
    let request = wire::WatchBuildRequest { build_id: build.to_owned(), ..Default::default() };
    let stream = answered(CALL, client.watch_build(request)).await?;
    let stream = futures::stream::unfold(Some((stream, client)), |state| async move {
        let (mut stream, client) = state?;
        match stream.message().await {
            Ok(Some(message)) => Some((Ok(message.to_owned_message()), Some((stream, client)))),
            Ok(None) => None,
            Err(error) => Some((Err(failed(CALL, &error)), None)),
        }
    });
    Ok(Box::pin(stream))
}

async fn answered<T>(
    call: &'static str,
    answer: impl Future<Output = Result<T, ConnectError>>,
) -> Result<T, FleetError> {
    answered_within(ANSWER, call, answer).await
}

async fn answered_within<T>(
    patience: Duration,
    call: &'static str,
    answer: impl Future<Output = Result<T, ConnectError>>,
) -> Result<T, FleetError> {
    match tokio::time::timeout(patience, answer).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(failed(call, &error)),
        Err(_) => Err(FleetError::Call { call, reason: "the builder does not answer".to_owned() }),
    }
}

impl Control {
    /// Opens the connection; returns when the builder has answered on it. The token fires when it is lost.
    pub(crate) async fn open(run: impl AsFd) -> Result<(Self, CancellationToken), FleetError> {
        let (transport, lost) = transport(run.as_fd()).await?;
        let health = HealthClient::new(transport.clone(), config());
        answered("reach the builder", health.check(HealthCheckRequest::default())).await?;
        Ok((Self { client: Client::new(transport, config()) }, lost))
    }

    pub(crate) async fn cancel(&self, build: &str, reason: &str) -> Result<(), FleetError> {
        preamble(BUILD, build)?;
        let reason: String = reason.chars().take(MAX_REASON).collect();
        let build_id = build.to_owned();
        let request = wire::CancelBuildRequest { build_id, reason, ..Default::default() };
        answered("cancel a build", self.client.cancel_build(request)).await.map(drop)
    }

    pub(crate) async fn close(&self, build: &str) -> Result<(), FleetError> {
        preamble(BUILD, build)?;
        let request = wire::CloseBuildRequest { build_id: build.to_owned(), ..Default::default() };
        answered("close a build", self.client.close_build(request)).await.map(drop)
    }

    pub(crate) async fn usage(&self) -> Result<u64, FleetError> {
        let answer =
            answered("measure the cache", self.client.get_usage(Default::default())).await?;
        Ok(answer.into_owned().cache_bytes)
    }

    /// Gives the bytes that became free.
    pub(crate) async fn collect(
        &self,
        max_bytes: Option<u64>,
        unused_for: Option<Duration>,
    ) -> Result<u64, FleetError> {
        let keep_seconds = unused_for.map(|age| age.as_secs());
        let request = wire::CollectRequest { max_bytes, keep_seconds, ..Default::default() };
        let answer =
            answered_within(COLLECTION, "collect the cache", self.client.collect(request)).await?;
        Ok(answer.into_owned().freed_bytes)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn first_bytes() {
        assert_eq!(preamble(BUILD, "b1").unwrap(), b"cofferd1B\x02b1");
        assert_eq!(preamble(CONTROL, "").unwrap(), b"cofferd1C\x00");
        for bad in ["", "a/b", "a\0b", "é", &"x".repeat(65)] {
            assert!(preamble(BUILD, bad).is_err(), "{bad:?}");
        }
        assert!(preamble(CONTROL, "b1").is_err());
    }
}
