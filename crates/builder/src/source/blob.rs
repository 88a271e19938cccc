//! Single blobs: `docker-image+blob://NAME@DIGEST` from registries, `oci-layout+blob://NAME@DIGEST` from the client's own store.
//!
//! The digest names the content, so nothing is asked for the key. What is fetched is verified, and bounded before any of it is
//! stored. A digest alone must not open a blob of a registry: that is asked first, with the eyes of the client, also when the bytes
//! are here already. Of a layout the client says itself whether it has the blob; what it then gets is of its own project.

use std::sync::Arc;

use cofferdam_digest::{Digest, Digester};
use cofferdam_image::{Descriptor, Reference};
use cofferdam_session::Session;
use cofferdam_solver::Step;
use cofferdam_store::Blob;
use cofferdam_wire::pb;
use futures::FutureExt;

use super::image::{RegistryBlobs, SessionBlobs, unresolved};
use super::layers::{self, BlobSource};
use super::single::{self, Single};
use super::{SourceKey, cancellable};
use crate::context::Context;
use crate::failure::Failure;
use crate::snapshot::Snapshot;

/// Largest blob that a build may use as a file.
const MAX_BYTES: u64 = 32 << 30;
/// What is said of the content: nothing.
const OPAQUE: &str = "application/octet-stream";

/// Who has a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Home {
    /// The registry that the reference names.
    Registry,
    /// A content store of the client.
    Layout,
}

/// A blob as a source names it.
#[derive(Debug)]
pub(crate) struct Wanted {
    home: Home,
    reference: Reference,
    digest: Digest,
    /// The client's store, for those in layouts.
    store: String,
    /// The session that has the store, where one is named.
    session: Option<String>,
}

impl Wanted {
    /// A blob by its reference. `store` and `session` say where the client's layout is.
    pub(crate) fn new(
        home: Home,
        reference: &str,
        store: &str,
        session: Option<&str>,
    ) -> Result<Self, Failure> {
        let invalid =
            |reason: &str| Failure::invalid(format!("blob reference {reference:?} {reason}"));
        let named = Reference::parse_name(reference)
            .map_err(|error| Failure::invalid(crate::failure::chain(&error)))?;
        if named.tag().is_some() {
            return Err(invalid("has a tag, which names no blob"));
        }
        let digest = named.digest().ok_or_else(|| invalid("has no digest"))?;
        if home == Home::Layout && store.is_empty() {
            return Err(Failure::invalid("oci-layout blob source requires store id"));
        }
        Ok(Self {
            home,
            reference: named,
            digest,
            store: store.to_owned(),
            session: session.filter(|session| !session.is_empty()).map(str::to_owned),
        })
    }

    fn of(op: &pb::SourceOp, home: Home, reference: &str) -> Result<Self, Failure> {
        super::check_supported(op)?;
        let attr = |key: &str| op.attrs.get(key).map(String::as_str);
        Self::new(home, reference, attr("oci.store").unwrap_or_default(), attr("oci.session"))
    }
}

/// What names the file: the blob and how the file is made. A registry's repository is part of it, so that what was built from it
/// is not found by those who name another one.
pub(crate) fn key(op: &pb::SourceOp, home: Home, reference: &str) -> Result<SourceKey, Failure> {
    let wanted = Wanted::of(op, home, reference)?;
    let digest = wanted.digest.to_string();
    let mut digester = Digester::new();
    digester.field("blob");
    digester.field(&digest);
    digester.field(match home {
        Home::Registry => wanted.reference.name(),
        Home::Layout => String::new(),
    });
    digester.field(file_name(op, &wanted.digest));
    single::add_to(&mut digester, op);
    Ok(SourceKey { digest: digester.finish(), volatile: false, pin: Some(digest.into()) })
}

fn file_name(op: &pb::SourceOp, digest: &Digest) -> String {
    single::given_name(op).unwrap_or_else(|| digest.hex())
}

/// The blob as a file in a directory of its own.
pub(crate) async fn snapshot(
    context: &Arc<Context>,
    op: &pb::SourceOp,
    home: Home,
    reference: &str,
    step: &Step,
) -> Result<Snapshot, Failure> {
    let wanted = Wanted::of(op, home, reference)?;
    let blob = cancellable(step, fetch(context, &wanted, step)).await?;
    let name = file_name(op, &wanted.digest);
    let description = format!("blob {}", wanted.reference.familiar());
    single::snapshot(context, op, Single { blob, name, modified: 0, description }).await
}

