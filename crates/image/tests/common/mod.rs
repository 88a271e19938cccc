//! Helpers shared by the tests of this crate: trees described as text, tars built by hand.
#![allow(clippy::unwrap_used, dead_code, missing_docs, unreachable_pub)]

use std::fmt::Write as _;
use std::fs::{self, File};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{Mode, OFlags, lgetxattr, llistxattr, open};

pub fn dir_fd(path: &Path) -> OwnedFd {
    open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).unwrap()
}

/// Owners, devices and namespaces can only be tried by root; passing without trying would lie.
pub fn need_root() {
    assert!(rustix::process::geteuid().is_root(), "this test needs root");
}

/// Everything that can be seen of a tree, one line per entry.
pub fn describe(root: &Path) -> String {
    let mut text = String::new();
    walk(root, root, &mut text);
    text
}

fn walk(root: &Path, dir: &Path, text: &mut String) {
    let mut children: Vec<_> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    children.sort();
    for path in children {
        let meta = path.symlink_metadata().unwrap();
        let name = path.strip_prefix(root).unwrap();
        write!(
            text,
            "{name:?} {:o} {}:{} rdev={} mtime={} nlink={}",
            meta.mode(),
            meta.uid(),
            meta.gid(),
            meta.rdev(),
            meta.mtime(),
            if meta.is_dir() { 0 } else { meta.nlink() }
        )
        .unwrap();
        if meta.is_file() {
            write!(text, " {:?}", cofferdam_digest::Digest::of(fs::read(&path).unwrap())).unwrap();
        }
        if meta.is_symlink() {
            write!(text, " -> {:?}", fs::read_link(&path).unwrap()).unwrap();
        }
        for (name, value) in xattrs(&path) {
            write!(text, " {name}={value:?}").unwrap();
        }
        text.push('\n');
        if meta.is_dir() {
            walk(root, &path, text);
        }
    }
}

pub fn xattrs(path: &Path) -> Vec<(String, Vec<u8>)> {
    let mut names = vec![0; 4096];
    let count = llistxattr(path, &mut names[..]).unwrap();
    let mut found: Vec<(String, Vec<u8>)> = names[..count]
        .split(|&byte| byte == 0)
        .filter(|name| !name.is_empty())
        .map(|name| {
            let mut value = vec![0; 4096];
            let count = lgetxattr(path, name, &mut value[..]).unwrap();
            (String::from_utf8_lossy(name).into_owned(), value[..count].to_vec())
        })
        .collect();
    found.sort();
    found
}

/// A tar built entry by entry, with whatever names a hostile archive would have.
#[derive(Default)]
pub struct Tar {
    pub bytes: Vec<u8>,
}

pub const FILE: u8 = b'0';
pub const LINK: u8 = b'1';
pub const SYMLINK: u8 = b'2';
pub const CHAR: u8 = b'3';
pub const DIR: u8 = b'5';
pub const FIFO: u8 = b'6';

impl Tar {
    pub fn raw(
        mut self,
        kind: u8,
        name: &[u8],
        link: &[u8],
        size: u64,
        edit: impl Fn(&mut tar::Header),
    ) -> Self {
        let mut header = tar::Header::new_ustar();
        let bytes = header.as_mut_bytes();
        bytes[..name.len().min(100)].copy_from_slice(&name[..name.len().min(100)]);
        bytes[157..157 + link.len().min(100)].copy_from_slice(&link[..link.len().min(100)]);
        header.set_entry_type(tar::EntryType::new(kind));
        header.set_mode(if kind == DIR { 0o755 } else { 0o644 });
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_000_000_000);
        header.set_size(size);
        edit(&mut header);
        header.set_cksum();
        self.bytes.extend_from_slice(header.as_bytes());
        self
    }

    pub fn data(mut self, content: &[u8]) -> Self {
        self.bytes.extend_from_slice(content);
        let end = self.bytes.len().next_multiple_of(512);
        self.bytes.resize(end, 0);
        self
    }

    pub fn entry(self, kind: u8, name: &str, link: &str) -> Self {
        self.raw(kind, name.as_bytes(), link.as_bytes(), 0, |_| {})
    }

    pub fn file(self, name: &str, content: &[u8]) -> Self {
        self.raw(FILE, name.as_bytes(), b"", content.len() as u64, |_| {}).data(content)
    }

    pub fn dir(self, name: &str) -> Self {
        self.entry(DIR, name, "")
    }

    pub fn symlink(self, name: &str, target: &str) -> Self {
        self.entry(SYMLINK, name, target)
    }

    pub fn link(self, name: &str, target: &str) -> Self {
        self.entry(LINK, name, target)
    }

    pub fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut body = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let mut length = rest + 1;
            while length != rest + length.to_string().len() {
                length += 1;
            }
            body.extend_from_slice(format!("{length} {key}=").as_bytes());
            body.extend_from_slice(value);
            body.push(b'\n');
        }
        self.raw(b'x', b"pax", b"", body.len() as u64, |_| {}).data(&body)
    }

    pub fn end(mut self) -> Vec<u8> {
        self.bytes.resize(self.bytes.len() + 1024, 0);
        self.bytes
    }
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Runs a program with `bytes` as its input; its output when it succeeds.
pub fn pipe(program: &str, arguments: &[&str], bytes: &[u8]) -> Result<Vec<u8>, String> {
    let mut file = tempfile::tempfile().unwrap();
    std::io::Write::write_all(&mut file, bytes).unwrap();
    std::io::Seek::rewind(&mut file).unwrap();
    let output = std::process::Command::new(program).args(arguments).stdin(file).output().unwrap();
    if output.status.success() {
        Ok(output.stdout)
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

pub fn file_of(path: &Path) -> File {
    File::open(path).unwrap()
}

pub fn name(bytes: &[u8]) -> &Path {
    Path::new(std::ffi::OsStr::from_bytes(bytes))
}

pub fn fd(path: &Path) -> impl AsFd {
    dir_fd(path)
}
