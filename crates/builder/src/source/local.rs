//! Directories of the client, mirrored into the store.
//!
//! A mirror is reused by the next build of the same client directory, so that only what changed
//! is sent. Its content differs from build to build under one name: the key is volatile, and
//! consumers are known by the content they look at.

use std::sync::Arc;

use cofferdam_digest::Digester;
use cofferdam_session::fsutil::{Compare, Ownership, Progress, ReceiveOptions};
use cofferdam_session::patterns::Matcher;
use cofferdam_session::{LocalRequest, Session};
use cofferdam_solver::{Status, Step};
use cofferdam_store::MirrorGuard;
use cofferdam_wire::pb;
use futures::FutureExt;

use super::local_parts::Parts;
use super::{SourceKey, cancellable};
use crate::blocking::{blocking, give_back};
use crate::content_digest::KnownFiles;
use crate::context::Context;
use crate::failure::Failure;
use crate::snapshot::Snapshot;

/// How often a transfer reports.
const REPORT_EVERY: std::time::Duration = std::time::Duration::from_millis(150);

/// The key of a local directory: it names the request, not the content.
pub(crate) fn key(op: &pb::SourceOp, name: &str) -> Result<SourceKey, Failure> {
    let mut digester = Digester::new();
    digester.field("local");
    digester.field(name);
    let mut attrs: Vec<_> = op.attrs.iter().collect();
    attrs.sort();
    for (key, value) in attrs {
        digester.field(key);
        digester.field(value);
    }
    Ok(SourceKey { digest: digester.finish(), volatile: true, pin: None })
}

fn list(op: &pb::SourceOp, key: &str) -> Result<Vec<String>, Failure> {
    match op.attrs.get(key).filter(|text| !text.is_empty()) {
        Some(text) => serde_json::from_str(text)
            .map_err(|error| Failure::invalid(format!("{key} is no list of strings: {error}"))),
        None => Ok(Vec::new()),
    }
}

/// What is brought of a directory of which all is described; `None` when all is brought.
fn described(op: &pb::SourceOp) -> Result<Option<Arc<Matcher>>, Failure> {
    let wanted = op.attrs.get("local.metadatatransfer").map(String::as_str);
    match wanted {
        None | Some("" | "false" | "0") => Ok(None),
        Some("true" | "1") => {
            let patterns = list(op, "local.metadatatransferexclude")?;
            Ok(Some(Arc::new(Matcher::new(&patterns).map_err(Failure::of)?)))
        }
        Some(other) => {
            Err(Failure::invalid(format!("invalid value for local.metadatatransfer {other:?}")))
        }
    }
}

/// The files as the client has them now.
pub(crate) async fn snapshot(
    context: &Arc<Context>,
    op: &pb::SourceOp,
    name: &str,
    step: &Step,
) -> Result<Snapshot, Failure> {
    let ids = context.sessions_with(step, op.attrs.get("local.session"));
    let hint = op.attrs.get("local.sharedkeyhint").map_or("", String::as_str);
    let request = LocalRequest {
        name: name.to_owned(),
        include: list(op, "local.includepattern")?,
        exclude: list(op, "local.excludepatterns")?,
        follow: list(op, "local.followpaths")?,
        apart: Vec::new(),
        options: ReceiveOptions { described: described(op)?, ..ReceiveOptions::default() },
    };
    let request_all = op.attrs.get("local.differ").is_some_and(|differ| differ == "none");
    let request = &request;
    let sync = |session: Arc<Session>| {
        async move {
            let kind = if request.options.described.is_some() { ":metadata" } else { "" };
            let key = format!("{name}:{hint}:{}{kind}", session.shared_key());
            sync(context, &session, request, request_all, &key, step).await
        }
        .boxed()
    };
    cancellable(step, context.any_session(&ids, sync)).await
}

async fn sync(
    context: &Arc<Context>,
    session: &Session,
    request: &LocalRequest,
    request_all: bool,
    key: &str,
    step: &Step,
) -> Result<Snapshot, Failure> {
    let mut guard = context.store.mirror(key).map_err(Failure::store)?;
    // A transfer that is given up half way still writes for a moment, and half of one must not be what the next is compared with.
    guard.distrust();
    let directory = guard.open().map_err(Failure::store)?;
    let status = Status::begin(format!("transferring {}:", request.name), "transferring");
    step.progress.status(status.clone());
    let ids = context.store_ids();
    let progress = Arc::new(Progress::default());
    let options = ReceiveOptions {
        compare: if request_all { Compare::Nothing } else { Compare::Metadata },
        ownership: Ownership::Mapped(Arc::new(move |id| ids.to_disk(id))),
        progress: Arc::clone(&progress),
        ..request.options.clone()
    };
    let parts = Parts::of(&guard);
    let request = LocalRequest { options, apart: parts.apart(), ..request.clone() };
    let transfer = session.sync_local(request, directory);
    tokio::pin!(transfer);
    let result = loop {
        tokio::select! {
            result = &mut transfer => break result,
            () = tokio::time::sleep(REPORT_EVERY) => {
                let bytes = i64::try_from(progress.bytes()).unwrap_or(i64::MAX);
                step.progress.status(status.clone().at(bytes, 0));
            }
        }
    };
    match result {
        Ok(received) => {
            guard.keep();
            parts.keep(&received.apart);
            let total = i64::try_from(progress.bytes()).unwrap_or(i64::MAX);
            step.progress.status(status.at(total, 0).done());
            let known = known_files(context, &guard).await?;
            if received.changed {
                known.forget_whole();
            }
            Ok(Snapshot::mirror(guard, Arc::clone(&context.store), known))
        }
        Err(error) => {
            drop(guard);
            give_back(&context.store, ()).await;
            Err(Failure::of(error))
        }
    }
}

/// What is known of a mirror's files, from this builder's earlier builds and from the builder before it.
async fn known_files(
    context: &Arc<Context>,
    guard: &MirrorGuard,
) -> Result<Arc<KnownFiles>, Failure> {
    let (context, id) = (Arc::clone(context), guard.id());
    match guard.open_state() {
        Ok(state) => {
            let ids = context.store_ids();
            blocking(move || {
                let believed = context.store.was_closed();
                context.known_files.of_kept(&id, state, ids, believed)
            })
            .await
        }
        Err(error) => {
            tracing::debug!(%error, "digests of a mirror will not be kept");
            Ok(context.known_files.of(&id))
        }
    }
}
