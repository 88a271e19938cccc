//! `SSH`: carries a build's agent connections to agents of the client, through a gate that
//! lets a build use keys but not change the agent.

use std::collections::HashMap;
use std::io;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

use cofferdam_wire::moby::sshforward::v1::{
    BytesMessage, CheckAgentRequest, CheckAgentResponse, Ssh,
};
use connectrpc::{
    ConnectError, InboundStream, RequestContext, Response, ServiceRequest, ServiceResult,
    ServiceStream,
};
use futures::StreamExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::agent_gate::{AgentGate, REFUSAL};
use crate::calls::ssh::DEFAULT_AGENT;
use crate::metadata::{self, headers};

/// Read size; agent messages are small.
const CHUNK: usize = 32 << 10;

/// Messages in flight towards the build.
const DEPTH: usize = 8;

/// An agent that can be forwarded.
#[derive(Debug, Clone)]
pub struct AgentSource {
    socket: PathBuf,
}

/// An agent that cannot be forwarded.
#[derive(Debug, thiserror::Error)]
pub enum AgentSourceError {
    /// No agent was named and the environment names none.
    #[error("invalid empty ssh agent socket: make sure SSH_AUTH_SOCK is set")]
    NoAgent,
    /// The path cannot be looked at.
    #[error("look at ssh agent {}", path.display())]
    Unreadable {
        /// The path.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The path is a key or something else, not an agent's socket.
    #[error("{} is no ssh agent socket; add the key to an agent and forward that", path.display())]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
}

impl AgentSource {
    /// The agent listening at `socket`.
    ///
    /// # Errors
    /// Nothing there, or no socket.
    pub fn socket(socket: &Path) -> Result<Self, AgentSourceError> {
        let path = socket.to_path_buf();
        match std::fs::metadata(&path) {
            Ok(metadata) if metadata.file_type().is_socket() => Ok(Self { socket: path }),
            Ok(_) => Err(AgentSourceError::NotASocket { path }),
            Err(source) => Err(AgentSourceError::Unreadable { path, source }),
        }
    }

    /// The agent `SSH_AUTH_SOCK` names.
    ///
    /// # Errors
    /// The variable is unset, or names no socket.
    pub fn from_environment() -> Result<Self, AgentSourceError> {
        let socket = std::env::var_os("SSH_AUTH_SOCK").filter(|value| !value.is_empty());
        Self::socket(Path::new(&socket.ok_or(AgentSourceError::NoAgent)?))
    }
}

pub(super) struct AgentService {
    agents: HashMap<String, AgentSource>,
}

impl AgentService {
    pub(super) const fn new(agents: HashMap<String, AgentSource>) -> Self {
        Self { agents }
    }

    fn agent(&self, id: &str) -> Result<&AgentSource, ConnectError> {
        let id = if id.is_empty() { DEFAULT_AGENT } else { id };
        self.agents
            .get(id)
            .ok_or_else(|| ConnectError::not_found(format!("unset ssh forward key {id}")))
    }
}

impl Ssh for AgentService {
    async fn check_agent(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, CheckAgentRequest>,
    ) -> ServiceResult<CheckAgentResponse> {
        self.agent(request.ID)?;
        Response::ok(CheckAgentResponse::default())
    }

    async fn forward_agent(
        &self,
        context: RequestContext,
        mut requests: InboundStream<BytesMessage>,
    ) -> ServiceResult<ServiceStream<BytesMessage>> {
        let id = metadata::value(context.headers(), headers::SSH_ID).unwrap_or_default();
        let agent = self.agent(&id)?;
        let socket = UnixStream::connect(&agent.socket).await.map_err(|error| {
            ConnectError::unavailable(format!("connect ssh agent {id}: {error}"))
        })?;
        let (mut reader, mut writer) = socket.into_split();
        let (outgoing, stream) = mpsc::channel(DEPTH);
        let refusals = outgoing.clone();
        tokio::spawn(async move {
            let mut gate = AgentGate::default();
            while let Some(Ok(message)) = requests.next().await {
                let Some(passed) = gate.take(message.view().data) else { break };
                for _ in 0..passed.refused {
                    let data = REFUSAL.to_vec();
                    let refusal = BytesMessage { data, ..BytesMessage::default() };
                    // A build that has hung up needs no answer.
                    let _ = refusals.send(Ok(refusal)).await;
                }
                if writer.write_all(&passed.data).await.is_err() {
                    break;
                }
            }
            // The agent may have hung up first.
            let _ = writer.shutdown().await;
        });
        tokio::spawn(async move {
            let mut buffer = vec![0; CHUNK];
            loop {
                let read = tokio::select! {
                    () = outgoing.closed() => return,
                    read = reader.read(&mut buffer) => read,
                };
                let item = match read {
                    Ok(0) => return,
                    Ok(count) => Ok(BytesMessage {
                        data: buffer[..count].to_vec(),
                        ..BytesMessage::default()
                    }),
                    Err(error) => {
                        Err(ConnectError::unavailable(format!("read ssh agent {id}: {error}")))
                    }
                };
                if outgoing.send(item).await.is_err() {
                    return;
                }
            }
        });
        Response::ok(Box::pin(ReceiverStream::new(stream)))
    }
}
