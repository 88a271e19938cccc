//! `<name>/blobs/<digest>`: content by its digest.

use axum::response::Response;
use http::{HeaderValue, Method, StatusCode, header};

use super::{Ask, DIGEST, bare};
use crate::body;
use crate::digest::ContentDigest;
use crate::error::Failure;
use crate::name::Repository;
use crate::range::{Wanted, wanted};
use crate::registry::blocking;
use crate::tree::OpenBlob;

pub(super) async fn serve(
    ask: Ask,
    repository: Repository,
    digest: ContentDigest,
) -> Result<Response, Failure> {
    match ask.method {
        Method::GET | Method::HEAD => read(ask, &repository, &digest).await,
        Method::DELETE => delete(ask, &repository, digest).await,
        _ => Err(Failure::WrongMethod("GET, HEAD, DELETE")),
    }
}

async fn read(
    ask: Ask,
    repository: &Repository,
    digest: &ContentDigest,
) -> Result<Response, Failure> {
    let blob = ask.registry.use_blob(repository.project(), digest).await?;
    let blob = blob.ok_or_else(|| Failure::BlobUnknown(digest.clone()))?;
    let total = blob.length;
    let wanted =
        if ask.is_head() { Wanted::Whole } else { wanted(ask.header(&header::RANGE), total) };
    let (status, first, length) = match wanted {
        Wanted::Whole => (StatusCode::OK, 0, total),
        Wanted::Part { first, length } => (StatusCode::PARTIAL_CONTENT, first, length),
        Wanted::Unsatisfiable => return Err(Failure::RangeUnsatisfiable { total }),
    };
    let mut response = bare(status, &[(DIGEST, &digest.to_string())]);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    if status == StatusCode::PARTIAL_CONTENT {
        let range = format!("bytes {first}-{}/{total}", first + length - 1);
        let range = HeaderValue::from_str(&range).map_err(|_| Failure::Internal)?;
        headers.insert(header::CONTENT_RANGE, range);
    }
    if !ask.is_head() {
        *response.body_mut() = content(blob, first, length, ask).await?;
    }
    Ok(response)
}

async fn content(
    blob: OpenBlob,
    first: u64,
    length: u64,
    ask: Ask,
) -> Result<axum::body::Body, Failure> {
    blocking("read a blob", move || body::send(blob.file, first, length, ask.permit)).await
}

/// A blob that a manifest refers to stays: removing it would break an image somebody may pull.
async fn delete(
    ask: Ask,
    repository: &Repository,
    digest: ContentDigest,
) -> Result<Response, Failure> {
    let project = repository.project();
    let _turn = ask.registry.exclude(project).await;
    let used = ask.registry.records.blob_is_referenced(project, &digest.to_string()).await;
    if used.map_err(|error| Failure::records("find a blob's manifests", &error))? {
        return Err(Failure::BlobInUse(digest));
    }
    let dir = ask.registry.project(project).await?;
    let dir = dir.ok_or_else(|| Failure::BlobUnknown(digest.clone()))?;
    let removing = digest.clone();
    if blocking("remove a blob", move || dir.remove_blob(&removing)).await? {
        Ok(bare(StatusCode::ACCEPTED, &[]))
    } else {
        Err(Failure::BlobUnknown(digest))
    }
}
