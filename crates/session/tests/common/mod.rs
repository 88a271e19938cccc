//! A session between two ends in one process.

#![allow(dead_code, unreachable_pub, missing_docs, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::Arc;

use cofferdam_session::{Services, Session, SessionManager, serve, session_headers};

/// The daemon's end of a session offering `services`.
pub async fn session(services: Services) -> (Arc<SessionManager>, Arc<Session>) {
    let (near, far) = tokio::io::duplex(256 << 10);
    let dispatch = services.into_dispatch();
    let headers = session_headers("test", "shared", &dispatch);
    tokio::spawn(serve(far, dispatch));
    let manager = SessionManager::new();
    let session = manager.attach(&headers, near).await.unwrap();
    (manager, session)
}

pub fn dir(path: &Path) -> OwnedFd {
    fs::File::open(path).unwrap().into()
}

pub fn write(root: &Path, path: &str, content: &str) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

/// Every entry below `root`: path to a line that says all that should have travelled.
pub fn tree(root: &Path) -> BTreeMap<String, String> {
    let mut out = BTreeMap::new();
    let mut inodes: BTreeMap<u64, String> = BTreeMap::new();
    collect(root, root, &mut out, &mut inodes);
    out
}

fn collect(
    root: &Path,
    path: &Path,
    out: &mut BTreeMap<String, String>,
    inodes: &mut BTreeMap<u64, String>,
) {
    let mut entries: Vec<_> =
        fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for entry in entries {
        let name = entry.strip_prefix(root).unwrap().display().to_string();
        let metadata = fs::symlink_metadata(&entry).unwrap();
        let mode = metadata.permissions().mode();
        let mtime = (metadata.mtime(), metadata.mtime_nsec());
        let kind = metadata.file_type();
        let line = if kind.is_symlink() {
            format!("link {} {mtime:?}", fs::read_link(&entry).unwrap().display())
        } else if kind.is_dir() {
            format!("dir {mode:o} {mtime:?}")
        } else if kind.is_file() {
            let origin = inodes.entry(metadata.ino()).or_insert_with(|| name.clone()).clone();
            let content = String::from_utf8_lossy(&fs::read(&entry).unwrap()).into_owned();
            format!("file {mode:o} {mtime:?} ={origin} {content:?}")
        } else {
            format!("other {mode:o}")
        };
        out.insert(name, line);
        if kind.is_dir() {
            collect(root, &entry, out, inodes);
        }
    }
}
