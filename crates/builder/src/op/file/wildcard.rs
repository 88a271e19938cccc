//! Wildcards in copy and remove paths.
//!
//! The pattern language is that of Go's `path/filepath.Match`, which LLB's file operations
//! promise: `*` and `?` stay within one component, `[...]` is a class, `\` escapes. Matching
//! one component takes time proportional to pattern times name, whatever the pattern.

use std::io;

use crate::rooted::{Root, components, split_last};

/// Most paths one pattern may name; a bound against patterns like `/*/*/*/*`.
const MAX_MATCHES: usize = 1 << 20;

/// Whether `text` has an unescaped wildcard.
pub(crate) fn has_wildcard(text: &str) -> bool {
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => {
                bytes.next();
            }
            b'*' | b'?' | b'[' => return true,
            _ => {}
        }
    }
    false
}

/// The paths beneath `root` that `pattern` names, in order. A pattern without wildcards names
/// itself, whether it exists or not.
pub(crate) fn expand(root: &Root, pattern: &str) -> io::Result<Vec<String>> {
    let parts = components(pattern);
    let Some(first) = parts.iter().position(|part| has_wildcard(part)) else {
        return Ok(vec![pattern.to_owned()]);
    };
    let base = format!("/{}", parts[..first].join("/"));
    let mut found = vec![base];
    for (index, part) in parts[first..].iter().enumerate() {
        let mut next = Vec::new();
        for path in found {
            matches_in(root, &path, part, index == 0, &mut next)?;
            if next.len() > MAX_MATCHES {
                return Err(io::Error::other("too many paths match the pattern"));
            }
        }
        found = next;
    }
    Ok(found)
}

fn matches_in(
    root: &Root,
    directory: &str,
    pattern: &str,
    follow: bool,
    out: &mut Vec<String>,
) -> io::Result<()> {
    // Only the part before the first wildcard is resolved through links.
    match root.stat(directory, follow)? {
        Some(stat) if rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir() => {}
        _ => return Ok(()),
    }
    for name in root.directory(directory)?.names()? {
        let Some(name) = name.to_str() else { continue };
        if matches_name(pattern.as_bytes(), name.as_bytes()) {
            out.push(format!("{}/{name}", directory.trim_end_matches('/')));
        }
    }
    Ok(())
}

/// Whether one component matches one pattern component.
pub(super) fn matches_name(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    while n < name.len() || p < pattern.len() {
        if p < pattern.len() && pattern[p] == b'*' {
            retry = Some((p, n + 1));
            p += 1;
            continue;
        }
        if n < name.len()
            && let Some(width) = matches_one(&pattern[p..], name[n])
        {
            p += width;
            n += 1;
            continue;
        }
        match retry {
            Some((star, next)) if next <= name.len() => {
                p = star;
                n = next;
            }
            _ => return false,
        }
    }
    true
}

/// How many pattern bytes match this one byte; `None` when they do not.
fn matches_one(pattern: &[u8], byte: u8) -> Option<usize> {
    match *pattern.first()? {
        b'?' => Some(1),
        b'\\' => (*pattern.get(1)? == byte).then_some(2),
        b'[' => matches_class(pattern, byte),
        literal => (literal == byte).then_some(1),
    }
}

fn matches_class(pattern: &[u8], byte: u8) -> Option<usize> {
    let mut at = 1;
    let negated = pattern.get(at) == Some(&b'^');
    if negated {
        at += 1;
    }
    let mut matched = false;
    let mut first = true;
    loop {
        if *pattern.get(at)? == b']' && !first {
            return (matched != negated).then_some(at + 1);
        }
        first = false;
        let low = class_member(pattern, &mut at)?;
        let high = if pattern.get(at) == Some(&b'-') && pattern.get(at + 1) != Some(&b']') {
            at += 1;
            class_member(pattern, &mut at)?
        } else {
            low
        };
        matched |= (low..=high).contains(&byte);
    }
}

fn class_member(pattern: &[u8], at: &mut usize) -> Option<u8> {
    if pattern.get(*at) == Some(&b'\\') {
        *at += 1;
    }
    let member = *pattern.get(*at)?;
    *at += 1;
    Some(member)
}

/// The last component of a path, or `/`.
pub(super) fn base_name(path: &str) -> String {
    split_last(path).map_or_else(|| "/".to_owned(), |(_, name)| name)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use rustix::fs::{Mode, OFlags};

    #[test]
    fn component_patterns() {
        for (pattern, name, expected) in [
            ("*", "a", true),
            ("*", "", true),
            ("a*b", "ab", true),
            ("a*b", "axxb", true),
            ("a*b", "axxbc", false),
            ("?.txt", "a.txt", true),
            ("?.txt", ".txt", false),
            ("[a-c]x", "bx", true),
            ("[^a-c]x", "bx", false),
            ("[^a-c]x", "dx", true),
            ("\\*", "*", true),
            ("\\*", "a", false),
            ("[]", "]", false),
            ("[", "[", false),
            ("*.go*", "main.go", true),
            ("a**b", "ab", true),
        ] {
            assert_eq!(
                matches_name(pattern.as_bytes(), name.as_bytes()),
                expected,
                "{pattern} {name}"
            );
        }
    }

    #[test]
    fn many_stars_stay_quick() {
        let pattern = "*a".repeat(2_000);
        let name = "b".repeat(5_000);
        assert!(!matches_name(pattern.as_bytes(), name.as_bytes()));
    }

    #[test]
    fn expansion_walks_components_and_not_links() {
        let directory = tempfile::tempdir().unwrap();
        for path in ["a/one.txt", "b/one.txt", "b/two.md"] {
            let path = directory.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        std::os::unix::fs::symlink("b", directory.path().join("c")).unwrap();
        let root =
            Root::new(rustix::fs::open(directory.path(), OFlags::RDONLY, Mode::empty()).unwrap());
        assert_eq!(expand(&root, "/*/*.txt").unwrap(), ["/a/one.txt", "/b/one.txt"]);
        assert_eq!(expand(&root, "/*/two.md").unwrap(), ["/b/two.md"]);
        assert_eq!(expand(&root, "/c/*.md").unwrap(), ["/c/two.md"]);
        assert_eq!(expand(&root, "/missing").unwrap(), ["/missing"]);
        assert!(expand(&root, "/missing/*").unwrap().is_empty());
    }
}
