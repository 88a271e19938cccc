//! `SSH`: connections of a step's agent socket, carried to the client's agent.
//!
//! One stream per accepted connection (section 3.5); half-closes travel both ways. The bytes are
//! never looked at.

use cofferdam_wire::moby::sshforward::v1::{BytesMessage, CheckAgentRequest, SshClient};
use connectrpc::ConnectError;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;

use crate::metadata::headers;
use crate::session::{RpcError, Session};
use crate::tunnel::Transport;

const CHECK: &str = "/moby.sshforward.v1.SSH/CheckAgent";
const FORWARD: &str = "/moby.sshforward.v1.SSH/ForwardAgent";

/// The agent a mount without an id means.
pub const DEFAULT_AGENT: &str = "default";

/// Connections of one mount at a time: a step gains nothing from more.
const MAX_CONNECTIONS: usize = 64;

/// Read size; agent messages are small.
const CHUNK: usize = 32 << 10;

/// An agent that cannot be forwarded.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The client forwards no agents.
    #[error("no SSH key {id:?} forwarded from the client")]
    NotEnabled {
        /// The agent asked for.
        id: String,
    },
    /// The client refused.
    #[error("check ssh agent {id}")]
    Rpc {
        /// The agent asked for.
        id: String,
        /// What went wrong.
        #[source]
        source: RpcError,
    },
    /// The socket for the step broke.
    #[error("accept an ssh agent connection")]
    Accept(#[source] std::io::Error),
}

impl Session {
    /// Asks whether the client has agent `id` (empty means [`DEFAULT_AGENT`]).
    ///
    /// # Errors
    /// A client without agents or without this one.
    pub async fn check_agent(&self, id: &str) -> Result<(), AgentError> {
        if !self.supports(CHECK) || !self.supports(FORWARD) {
            return Err(AgentError::NotEnabled { id: agent_id(id).to_owned() });
        }
        let id = agent_id(id);
        let request = CheckAgentRequest { ID: id.to_string(), ..CheckAgentRequest::default() };
        let client = SshClient::new(self.transport().clone(), self.config());
        match client.check_agent_with_options(request, Self::options()).await {
            Ok(_) => Ok(()),
            Err(error) => {
                Err(AgentError::Rpc { id: id.to_string(), source: RpcError::new(CHECK, error) })
            }
        }
    }

    /// Carries every connection `listener` accepts to agent `id`, until dropped.
    ///
    /// Dropping the future ends all of them.
    ///
    /// # Errors
    /// Only a listener that breaks; a failed connection ends alone.
    pub async fn forward_agent(&self, id: &str, listener: UnixListener) -> Result<(), AgentError> {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                () = self.closed().cancelled() => return Ok(()),
                Some(_) = connections.join_next(), if !connections.is_empty() => {}
                accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => {
                    let (socket, _) = accepted.map_err(AgentError::Accept)?;
                    let client = SshClient::new(self.transport().clone(), self.config());
                    let id = agent_id(id).to_string();
                    connections.spawn(async move {
                        if let Err(error) = carry(client, &id, socket).await {
                            tracing::debug!(%error, "forwarded ssh agent connection ended");
                        }
                    });
                }
            }
        }
    }
}

fn agent_id(id: &str) -> &str {
    if id.is_empty() { DEFAULT_AGENT } else { id }
}

async fn carry(
    client: SshClient<Transport>,
    id: &str,
    socket: UnixStream,
) -> Result<(), ConnectError> {
    let options = Session::options().with_header(headers::SSH_ID, id);
    let stream = client.forward_agent_with_options(options).await?;
    let (mut send, mut receive) = stream.into_split();
    let (mut reader, mut writer) = socket.into_split();
    let outward = async {
        let mut buffer = vec![0; CHUNK];
        while let Ok(count) = reader.read(&mut buffer).await
            && count > 0
        {
            let message =
                BytesMessage { data: buffer[..count].to_vec(), ..BytesMessage::default() };
            if send.send(message).await.is_err() {
                break;
            }
        }
        send.close_send();
    };
    let inward = async {
        let result = loop {
            match receive.message().await {
                Ok(Some(message)) => {
                    if writer.write_all(message.view().data).await.is_err() {
                        break Ok(());
                    }
                }
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        // A failed shutdown means that the step closed its end first.
        let _ = writer.shutdown().await;
        result
    };
    // The agent's end decides: after it hung up, nothing the step still says matters.
    tokio::pin!(outward, inward);
    tokio::select! {
        result = &mut inward => return result,
        () = &mut outward => {}
    }
    inward.await
}
