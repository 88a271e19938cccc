//! How a tree's entries are spread over its directories, and which of these are half of it.
//!
//! A sender describes a tree with one thread, one entry after the other. Of a tree that was brought before, a second call can bring
//! some directories while the first one brings all the rest, new names among it. Must only ever name what can be a pattern of
//! the call without being one: no letter of it has a meaning there.

/// A tree of fewer entries is described in no time.
const WORTH: u64 = 4_000;
/// Smallest directory that is looked at.
const SMALLEST: u64 = 200;
/// Depth below which none is looked at.
const DEPTH: usize = 4;
/// Most directories that are looked at: more may be in a tree than one wants to compare with each other.
const KNOWN: usize = 1_024;
/// Longest path of one, in bytes: they travel as headers, for all of which clients have a few ten thousand.
const LONGEST: usize = 128;
/// Most directories of a half: each is a pattern that the sender compares every path with.
const MOST: usize = 16;

/// Directories with many entries.
#[derive(Default)]
pub(super) struct Shape {
    /// With all that is below; those in a directory come before it.
    directories: Vec<(String, u64)>,
    has_links: bool,
}

impl Shape {
    /// A directory has so many entries below it.
    pub(super) fn add(&mut self, path: &str, entries: u64) {
        let is_one = entries >= SMALLEST && path.split('/').count() <= DEPTH && is_plain(path);
        if is_one && self.directories.len() < KNOWN {
            self.directories.push((path.to_owned(), entries));
        }
    }

    /// A file has several names. Two calls would each bring it as a file of its own, so one call brings all.
    pub(super) const fn has_links(&mut self) {
        self.has_links = true;
    }

    /// Directories, none within another, that have about half of `all` entries.
    pub(super) fn half(&self, all: u64) -> Vec<String> {
        if self.has_links || all < WORTH {
            return Vec::new();
        }
        let mut pieces = self.pieces(all / 4);
        pieces.sort_by_key(|(path, entries)| (std::cmp::Reverse(*entries), *path));
        let (mut half, mut sum) = (Vec::new(), 0);
        for (path, entries) in pieces {
            let has_room = half.len() < MOST && sum + entries <= all * 11 / 20;
            if has_room && sum < all * 9 / 20 {
                half.push(path.to_owned());
                sum += entries;
            }
        }
        half.sort();
        if sum < all / 4 { Vec::new() } else { half }
    }

    /// The outermost directories; in place of one with more than `large` entries, those in it.
    fn pieces(&self, large: u64) -> Vec<(&str, u64)> {
        let mut pieces: Vec<(&str, u64)> = Vec::new();
        // Directories come after those in them, so in reverse the outer one is first.
        for (path, entries) in self.directories.iter().rev() {
            let is_in_one = pieces.iter().any(|(piece, _)| is_below(path, piece));
            let has_pieces = || self.directories.iter().any(|(other, _)| is_below(other, path));
            let is_taken_apart = *entries > large && has_pieces();
            if !is_in_one && !is_taken_apart {
                pieces.push((path, *entries));
            }
        }
        pieces
    }
}

fn is_below(path: &str, directory: &str) -> bool {
    path.strip_prefix(directory).is_some_and(|rest| rest.starts_with('/'))
}

/// Whether every letter stands for itself in a pattern, which some senders take for a regular expression, and in a header.
fn is_plain(path: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-@/".contains(&byte);
    !path.is_empty() && path.len() <= LONGEST && path.bytes().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(directories: &[(&str, u64)]) -> Shape {
        let mut shape = Shape::default();
        directories.iter().for_each(|(path, entries)| shape.add(path, *entries));
        shape
    }

    const TREE: &[(&str, u64)] = &[
        ("node_modules/a", 2_000),
        ("node_modules/b/deep", 1_500),
        ("node_modules/b", 2_400),
        ("node_modules/c++", 1_900),
        ("node_modules/d", 2_300),
        ("node_modules", 10_000),
        ("src", 400),
    ];

    #[test]
    fn some_directories_are_half_of_a_tree() {
        assert_eq!(shape(TREE).half(10_401), ["node_modules/b", "node_modules/d"]);
        // One that is large by itself is taken apart, where it can be.
        let deep = [("a/b/c", 2_000), ("a/b", 5_000), ("a", 5_500)];
        assert_eq!(shape(&deep).half(5_501), ["a/b/c"]);
    }

    #[test]
    fn what_is_small_or_in_one_place_is_not_divided() {
        assert!(shape(TREE).half(3_999).is_empty());
        assert!(shape(&[("a", 9_000)]).half(9_001).is_empty());
        assert!(shape(&[("a b", 3_000), ("a*", 3_000), ("!a", 3_000)]).half(9_003).is_empty());
        assert!(shape(&[("a", 1_000)]).half(9_000).is_empty());
        let long = "a".repeat(LONGEST + 1);
        assert!(shape(&[(&long, 4_000), ("b", 5_000)]).half(9_002).is_empty());
        assert!(shape(&[]).half(1_000_000).is_empty());
    }

    #[test]
    fn a_tree_with_files_of_several_names_is_not_divided() {
        let mut shape = shape(TREE);
        shape.has_links();
        assert!(shape.half(10_401).is_empty());
    }
}
