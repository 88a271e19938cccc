//! What is remembered of downloads, so that a server is asked whether a file changed and not for
//! the file again. URLs may hold tokens: they are kept as digests.

use std::sync::Arc;

use cofferdam_digest::Digest;
use cofferdam_store::{Blob, Document};
use serde::{Deserialize, Serialize};

use crate::blocking::blocking;
use crate::context::Context;

/// Kind of store documents that remember downloads.
const DOCUMENTS: &str = "http";

/// A download that may still be current.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Remembered {
    /// The server's name for this version.
    pub(super) etag: Option<String>,
    /// When the server said it changed, as it wrote that.
    pub(super) last_modified: Option<String>,
    /// The content.
    pub(super) digest: Digest,
    /// The file's name.
    pub(super) name: String,
    /// When it changed, in seconds since 1970.
    pub(super) modified: Option<i64>,
}

fn key(url: &str) -> String {
    Digest::of(url).hex()
}

/// What is known of `url`, with its content, which must still be here.
pub(super) async fn recall(context: &Arc<Context>, url: &str) -> Option<(Remembered, Blob)> {
    let store = Arc::clone(&context.store);
    let key = key(url);
    let document = blocking(move || store.document(DOCUMENTS, &key)).await.ok()?.ok()??;
    let remembered: Remembered = serde_json::from_slice(&document.bytes).ok()?;
    let blob = context.store.blob(&remembered.digest)?;
    Some((remembered, blob))
}

/// Remembers a download. Failing costs a repeated download and nothing else.
pub(super) async fn remember(context: &Arc<Context>, url: &str, remembered: &Remembered) {
    if remembered.etag.is_none() && remembered.last_modified.is_none() {
        return;
    }
    let Ok(bytes) = serde_json::to_vec(remembered) else { return };
    let document = Document { key: key(url), bytes, blobs: Vec::new() };
    let store = Arc::clone(&context.store);
    if let Ok(Err(error)) = blocking(move || store.put_document(DOCUMENTS, &document)).await {
        tracing::debug!(%error, "a download could not be remembered");
    }
}
