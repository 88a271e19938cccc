//! containerd's `Content` service over local OCI layout directories.
//!
//! Blobs are served and stored by digest under `blobs/`; a blob being written lives under
//! `ingest/` until its digest has been verified. `index.json` is the client's own business.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};

use cofferdam_digest::{Digest, Digester};
use cofferdam_wire::containerd::services::content::v1::{
    AbortRequest, Content, DeleteContentRequest, Info, InfoRequest, InfoResponse,
    ListContentRequest, ListContentResponse, ListStatusesRequest, ListStatusesResponse,
    ReadContentRequest, ReadContentResponse, StatusRequest, StatusResponse, UpdateRequest,
    UpdateResponse, WriteAction, WriteContentRequest, WriteContentResponse,
};
use connectrpc::{
    ConnectError, InboundStream, RequestContext, Response, ServiceRequest, ServiceResult,
    ServiceStream,
};
use futures::{StreamExt, stream};
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt};

use crate::metadata::{self, headers};

/// Size of one message.
const CHUNK: usize = 1 << 20;

/// A content store in a local directory.
#[derive(Debug, Clone)]
pub struct ContentStore {
    blobs: PathBuf,
    ingest: PathBuf,
    writable: bool,
}

/// A directory that cannot be a content store.
#[derive(Debug, thiserror::Error)]
#[error("open content store {}", path.display())]
pub struct ContentStoreError {
    path: PathBuf,
    #[source]
    source: io::Error,
}

impl ContentStore {
    /// The layout in `root`, for reading; it has to exist.
    ///
    /// # Errors
    /// No such directory.
    pub fn open(root: &Path) -> Result<Self, ContentStoreError> {
        let store = Self::at(root, false);
        match std::fs::metadata(root) {
            Ok(metadata) if metadata.is_dir() => Ok(store),
            Ok(_) => Err(failed_at(root, io::ErrorKind::NotADirectory.into())),
            Err(source) => Err(failed_at(root, source)),
        }
    }

    /// The layout in `root`, made when missing, for reading and writing.
    ///
    /// # Errors
    /// The directory cannot be made.
    pub fn create(root: &Path) -> Result<Self, ContentStoreError> {
        let store = Self::at(root, true);
        std::fs::create_dir_all(&store.blobs)
            .and_then(|()| std::fs::create_dir_all(&store.ingest))
            .map_err(|source| failed_at(root, source))?;
        Ok(store)
    }

    fn at(root: &Path, writable: bool) -> Self {
        Self { blobs: root.join("blobs/sha256"), ingest: root.join("ingest"), writable }
    }

    fn blob(&self, digest: &Digest) -> PathBuf {
        self.blobs.join(digest.hex())
    }
}

fn failed_at(root: &Path, source: io::Error) -> ContentStoreError {
    ContentStoreError { path: root.to_path_buf(), source }
}

pub(super) struct ContentService {
    stores: HashMap<String, ContentStore>,
}

impl ContentService {
    pub(super) const fn new(stores: HashMap<String, ContentStore>) -> Self {
        Self { stores }
    }

    fn store(&self, context: &RequestContext) -> Result<&ContentStore, ConnectError> {
        let id = metadata::value(context.headers(), headers::STORE_ID).ok_or_else(|| {
            ConnectError::invalid_argument(format!(
                "request lacks metadata {:?}",
                headers::STORE_ID
            ))
        })?;
        self.stores.get(&id).ok_or_else(|| ConnectError::not_found(format!("unknown store {id}")))
    }
}

fn parse(digest: &str) -> Result<Digest, ConnectError> {
    Digest::parse(digest).map_err(|error| ConnectError::invalid_argument(error.to_string()))
}

fn not_found(digest: &Digest) -> ConnectError {
    ConnectError::not_found(format!("content {digest}: not found"))
}

fn disk(action: &str, error: &io::Error) -> ConnectError {
    ConnectError::internal(format!("{action} content: {error}"))
}

async fn info(store: &ContentStore, digest: &Digest) -> Result<Info, ConnectError> {
    let metadata = tokio::fs::metadata(store.blob(digest)).await.map_err(|_| not_found(digest))?;
    let size = i64::try_from(metadata.len()).unwrap_or(i64::MAX);
    Ok(Info { digest: digest.to_string(), size, ..Info::default() })
}

