//! Image references: `busybox`, `ghcr.io/a/b:1`, `host:5000/x@sha256:…`.
//!
//! Follows the grammar of the
//! [distribution reference format](https://github.com/distribution/reference) with Docker's
//! normalisation: no host means `docker.io`, a single name there means `library/<name>`, no tag
//! and no digest means `latest`. A [`Reference`] is always normalised and always safe to put
//! into a URL path. This module must never touch the network.

use std::fmt;
use std::str::FromStr;

use cofferdam_digest::Digest;

/// The host that is meant when none is named.
pub const DEFAULT_DOMAIN: &str = "docker.io";
const DEFAULT_TAG: &str = "latest";
/// Longest repository name the distribution grammar allows, host included.
const MAX_NAME: usize = 255;
/// Longest tag the distribution grammar allows.
const MAX_TAG: usize = 128;

/// A normalised image reference.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    domain: String,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// Text that is not an image reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid reference {text:?}: {reason}")]
pub struct ParseReferenceError {
    text: String,
    reason: &'static str,
}

impl Reference {
    /// Parses and normalises; a reference without tag and digest gets the tag `latest`.
    ///
    /// # Errors
    /// Text outside the grammar, upper-case repository names, digests other than SHA-256 and
    /// bare 64-digit image ids.
    pub fn parse(text: &str) -> Result<Self, ParseReferenceError> {
        let mut reference = Self::parse_name(text)?;
        if reference.tag.is_none() && reference.digest.is_none() {
            reference.tag = Some(DEFAULT_TAG.to_owned());
        }
        Ok(reference)
    }

    /// Like [`Reference::parse`], but leaves a missing tag missing.
    ///
    /// # Errors
    /// As [`Reference::parse`].
    pub fn parse_name(text: &str) -> Result<Self, ParseReferenceError> {
        Self::split(text).map_err(|reason| ParseReferenceError {
            text: text.chars().take(300).collect(),
            reason,
        })
    }

    fn split(text: &str) -> Result<Self, &'static str> {
        if text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err("64 hexadecimal digits are an image id, not a name");
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => {
                let digest =
                    Digest::parse(digest).map_err(|_| "the digest is not a SHA-256 digest")?;
                (rest, Some(digest))
            }
            None => (text, None),
        };
        let (name, tag) = match rest.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (rest, None),
        };
        if let Some(tag) = tag {
            check_tag(tag)?;
        }
        let (domain, path) = split_domain(name);
        check_domain(&domain)?;
        check_path(&path)?;
        if domain.len() + 1 + path.len() > MAX_NAME {
            return Err("the repository name is longer than 255 characters");
        }
        Ok(Self { domain, path, tag: tag.map(str::to_owned), digest })
    }

    /// Host, with a port when one was given: `docker.io`, `localhost:5000`.
    #[must_use]
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// Repository path without the host: `library/busybox`.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The tag, when there is one.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, when there is one.
    #[must_use]
    pub const fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// Host and path, without tag and digest.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}/{}", self.domain, self.path)
    }

    /// The short form people type: `busybox:latest` for `docker.io/library/busybox:latest`.
    #[must_use]
    pub fn familiar(&self) -> String {
        let text = self.to_string();
        let Some(rest) = text.strip_prefix("docker.io/") else { return text };
        rest.strip_prefix("library/").unwrap_or(rest).to_owned()
    }

    /// The same repository and tag, pinned to `digest`.
    #[must_use]
    pub fn with_digest(&self, digest: Digest) -> Self {
        Self { digest: Some(digest), ..self.clone() }
    }

    /// The same repository without tag and digest.
    #[must_use]
    pub fn without_target(&self) -> Self {
        Self { tag: None, digest: None, ..self.clone() }
    }

    /// What the registry is asked for: the digest when there is one, else the tag or `latest`.
    #[must_use]
    pub fn target(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.clone(),
            (None, None) => DEFAULT_TAG.to_owned(),
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.domain, self.path)?;
        if let Some(tag) = &self.tag {
            write!(formatter, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(formatter, "@{digest}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Reference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

impl FromStr for Reference {
    type Err = ParseReferenceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

/// Splits off the host by Docker's rule: the first component is a host only when it looks like one.
fn split_domain(name: &str) -> (String, String) {
    let (domain, path) = match name.split_once('/') {
        Some((first, rest))
            if first.contains(['.', ':'])
                || first == "localhost"
                || first.bytes().any(|byte| byte.is_ascii_uppercase()) =>
        {
            (first, rest)
        }
        _ => (DEFAULT_DOMAIN, name),
    };
    let domain = if domain == "index.docker.io" { DEFAULT_DOMAIN } else { domain };
    if domain == DEFAULT_DOMAIN && !path.contains('/') {
        (domain.to_owned(), format!("library/{path}"))
    } else {
        (domain.to_owned(), path.to_owned())
    }
}

fn check_domain(domain: &str) -> Result<(), &'static str> {
    const BAD: &str = "the host is malformed";
    let host = match domain.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => {
            if port.is_empty() || port.len() > 5 || !port.bytes().all(|byte| byte.is_ascii_digit())
            {
                return Err("the port is malformed");
            }
            host
        }
        _ => domain,
    };
    if let Some(address) = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return address.parse::<std::net::Ipv6Addr>().map(|_| ()).map_err(|_| BAD);
    }
    let good = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    if host.split('.').all(good) { Ok(()) } else { Err(BAD) }
}

fn check_path(path: &str) -> Result<(), &'static str> {
    if path.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Err("the repository name must be lowercase");
    }
    if path.split('/').all(is_path_component) {
        Ok(())
    } else {
        Err("the repository name is malformed")
    }
}

