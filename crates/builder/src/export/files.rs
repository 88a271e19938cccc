//! The `local` and `tar` exporters: plain files for the client.

use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use cofferdam_image::layer::{TreeOptions, TreeWriter};
use cofferdam_session::fsutil::{MapHook, MapResult, SendOptions, Source};
use cofferdam_session::{ExportTarget, Session};
use cofferdam_store::mount_tree;

use super::archive::session;
use super::{Export, Output, Part, Refs, Response};
use crate::blocking::blocking;
use crate::failure::Failure;
use crate::rooted::Root;

/// Whether each platform gets a directory of its own.
fn is_split(export: &Export, output: &Output) -> bool {
    export.attributes.platform_split.unwrap_or(matches!(output.refs, Refs::Map(_)))
}

/// Directory of a platform in a split output.
fn prefix(part: &Part, split: bool) -> String {
    if !split {
        return String::new();
    }
    let id = if part.id.is_empty() { part.platform.to_string() } else { part.id.clone() };
    id.replace('/', "_")
}

async fn mounted(part: &Part) -> Result<OwnedFd, Failure> {
    let tree = part.tree.clone();
    blocking(move || {
        let mount = Root::new(mount_tree(&tree, None).map_err(Failure::store)?);
        // The mount itself can only be opened beneath, not read.
        let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY;
        mount.open(".", flags, rustix::fs::Mode::empty()).map_err(Failure::store)
    })
    .await?
}

/// Sends one tar with every platform's files.
pub(super) async fn export_tar(
    export: &Export,
    output: &Output,
    parts: &[Part],
) -> Result<Response, Failure> {
    let split = is_split(export, output);
    let mut trees = Vec::with_capacity(parts.len());
    for part in parts {
        trees.push((mounted(part).await?, prefix(part, split)));
    }
    let session = session(export).await?;
    let target = ExportTarget { exporter: export.index, ..ExportTarget::default() };
    let epoch = export.attributes.epoch;
    let ids = export.context.store_ids();
    let send = async {
        let sender = session.send_file(&target).await.map_err(Failure::of)?;
        let writer = sender.blocking_writer();
        let written = blocking(move || {
            let from_disk = move |id: u32| ids.from_disk(id);
            let options = TreeOptions { epoch, ids: &from_disk };
            let out = std::io::BufWriter::with_capacity(1 << 20, writer);
            let mut tar = TreeWriter::new(out, &options);
            for (tree, prefix) in &trees {
                tar.tree(tree.as_fd(), prefix).map_err(Failure::of)?;
            }
            tar.finish().map_err(Failure::of)?.flush().map_err(Failure::of)
        })
        .await?;
        match (written, sender.finish().await) {
            (Ok(()), Ok(())) => Ok(()),
            (Err(failure), Ok(())) => Err(failure),
            (_, Err(error)) => Err(Failure::of(error)),
        }
    };
    export.step("sending tarball", send).await?;
    Ok(Response::new())
}

/// Sends the files into the client's directory.
pub(super) async fn export_local(
    export: &Export,
    output: &Output,
    parts: &[Part],
) -> Result<Response, Failure> {
    let split = is_split(export, output);
    let session = session(export).await?;
    if export.attributes.delete {
        // One stream with everything: the client deletes what is not in it.
        let mut sources = Vec::with_capacity(parts.len());
        for part in parts {
            sources.push(source(part, split).await?);
        }
        let target =
            ExportTarget { exporter: export.index, multi_platform: true, ..Default::default() };
        send(export, &session, &target, sources, "copying files".to_owned()).await?;
        return Ok(Response::new());
    }
    for part in parts {
        let target = ExportTarget { exporter: export.index, ..ExportTarget::default() };
        let name = match part.id.as_str() {
            "" => "copying files".to_owned(),
            id => format!("copying files {id}"),
        };
        send(export, &session, &target, vec![source(part, split).await?], name).await?;
    }
    Ok(Response::new())
}

async fn source(part: &Part, split: bool) -> Result<Source, Failure> {
    let under = Some(prefix(part, split)).filter(|prefix| !prefix.is_empty());
    Ok(Source { root: mounted(part).await?, under })
}

async fn send(
    export: &Export,
    session: &Session,
    target: &ExportTarget,
    sources: Vec<Source>,
    name: String,
) -> Result<(), Failure> {
    let ids = export.context.store_ids();
    let epoch = export.attributes.epoch;
    let map: MapHook = Arc::new(move |stat| {
        stat.uid = ids.from_disk(stat.uid).unwrap_or(stat.uid);
        stat.gid = ids.from_disk(stat.gid).unwrap_or(stat.gid);
        if let Some(limit) = epoch.and_then(|seconds| seconds.checked_mul(1_000_000_000)) {
            stat.modTime = stat.modTime.min(limit);
        }
        MapResult::Keep
    });
    let options = SendOptions { map: Some(map), ..SendOptions::default() };
    let sending = async { session.send_tree(target, sources, options).await.map_err(Failure::of) };
    export.step(name, sending).await.map(|_| ())
}
