//! The daemon's table of open sessions.
//!
//! Sections 2.1 and 2.3 of the protocol: a session registers from the headers of its
//! `Control.Session` call, consumers wait a little for an id that is on its way, and a tunnel
//! that stops answering health checks is ended. The table must never keep a dead session.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use cofferdam_wire::grpc::health::v1::{HealthCheckRequest, HealthClient};
use cofferdam_wire::moby::buildkit::v1::BytesMessage;
use connectrpc::{ConnectError, InboundStream, ServiceStream};
use futures::StreamExt;
use http::HeaderMap;
use tokio::sync::{Notify, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use crate::metadata::{headers, value, values};
use crate::session::Session;
use crate::tunnel::{self, TunnelIo};

/// How long a consumer waits for a session that has not arrived yet: clients open their
/// session in parallel with the build that names it.
const LOOKUP_WAIT: Duration = Duration::from_secs(5);

/// Between two health checks.
const HEALTH_INTERVAL: Duration = Duration::from_secs(5);

/// A health check may take this long, or one and a half times as long as the last one.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(15);

/// Shortest interval a client may ask for.
const HEALTH_FLOOR: Duration = Duration::from_secs(1);

/// Outbound messages in flight per tunnel (at 128 KiB each, 1 MiB).
const OUTBOUND_DEPTH: usize = 8;

/// Methods a client may announce; real clients have about twenty.
const MAX_METHODS: usize = 256;

/// Longest id or shared key: they are kept and printed.
const MAX_TEXT: usize = 1024;

/// Every open session of this daemon.
#[derive(Default)]
pub struct SessionManager {
    sessions: Mutex<HashMap<String, Arc<Session>>>,
    arrived: Notify,
}

/// No session to talk to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    /// The build named no session at all.
    #[error("no active sessions")]
    None,
    /// The session did not arrive in time, or is gone.
    #[error("no active session for {id}: context deadline exceeded")]
    Missing {
        /// The id asked for.
        id: String,
    },
}

/// A `Control.Session` call that cannot become a session.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// No id in the headers.
    #[error("session request without {}", headers::SESSION_ID)]
    NoId,
    /// Id, key or method list beyond any real client's.
    #[error("session request with oversized {what}")]
    Oversized {
        /// Which header.
        what: &'static str,
    },
    /// HTTP/2 could not start.
    #[error("start the session tunnel")]
    Handshake(#[source] hyper::Error),
}

impl SessionManager {
    /// An empty table.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Registers the session that the headers of a `Control.Session` call describe and returns
    /// the call's response stream, which ends when the tunnel does.
    ///
    /// A session of the same id that is still open is replaced.
    ///
    /// # Errors
    /// Headers that describe no session, or HTTP/2 that does not start.
    pub async fn open(
        self: &Arc<Self>,
        request: &HeaderMap,
        inbound: InboundStream<BytesMessage>,
    ) -> Result<ServiceStream<BytesMessage>, OpenError> {
        let inbound = inbound.map(|message| match message {
            Ok(message) => Ok(message.bytes().slice_ref(message.view().data)),
            Err(error) => Err(io::Error::new(io::ErrorKind::ConnectionReset, error)),
        });
        let (outbound, receiver) = mpsc::channel(OUTBOUND_DEPTH);
        self.attach(request, TunnelIo::new(inbound, outbound)).await?;
        // What gathered while the client was busy goes as one message.
        let stream = ReceiverStream::new(receiver)
            .ready_chunks(OUTBOUND_DEPTH)
            .map(|chunks| Ok(BytesMessage { data: chunks.concat(), ..BytesMessage::default() }));
        Ok(Box::pin(stream))
    }

    /// Registers a session over any duplex byte stream.
    ///
    /// # Errors
    /// As [`SessionManager::open`].
    pub async fn attach<I>(
        self: &Arc<Self>,
        request: &HeaderMap,
        io: I,
    ) -> Result<Arc<Session>, OpenError>
    where
        I: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
    {
        let id = value(request, headers::SESSION_ID).filter(|id| !id.is_empty());
        let id = id.ok_or(OpenError::NoId)?;
        let shared_key = value(request, headers::SHARED_KEY).unwrap_or_default();
        if id.len() > MAX_TEXT || shared_key.len() > MAX_TEXT {
            return Err(OpenError::Oversized { what: "id or shared key" });
        }
        let methods = values(request, headers::METHOD);
        if methods.len() > MAX_METHODS {
            return Err(OpenError::Oversized { what: "method list" });
        }
        let (transport, connection) = tunnel::connect(io).await.map_err(OpenError::Handshake)?;
        let closed = CancellationToken::new();
        let session = Arc::new(Session::new(id, shared_key, methods, transport, closed.clone()));
        self.register(&session);

        let manager = Arc::clone(self);
        let registered = Arc::clone(&session);
        tokio::spawn(async move {
            tokio::select! {
                () = closed.cancelled() => {}
                result = connection => {
                    if let Err(error) = result {
                        tracing::debug!(session = registered.id(), %error, "session tunnel broke");
                    }
                }
            }
            closed.cancel();
            manager.unregister(&registered);
        });
        tokio::spawn(watch_health(Arc::clone(&session), HealthPlan::from_headers(request)));
        Ok(session)
    }

