//! The status stream of a build as a blob: `application/vnd.buildkit.status.v0`, frames of a little-endian 32-bit length and a
//! `StatusResponse`. Clients read it themselves; `Status` of a finished build replays it.

use std::collections::HashMap;
use std::io::Write;
use std::sync::Arc;

use buffa::{Message, MessageField};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use cofferdam_image::Descriptor;
use cofferdam_store::{Blob, BlobWriter, Store};
use cofferdam_wire::moby::buildkit::v1::{StatusResponse, Vertex};
use connectrpc::ConnectError;
use futures::{Stream, StreamExt};
use tokio::io::{AsyncReadExt, BufReader};

use super::redact;
use crate::blocking::blocking;
use crate::failure::Failure;

const MEDIA_TYPE: &str = "application/vnd.buildkit.status.v0";
/// Largest frame that is written and read back: one of more could not be sent to a client.
const MAX_FRAME: usize = 16 << 20;
/// Bytes of one status stream, beyond which only the states of steps are kept; by default, builds print less.
const MAX_OUTPUT: usize = 512 << 20;
/// Bytes of states that are kept beyond that.
const MAX_STATES: usize = 64 << 20;
/// Bytes that are written at once.
const WRITE: usize = 1 << 20;

/// What the steps of a build came to.
#[derive(Debug, Default)]
pub(super) struct Summary {
    /// The last state of each vertex.
    pub(super) vertices: HashMap<String, Vertex>,
    /// Those that were cached at any time.
    cached: std::collections::HashSet<String>,
    completed: std::collections::HashSet<String>,
    pub(super) warnings: usize,
}

impl Summary {
    fn add(&mut self, response: &StatusResponse) {
        self.warnings += response.warnings.len();
        for vertex in &response.vertexes {
            if vertex.cached {
                self.cached.insert(vertex.digest.clone());
            }
            if vertex.completed.is_set() {
                self.completed.insert(vertex.digest.clone());
            }
            self.vertices.insert(vertex.digest.clone(), vertex.clone());
        }
    }

    pub(super) fn cached(&self) -> usize {
        self.cached.len()
    }

    pub(super) fn completed(&self) -> usize {
        self.completed.len()
    }
}

/// Stores everything that `responses` yields.
pub(super) async fn write(
    store: &Arc<Store>,
    responses: impl Stream<Item = Result<StatusResponse, ConnectError>>,
) -> Result<(Descriptor, Blob, Summary), Failure> {
    let mut responses = std::pin::pin!(responses);
    let mut summary = Summary::default();
    let mut writer = store.blob_writer(None).map_err(Failure::store)?;
    let mut buffer = Vec::new();
    let mut written = 0_usize;
    while let Some(response) = responses.next().await {
        let mut response = response?;
        redact::status(&mut response);
        summary.add(&response);
        let Some(frame) = framed(response, written, MAX_OUTPUT, MAX_STATES) else { continue };
        written = written.saturating_add(frame.len());
        buffer.extend_from_slice(&frame);
        if buffer.len() >= WRITE {
            writer = append(writer, std::mem::take(&mut buffer)).await?;
        }
    }
    let blob = blocking(move || {
        writer.write_all(&buffer).map_err(Failure::store)?;
        writer.commit().map_err(Failure::store)
    });
    let blob = blob.await??;
    Ok((Descriptor::new(MEDIA_TYPE, blob.digest(), blob.size()), blob, summary))
}

/// What is kept of a response, as a frame, after `written` bytes of a stream that may have `output` bytes of everything and then
/// `states` more.
fn framed(
    mut response: StatusResponse,
    written: usize,
    output: usize,
    states: usize,
) -> Option<Vec<u8>> {
    let too_large = |response: &StatusResponse| response.encoded_len() as usize > MAX_FRAME;
    if written >= output {
        response.logs.clear();
        response.statuses.clear();
        response.warnings.clear();
    }
    if too_large(&response) {
        // Each has the whole file that it is about.
        for warning in &mut response.warnings {
            warning.info = MessageField::none();
        }
    }
    if too_large(&response) {
        response.warnings.clear();
    }
    let frame = response.encode_to_vec();
    let most = output.saturating_add(states).saturating_sub(written).min(MAX_FRAME);
    if frame.is_empty() || frame.len() > most {
        return None;
    }
    let length = u32::try_from(frame.len()).ok()?;
    Some([&length.to_le_bytes()[..], &frame[..]].concat())
}

