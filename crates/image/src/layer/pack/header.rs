//! Deterministic tar headers: ustar, with PAX records only for what ustar cannot say.

use std::collections::BTreeMap;

use tar::{EntryType, Header};

/// Largest number in an 8-byte octal field.
const MAX_ID: u32 = 0o777_7777;
/// Largest number in a 12-byte octal field.
const MAX_NUMBER: u64 = 0o777_7777_7777;
const BLOCK: usize = 512;

/// Everything a header says.
pub(super) struct Head<'a> {
    /// Relative path; directories end in `/`.
    pub(super) path: &'a [u8],
    pub(super) link: &'a [u8],
    pub(super) kind: EntryType,
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime: i64,
    pub(super) size: u64,
    pub(super) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Head<'_> {
    /// Appends the header blocks, extended header included, to `out`.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        let mut records: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
        for (name, value) in &self.xattrs {
            records.insert([b"SCHILY.xattr.", name.as_slice()].concat(), value.clone());
        }
        let mut header = Header::new_ustar();
        header.set_entry_type(self.kind);
        header.set_mode(self.mode & 0o7777);
        let split = split_path(self.path);
        let (prefix, name) = split.unwrap_or((b"", &self.path[..self.path.len().min(100)]));
        if split.is_none() {
            records.insert(b"path".to_vec(), self.path.to_vec());
        }
        if self.link.len() > 100 || !self.link.is_ascii() {
            records.insert(b"linkpath".to_vec(), self.link.to_vec());
        }
        let number = |records: &mut BTreeMap<_, _>, key: &[u8], value: String| {
            records.insert(key.to_vec(), value.into_bytes());
            0
        };
        let uid = if self.uid > MAX_ID {
            number(&mut records, b"uid", self.uid.to_string())
        } else {
            self.uid.into()
        };
        let gid = if self.gid > MAX_ID {
            number(&mut records, b"gid", self.gid.to_string())
        } else {
            self.gid.into()
        };
        let mtime = match u64::try_from(self.mtime) {
            Ok(mtime) if mtime <= MAX_NUMBER => mtime,
            _ => number(&mut records, b"mtime", self.mtime.to_string()),
        };
        let size = if self.size > MAX_NUMBER {
            number(&mut records, b"size", self.size.to_string())
        } else {
            self.size
        };
        header.set_uid(uid);
        header.set_gid(gid);
        header.set_mtime(mtime);
        header.set_size(size);
        if let Some(ustar) = header.as_ustar_mut() {
            ustar.name[..name.len()].copy_from_slice(name);
            ustar.prefix[..prefix.len()].copy_from_slice(prefix);
            let link = &self.link[..self.link.len().min(100)];
            ustar.linkname[..link.len()].copy_from_slice(link);
        }
        if !records.is_empty() {
            extended(&records, out);
        }
        header.set_cksum();
        out.extend_from_slice(header.as_bytes());
    }
}

/// Splits a path for ustar's prefix and name fields; `None` when it does not fit or is not ASCII.
fn split_path(path: &[u8]) -> Option<(&[u8], &[u8])> {
    const NAME: usize = 100;
    const PREFIX: usize = 155;
    if !path.is_ascii() {
        return None;
    }
    if path.len() <= NAME {
        return Some((b"", path));
    }
    // The slash between the two is not stored; a directory's own trailing slash cannot be it.
    (path.len().saturating_sub(NAME + 1)..path.len() - 1)
        .find(|&at| path[at] == b'/' && at > 0 && at <= PREFIX)
        .map(|at| (&path[..at], &path[at + 1..]))
}

fn extended(records: &BTreeMap<Vec<u8>, Vec<u8>>, out: &mut Vec<u8>) {
    let mut body = Vec::new();
    for (key, value) in records {
        let rest = key.len() + value.len() + 3;
        let mut length = rest + digits(rest);
        if digits(length) != digits(rest) {
            length = rest + digits(length);
        }
        body.extend_from_slice(length.to_string().as_bytes());
        body.push(b' ');
        body.extend_from_slice(key);
        body.push(b'=');
        body.extend_from_slice(value);
        body.push(b'\n');
    }
    let mut header = Header::new_ustar();
    header.set_entry_type(EntryType::XHeader);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(body.len() as u64);
    if let Some(ustar) = header.as_ustar_mut() {
        let name = b"PaxHeaders.0/x";
        ustar.name[..name.len()].copy_from_slice(name);
    }
    header.set_cksum();
    out.extend_from_slice(header.as_bytes());
    let end = out.len() + body.len().next_multiple_of(BLOCK);
    out.extend_from_slice(&body);
    out.resize(end, 0);
}

const fn digits(number: usize) -> usize {
    number.ilog10() as usize + 1
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn head<'a>(path: &'a [u8], link: &'a [u8]) -> Head<'a> {
        Head {
            path,
            link,
            kind: EntryType::Symlink,
            mode: 0o777,
            uid: 1,
            gid: 4_000_000,
            mtime: -5,
            size: 0,
            xattrs: BTreeMap::new(),
        }
    }

    #[test]
    fn long_names_survive_the_tar_crate() {
        for length in [1, 90, 99, 100, 101, 155, 156, 200, 255, 256, 400, 990, 999, 1000, 1001] {
            let mut path = "abcdefghi/".repeat(length / 10 + 1).into_bytes();
            path.truncate(length);
            if path.ends_with(b"/") {
                path.pop();
                path.push(b'x');
            }
            let mut out = Vec::new();
            head(&path, &path).write(&mut out);
            out.resize(out.len() + 1024, 0);
            let mut archive = tar::Archive::new(out.as_slice());
            let mut entries = archive.entries().unwrap();
            let entry = entries.next().unwrap().unwrap();
            assert_eq!(entry.path_bytes().as_ref(), path);
            assert_eq!(entry.link_name_bytes().unwrap().as_ref(), path);
        }
    }
}
