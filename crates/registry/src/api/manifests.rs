//! `<name>/manifests/<reference>`: manifests by tag or digest.
//!
//! A manifest's bytes are a blob of the project like any other, under its digest; its record says
//! that it is a manifest of this repository, what it refers to and which tags name it.

use axum::body::Body;
use axum::response::Response;
use http::{HeaderName, HeaderValue, Method, StatusCode, header};

use super::{Ask, DIGEST, bare};
use crate::body::{read as read_body, send};
use crate::digest::{Algorithm, ContentDigest};
use crate::error::Failure;
use crate::limits::{MANIFEST_BYTES, TAGS_PER_PUSH};
use crate::manifest::Manifest;
use crate::name::{Reference, Repository, is_tag};
use crate::push::Push;
use crate::registry::blocking;

/// Tells that the manifest's subject was noted, so that the client need not keep a list itself.
const SUBJECT: HeaderName = HeaderName::from_static("oci-subject");
/// The tags set by a push by digest.
const TAGS: HeaderName = HeaderName::from_static("oci-tag");

pub(super) async fn serve(
    ask: Ask,
    body: Body,
    repository: Repository,
    reference: Reference,
) -> Result<Response, Failure> {
    match ask.method {
        Method::GET | Method::HEAD => read(ask, &repository, &reference).await,
        Method::PUT => put(ask, body, repository, reference).await,
        Method::DELETE => delete(ask, &repository, &reference).await,
        _ => Err(Failure::WrongMethod("GET, HEAD, PUT, DELETE")),
    }
}

async fn read(
    ask: Ask,
    repository: &Repository,
    reference: &Reference,
) -> Result<Response, Failure> {
    let unknown = || Failure::ManifestUnknown(reference.to_string());
    let row = ask.registry.find_manifest(repository, reference).await?.ok_or_else(unknown)?;
    let digest = ContentDigest::parse(&row.digest).ok_or(Failure::Internal)?;
    let blob = ask.registry.use_blob(repository.project(), &digest).await?;
    let Some(blob) = blob else {
        tracing::error!(%repository, %digest, "the bytes of a recorded manifest are missing");
        return Err(unknown());
    };
    let length = blob.length;
    let mut response = bare(
        StatusCode::OK,
        &[
            (DIGEST, &row.digest),
            (header::CONTENT_TYPE, &row.media_type),
            (header::ETAG, &format!("\"{digest}\"")),
        ],
    );
    response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    if !ask.is_head() {
        let content = move || send(blob.file, 0, length, ask.permit);
        *response.body_mut() = blocking("read a manifest", content).await?;
    }
    Ok(response)
}

async fn put(
    ask: Ask,
    body: Body,
    repository: Repository,
    reference: Reference,
) -> Result<Response, Failure> {
    let tags = tags(&ask, &reference)?;
    if ask.content_length().is_some_and(|length| length > MANIFEST_BYTES as u64) {
        return Err(Failure::ManifestTooLarge(MANIFEST_BYTES));
    }
    let Ask { registry, permit, headers, .. } = ask;
    let _memory = registry.manifests.acquire().await.map_err(|_| Failure::Internal)?;
    let bytes = read_body(body, MANIFEST_BYTES, &permit, &registry.limits).await?;
    let algorithm = match &reference {
        Reference::Digest(digest) => digest.algorithm(),
        Reference::Tag(_) => Algorithm::Sha256,
    };
    let digest = ContentDigest::of(algorithm, &bytes);
    if let Reference::Digest(given) = &reference
        && *given != digest
    {
        return Err(Failure::DigestMismatch { given: given.clone(), computed: digest });
    }
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let manifest = Manifest::parse(content_type, &bytes).map_err(Failure::ManifestInvalid)?;
    registry.has_room(repository.project(), bytes.len() as u64).await?;
    let push = Push { registry: &registry, repository: &repository, digest: &digest, manifest };
    push.store(bytes, &tags).await?;
    Ok(stored(&repository, &reference, &push, &tags))
}

/// The tags a push sets: the one it names, or those it asks for beside a digest.
fn tags(ask: &Ask, reference: &Reference) -> Result<Vec<String>, Failure> {
    let Reference::Digest(_) = reference else { return Ok(vec![reference.to_string()]) };
    let tags: Vec<String> = ask.query.all("tag").map(str::to_owned).collect();
    if tags.len() > TAGS_PER_PUSH {
        return Err(Failure::TooManyTags(TAGS_PER_PUSH));
    }
    if tags.iter().all(|tag| is_tag(tag)) { Ok(tags) } else { Err(Failure::TagInvalid) }
}

fn stored(
    repository: &Repository,
    reference: &Reference,
    push: &Push<'_>,
    tags: &[String],
) -> Response {
    let location = format!("/v2/{repository}/manifests/{}", push.digest);
    let digest = push.digest.to_string();
    let mut response =
        bare(StatusCode::CREATED, &[(header::LOCATION, &location), (DIGEST, &digest)]);
    let headers = response.headers_mut();
    let subject = push.manifest.subject.as_ref().map(ToString::to_string);
    if let Some(subject) = subject.and_then(|text| HeaderValue::from_str(&text).ok()) {
        headers.insert(SUBJECT, subject);
    }
    if matches!(reference, Reference::Digest(_)) {
        for tag in tags {
            headers.extend(HeaderValue::from_str(tag).ok().map(|tag| (TAGS, tag)));
        }
    }
    response
}

async fn delete(
    ask: Ask,
    repository: &Repository,
    reference: &Reference,
) -> Result<Response, Failure> {
    if ask.registry.delete_manifest(repository, reference).await? {
        Ok(bare(StatusCode::ACCEPTED, &[]))
    } else {
        Err(Failure::ManifestUnknown(reference.to_string()))
    }
}
