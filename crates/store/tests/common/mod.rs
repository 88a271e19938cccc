//! What the store's tests share: stores in temporary directories and files in layers.
#![allow(clippy::unwrap_used, dead_code, unreachable_pub)]

use std::ffi::CStr;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use cofferdam_digest::Digest;
use cofferdam_store::{Blob, Layer, Options, PruneOptions, Record, RecordType, Store, Tree};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};

pub fn open(root: &Path) -> Arc<Store> {
    Store::open(root, Options::default()).unwrap()
}

/// Opens a copy of the directory of a store that is still open: what a crash at this moment
/// would leave, provided that the kernel lives on.
pub fn crash(root: &Path) -> (tempfile::TempDir, Arc<Store>) {
    let temp = tempfile::tempdir().unwrap();
    let copied = std::process::Command::new("cp")
        .args(["-a", "--"])
        .arg(root)
        .arg(temp.path().join("root"))
        .status()
        .unwrap();
    assert!(copied.success());
    let store = open(&temp.path().join("root"));
    (temp, store)
}

/// A committed layer with these files (path, contents).
pub fn layer(store: &Arc<Store>, files: &[(&str, &str)]) -> Layer {
    let active = store.new_layer("made by a test", RecordType::Regular).unwrap();
    for (name, contents) in files {
        let path = active.dir().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, contents).unwrap();
    }
    active.commit().unwrap()
}

pub fn put(store: &Arc<Store>, key: &str, trees: &[Tree]) -> Digest {
    let identity = Digest::of(key);
    store.put_record(Record::new(identity, trees)).unwrap();
    identity
}

pub fn blob(store: &Arc<Store>, bytes: &[u8]) -> Blob {
    let mut writer = store.blob_writer(None).unwrap();
    writer.write_all(bytes).unwrap();
    writer.commit().unwrap()
}

pub fn prune_all() -> PruneOptions {
    PruneOptions { all: true, ..PruneOptions::default() }
}

/// The contents of a file below a directory.
pub fn read(dir: impl AsFd, name: &str) -> Option<String> {
    let file = rustix::fs::openat(dir, name, OFlags::RDONLY, Mode::empty()).ok()?;
    let mut text = String::new();
    std::fs::File::from(file).read_to_string(&mut text).unwrap();
    Some(text)
}

pub fn write(dir: impl AsFd, name: &str, contents: &str) {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC;
    let file = rustix::fs::openat(dir, name, flags, Mode::from_raw_mode(0o644)).unwrap();
    std::fs::File::from(file).write_all(contents.as_bytes()).unwrap();
}

pub fn subdirectory(dir: impl AsFd, name: &str) -> OwnedFd {
    rustix::fs::openat(dir, name, OFlags::DIRECTORY | OFlags::RDONLY, Mode::empty()).unwrap()
}

/// Sorted names in a directory.
pub fn names(dir: impl AsFd) -> Vec<String> {
    // A mount's own descriptor is a path only.
    let mut names: Vec<String> = Dir::read_from(subdirectory(dir, "."))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_str().unwrap().to_owned())
        .filter(|name| name != "." && name != "..")
        .collect();
    names.sort();
    names
}

pub fn is_whiteout(path: &Path) -> bool {
    let stat = rustix::fs::lstat(path).unwrap();
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

pub fn is_opaque(path: &Path) -> bool {
    let name: &CStr = c"user.overlay.opaque";
    let mut value = [0; 8];
    matches!(rustix::fs::lgetxattr(path, name, &mut value[..]), Ok(1) if value[0] == b'y')
}

pub fn remove(dir: impl AsFd, name: &str, flags: AtFlags) {
    rustix::fs::unlinkat(dir, name, flags).unwrap();
}
