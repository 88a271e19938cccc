//! One build: session, solve and status side by side, as BuildKit's clients run them.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use cofferdam_session::{MAX_MESSAGE, Services, TunnelIo, serve, session_headers};
use cofferdam_wire::moby::buildkit::v1::{
    BytesMessage, CacheOptions, CacheOptionsEntry, Exporter as ExporterMessage, SolveRequest,
    StatusRequest,
};
use cofferdam_wire::pb;
use connectrpc::client::CallOptions;
use futures::stream;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::connect::Client;
use crate::error::SolveError;
use crate::status::SolveStatus;

/// Silence of the status stream after the build that ends it.
const STATUS_SILENCE: Duration = Duration::from_secs(5);

/// The most that a failed build's last messages are waited for.
const FAILED_PATIENCE: Duration = Duration::from_secs(30);

/// The most that a canceled build's last messages are waited for.
const CANCELED_PATIENCE: Duration = Duration::from_secs(1);

/// Messages of the session in flight (at 128 KiB each, 1 MiB).
const TUNNEL_DEPTH: usize = 8;

/// An output of the build.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Exporter {
    /// `image`, `local`, `tar`, `oci`, `docker`, …
    pub kind: String,
    /// Its attributes.
    pub attrs: BTreeMap<String, String>,
}

/// A cache to import or export.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CacheEntry {
    /// `registry`, `local`, `inline`, …
    pub kind: String,
    /// Its attributes.
    pub attrs: BTreeMap<String, String>,
}

/// What to build and what the build may use.
#[derive(Default)]
pub struct Solve {
    /// Name of the build; random when empty.
    pub reference: String,
    /// The graph, when no frontend makes it.
    pub definition: Option<pb::Definition>,
    /// `dockerfile.v0`, `gateway.v0`, or empty with a definition.
    pub frontend: String,
    /// The frontend's options.
    pub frontend_attrs: BTreeMap<String, String>,
    /// Graphs for the frontend.
    pub frontend_inputs: HashMap<String, pb::Definition>,
    /// Outputs, in the order that [`Services::output`] counts.
    pub exporters: Vec<Exporter>,
    /// Caches to read.
    pub cache_imports: Vec<CacheEntry>,
    /// Caches to write.
    pub cache_exports: Vec<CacheEntry>,
    /// Privileges the user grants (`network.host`, `security.insecure`).
    pub entitlements: Vec<String>,
    /// What the session offers.
    pub services: Services,
    /// Names the user's directories across builds, for incremental transfers.
    pub shared_key: String,
    /// Hidden from the daemon's history.
    pub internal: bool,
}

/// What a successful build answered.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Solved {
    /// Name of the build.
    pub reference: String,
    /// The exporters' entries (`containerimage.digest`, …).
    pub response: BTreeMap<String, String>,
}

impl Client {
    /// Runs a build; status messages go to `events` until the daemon has no more.
    ///
    /// Dropping the receiver of `events` does not end the build; `cancel` does.
    ///
    /// # Errors
    /// [`SolveError::Canceled`] after `cancel`, otherwise what the daemon says.
    pub async fn solve(
        &self,
        mut solve: Solve,
        events: mpsc::UnboundedSender<SolveStatus>,
        cancel: CancellationToken,
    ) -> Result<Solved, SolveError> {
        if solve.reference.is_empty() {
            solve.reference = random_id();
        }
        let reference = solve.reference.clone();
        let session_id = random_id();
        let services = std::mem::take(&mut solve.services);
        let session = self.open_session(&session_id, &solve.shared_key, services).await?;
        let solved = CancellationToken::new();
        let status =
            tokio::spawn(follow_status(self.clone(), reference.clone(), events, solved.clone()));
        let control = self.control();
        let call = control.solve_with_options(request(solve, session_id), options());
        let result = tokio::select! {
            () = cancel.cancelled() => Err(SolveError::Canceled),
            result = call => result.map_err(|error| SolveError::Failed(Box::new(error))),
        };
        // All outputs have arrived when the daemon answers; the session has no more to do.
        session.cancel();
        solved.cancel();
        // The last messages say which step failed; they end with the stream or its silence. Who
        // has canceled does not wait for it.
        let patience = match &result {
            Ok(_) => Duration::MAX,
            Err(SolveError::Canceled) => CANCELED_PATIENCE,
            Err(_) => FAILED_PATIENCE,
        };
        let _ = tokio::time::timeout(patience, status).await;
        let response = result?.into_owned().ExporterResponse;
        Ok(Solved { reference, response: response.into_iter().collect() })
    }