impl Content for ContentService {
    async fn info(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, InfoRequest>,
    ) -> ServiceResult<InfoResponse> {
        let info = info(self.store(&context)?, &parse(request.digest)?).await?;
        Response::ok(InfoResponse { info: info.into(), ..InfoResponse::default() })
    }

    async fn update(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, UpdateRequest>,
    ) -> ServiceResult<UpdateResponse> {
        // A layout has no place for labels; the blob's facts are the whole answer.
        let wanted = request.to_owned_message().info;
        let info = info(self.store(&context)?, &parse(&wanted.digest)?).await?;
        Response::ok(UpdateResponse { info: info.into(), ..UpdateResponse::default() })
    }

    async fn list(
        &self,
        context: RequestContext,
        _request: ServiceRequest<'_, ListContentRequest>,
    ) -> ServiceResult<ServiceStream<ListContentResponse>> {
        let store = self.store(&context)?;
        let mut found = Vec::new();
        if let Ok(mut entries) = tokio::fs::read_dir(&store.blobs).await {
            while let Ok(Some(entry)) = entries.next_entry().await {
                let name = entry.file_name();
                let digest =
                    name.to_str().and_then(|hex| Digest::parse(&format!("sha256:{hex}")).ok());
                if let Some(digest) = digest {
                    found.push(info(store, &digest).await?);
                }
            }
        }
        let response = ListContentResponse { info: found, ..ListContentResponse::default() };
        Response::ok(Box::pin(stream::iter([Ok(response)])))
    }

    async fn delete(
        &self,
        _context: RequestContext,
        _request: ServiceRequest<'_, DeleteContentRequest>,
    ) -> ServiceResult<buffa_types::google::protobuf::Empty> {
        Err(ConnectError::unimplemented("content is not deleted through a session"))
    }

    async fn read(
        &self,
        context: RequestContext,
        request: ServiceRequest<'_, ReadContentRequest>,
    ) -> ServiceResult<ServiceStream<ReadContentResponse>> {
        let store = self.store(&context)?;
        let digest = parse(request.digest)?;
        let offset = u64::try_from(request.offset)
            .map_err(|_| ConnectError::out_of_range("negative offset"))?;
        // Zero means to the end.
        let size = match u64::try_from(request.size) {
            Ok(0) => u64::MAX,
            Ok(size) => size,
            Err(_) => return Err(ConnectError::out_of_range("negative size")),
        };
        let mut file = File::open(store.blob(&digest)).await.map_err(|_| not_found(&digest))?;
        file.seek(io::SeekFrom::Start(offset)).await.map_err(|error| disk("read", &error))?;
        let reader = file.take(size);
        let chunks = stream::unfold(Some((reader, offset)), |state| async {
            let (mut reader, offset) = state?;
            let mut data = vec![0; CHUNK];
            match reader.read(&mut data).await {
                Ok(0) => None,
                Ok(count) => {
                    data.truncate(count);
                    let at = i64::try_from(offset).unwrap_or(i64::MAX);
                    let response =
                        ReadContentResponse { offset: at, data, ..ReadContentResponse::default() };
                    Some((Ok(response), Some((reader, offset + count as u64))))
                }
                Err(error) => Some((Err(disk("read", &error)), None)),
            }
        });
        Response::ok(Box::pin(chunks))
    }

