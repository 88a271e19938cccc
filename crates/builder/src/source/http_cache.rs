//! What is remembered of downloads, so that a server is asked whether a file changed and not for
//! the file again, and within one build not asked again at all. URLs may hold tokens: they are kept as digests.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use cofferdam_digest::{Digest, Digester};
use cofferdam_store::{Blob, Document};
use cofferdam_wire::pb;
use serde::{Deserialize, Serialize};

use crate::blocking::blocking;
use crate::context::Context;

/// Kind of store documents that remember downloads.
pub(super) const DOCUMENTS: &str = "http";
/// Downloads that one build remembers; more are asked for each time.
const MAX_ANSWERS: usize = 256;

/// A finished download.
#[derive(Debug, Clone)]
pub(super) struct Download {
    /// The content.
    pub(super) blob: Blob,
    /// The file's name.
    pub(super) name: String,
    /// When it changed, in seconds since 1970.
    pub(super) modified: Option<i64>,
}

/// What a build got when it first asked, by digests of the questions. What was decided about a file holds for the file that is
/// used then, whatever the server says meanwhile and whatever is pruned.
#[derive(Default)]
pub(crate) struct Answers(Mutex<HashMap<Digest, Download>>);

impl Answers {
    /// What was answered before.
    pub(super) fn get(&self, question: &Digest) -> Option<Download> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(question).cloned()
    }

    /// Remembers an answer, unless there is one.
    pub(super) fn keep(&self, question: Digest, download: &Download) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() < MAX_ANSWERS || known.contains_key(&question) {
            known.entry(question).or_insert_with(|| download.clone());
        }
    }
}

/// Names what `op` asks the server at `url`. How the file is then made is no part of that.
pub(super) fn question(op: &pb::SourceOp, url: &str) -> Digest {
    let asked = |key: &str| key.starts_with("http.header.") || key == "http.authheadersecret";
    digest_of(op, url, asked)
}

fn digest_of(op: &pb::SourceOp, url: &str, counts: impl Fn(&str) -> bool) -> Digest {
    let mut digester = Digester::new();
    digester.field(url);
    let mut attrs: Vec<_> = op.attrs.iter().filter(|(key, _)| counts(key)).collect();
    attrs.sort();
    for (key, value) in attrs {
        digester.field(key);
        digester.field(value);
    }
    digester.finish()
}

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
        Self(digest_of(op, url, |key| key.starts_with("http.") && key != "http.checksum"))
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::io::Write as _;

    use cofferdam_store::{Options, Store};

    use super::*;

    fn op(attrs: &[(&str, &str)]) -> pb::SourceOp {
        let attrs = attrs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        pb::SourceOp { attrs: attrs.collect(), ..pb::SourceOp::default() }
    }

    #[test]
    fn the_question_is_what_the_server_gets_to_see() {
        let plain = question(&op(&[]), "http://h/x");
        let made = [("http.perm", "0644"), ("http.filename", "y"), ("http.checksum", "z")];
        assert_eq!(question(&op(&made), "http://h/x"), plain);
        for asked in [("http.header.accept", "text/plain"), ("http.authheadersecret", "token")] {
            assert_ne!(question(&op(&[asked]), "http://h/x"), plain, "{asked:?}");
        }
        assert_ne!(question(&op(&[]), "http://h/y"), plain);
        let place = |attrs: &[(&str, &str)]| Place::of(&op(attrs), "http://h/x").key();
        assert_ne!(place(&made), place(&[]), "what is remembered serves the same file only");
        assert_eq!(place(&made[2..]), place(&[]), "what it has to be is no part of the place");
    }

    #[test]
    fn the_first_answer_of_a_build_stays_and_is_held() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path(), Options::default()).unwrap();
        let download = |content: &[u8]| {
            let mut writer = store.blob_writer(None).unwrap();
            writer.write_all(content).unwrap();
            let blob = writer.commit().unwrap();
            Download { blob, name: "x".to_owned(), modified: None }
        };
        let (answers, asked) = (Answers::default(), Digest::of("question"));
        assert!(answers.get(&asked).is_none());
        answers.keep(asked, &download(b"first"));
        answers.keep(asked, &download(b"second"));
        let found = answers.get(&asked).unwrap();
        assert_eq!(found.blob.digest(), Digest::of("first"));
        assert!(answers.get(&Digest::of("another")).is_none());
    }
}