    /// Opens the session and serves it until the token fires or the daemon ends it.
    async fn open_session(
        &self,
        id: &str,
        shared_key: &str,
        services: Services,
    ) -> Result<CancellationToken, SolveError> {
        let dispatch = services.into_dispatch();
        let headers = session_headers(id, shared_key, &dispatch);
        let headers = headers.iter().map(|(name, value)| (name.clone(), value.clone()));
        let call = self
            .control()
            .session_with_options(options().with_headers(headers))
            .await
            .map_err(|error| SolveError::Session(Box::new(error)))?;
        let (mut send, receive) = call.into_split();
        let (outbound, mut queue) = mpsc::channel::<Bytes>(TUNNEL_DEPTH);
        tokio::spawn(async move {
            let mut chunks = Vec::with_capacity(TUNNEL_DEPTH);
            // What gathered while the daemon was busy goes as one message.
            while queue.recv_many(&mut chunks, TUNNEL_DEPTH).await > 0 {
                let message = BytesMessage { data: chunks.concat(), ..BytesMessage::default() };
                chunks.clear();
                // The reason for an early end is the call's status, which ends the other half.
                if send.send(message).await.is_err() {
                    break;
                }
            }
            send.close_send();
        });
        let inbound = stream::unfold(Some(receive), |state| async move {
            let mut receive = state?;
            match receive.message().await {
                Ok(Some(message)) => {
                    Some((Ok(message.bytes().slice_ref(message.view().data)), Some(receive)))
                }
                Ok(None) => None,
                Err(error) => {
                    Some((Err(io::Error::new(io::ErrorKind::ConnectionReset, error)), None))
                }
            }
        });
        let token = CancellationToken::new();
        let stop = token.clone();
        let io = TunnelIo::new(inbound, outbound);
        tokio::spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                result = serve(io, dispatch) => {
                    if let Err(error) = result {
                        tracing::debug!(%error, "session ended");
                    }
                }
            }
        });
        Ok(token)
    }
}

fn options() -> CallOptions {
    CallOptions::default().with_max_message_size(MAX_MESSAGE)
}

fn request(solve: Solve, session: String) -> SolveRequest {
    let attrs = |attrs: BTreeMap<String, String>| attrs.into_iter().collect();
    let caches = |entries: Vec<CacheEntry>| {
        entries
            .into_iter()
            .map(|entry| CacheOptionsEntry {
                Type: entry.kind,
                Attrs: entry.attrs.into_iter().collect(),
                ..CacheOptionsEntry::default()
            })
            .collect()
    };
    let exporters: Vec<ExporterMessage> = solve
        .exporters
        .into_iter()
        .map(|exporter| ExporterMessage {
            Type: exporter.kind,
            Attrs: exporter.attrs.into_iter().collect(),
            ..ExporterMessage::default()
        })
        .collect();
    // Daemons from before several exporters read the first one here.
    let first = exporters.first().cloned().unwrap_or_default();
    SolveRequest {
        Ref: solve.reference,
        Definition: solve.definition.map_or_else(buffa::MessageField::none, Into::into),
        ExporterDeprecated: first.Type,
        ExporterAttrsDeprecated: first.Attrs,
        Session: session,
        Frontend: solve.frontend,
        FrontendAttrs: attrs(solve.frontend_attrs),
        Cache: CacheOptions {
            Imports: caches(solve.cache_imports),
            Exports: caches(solve.cache_exports),
            ..CacheOptions::default()
        }
        .into(),
        Entitlements: solve.entitlements,
        FrontendInputs: solve.frontend_inputs.into_iter().collect(),
        Internal: solve.internal,
        Exporters: exporters,
        ..SolveRequest::default()
    }
}

/// Forwards the status stream; after `solved` only as long as it keeps talking.
async fn follow_status(
    client: Client,
    reference: String,
    events: mpsc::UnboundedSender<SolveStatus>,
    solved: CancellationToken,
) {
    let request = StatusRequest { Ref: reference, ..StatusRequest::default() };
    let control = client.control();
    let quiet = async {
        solved.cancelled().await;
        tokio::time::sleep(STATUS_SILENCE).await;
    };
    let opened = tokio::select! {
        () = quiet => return,
        opened = control.status_with_options(request, options()) => opened,
    };
    let Ok(mut stream) = opened else { return };
    loop {
        let quiet = async {
            solved.cancelled().await;
            tokio::time::sleep(STATUS_SILENCE).await;
        };
        let message = tokio::select! {
            () = quiet => return,
            message = stream.message() => message,
        };
        match message {
            Ok(Some(message)) => {
                // A display that has gone away does not end the build.
                let _ = events.send(message.to_owned_message().into());
            }
            Ok(None) => return,
            Err(error) => {
                tracing::debug!(%error, "status stream ended");
                return;
            }
        }
    }
}

/// 128 random bits as text.
fn random_id() -> String {
    let mut bytes = [0; 16];
    let filled = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    if filled != Ok(bytes.len()) {
        // Without the kernel's source, time and address still separate builds of one machine.
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        bytes =
            (now.map_or(0, |now| now.as_nanos()) ^ u128::from(std::process::id())).to_le_bytes();
    }
    bytes.iter().fold(String::with_capacity(32), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
