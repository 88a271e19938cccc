//! Names clients choose: repositories, tags and references to manifests.
//!
//! The grammar is the distribution specification's. A value of these types has passed it, so its
//! components can be file names and parts of URLs. This module must never touch the disk.

use std::fmt;

use crate::digest::ContentDigest;

/// Longest repository name, as in the grammar of image references.
const MAX_NAME: usize = 255;
/// Longest tag the specification allows.
const MAX_TAG: usize = 128;

/// A repository: the project, then any further components.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Repository {
    name: String,
    project: usize,
}

impl Repository {
    /// Parses `<project>` or `<project>/<more…>`; text outside the grammar is `None`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        if text.len() > MAX_NAME || !text.split('/').all(is_component) {
            return None;
        }
        let project = text.find('/').unwrap_or(text.len());
        Some(Self { name: text.to_owned(), project })
    }

    /// The whole name.
    pub(crate) fn as_str(&self) -> &str {
        &self.name
    }

    /// The first component: the project everything here belongs to.
    pub(crate) fn project(&self) -> &str {
        &self.name[..self.project]
    }
}

impl fmt::Display for Repository {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.name)
    }
}

/// Whether `text` is one path component of a repository:
/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`.
pub(crate) fn is_component(text: &str) -> bool {
    let bytes = text.as_bytes();
    let is_alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else { return false };
    if !is_alphanumeric(*first) || !is_alphanumeric(*last) {
        return false;
    }
    bytes.split(|byte| is_alphanumeric(*byte)).all(|between| {
        matches!(between, b"" | b"." | b"_" | b"__") || between.iter().all(|byte| *byte == b'-')
    })
}

/// Whether `text` is a tag: `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}`.
pub(crate) fn is_tag(text: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    text.len() <= MAX_TAG
        && text.bytes().next().is_some_and(is_word)
        && text.bytes().all(|byte| is_word(byte) || matches!(byte, b'.' | b'-'))
}

/// What a manifest is asked for by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reference {
    /// A name that can move.
    Tag(String),
    /// Its content.
    Digest(ContentDigest),
}

impl Reference {
    /// Parses a tag or a digest; a tag can never hold the colon of a digest.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        if text.contains(':') {
            return ContentDigest::parse(text).map(Self::Digest);
        }
        is_tag(text).then(|| Self::Tag(text.to_owned()))
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tag(tag) => formatter.write_str(tag),
            Self::Digest(digest) => digest.fmt(formatter),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names_follow_the_grammar() {
        for name in ["p", "p/app", "bcdf123456/a.b/c_d/e__f/g---h", "0/1/2"] {
            assert_eq!(Repository::parse(name).unwrap().as_str(), name);
        }
        assert_eq!(Repository::parse("p1/app/x").unwrap().project(), "p1");
        assert_eq!(Repository::parse("p1").unwrap().project(), "p1");
        let long = format!("p/{}", "a".repeat(254));
        for name in [
            "", "/", "p/", "/p", "p//q", ".", "..", "p/..", "../p", "p/../q", "p/.q", "P", "p/App",
            "p q", "a..b", "a___b", "a._b", "-a", "a-", "a_", "a%2fb", "a\\b", "a\0b", "ä", "a:b",
            "a@b", &long,
        ] {
            assert!(Repository::parse(name).is_none(), "{name:?} was accepted");
        }
    }

    #[test]
    fn references_follow_the_grammar() {
        for tag in ["latest", "_", "V1.0-rc_2", "a".repeat(128).as_str(), "sha256-abc.sig"] {
            assert_eq!(Reference::parse(tag), Some(Reference::Tag(tag.to_owned())));
        }
        for tag in [
            "",
            ".a",
            "-a",
            "a/b",
            "..",
            "a b",
            "é",
            "a%",
            "a".repeat(129).as_str(),
            "sha256:abc",
            "x:y",
        ] {
            assert!(Reference::parse(tag).is_none(), "{tag:?} was accepted");
        }
    }
}
