//! Sources that are a single file: how it is made of a blob, which is the same for downloads and blobs of registries.
//!
//! Must not look anything up: what a file is made of was found and verified by others.

use std::sync::Arc;

use cofferdam_digest::Digester;
use cofferdam_store::{Blob, Tree};
use cofferdam_wire::pb;

use crate::blocking::blocking;
use crate::context::Context;
use crate::failure::Failure;
use crate::op::file::{Maker, mkfile_from};
use crate::snapshot::{Snapshot, Workspace};

/// Attributes that say how the file is made.
const MADE: [&str; 3] = ["http.perm", "http.uid", "http.gid"];
/// Permissions of a file that nobody said anything about.
const DEFAULT_MODE: u32 = 0o600;

/// A file to be made.
pub(super) struct Single {
    /// What is in it.
    pub(super) blob: Blob,
    /// Its name.
    pub(super) name: String,
    /// When it changed, in seconds since 1970.
    pub(super) modified: i64,
    /// What it is called in lists of what is stored.
    pub(super) description: String,
}

/// Adds how `op` wants its file to a name.
pub(super) fn add_to(digester: &mut Digester, op: &pb::SourceOp) {
    for key in MADE {
        digester.field(op.attrs.get(key).map_or("", String::as_str));
    }
}

/// The name that `op` gives its file, without directories: those are nobody's to choose.
pub(super) fn given_name(op: &pb::SourceOp) -> Option<String> {
    let given = op.attrs.get("http.filename")?.trim();
    let name = given.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    if given.is_empty() {
        return None;
    }
    let is_name = !matches!(name, "" | "." | "..") && !name.contains(char::is_control);
    let name = if is_name { name } else { "download" };
    Some(name.to_owned())
}

fn number(op: &pb::SourceOp, key: &str) -> Result<u32, Failure> {
    let Some(text) = op.attrs.get(key).filter(|text| !text.is_empty()) else { return Ok(0) };
    text.parse().map_err(|_| Failure::invalid(format!("invalid {key} {text:?}")))
}

fn mode(op: &pb::SourceOp) -> Result<u32, Failure> {
    let Some(text) = op.attrs.get("http.perm").filter(|text| !text.is_empty()) else {
        return Ok(DEFAULT_MODE);
    };
    let mode = u32::from_str_radix(text, 8)
        .map_err(|_| Failure::invalid(format!("invalid http.perm {text:?}")))?;
    Ok(if mode == 0 { DEFAULT_MODE } else { mode })
}

/// The file, made as `op` says, in a directory of its own.
pub(super) async fn snapshot(
    context: &Arc<Context>,
    op: &pb::SourceOp,
    file: Single,
) -> Result<Snapshot, Failure> {
    let (uid, gid) = (number(op, "http.uid")?, number(op, "http.gid")?);
    let ids = context.store_ids();
    let owner = ids
        .to_disk(uid)
        .zip(ids.to_disk(gid))
        .ok_or_else(|| Failure::invalid(format!("ids {uid}:{gid} are outside a build's range")))?;
    let mode = mode(op)?;
    let store = Arc::clone(&context.store);
    blocking(move || {
        let workspace = Workspace::new(&store, Tree::scratch(), &file.description)?;
        let maker = Maker { owner: Some(owner), root: owner };
        let mut content = file.blob.open().map_err(Failure::store)?;
        let time = file.modified.saturating_mul(1_000_000_000);
        mkfile_from(workspace.root(), &file.name, &mut content, mode, time, maker)
            .map_err(Failure::of)?;
        workspace.commit().map(Snapshot::committed)
    })
    .await?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn op(key: &str, value: &str) -> pb::SourceOp {
        let attrs = [(key.to_owned(), value.to_owned())].into_iter().collect();
        pb::SourceOp { attrs, ..pb::SourceOp::default() }
    }

    #[test]
    fn names_are_of_files_only() {
        for (given, name) in [
            ("layer.tar.gz", Some("layer.tar.gz")),
            (" a b ", Some("a b")),
            ("../../etc/passwd", Some("passwd")),
            ("a/..", Some("download")),
            ("a\nb", Some("download")),
            ("/", Some("download")),
            ("", None),
        ] {
            assert_eq!(given_name(&op("http.filename", given)).as_deref(), name, "{given:?}");
        }
        assert_eq!(given_name(&pb::SourceOp::default()), None);
    }

    #[test]
    fn numbers_are_read_or_refused() {
        assert_eq!(mode(&op("http.perm", "0644")).ok(), Some(0o644));
        assert_eq!(mode(&op("http.perm", "0")).ok(), Some(DEFAULT_MODE));
        assert_eq!(mode(&pb::SourceOp::default()).ok(), Some(DEFAULT_MODE));
        assert!(mode(&op("http.perm", "rw")).is_err());
        assert_eq!(number(&op("http.uid", "123"), "http.uid").ok(), Some(123));
        assert_eq!(number(&pb::SourceOp::default(), "http.uid").ok(), Some(0));
        assert!(number(&op("http.uid", "-1"), "http.uid").is_err());
    }
}
