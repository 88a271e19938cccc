//! What a client is told when a request fails.
//!
//! Codes and bodies follow the distribution specification's list of errors. A message may hold
//! what the client itself sent, never a path, a cause from inside the server, or anything that
//! tells a project that is not the caller's from one that does not exist.

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde_json::{Value, json};

use crate::digest::ContentDigest;
use crate::limits::RETRY_AFTER_SECONDS;

/// Longest piece of a client's text that is repeated in a message.
const MAX_ECHO: usize = 200;
/// Missing blobs of one manifest that are named; the rest is counted.
const MAX_MISSING: usize = 100;

/// A request that failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("{0}")]
    Unauthenticated(String),
    #[error("{0}")]
    Denied(String),
    #[error("no such repository")]
    NameUnknown,
    #[error(
        "invalid repository name: lower-case letters, digits and single separators . _ __ - \
         between them, components divided by /, at most 255 characters"
    )]
    NameInvalid,
    #[error("invalid tag: at most 128 letters, digits, _ . - and neither . nor - first")]
    TagInvalid,
    #[error(
        "unsupported digest: expected sha256:<64 hex digits> or sha512:<128 hex digits>, lower case"
    )]
    DigestMalformed,
    #[error("the content is not what its digest says: {given} was announced, {computed} arrived")]
    DigestMismatch { given: ContentDigest, computed: ContentDigest },
    #[error("no such endpoint")]
    NoEndpoint,
    #[error("there is no catalog across projects: list the images of one")]
    NoCatalog,
    #[error("this endpoint has other methods: {0}")]
    WrongMethod(&'static str),
    #[error("blob {0} is not in this repository")]
    BlobUnknown(ContentDigest),
    #[error("blob {0} is part of an image: delete the image first")]
    BlobInUse(ContentDigest),
    #[error("no such upload: it is finished, was cancelled or waited too long; start again")]
    UploadUnknown,
    #[error("another request continues this upload")]
    UploadBusy,
    #[error("chunks must follow each other: the next byte expected is {expected}")]
    OutOfOrder { location: String, expected: u64 },
    #[error("invalid Content-Range: expected <first byte>-<last byte>")]
    ContentRange { location: String, expected: u64 },
    #[error("the length of the body is not what its headers say")]
    LengthMismatch,
    #[error("the body ended early")]
    Interrupted,
    #[error("nothing arrived for {0} seconds")]
    Stalled(u64),
    #[error("a blob may have {0} bytes at most")]
    BlobTooLarge(u64),
    #[error("too many uploads of this project are under way")]
    TooManyUploads,
    #[error("the registry has no space left")]
    NoSpace,
    #[error("manifest {0} is not in this repository")]
    ManifestUnknown(String),
    #[error("invalid manifest: {0}")]
    ManifestInvalid(String),
    #[error("a manifest may have {0} bytes at most")]
    ManifestTooLarge(usize),
    #[error("one push may set {0} tags at most")]
    TooManyTags(usize),
    #[error("the manifest refers to content that was not pushed")]
    ManifestBlobUnknown(Vec<ContentDigest>),
    #[error("invalid {0}")]
    Query(&'static str),
    #[error("that range is not in the blob")]
    RangeUnsatisfiable { total: u64 },
    #[error("the registry cannot answer now, try again")]
    Unavailable,
    #[error("the registry failed")]
    Internal,
}

impl Failure {
    /// A failure of the disk. Full disks are worth a word to the client, the rest is ours.
    pub(crate) fn disk(attempt: &'static str, error: &std::io::Error) -> Self {
        tracing::error!(%error, attempt, "registry storage failed");
        match error.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => Self::NoSpace,
            _ => Self::Internal,
        }
    }

    /// A failure of the records.
    pub(crate) fn records(attempt: &'static str, error: &cofferdam_records::RecordsError) -> Self {
        tracing::error!(
            error = error as &dyn std::error::Error,
            attempt,
            "registry records failed"
        );
        Self::Unavailable
    }

    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::Unauthenticated(_) => StatusCode::UNAUTHORIZED,
            Self::Denied(_) => StatusCode::FORBIDDEN,
            Self::NameUnknown
            | Self::NoEndpoint
            | Self::BlobUnknown(_)
            | Self::UploadUnknown
            | Self::ManifestUnknown(_) => StatusCode::NOT_FOUND,
            Self::NoCatalog | Self::WrongMethod(_) | Self::BlobInUse(_) => {
                StatusCode::METHOD_NOT_ALLOWED
            }
            Self::UploadBusy => StatusCode::CONFLICT,
            Self::OutOfOrder { .. }
            | Self::ContentRange { .. }
            | Self::RangeUnsatisfiable { .. } => StatusCode::RANGE_NOT_SATISFIABLE,
            Self::TooManyTags(_) => StatusCode::URI_TOO_LONG,
            Self::Stalled(_) => StatusCode::REQUEST_TIMEOUT,
            Self::BlobTooLarge(_) | Self::ManifestTooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TooManyUploads => StatusCode::TOO_MANY_REQUESTS,
            Self::NoSpace => StatusCode::INSUFFICIENT_STORAGE,
            Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            Self::NameInvalid
            | Self::TagInvalid
            | Self::DigestMalformed
            | Self::DigestMismatch { .. }
            | Self::LengthMismatch
            | Self::Interrupted
            | Self::ManifestInvalid(_)
            | Self::ManifestBlobUnknown(_)
            | Self::Query(_) => StatusCode::BAD_REQUEST,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Unauthenticated(_) => "UNAUTHORIZED",
            Self::Denied(_) => "DENIED",
            Self::NameUnknown => "NAME_UNKNOWN",
            Self::NameInvalid => "NAME_INVALID",
            Self::DigestMalformed | Self::DigestMismatch { .. } => "DIGEST_INVALID",
            Self::NoEndpoint
            | Self::NoCatalog
            | Self::WrongMethod(_)
            | Self::BlobInUse(_)
            | Self::Query(_) => "UNSUPPORTED",
            Self::BlobUnknown(_) => "BLOB_UNKNOWN",
            Self::UploadUnknown => "BLOB_UPLOAD_UNKNOWN",
            Self::LengthMismatch | Self::BlobTooLarge(_) | Self::ManifestTooLarge(_) => {
                "SIZE_INVALID"
            }
            Self::UploadBusy
            | Self::OutOfOrder { .. }
            | Self::ContentRange { .. }
            | Self::Interrupted
            | Self::Stalled(_)
            | Self::RangeUnsatisfiable { .. } => "BLOB_UPLOAD_INVALID",
            Self::TooManyUploads => "TOOMANYREQUESTS",
            Self::NoSpace | Self::Unavailable => "UNAVAILABLE",
            Self::ManifestUnknown(_) => "MANIFEST_UNKNOWN",
            Self::ManifestInvalid(_) | Self::TagInvalid | Self::TooManyTags(_) => {
                "MANIFEST_INVALID"
            }
            Self::ManifestBlobUnknown(_) => "MANIFEST_BLOB_UNKNOWN",
            Self::Internal => "UNKNOWN",
        }
    }

    fn errors(&self) -> Vec<Value> {
        let one = |message: String, detail: Option<String>| {
            let mut error = json!({ "code": self.code(), "message": message });
            if let Some(detail) = detail {
                error["detail"] = json!({ "digest": detail });
            }
            error
        };
        let Self::ManifestBlobUnknown(missing) = self else {
            return vec![one(self.to_string(), None)];
        };
        let named = missing.iter().take(MAX_MISSING);
        named.map(|digest| one(format!("{self}: {digest}"), Some(digest.to_string()))).collect()
    }
}

