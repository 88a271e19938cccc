//! Sources: where file trees come from that no step made.
//!
//! One module per scheme of a `SourceOp`'s identifier. Each answers two questions: what names
//! the content (for the cache key, asked first) and where the files are (asked only when a
//! consumer runs). The second answer is about what the first one named: what a tag, a branch or a
//! server says by then is not asked again, or the key would lead to something else.

pub(crate) mod blob;
pub(crate) mod git;
pub(crate) mod git_address;
pub(crate) mod git_bundle;
mod git_refs;
mod git_run;
mod git_watch;
mod held;
pub(crate) mod http;
mod http_cache;
mod http_request;
pub(crate) mod image;
pub(crate) mod layers;
pub(crate) mod local;
mod local_parts;
mod login;
mod single;

use std::sync::Arc;

use cofferdam_digest::Digest;
use cofferdam_graph::Vertex;
use cofferdam_solver::{CacheMap, Step};
use cofferdam_wire::pb;
use futures::FutureExt;

pub(crate) use self::git_refs::Names;
pub(crate) use self::http_cache::Answers;
use crate::buildpacks::composed;
use crate::context::Context;
use crate::failure::Failure;
use crate::snapshot::Snapshot;

/// Kinds of store documents that can be had again from where they came.
pub(crate) const AGING: [&str; 3] = [image::DOCUMENTS, image::ORIGINS, http_cache::DOCUMENTS];

/// What names a source's content.
pub(crate) struct SourceKey {
    /// The name.
    pub(crate) digest: Digest,
    /// Whether the name says nothing about the content.
    pub(crate) volatile: bool,
    /// What the source turned out to be: digest of an image or a download, commit of a repository.
    pub(crate) pin: Option<Arc<str>>,
}

impl SourceKey {
    /// The same with what the source turned out to be.
    pub(crate) fn pinned(self, pin: &str) -> Self {
        Self { pin: Some(pin.into()), ..self }
    }

    pub(crate) fn stable(parts: &[&str]) -> Self {
        let mut digester = cofferdam_digest::Digester::new();
        for part in parts {
            digester.field(part);
        }
        Self { digest: digester.finish(), volatile: false, pin: None }
    }
}

