//! `FileSend`: takes a build's output, as one file or as a tree.
//!
//! The message type of the one method depends on the target (section 3.3), so the method is
//! dispatched by hand: files arrive as byte messages, trees as directory packets.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use cofferdam_wire::fsutil::types::Packet;
use cofferdam_wire::moby::filesync::v1::{BytesMessage, FILE_SEND_DIFF_COPY_SPEC};
use connectrpc::dispatcher::codegen::{
    decode_message_request_stream, encode_response_stream, unimplemented_streaming,
    unimplemented_unary,
};
use connectrpc::dispatcher::{RequestStream, StreamingResult, UnaryResult};
use connectrpc::{
    CodecFormat, ConnectError, Dispatcher, InboundStream, MethodDescriptor, Payload,
    RequestContext, Response,
};
use futures::{StreamExt, stream};
use rustix::fs::{Mode, OFlags};
use tokio::fs::File;
use tokio::io::{AsyncWrite, AsyncWriteExt};

use crate::fsutil::{self, ReceiveLimits, ReceiveMode, ReceiveOptions};
use crate::metadata::{self, headers};

const METHOD: &str = "moby.filesync.v1.FileSend/DiffCopy";

/// Where an exporter's output goes.
#[derive(Debug)]
pub enum OutputTarget {
    /// Into a directory, made when missing; with `mirror` whatever else is there is deleted.
    Directory {
        /// The directory.
        path: PathBuf,
        /// Delete what the output does not have.
        mirror: bool,
    },
    /// Into one file or stream.
    File(FileTarget),
}

type Writer = Pin<Box<dyn AsyncWrite + Send>>;

/// Where a single-file output goes.
pub enum FileTarget {
    /// A file, replaced when complete; an existing pipe or device is written to.
    Path(PathBuf),
    /// A stream, once (standard output, another program).
    Writer(Mutex<Option<Writer>>),
}

impl FileTarget {
    /// Writes the output to `writer`.
    pub fn writer(writer: impl AsyncWrite + Send + 'static) -> Self {
        Self::Writer(Mutex::new(Some(Box::pin(writer))))
    }
}

impl fmt::Debug for FileTarget {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => write!(formatter, "Path({})", path.display()),
            Self::Writer(_) => formatter.write_str("Writer(..)"),
        }
    }
}

/// Exporter response entries that came with file outputs, by exporter.
pub type OutputMetadata = Arc<Mutex<BTreeMap<usize, HashMap<String, String>>>>;

/// Dispatches the one method of the service.
#[derive(Clone)]
pub struct FileSendService {
    outputs: Arc<BTreeMap<usize, OutputTarget>>,
    metadata: OutputMetadata,
}

impl FileSendService {
    pub(super) fn new(outputs: BTreeMap<usize, OutputTarget>) -> Self {
        Self { outputs: Arc::new(outputs), metadata: OutputMetadata::default() }
    }

    /// The method's path, when there are outputs to take.
    pub(super) fn method(&self) -> Option<String> {
        (!self.outputs.is_empty()).then(|| METHOD.to_string())
    }

    /// What arrived with the files; filled while the build runs.
    #[must_use]
    pub fn metadata(&self) -> OutputMetadata {
        Arc::clone(&self.metadata)
    }

    fn remember(&self, exporter: usize, context: &RequestContext) {
        let entries = context.headers().iter().filter_map(|(name, value)| {
            let key = name.as_str().strip_prefix(headers::EXPORTER_METADATA)?;
            Some((key.to_string(), value.to_str().ok()?.to_string()))
        });
        let mut metadata = self.metadata.lock().unwrap_or_else(PoisonError::into_inner);
        metadata.entry(exporter).or_default().extend(entries);
    }
}

impl Dispatcher for FileSendService {
    fn lookup(&self, path: &str) -> Option<MethodDescriptor> {
        (path == METHOD && !self.outputs.is_empty())
            .then(|| MethodDescriptor::bidi_streaming().with_spec(FILE_SEND_DIFF_COPY_SPEC))
    }

    fn call_unary(&self, path: &str, _: RequestContext, _: Payload, _: CodecFormat) -> UnaryResult {
        unimplemented_unary(path)
    }

    fn call_server_streaming(
        &self,
        path: &str,
        _: RequestContext,
        _: Bytes,
        _: CodecFormat,
    ) -> StreamingResult {
        unimplemented_streaming(path)
    }

    fn call_client_streaming(
        &self,
        path: &str,
        _: RequestContext,
        _: RequestStream,
        _: CodecFormat,
    ) -> UnaryResult {
        unimplemented_unary(path)
    }