/// The beginning of a client's text, for a message.
pub(crate) fn excerpt(text: &str) -> String {
    text.chars().take(MAX_ECHO).collect()
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let body = json!({ "errors": self.errors() }).to_string();
        let json = HeaderValue::from_static("application/json");
        let mut response = (self.status(), [(header::CONTENT_TYPE, json)], body).into_response();
        let headers = response.headers_mut();
        match &self {
            Self::Unauthenticated(_) => {
                let challenge = HeaderValue::from_static(crate::auth::CHALLENGE);
                headers.insert(header::WWW_AUTHENTICATE, challenge);
            }
            Self::WrongMethod(allowed) => {
                headers.insert(header::ALLOW, HeaderValue::from_static(allowed));
            }
            Self::BlobInUse(_) => {
                headers.insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
            }
            Self::NoCatalog => {
                headers.insert(header::ALLOW, HeaderValue::from_static(""));
            }
            Self::TooManyUploads | Self::Unavailable | Self::UploadBusy => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from(RETRY_AFTER_SECONDS));
            }
            Self::OutOfOrder { location, expected } | Self::ContentRange { location, expected } => {
                headers.insert(header::RANGE, received(*expected));
                if let Ok(location) = HeaderValue::from_str(location) {
                    headers.insert(header::LOCATION, location);
                }
            }
            Self::RangeUnsatisfiable { total } => {
                if let Ok(range) = HeaderValue::from_str(&format!("bytes */{total}")) {
                    headers.insert(header::CONTENT_RANGE, range);
                }
            }
            _ => {}
        }
        response
    }
}

/// The `Range` header that tells how much of an upload has arrived. The specification has no
/// form for nothing at all; clients take `0-0` for it.
pub(crate) fn received(length: u64) -> HeaderValue {
    let last = length.saturating_sub(1);
    HeaderValue::from_str(&format!("0-{last}")).unwrap_or_else(|_| HeaderValue::from_static("0-0"))
}
