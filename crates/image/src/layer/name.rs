//! Names of archive entries: from raw bytes to a clean path beneath the root.
//!
//! A leading `/` and `.` components are dropped, as engines do; `..` is refused outright, because
//! no honest archive needs it and every reader resolves it differently.

use super::error::ApplyError;
use super::limits::{MAX_DEPTH, MAX_NAME, MAX_PATH};

/// `a/b/c`, never empty, absolute, or with `.`, `..` or empty components. `None` is the root itself.
pub(super) fn clean(raw: &[u8]) -> Result<Option<Vec<u8>>, ApplyError> {
    if raw.len() > MAX_PATH {
        return Err(ApplyError::refused(raw, "the path is too long"));
    }
    if raw.contains(&0) {
        return Err(ApplyError::refused(raw, "the path contains a NUL byte"));
    }
    let mut path = Vec::with_capacity(raw.len());
    let mut depth = 0;
    for component in raw.split(|&byte| byte == b'/') {
        match component {
            b"" | b"." => continue,
            b".." => return Err(ApplyError::refused(raw, "the path contains ..")),
            _ => {}
        }
        if component.len() > MAX_NAME {
            return Err(ApplyError::refused(raw, "a name is too long"));
        }
        depth += 1;
        if depth > MAX_DEPTH {
            return Err(ApplyError::refused(raw, "the path is too deep"));
        }
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(component);
    }
    Ok(if path.is_empty() { None } else { Some(path) })
}

/// Splits a clean path into parent (empty for the root) and name.
pub(super) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&byte| byte == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (b"", path),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn clean_paths() {
        for (raw, expected) in [
            ("./a//b/", Some("a/b")),
            ("/etc/x", Some("etc/x")),
            ("./", None),
            ("/", None),
            ("", None),
        ] {
            assert_eq!(
                clean(raw.as_bytes()).unwrap(),
                expected.map(|text| text.as_bytes().to_vec())
            );
        }
        let deep = "a/".repeat(257);
        let long = "a/".repeat(3000);
        let name = "a".repeat(256);
        for raw in ["..", "a/../b", "/../x", "a/..", "a\0b", &deep, &long, &name] {
            assert!(clean(raw.as_bytes()).is_err(), "{raw:?} was accepted");
        }
        assert_eq!(split(b"a/b/c"), (&b"a/b"[..], &b"c"[..]));
        assert_eq!(split(b"a"), (&b""[..], &b"a"[..]));
    }
}
