//! Paths of packets: their form and their order.
//!
//! Section 3.2: relative, clean, and compared with `/` below every other byte, so that a
//! directory's children come right after it.

use std::cmp::Ordering;

/// Longest path the kernel takes in one call.
pub(crate) const MAX_PATH: usize = 4095;

/// Longest file name.
const MAX_NAME: usize = 255;

/// Whether `path` is what a well-behaved sender writes: relative, without empty, `.` or `..`
/// parts, without NUL, within the kernel's lengths.
pub(crate) fn is_clean(path: &str) -> bool {
    !path.is_empty()
        && path.len() <= MAX_PATH
        && !path.contains('\0')
        && path.split('/').all(|part| !matches!(part, "" | "." | "..") && part.len() <= MAX_NAME)
}

/// Compares two clean paths part by part.
pub(crate) fn compare(left: &str, right: &str) -> Ordering {
    left.split('/').cmp(right.split('/'))
}

/// Splits a clean path into its directory (empty for the root) and its name.
pub(crate) fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn children_follow_their_directory() {
        let mut paths = vec!["a-b", "a/b", "a", "a.txt", "a/c/d", "a/c", "b"];
        paths.sort_by(|left, right| compare(left, right));
        assert_eq!(paths, ["a", "a/b", "a/c", "a/c/d", "a-b", "a.txt", "b"]);
    }

    #[test]
    fn unclean_paths_are_refused() {
        for path in ["", "/", "/a", "a/", "a//b", ".", "..", "a/..", "../a", "a/./b", "a\0b"] {
            assert!(!is_clean(path), "{path:?}");
        }
        assert!(!is_clean(&"x".repeat(256)));
        assert!(!is_clean(&"x/".repeat(2048)));
        for path in ["a", "..a", "a/...", "a b/c", "日本/x"] {
            assert!(is_clean(path), "{path:?}");
        }
    }
}
