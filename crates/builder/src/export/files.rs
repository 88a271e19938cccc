//! The `local` and `tar` exporters: plain files for the client.

use std::io::Write;
use std::sync::Arc;

use cofferdam_image::layer::{TreeOptions, TreeWriter};
use cofferdam_session::fsutil::{MapHook, MapResult, SendOptions, Source};
use cofferdam_session::{ExportTarget, Session};

use super::archive::session;
use super::beside::{self, Files, Visited};
use super::{Export, Output, Part, Refs, Response};
use crate::blocking::blocking;
use crate::failure::Failure;

/// Whether each platform gets a directory of its own.
fn is_split(export: &Export, output: &Output) -> bool {
    export.attributes.platform_split.unwrap_or(is_map(output))
}

const fn is_map(output: &Output) -> bool {
    matches!(output.refs, Refs::Map(_))
}

/// Directory of a platform in a split output.
fn prefix(part: &Part, split: bool) -> String {
    if split { part.id.replace('/', "_") } else { String::new() }
}

/// The files of every part, with statements about them beside them.
async fn trees(export: &Export, output: &Output, parts: &[Part]) -> Result<Vec<Files>, Failure> {
    let split = is_split(export, output);
    let platform_in_name = is_map(output) && !split;
    let mut visited = Visited::default();
    let mut all = Vec::with_capacity(parts.len());
    for part in parts {
        let files = beside::files(export, part, platform_in_name).await?;
        if !split && parts.len() > 1 {
            visited.add(&files, &part.id).await?;
        }
        all.push(files);
    }
    Ok(all)
}

/// Sends one tar with every platform's files.
pub(super) async fn export_tar(
    export: &Export,
    output: &Output,
    parts: &[Part],
) -> Result<Response, Failure> {
    let split = is_split(export, output);
    let files = trees(export, output, parts).await?;
    let named = files.into_iter().zip(parts);
    let trees: Vec<_> = named.map(|(files, part)| (files, prefix(part, split))).collect();
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
            let mut tar = TreeWriter::new(writer, &options);
            for (tree, prefix) in &trees {
                tar.tree(tree.root(), prefix).map_err(Failure::of)?;
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
    let trees = trees(export, output, parts).await?;
    let session = session(export).await?;
    if export.attributes.delete {
        // One stream with everything: the client deletes what is not in it.
        let sources = trees.iter().zip(parts).map(|(files, part)| source(files, part, split));
        let sources = sources.collect::<Result<_, _>>()?;
        let target =
            ExportTarget { exporter: export.index, multi_platform: true, ..Default::default() };
        send(export, &session, &target, sources, "copying files".to_owned()).await?;
        return Ok(Response::new());
    }
    for (files, part) in trees.iter().zip(parts) {
        let target = ExportTarget { exporter: export.index, ..ExportTarget::default() };
        let name = match split || is_map(output) {
            true => format!("copying files {}", part.id),
            false => "copying files".to_owned(),
        };
        send(export, &session, &target, vec![source(files, part, split)?], name).await?;
    }
    Ok(Response::new())
}

fn source(files: &Files, part: &Part, split: bool) -> Result<Source, Failure> {
    let under = Some(prefix(part, split)).filter(|prefix| !prefix.is_empty());
    Ok(Source { root: files.root().try_clone_to_owned().map_err(Failure::store)?, under })
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
