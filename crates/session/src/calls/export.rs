//! `FileSend.DiffCopy`: hands a build's output to the client, as one file or as a tree.
//!
//! The method's declared message is bytes; a tree puts directory packets on the same method
//! (section 3.3), so the tree call is made with the other message type.

use std::collections::BTreeMap;
use std::io;

use bytes::Bytes;
use cofferdam_wire::fsutil::types::{Packet, PacketView};
use cofferdam_wire::moby::filesync::v1::{BytesMessage, FILE_SEND_DIFF_COPY_SPEC, FileSendClient};
use connectrpc::client::{CallOptions, call_bidi_stream};
use connectrpc::{ErrorCode, SpecOrigin};
use http::{HeaderName, HeaderValue};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::fsutil::{self, SendError, SendOptions, Sent, Source};
use crate::metadata::headers;
use crate::session::{RpcError, Session};

const METHOD: &str = "/moby.filesync.v1.FileSend/DiffCopy";

/// Largest message of a file. BuildKit's own daemon stays below 3 MiB; more than this is no faster,
/// and some 36 of them wait on their way.
const CHUNK: usize = 256 << 10;

/// Chunks in flight between a writer and the tunnel.
const DEPTH: usize = 4;

/// Which exporter of the solve request receives, and what it is told.
#[derive(Debug, Clone, Default)]
pub struct ExportTarget {
    /// Index in `SolveRequest.Exporters`.
    pub exporter: usize,
    /// Exporter response entries, for file outputs.
    pub metadata: BTreeMap<String, String>,
    /// Whether one tree holds every platform.
    pub multi_platform: bool,
}

/// An output that did not reach the client.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The client takes no outputs.
    #[error("client does not accept exported files")]
    NotEnabled,
    /// The client already has the target.
    #[error("target already exists")]
    AlreadyExists,
    /// The call failed.
    #[error(transparent)]
    Rpc(RpcError),
    /// The tree could not be sent.
    #[error("send output files")]
    Send(#[source] SendError),
    /// The sending task did not finish.
    #[error("output transfer was interrupted")]
    Interrupted,
}

/// A file on its way to the client. Dropping it unfinished cancels the transfer.
pub struct FileSender {
    chunks: mpsc::Sender<Bytes>,
    task: JoinHandle<Result<(), ExportError>>,
}

impl FileSender {
    /// Sends `data`, waiting for the client to keep up.
    ///
    /// # Errors
    /// The client ended the call; [`FileSender::finish`] tells why.
    pub async fn write(&mut self, mut data: Bytes) -> Result<(), ExportError> {
        while !data.is_empty() {
            let chunk = data.split_to(data.len().min(CHUNK));
            self.chunks.send(chunk).await.map_err(|_| ExportError::Interrupted)?;
        }
        Ok(())
    }

    /// A writer for code that runs off the async threads; several see one stream in the order
    /// of their writes. Drop it before [`FileSender::finish`].
    #[must_use]
    pub fn blocking_writer(&self) -> BlockingWriter {
        BlockingWriter { chunks: self.chunks.clone(), buffer: Vec::with_capacity(CHUNK) }
    }

    /// Ends the file and waits until the client has it.
    ///
    /// # Errors
    /// What the client answered.
    pub async fn finish(self) -> Result<(), ExportError> {
        let Self { chunks, task } = self;
        drop(chunks);
        task.await.unwrap_or(Err(ExportError::Interrupted))
    }
}

/// [`io::Write`] into a [`FileSender`], buffered; flush before dropping it.
pub struct BlockingWriter {
    chunks: mpsc::Sender<Bytes>,
    buffer: Vec<u8>,
}

impl io::Write for BlockingWriter {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let count = data.len().min(CHUNK - self.buffer.len());
        self.buffer.extend_from_slice(&data[..count]);
        if self.buffer.len() == CHUNK {
            self.flush()?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let chunk = std::mem::replace(&mut self.buffer, Vec::with_capacity(CHUNK));
        self.chunks
            .blocking_send(chunk.into())
            .map_err(|_| io::Error::new(io::ErrorKind::BrokenPipe, "output transfer ended"))
    }
}

impl Session {
    /// Opens a file output at the client.
    ///
    /// # Errors
    /// A client that takes no outputs or cannot be reached.
    pub async fn send_file(&self, target: &ExportTarget) -> Result<FileSender, ExportError> {
        let options = self.export_options(target)?;
        let client = FileSendClient::new(self.transport().clone(), self.config());
        let stream = client.diff_copy_with_options(options).await.map_err(export_error)?;
        let (mut send, mut receive) = stream.into_split();
        let (chunks, mut queue) = mpsc::channel::<Bytes>(DEPTH);
        let task = tokio::spawn(async move {
            while let Some(data) = queue.recv().await {
                let message = BytesMessage { data: data.into(), ..BytesMessage::default() };
                if send.send(message).await.is_err() {
                    break;
                }
            }
            // Writers learn of an early end by the closed queue; the reason is the status.
            drop(queue);
            send.close_send();
            while receive.message().await.map_err(export_error)?.is_some() {}
            Ok(())
        });
        Ok(FileSender { chunks, task })
    }

    /// Sends a tree to the client's directory.
    ///
    /// # Errors
    /// A client that takes no outputs, unreadable sources, or a client that stops.
    pub async fn send_tree(
        &self,
        target: &ExportTarget,
        sources: Vec<Source>,
        options: SendOptions,
    ) -> Result<Sent, ExportError> {
        let call = self.export_options(target)?;
        let spec = FILE_SEND_DIFF_COPY_SPEC.with_origin(SpecOrigin::Client);
        let stream = call_bidi_stream::<_, Packet, PacketView<'static>>(
            self.transport(),
            &self.config(),
            spec,
            call,
        )
        .await
        .map_err(export_error)?;
        let (packets, outgoing) = fsutil::client_channel(stream);
        fsutil::send(sources, packets, outgoing, options).await.map_err(ExportError::Send)
    }

    fn export_options(&self, target: &ExportTarget) -> Result<CallOptions, ExportError> {
        if !self.supports(METHOD) {
            return Err(ExportError::NotEnabled);
        }
        let mut options =
            Self::options().with_header(headers::EXPORTER_ID, target.exporter.to_string());
        if target.multi_platform {
            options = options.with_header(headers::MULTI_PLATFORM, "1");
        }
        for (key, value) in &target.metadata {
            // An entry that is no legal header (a name with a slash, say) is for the solve
            // response only; clients read the legal ones here.
            let name = HeaderName::try_from(format!("{}{key}", headers::EXPORTER_METADATA));
            if let (Ok(name), Ok(value)) = (name, HeaderValue::try_from(value.as_str())) {
                options = options.with_header(name, value);
            }
        }
        Ok(options)
    }
}

fn export_error(error: connectrpc::ConnectError) -> ExportError {
    match error.code {
        ErrorCode::AlreadyExists => ExportError::AlreadyExists,
        _ => ExportError::Rpc(RpcError::new(METHOD, error)),
    }
}