/// `[a-z0-9]+` runs joined by one `.`, one or two `_`, or any number of `-`.
fn is_path_component(component: &str) -> bool {
    let alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = component.as_bytes();
    let (Some(&first), Some(&last)) = (bytes.first(), bytes.last()) else { return false };
    if !alphanumeric(first) || !alphanumeric(last) {
        return false;
    }
    bytes.split(|&byte| alphanumeric(byte)).all(|separator| {
        matches!(separator, b"" | b"." | b"_" | b"__") || separator.iter().all(|&byte| byte == b'-')
    })
}

/// Whether `text` is a tag or a digest, and so safe as the last part of a URL path.
pub(crate) fn is_target(text: &str) -> bool {
    check_tag(text).is_ok() || Digest::parse(text).is_ok()
}

fn check_tag(tag: &str) -> Result<(), &'static str> {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let bytes = tag.as_bytes();
    let good = bytes.first().is_some_and(|&byte| word(byte))
        && bytes.len() <= MAX_TAG
        && bytes.iter().all(|&byte| word(byte) || byte == b'.' || byte == b'-');
    if good { Ok(()) } else { Err("the tag is malformed") }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names_are_normalised() {
        let hex = Digest::of(b"").to_string();
        let at = |name: &str| format!("{name}@{hex}");
        for (text, full) in [
            ("busybox", "docker.io/library/busybox:latest".to_owned()),
            ("busybox:1", "docker.io/library/busybox:1".to_owned()),
            ("index.docker.io/busybox", "docker.io/library/busybox:latest".to_owned()),
            ("a/b", "docker.io/a/b:latest".to_owned()),
            ("localhost/b", "localhost/b:latest".to_owned()),
            ("localhost:5000/b:x", "localhost:5000/b:x".to_owned()),
            ("[::1]:5000/b", "[::1]:5000/b:latest".to_owned()),
            ("ghcr.io/a/b__c/d--e.f:V1", "ghcr.io/a/b__c/d--e.f:V1".to_owned()),
            (&at("busybox"), at("docker.io/library/busybox")),
            (&at("busybox:1"), at("docker.io/library/busybox:1")),
        ] {
            assert_eq!(Reference::parse(text).unwrap().to_string(), full);
        }
        assert_eq!(Reference::parse("busybox").unwrap().familiar(), "busybox:latest");
        assert_eq!(Reference::parse("a/b:1").unwrap().familiar(), "a/b:1");
        assert_eq!(Reference::parse_name("a").unwrap().tag(), None);
    }

    #[test]
    fn hostile_names_are_refused() {
        let long = "a".repeat(256);
        for text in [
            "",
            ":",
            "@",
            "a:",
            "a@",
            "/a",
            "a/",
            "a//b",
            "A",
            "a/B",
            "a..b",
            "a/../b",
            "../a",
            "a___b",
            "a:b/../c:",
            "a b",
            "a\n",
            "a%2f",
            "a?b",
            "a#b",
            "é",
            "host:port/a",
            "-a.b/c",
            "x.y:/a",
            "[::1/a",
            "a@sha256:../../x",
            "a:.x",
            &long,
            "localhost:99999999/a",
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        ] {
            assert!(Reference::parse(text).is_err(), "{text:?} was accepted");
        }
    }
}