enum Scheme<'a> {
    Image(&'a str),
    OciLayout(&'a str),
    Blob(blob::Home, &'a str),
    Local(&'a str),
    Git(&'a str),
    Http(&'a str),
    Composed(&'a str),
}

fn scheme(op: &pb::SourceOp) -> Result<Scheme<'_>, Failure> {
    let identifier = op.identifier.as_str();
    let (scheme, rest) = identifier
        .split_once("://")
        .ok_or_else(|| Failure::invalid(format!("failed to parse {identifier:?}: no scheme")))?;
    match scheme {
        "docker-image" => Ok(Scheme::Image(rest)),
        "oci-layout" => Ok(Scheme::OciLayout(rest)),
        "docker-image+blob" => Ok(Scheme::Blob(blob::Home::Registry, rest)),
        "oci-layout+blob" => Ok(Scheme::Blob(blob::Home::Layout, rest)),
        "local" => Ok(Scheme::Local(rest)),
        "git" => Ok(Scheme::Git(rest)),
        "composed-image" => Ok(Scheme::Composed(rest)),
        "http" | "https" => Ok(Scheme::Http(identifier)),
        other => Err(Failure::invalid(format!("unknown source scheme {other:?}"))),
    }
}

/// What names the content of `op`.
pub(crate) async fn key(
    context: &Arc<Context>,
    vertex: &Arc<Vertex>,
    op: &pb::SourceOp,
    step: &Step,
) -> Result<SourceKey, Failure> {
    // Boxed: the compiler gives up on a future that nests this deeply.
    match scheme(op)? {
        Scheme::Image(reference) => image::key(context, vertex, op, reference, step).boxed().await,
        Scheme::OciLayout(reference) => image::layout_key(op, reference),
        Scheme::Blob(home, reference) => blob::key(op, home, reference),
        Scheme::Local(name) => local::key(op, name),
        Scheme::Git(remote) => git::key(context, op, remote, step).boxed().await,
        Scheme::Http(url) => http::key(context, op, url, step).boxed().await,
        Scheme::Composed(name) => composed::key(name),
    }
}

/// The files of `op`.
pub(crate) async fn snapshot(
    context: &Arc<Context>,
    vertex: &Arc<Vertex>,
    op: &pb::SourceOp,
    step: &Step,
) -> Result<Snapshot, Failure> {
    let named = named(step);
    match scheme(op)? {
        Scheme::Image(reference) => {
            image::snapshot(context, vertex, op, reference, pin(named?)?, step).boxed().await
        }
        Scheme::OciLayout(reference) => {
            image::layout_snapshot(context, vertex, op, reference, step).boxed().await
        }
        Scheme::Blob(home, reference) => {
            blob::snapshot(context, op, home, reference, step).boxed().await
        }
        Scheme::Local(name) => local::snapshot(context, op, name, step).boxed().await,
        Scheme::Git(remote) => git::snapshot(context, op, remote, pin(named?)?, step).boxed().await,
        Scheme::Http(url) => http::snapshot(context, op, url, named?, step).boxed().await,
        Scheme::Composed(name) => composed::snapshot(context, name, step),
    }
}

/// Attributes that this builder cannot heed, and beginnings of such.
const UNSUPPORTED: [&str; 2] = ["git.sig.", "http.sig."];

/// Refuses what a client may want of a source and does not get: the build would be about something else than was meant, or about
/// something that nobody has vouched for.
fn check_supported(op: &pb::SourceOp) -> Result<(), Failure> {
    let wanted = op.attrs.iter().filter(|(_, value)| !value.is_empty() && *value != "false");
    let refused = |key: &&String| UNSUPPORTED.iter().any(|begin| key.starts_with(*begin));
    match wanted.map(|(key, _)| key).filter(refused).min() {
        Some(key) => Err(Failure::invalid(format!("source attribute {key:?} is not supported"))),
        None => Ok(()),
    }
}

/// What a source was called when its key was made.
fn named(step: &Step) -> Result<&CacheMap, Failure> {
    step.named.as_ref().ok_or_else(|| Failure::unknown("a source is wanted that nobody named"))
}

/// What it turned out to be then.
fn pin(named: &CacheMap) -> Result<&str, Failure> {
    named.note.as_deref().ok_or_else(|| Failure::unknown("a source is wanted that nobody pinned"))
}

/// When the content of `op` was made, in seconds since 1970, where its origin says so: the server
/// of a download or the commit of a checkout. `files` are those of `op`.
pub(crate) async fn time(
    context: &Arc<Context>,
    op: &pb::SourceOp,
    files: &Snapshot,
) -> Result<Option<i64>, Failure> {
    match scheme(op)? {
        Scheme::Http(url) => {
            let place = http_cache::Place::of(op, url);
            let known = http_cache::recall(context, &place).await;
            match known.and_then(|(known, _)| known.modified) {
                Some(modified) => Ok(Some(modified)),
                None => http::newest(files).await,
            }
        }
        Scheme::Git(_) if op.attrs.get("git.mtime").is_some_and(|mtime| mtime == "commit") => {
            let stat = files.view().await?.stat("/", false).map_err(Failure::store)?;
            Ok(stat.map(|stat| stat.st_mtime))
        }
        _ => Ok(None),
    }
}

/// Stops an attempt when nobody wants the step any more.
pub(crate) async fn cancellable<T>(
    step: &Step,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    tokio::select! {
        result = work => result,
        () = step.cancel.cancelled() => Err(Failure::canceled()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_heeded_is_refused_by_name() {
        let op = |key: &str, value: &str| pb::SourceOp {
            attrs: [(key.to_owned(), value.to_owned())].into_iter().collect(),
            ..pb::SourceOp::default()
        };
        for key in ["git.sig.pubkey", "http.sig.signature"] {
            let refused = check_supported(&op(key, "x")).map_err(|failure| failure.to_string());
            assert!(refused.is_err_and(|message| message.contains(key)), "{key}");
        }
        for (key, value) in [("git.sig.pubkey", ""), ("git.sig.x", "false"), ("a", "b")] {
            assert!(check_supported(&op(key, value)).is_ok(), "{key}={value}");
        }
    }
}