/// Brings a blob to this builder's store.
pub(crate) async fn fetch(
    context: &Arc<Context>,
    wanted: &Wanted,
    step: &Step,
) -> Result<Blob, Failure> {
    match wanted.home {
        Home::Registry => from_registry(context, wanted, step).await,
        Home::Layout => from_layout(context, wanted, step).await,
    }
}

async fn from_registry(
    context: &Arc<Context>,
    wanted: &Wanted,
    step: &Step,
) -> Result<Blob, Failure> {
    let repository = context.repository(&wanted.reference, context.sessions_of(step));
    let size = repository.blob_size(&wanted.digest).await.map_err(unresolved)?;
    let blobs = RegistryBlobs::new(repository);
    bring(context, &blobs, wanted.digest, size, step).await
}

async fn from_layout(
    context: &Arc<Context>,
    wanted: &Wanted,
    step: &Step,
) -> Result<Blob, Failure> {
    let ids = context.sessions_with(step, wanted.session.as_ref());
    let attempt = |session: Arc<Session>| {
        async move {
            // The client's layouts are addressed by a prefixed id.
            let store = format!("oci:{}", wanted.store);
            let info = session.content_info(&store, &wanted.digest).await.map_err(Failure::of)?;
            let blobs = SessionBlobs::new(session, store);
            bring(context, &blobs, wanted.digest, info.size, step).await
        }
        .boxed()
    };
    context.any_session(&ids, attempt).await
}

async fn bring(
    context: &Arc<Context>,
    blobs: &dyn BlobSource,
    digest: Digest,
    size: u64,
    step: &Step,
) -> Result<Blob, Failure> {
    check_size(&digest, size)?;
    let _turn = context.fetches.take(digest).await;
    let descriptor = Descriptor::new(OPAQUE, digest, size);
    layers::fetch(&context.store, blobs, &descriptor, &step.progress).await
}

fn check_size(digest: &Digest, size: u64) -> Result<(), Failure> {
    if size > MAX_BYTES {
        return Err(Failure::invalid(format!("blob {digest} has more than {MAX_BYTES} bytes")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn op(attrs: &[(&str, &str)]) -> pb::SourceOp {
        let attrs = attrs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        pb::SourceOp { attrs: attrs.collect(), ..pb::SourceOp::default() }
    }

    fn named(reference: &str, attrs: &[(&str, &str)]) -> Digest {
        key(&op(attrs), Home::Registry, reference).unwrap().digest
    }

    #[test]
    fn keys_hold_the_blob_where_it_is_from_and_how_the_file_is_made() {
        let digest = Digest::of("layer");
        let reference = format!("localhost:5000/app@{digest}");
        let plain = named(&reference, &[]);
        let made = key(&op(&[]), Home::Registry, &reference).unwrap();
        assert_eq!(made.pin.as_deref(), Some(digest.to_string().as_str()));
        assert!(!made.volatile);
        assert_eq!(named(&reference, &[("http.filename", digest.hex().as_str())]), plain);
        for attr in [("http.filename", "x"), ("http.perm", "0644"), ("http.uid", "1")] {
            assert_ne!(named(&reference, &[attr]), plain, "{attr:?}");
        }
        assert_ne!(named(&format!("localhost:5000/other@{digest}"), &[]), plain);
        let other = Digest::of("other");
        assert_ne!(named(&format!("localhost:5000/app@{other}"), &[]), plain);
        // What a layout calls its images says nothing.
        let store = op(&[("oci.store", "store")]);
        let layout =
            |name: &str| key(&store, Home::Layout, &format!("{name}@{digest}")).unwrap().digest;
        assert_eq!(layout("not/real"), layout("other"));
        assert_ne!(layout("not/real"), plain);
    }

    #[test]
    fn what_names_no_blob_is_refused() {
        let digest = Digest::of("layer");
        for reference in ["app", "app:1", &format!("app:1@{digest}"), "app@sha256:0", ""] {
            assert!(key(&op(&[]), Home::Registry, reference).is_err(), "{reference}");
        }
        let without_store = key(&op(&[]), Home::Layout, &format!("app@{digest}"));
        assert!(without_store.is_err_and(|failure| failure.message().contains("store id")));
        assert!(check_size(&digest, MAX_BYTES).is_ok());
        assert!(check_size(&digest, MAX_BYTES + 1).is_err());
    }
}
