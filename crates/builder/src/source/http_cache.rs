//! What is remembered of downloads, so that a server is asked whether a file changed and not for
//! the file again. URLs may hold tokens: they are kept as digests.

use std::sync::Arc;

use cofferdam_digest::{Digest, Digester};
use cofferdam_store::{Blob, Document};
use cofferdam_wire::pb;
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

/// A download as an op asks for it. What is remembered of it serves the same request only: a server may
/// answer by what it is told.
pub(crate) struct Place(Digest);

impl Place {
    /// What `op` asks of `url`.
    pub(crate) fn of(op: &pb::SourceOp, url: &str) -> Self {
        let mut digester = Digester::new();
        digester.field(url);
        let mut attrs: Vec<_> = op
            .attrs
            .iter()
            .filter(|(key, _)| key.starts_with("http.") && *key != "http.checksum")
            .collect();
        attrs.sort();
        for (key, value) in attrs {
            digester.field(key);
            digester.field(value);
        }
        Self(digester.finish())
    }

    /// Names the request.
    pub(super) const fn digest(&self) -> &Digest {
        &self.0
    }

    /// The name as a key.
    pub(super) fn key(&self) -> String {
        self.0.hex()
    }
}

/// What is known of a download, with its content, which must still be here.
pub(super) async fn recall(context: &Arc<Context>, place: &Place) -> Option<(Remembered, Blob)> {
    let store = Arc::clone(&context.store);
    let key = place.key();
    let document = blocking(move || store.document(DOCUMENTS, &key)).await.ok()?.ok()??;
    let remembered: Remembered = serde_json::from_slice(&document.bytes).ok()?;
    let blob = context.store.blob(&remembered.digest)?;
    Some((remembered, blob))
}

/// Remembers a download. Failing costs a repeated download and nothing else.
pub(super) async fn remember(context: &Arc<Context>, place: &Place, remembered: &Remembered) {
    if remembered.etag.is_none() && remembered.last_modified.is_none() {
        return;
    }
    let Ok(bytes) = serde_json::to_vec(remembered) else { return };
    let document = Document { key: place.key(), bytes, blobs: Vec::new() };
    let store = Arc::clone(&context.store);
    if let Ok(Err(error)) = blocking(move || store.put_document(DOCUMENTS, &document)).await {
        tracing::debug!(%error, "a download could not be remembered");
    }
}