async fn append(mut writer: BlobWriter, bytes: Vec<u8>) -> Result<BlobWriter, Failure> {
    let written = blocking(move || writer.write_all(&bytes).map(|()| writer));
    written.await?.map_err(Failure::store)
}

/// Stores `bytes`. *Blocking.*
pub(super) fn store_bytes(store: &Arc<Store>, bytes: &[u8]) -> Result<Blob, Failure> {
    let mut writer = store.blob_writer(None).map_err(Failure::store)?;
    writer.write_all(bytes).map_err(Failure::store)?;
    writer.commit().map_err(Failure::store)
}

/// Stores `bytes` and describes them. *Blocking.*
pub(super) fn keep(
    store: &Arc<Store>,
    media_type: &str,
    bytes: &[u8],
) -> Result<(Descriptor, Blob), Failure> {
    let blob = store_bytes(store, bytes)?;
    Ok((Descriptor::new(media_type, blob.digest(), blob.size()), blob))
}

/// Reads a stored status stream.
pub(crate) fn replay(
    blob: &Blob,
) -> Result<impl Stream<Item = Result<StatusResponse, ConnectError>> + Send + use<>, Failure> {
    let file = BufReader::new(tokio::fs::File::from_std(blob.open().map_err(Failure::store)?));
    // The blob is held as long as it is read.
    Ok(futures::stream::unfold(Some((file, blob.clone())), |state| async move {
        let (mut file, blob) = state?;
        match frame(&mut file).await {
            Ok(Some(response)) => Some((Ok(response), Some((file, blob)))),
            Ok(None) => None,
            Err(failure) => Some((Err(failure.into()), None)),
        }
    }))
}

async fn frame(
    file: &mut (impl tokio::io::AsyncRead + Unpin),
) -> Result<Option<StatusResponse>, Failure> {
    let mut length = [0; 4];
    match file.read_exact(&mut length).await {
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(Failure::store(error)),
    }
    let length = usize::try_from(u32::from_le_bytes(length)).map_err(Failure::internal)?;
    if length > MAX_FRAME {
        return Err(Failure::new(connectrpc::ErrorCode::DataLoss, "a build's logs are damaged"));
    }
    let mut bytes = vec![0; length];
    file.read_exact(&mut bytes).await.map_err(Failure::store)?;
    StatusResponse::decode(&mut Bytes::from(bytes)).map(Some).map_err(Failure::internal)
}

/// A time on the wire.
pub(super) fn time_of(
    time: Option<&buffa_types::google::protobuf::Timestamp>,
) -> Option<DateTime<Utc>> {
    time.and_then(|time| DateTime::from_timestamp(time.seconds, u32::try_from(time.nanos).ok()?))
}

#[cfg(test)]
mod tests {
    use cofferdam_wire::moby::buildkit::v1::{VertexLog, VertexWarning};

    use super::*;

    fn response() -> StatusResponse {
        StatusResponse {
            vertexes: vec![Vertex { digest: "sha256:1".into(), ..Vertex::default() }],
            logs: vec![VertexLog { msg: vec![b'x'; 100], ..VertexLog::default() }],
            ..StatusResponse::default()
        }
    }

    fn kept(response: StatusResponse, written: usize) -> Option<StatusResponse> {
        let frame = framed(response, written, 1000, 100)?;
        StatusResponse::decode_from_slice(&frame[4..]).ok()
    }

    #[test]
    fn a_stream_without_room_keeps_the_states_of_steps_and_then_nothing() {
        assert_eq!(kept(response(), 900), Some(response()));
        let state = StatusResponse { logs: Vec::new(), ..response() };
        assert_eq!(kept(response(), 1000), Some(state));
        assert_eq!(kept(response(), 1099), None);
        assert_eq!(kept(StatusResponse { vertexes: Vec::new(), ..response() }, 1000), None);
    }

    #[test]
    fn no_frame_is_larger_than_what_is_read_back() {
        let info =
            cofferdam_wire::pb::SourceInfo { data: vec![b'x'; MAX_FRAME], ..Default::default() };
        let warning = VertexWarning {
            short: b"short".to_vec(),
            info: MessageField::some(info),
            ..VertexWarning::default()
        };
        let large = StatusResponse { warnings: vec![warning], ..response() };
        let frame = framed(large, 0, MAX_OUTPUT, MAX_STATES).unwrap_or_default();
        let kept = StatusResponse::decode_from_slice(&frame[4..]).unwrap_or_default();
        assert_eq!(kept.warnings[0].short, b"short");
        assert!(!kept.warnings[0].info.is_set() && kept.vertexes.len() == 1);
    }
}