    async fn status(
        &self,
        _context: RequestContext,
        request: ServiceRequest<'_, StatusRequest>,
    ) -> ServiceResult<StatusResponse> {
        // Writes do not outlive their call here, so there is never one to ask about.
        Err(ConnectError::not_found(format!("no status for ref {}", request.r#ref)))
    }

    async fn list_statuses(
        &self,
        _context: RequestContext,
        _request: ServiceRequest<'_, ListStatusesRequest>,
    ) -> ServiceResult<ListStatusesResponse> {
        Response::ok(ListStatusesResponse::default())
    }

    async fn write(
        &self,
        context: RequestContext,
        requests: InboundStream<WriteContentRequest>,
    ) -> ServiceResult<ServiceStream<WriteContentResponse>> {
        let store = self.store(&context)?.clone();
        if !store.writable {
            return Err(ConnectError::permission_denied("content store is for reading only"));
        }
        let state = Some((requests, store, None::<Ingest>));
        let answers = stream::unfold(state, |state| async {
            let (mut requests, store, mut ingest) = state?;
            let request = match requests.next().await? {
                Ok(request) => request.to_owned_message(),
                Err(error) => return Some((Err(error), None)),
            };
            let done = request.action.as_known() == Some(WriteAction::COMMIT);
            match step(&store, &mut ingest, request).await {
                Ok(answer) if done => Some((Ok(answer), None)),
                Ok(answer) => Some((Ok(answer), Some((requests, store, ingest)))),
                Err(error) => Some((Err(error), None)),
            }
        });
        Response::ok(Box::pin(answers))
    }

    async fn abort(
        &self,
        _context: RequestContext,
        _request: ServiceRequest<'_, AbortRequest>,
    ) -> ServiceResult<buffa_types::google::protobuf::Empty> {
        Response::ok(buffa_types::google::protobuf::Empty::default())
    }
}

/// A blob being written; removed unless committed.
struct Ingest {
    path: PathBuf,
    file: File,
    digester: Digester,
    expected: String,
}

impl Drop for Ingest {
    fn drop(&mut self) {
        // Renamed away after a commit; then there is nothing to remove.
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Ingest {
    async fn start(
        store: &ContentStore,
        reference: &str,
        expected: &str,
    ) -> Result<Self, ConnectError> {
        if reference.is_empty() {
            return Err(ConnectError::invalid_argument("write without a ref"));
        }
        // The ref is the other end's text: its digest is what becomes a name.
        let path = store.ingest.join(Digest::of(reference).hex());
        let file = File::create(&path).await.map_err(|error| disk("create", &error))?;
        Ok(Self { path, file, digester: Digester::new(), expected: expected.to_string() })
    }
}

async fn step(
    store: &ContentStore,
    ingest: &mut Option<Ingest>,
    request: WriteContentRequest,
) -> Result<WriteContentResponse, ConnectError> {
    if !request.expected.is_empty() {
        let digest = parse(&request.expected)?;
        if tokio::fs::try_exists(store.blob(&digest)).await.unwrap_or(false) {
            return Err(ConnectError::already_exists(format!("content {digest}: already exists")));
        }
    }
    let mut current = match ingest.take() {
        Some(current) => current,
        None => Ingest::start(store, &request.r#ref, &request.expected).await?,
    };
    if !request.data.is_empty() {
        let at = current.digester.len();
        if u64::try_from(request.offset) != Ok(at) {
            return Err(ConnectError::out_of_range(format!("write at {} of {at}", request.offset)));
        }
        current.file.write_all(&request.data).await.map_err(|error| disk("write", &error))?;
        current.digester.update(&request.data);
    }
    let offset = i64::try_from(current.digester.len()).unwrap_or(i64::MAX);
    let mut answer = WriteContentResponse {
        action: request.action,
        offset,
        total: request.total,
        ..WriteContentResponse::default()
    };
    if request.action.as_known() == Some(WriteAction::COMMIT) {
        answer.digest = commit(store, current, &request).await?.to_string();
    } else {
        *ingest = Some(current);
    }
    Ok(answer)
}

async fn commit(
    store: &ContentStore,
    mut current: Ingest,
    request: &WriteContentRequest,
) -> Result<Digest, ConnectError> {
    let size = current.digester.len();
    if request.total > 0 && u64::try_from(request.total) != Ok(size) {
        return Err(ConnectError::failed_precondition(format!(
            "unexpected commit size {size}, expected {}",
            request.total
        )));
    }
    let digest = std::mem::replace(&mut current.digester, Digester::new()).finish();
    let expected =
        if request.expected.is_empty() { current.expected.as_str() } else { &request.expected };
    if !expected.is_empty() && parse(expected)? != digest {
        return Err(ConnectError::failed_precondition(format!(
            "unexpected commit digest {digest}, expected {expected}"
        )));
    }
    current.file.sync_all().await.map_err(|error| disk("write", &error))?;
    tokio::fs::rename(&current.path, store.blob(&digest))
        .await
        .map_err(|error| disk("commit", &error))?;
    Ok(digest)
}
