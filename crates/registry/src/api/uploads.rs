//! `<name>/blobs/uploads/`: blobs on their way in, whole, in chunks, or mounted.

use std::sync::Arc;

use axum::body::Body;
use axum::response::Response;
use http::{HeaderName, Method, StatusCode, header};

use super::{Ask, DIGEST, bare};
use crate::body::receive;
use crate::digest::{Algorithm, ContentDigest};
use crate::error::{Failure, received};
use crate::name::Repository;
use crate::range::Chunk;
use crate::registry::Inner;
use crate::upload::{Claim, Upload};

/// The upload's id once more, for old clients.
const UPLOAD_ID: HeaderName = HeaderName::from_static("docker-upload-uuid");

/// `POST <name>/blobs/uploads/`.
pub(super) async fn start(
    ask: Ask,
    body: Body,
    repository: Repository,
) -> Result<Response, Failure> {
    if ask.method != Method::POST {
        return Err(Failure::WrongMethod("POST"));
    }
    if let Some(mounted) = mount(&ask, &repository).await? {
        return Ok(mounted);
    }
    if let Some(digest) = ask.query.get("digest") {
        let digest = ContentDigest::parse(digest).ok_or(Failure::DigestMalformed)?;
        // A client that only announces the digest sends the content with a PUT later.
        let empty = ContentDigest::of(digest.algorithm(), b"");
        if ask.content_length() != Some(0) || digest == empty {
            return whole(ask, body, repository, digest).await;
        }
    }
    let algorithm = match ask.query.get("digest-algorithm") {
        Some(name) => Algorithm::parse(name).ok_or(Failure::DigestMalformed)?,
        None => Algorithm::Sha256,
    };
    let upload = ask.registry.start_upload(&repository, algorithm, 0).await?;
    Ok(progress(StatusCode::ACCEPTED, &upload))
}

/// A blob that is already in the project needs no upload. One of another project is never
/// mounted, whoever asks: the answer is the same as for a blob that does not exist.
async fn mount(ask: &Ask, repository: &Repository) -> Result<Option<Response>, Failure> {
    let Some(digest) = ask.query.get("mount") else { return Ok(None) };
    let digest = ContentDigest::parse(digest).ok_or(Failure::DigestMalformed)?;
    if let Some(from) = ask.query.get("from") {
        let from = Repository::parse(from).ok_or(Failure::NameInvalid)?;
        if from.project() != repository.project() {
            return Ok(None);
        }
    }
    let blob = ask.registry.use_blob(repository.project(), &digest).await?;
    Ok(blob.map(|_| created(repository, &digest)))
}

/// The whole blob in one POST.
async fn whole(
    ask: Ask,
    body: Body,
    repository: Repository,
    digest: ContentDigest,
) -> Result<Response, Failure> {
    let announced = ask.content_length().unwrap_or_default();
    let upload = ask.registry.start_upload(&repository, digest.algorithm(), announced).await?;
    let _unfinished = Unfinished { registry: ask.registry.clone(), upload: upload.clone() };
    let claim = ask.registry.claim(upload.clone()).await?;
    let open = ask.content_length().is_none();
    let claim = receive(claim, body, None, open, &ask.permit, &ask.registry).await?;
    ask.registry.finish_upload(claim, &digest).await?;
    Ok(created(&repository, &digest))
}

/// Nobody else knows the upload of a single POST: it ends with its request, however that ends.
struct Unfinished {
    registry: Arc<Inner>,
    upload: Arc<Upload>,
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if !self.registry.uploads.contains(&self.upload.id) {
            return;
        }
        let (registry, upload) = (self.registry.clone(), self.upload.clone());
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { registry.drop_upload(&upload).await });
        }
    }
}

/// `<name>/blobs/uploads/<id>`.
pub(super) async fn serve(
    ask: Ask,
    body: Body,
    repository: Repository,
    id: &str,
) -> Result<Response, Failure> {
    let upload = ask.registry.uploads.get(id, &repository)?;
    match ask.method {
        Method::GET | Method::HEAD => Ok(progress(StatusCode::NO_CONTENT, &upload)),
        Method::PATCH => {
            drop(append(ask, body, upload.clone(), None).await?);
            Ok(progress(StatusCode::ACCEPTED, &upload))
        }
        Method::PUT => {
            let digest = ask.query.get("digest").and_then(ContentDigest::parse);
            let digest = digest.ok_or(Failure::DigestMalformed)?;
            let registry = ask.registry.clone();
            let claim = append(ask, body, upload, Some(digest.algorithm())).await?;
            registry.finish_upload(claim, &digest).await?;
            Ok(created(&repository, &digest))
        }
        Method::DELETE => {
            ask.registry.drop_upload(&upload).await;
            Ok(bare(StatusCode::NO_CONTENT, &[]))
        }
        _ => Err(Failure::WrongMethod("GET, HEAD, PATCH, PUT, DELETE")),
    }
}

/// Adds the request's body to the upload, at the place it says.
async fn append(
    ask: Ask,
    body: Body,
    upload: Arc<Upload>,
    algorithm: Option<Algorithm>,
) -> Result<Claim, Failure> {
    let mut claim = ask.registry.claim(upload.clone()).await?;
    let exact = chunk(&ask, &upload)?;
    if let Some(algorithm) = algorithm {
        claim.expect(algorithm);
    }
    let length = exact.or(ask.content_length());
    let announced = length.unwrap_or_default();
    // What adds nothing only ends an upload whose bytes are there and counted already.
    if length != Some(0) {
        ask.registry.has_room(upload.repository.project(), announced.max(1)).await?;
    }
    let most = ask.registry.limits.blob_bytes;
    let received = if claim.length().saturating_add(announced) > most {
        Err(Failure::BlobTooLarge(most))
    } else {
        receive(claim, body, exact, length.is_none(), &ask.permit, &ask.registry).await
    };
    // Neither can go on, and what arrived would keep its room.
    if matches!(received, Err(Failure::BlobTooLarge(_) | Failure::Denied(_))) {
        ask.registry.drop_upload(&upload).await;
    }
    received
}

/// How many bytes the body must have, if it says where it belongs, which must be the end of what
/// has arrived.
fn chunk(ask: &Ask, upload: &Upload) -> Result<Option<u64>, Failure> {
    let Some(header) = ask.headers.get(header::CONTENT_RANGE) else { return Ok(None) };
    let (location, expected) = (upload.location(), upload.received());
    let Some(chunk) = header.to_str().ok().and_then(Chunk::parse) else {
        return Err(Failure::ContentRange { location, expected });
    };
    if chunk.first != expected {
        return Err(Failure::OutOfOrder { location, expected });
    }
    if ask.content_length().is_some_and(|length| length != chunk.length) {
        return Err(Failure::LengthMismatch);
    }
    Ok(Some(chunk.length))
}

fn progress(status: StatusCode, upload: &Upload) -> Response {
    let mut response =
        bare(status, &[(header::LOCATION, &upload.location()), (UPLOAD_ID, &upload.id)]);
    response.headers_mut().insert(header::RANGE, received(upload.received()));
    response
}

fn created(repository: &Repository, digest: &ContentDigest) -> Response {
    let location = format!("/v2/{repository}/blobs/{digest}");
    bare(StatusCode::CREATED, &[(header::LOCATION, &location), (DIGEST, &digest.to_string())])
}