    fn call_bidi_streaming(
        &self,
        path: &str,
        context: RequestContext,
        requests: RequestStream,
        format: CodecFormat,
    ) -> StreamingResult {
        if path != METHOD {
            return unimplemented_streaming(path);
        }
        let exporter = metadata::value(context.headers(), headers::EXPORTER_ID)
            .and_then(|id| id.parse().ok())
            .unwrap_or(0);
        self.remember(exporter, &context);
        let outputs = Arc::clone(&self.outputs);
        let options = context.decode_options().clone();
        Box::pin(async move {
            match outputs.get(&exporter) {
                None => Err(ConnectError::not_found(format!("exporter {exporter} not found"))),
                Some(OutputTarget::Directory { path, mirror }) => {
                    let combined =
                        metadata::value(context.headers(), headers::MULTI_PLATFORM).is_some();
                    // A mirror fed platform by platform would delete the others' files.
                    if *mirror && !combined {
                        return Err(ConnectError::invalid_argument(
                            "delete mode needs a daemon that sends one combined tree",
                        ));
                    }
                    let packets =
                        decode_message_request_stream::<Packet>(requests, format, options);
                    let stream = take_tree(path, *mirror, packets)?;
                    Ok(Response::new(encode_response_stream::<Packet, _, _>(stream, format)))
                }
                Some(OutputTarget::File(target)) => {
                    let writer = Sink::open(target).await?;
                    let bytes =
                        decode_message_request_stream::<BytesMessage>(requests, format, options);
                    let stream = take_file(writer, bytes);
                    Ok(Response::new(encode_response_stream::<BytesMessage, _, _>(stream, format)))
                }
            }
        })
    }
}

fn take_tree(
    path: &Path,
    mirror: bool,
    packets: InboundStream<Packet>,
) -> Result<connectrpc::ServiceStream<Packet>, ConnectError> {
    let refused = |error: io::Error| {
        ConnectError::failed_precondition(format!("open output {}: {error}", path.display()))
    };
    std::fs::create_dir_all(path).map_err(refused)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dest =
        rustix::fs::open(path, flags, Mode::empty()).map_err(|error| refused(error.into()))?;
    let options = ReceiveOptions {
        mode: if mirror { ReceiveMode::Mirror } else { ReceiveMode::Merge },
        limits: ReceiveLimits::default(),
        ..ReceiveOptions::default()
    };
    let (outgoing, stream) = fsutil::server_channel();
    let shown = path.display().to_string();
    tokio::spawn(async move {
        if let Err(error) = fsutil::receive(packets, outgoing, dest, options).await {
            // The daemon was told in the protocol and fails the build with it.
            tracing::debug!(path = shown, %error, "output was not received");
        }
    });
    Ok(stream)
}

/// A stream that ends when the file is complete, or with its error.
fn take_file(
    sink: Sink,
    bytes: InboundStream<BytesMessage>,
) -> connectrpc::ServiceStream<BytesMessage> {
    Box::pin(stream::once(sink.fill(bytes)).filter_map(|result| async { result.err().map(Err) }))
}

/// An open single-file target.
struct Sink {
    writer: Writer,
    /// Renamed to the second when complete; removed otherwise.
    unfinished: Option<(Unfinished, PathBuf)>,
}

/// Removes a file that was not completed.
struct Unfinished(PathBuf);

impl Drop for Unfinished {
    fn drop(&mut self) {
        // Renamed away after success; then there is nothing to remove.
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Sink {
    async fn open(target: &FileTarget) -> Result<Self, ConnectError> {
        match target {
            FileTarget::Writer(slot) => {
                let writer = slot.lock().unwrap_or_else(PoisonError::into_inner).take();
                let writer = writer
                    .ok_or_else(|| ConnectError::already_exists("output was written already"))?;
                Ok(Self { writer, unfinished: None })
            }
            FileTarget::Path(path) => Self::open_path(path).await.map_err(|error| {
                ConnectError::failed_precondition(format!("open {}: {error}", path.display()))
            }),
        }
    }

    async fn open_path(path: &Path) -> io::Result<Self> {
        match std::fs::metadata(path) {
            Ok(metadata) if metadata.is_dir() => {
                return Err(io::Error::new(io::ErrorKind::IsADirectory, "is a directory"));
            }
            Ok(metadata) if !metadata.is_file() => {
                let file = File::options().write(true).open(path).await?;
                return Ok(Self { writer: Box::pin(file), unfinished: None });
            }
            _ => {}
        }
        let mut beside = path.file_name().unwrap_or_default().to_os_string();
        beside.push(format!(".{}.partial", std::process::id()));
        let beside = path.with_file_name(beside);
        let file = File::create(&beside).await?;
        let unfinished = Some((Unfinished(beside), path.to_path_buf()));
        Ok(Self { writer: Box::pin(file), unfinished })
    }

    async fn fill(mut self, mut bytes: InboundStream<BytesMessage>) -> Result<(), ConnectError> {
        let failed = |error: io::Error| ConnectError::internal(format!("write output: {error}"));
        while let Some(message) = bytes.next().await {
            self.writer.write_all(message?.view().data).await.map_err(failed)?;
        }
        // Standard output writes on a thread of its own, which shutting down does not wait for.
        self.writer.flush().await.map_err(failed)?;
        self.writer.shutdown().await.map_err(failed)?;
        if let Some((unfinished, path)) = &self.unfinished {
            tokio::fs::rename(&unfinished.0, path).await.map_err(failed)?;
        }
        Ok(())
    }
}