    /// The session of `id`, waiting up to five seconds for it to arrive.
    ///
    /// `x:<id>` is looked up as `<id>`: the prefix only separates vertices.
    ///
    /// # Errors
    /// An empty id, or a session that does not come.
    pub async fn get(&self, id: &str) -> Result<Arc<Session>, LookupError> {
        let key = bare_id(id);
        if key.is_empty() {
            return Err(LookupError::None);
        }
        let wait = async {
            loop {
                let arrived = self.arrived.notified();
                tokio::pin!(arrived);
                arrived.as_mut().enable();
                if let Some(session) = self.lookup(key) {
                    return session;
                }
                arrived.await;
            }
        };
        tokio::time::timeout(LOOKUP_WAIT, wait)
            .await
            .map_err(|_| LookupError::Missing { id: key.to_string() })
    }

    /// The session of `id` if it is open now.
    #[must_use]
    pub fn lookup(&self, id: &str) -> Option<Arc<Session>> {
        let sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        sessions.get(bare_id(id)).filter(|session| !session.closed().is_cancelled()).cloned()
    }

    /// Tries `attempt` with each session in turn until one succeeds; the last error wins.
    ///
    /// # Errors
    /// `missing` turns a lookup failure into the caller's error; otherwise the last attempt's.
    pub async fn any<T, E, F>(
        &self,
        ids: &[String],
        missing: impl Fn(LookupError) -> E,
        mut attempt: F,
    ) -> Result<T, E>
    where
        F: AsyncFnMut(Arc<Session>) -> Result<T, E>,
    {
        let mut last = missing(LookupError::None);
        for id in ids {
            match self.get(id).await {
                Err(error) => last = missing(error),
                Ok(session) => match attempt(session).await {
                    Ok(value) => return Ok(value),
                    Err(error) => last = error,
                },
            }
        }
        Err(last)
    }

    fn register(&self, session: &Arc<Session>) {
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        // A replaced session stays usable for those who hold it and ends with its own tunnel.
        sessions.insert(session.id().to_string(), Arc::clone(session));
        drop(sessions);
        self.arrived.notify_waiters();
    }

    fn unregister(&self, session: &Arc<Session>) {
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        if sessions.get(session.id()).is_some_and(|current| Arc::ptr_eq(current, session)) {
            sessions.remove(session.id());
        }
    }
}

fn bare_id(id: &str) -> &str {
    id.strip_prefix("x:").unwrap_or(id)
}

/// How often a tunnel is checked and how much it may fail.
#[derive(Debug, Clone, Copy)]
struct HealthPlan {
    interval: Duration,
    timeout: Duration,
    allowed_failures: u32,
}

impl HealthPlan {
    fn from_headers(request: &HeaderMap) -> Self {
        let custom = value(request, headers::HEALTH_TIMEOUT)
            .and_then(|text| text.parse().ok())
            .map(Duration::from_millis);
        match custom {
            Some(custom) => {
                let custom = custom.max(HEALTH_FLOOR);
                Self { interval: custom, timeout: custom, allowed_failures: 0 }
            }
            None => {
                Self { interval: HEALTH_INTERVAL, timeout: HEALTH_TIMEOUT, allowed_failures: 1 }
            }
        }
    }
}

async fn watch_health(session: Arc<Session>, plan: HealthPlan) {
    let client = HealthClient::new(session.transport().clone(), session.config());
    let mut failures = 0;
    let mut last = Duration::ZERO;
    loop {
        tokio::select! {
            () = session.closed().cancelled() => return,
            () = tokio::time::sleep(plan.interval) => {}
        }
        let started = Instant::now();
        let limit = plan.timeout.max(last + last / 2);
        let check = client.check(HealthCheckRequest::default());
        let result: Option<Result<_, ConnectError>> = tokio::select! {
            () = session.closed().cancelled() => return,
            result = tokio::time::timeout(limit, check) => result.ok(),
        };
        match result {
            Some(Ok(_)) => {
                failures = 0;
                last = started.elapsed();
            }
            Some(Err(_)) | None => failures += 1,
        }
        if failures > plan.allowed_failures {
            tracing::info!(session = session.id(), "session stopped answering health checks");
            session.close();
            return;
        }
    }
}
