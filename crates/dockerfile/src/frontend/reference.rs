//! Image references as the Dockerfile frontend writes them.
//!
//! Follows Docker's normalisation (`busybox` is `docker.io/library/busybox:latest`). It must never
//! accept text that could be mistaken for a path or an option by whoever resolves it.

use std::fmt;

use cofferdam_digest::Digest;

/// Longest repository name that registries accept.
const MAX_NAME: usize = 255;
/// Longest tag that registries accept.
const MAX_TAG: usize = 128;
const DEFAULT_DOMAIN: &str = "docker.io";
const LEGACY_DOMAIN: &str = "index.docker.io";

/// Text that is not an image reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// Not `name[:tag][@digest]`.
    #[error("invalid reference format")]
    Format,
    /// Registries want lower case.
    #[error("invalid reference format: repository name ({0}) must be lowercase")]
    Uppercase(String),
    /// 64 hex digits alone name an image id, not a repository.
    #[error("invalid repository name ({0}), cannot specify 64-byte hexadecimal strings")]
    Identifier(String),
    /// Longer than any registry accepts.
    #[error("repository name must not be more than 255 characters")]
    TooLong,
}

/// A normalised image reference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reference {
    domain: String,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// Parses and normalises `text`.
    ///
    /// # Errors
    /// See [`ReferenceError`].
    pub(crate) fn parse(text: &str) -> Result<Self, ReferenceError> {
        if text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(ReferenceError::Identifier(text.to_owned()));
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => {
                (rest, Some(Digest::parse(digest).map_err(|_| ReferenceError::Format)?))
            }
            None => (text, None),
        };
        let (domain, remote) = split_domain(rest);
        let (path, tag) = match remote.split_once(':') {
            Some((path, tag)) => (path, Some(tag)),
            None => (remote.as_str(), None),
        };
        if path.chars().any(|char| char.is_ascii_uppercase()) {
            return Err(ReferenceError::Uppercase(path.to_owned()));
        }
        if domain.len() + 1 + path.len() > MAX_NAME {
            return Err(ReferenceError::TooLong);
        }
        if !valid_domain(&domain) || !valid_path(path) || !tag.is_none_or(valid_tag) {
            return Err(ReferenceError::Format);
        }
        Ok(Self { path: path.to_owned(), tag: tag.map(str::to_owned), domain, digest })
    }

    /// Adds `:latest` when there is neither a tag nor a digest.
    pub(crate) fn tagged(mut self) -> Self {
        if self.tag.is_none() && self.digest.is_none() {
            self.tag = Some("latest".to_owned());
        }
        self
    }

    /// The same reference, pinned.
    pub(crate) fn with_digest(mut self, digest: Digest) -> Self {
        self.digest = Some(digest);
        self
    }

    /// As people write it: without the default registry and `library/`.
    pub(crate) fn familiar(&self) -> String {
        let name = if self.domain == DEFAULT_DOMAIN {
            self.path.strip_prefix("library/").unwrap_or(&self.path).to_owned()
        } else {
            format!("{}/{}", self.domain, self.path)
        };
        name + &self.suffix()
    }

    fn suffix(&self) -> String {
        let tag = self.tag.as_ref().map(|tag| format!(":{tag}")).unwrap_or_default();
        let digest = self.digest.as_ref().map(|digest| format!("@{digest}")).unwrap_or_default();
        tag + &digest
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}{}", self.domain, self.path, self.suffix())
    }
}

/// The first component is a registry when it looks like a host.
fn split_domain(text: &str) -> (String, String) {
    let (mut domain, mut remote) = match text.split_once('/') {
        Some((first, rest))
            if first.contains(['.', ':'])
                || first == "localhost"
                || first.bytes().any(|byte| byte.is_ascii_uppercase()) =>
        {
            (first.to_owned(), rest.to_owned())
        }
        _ => (DEFAULT_DOMAIN.to_owned(), text.to_owned()),
    };
    if domain == LEGACY_DOMAIN {
        DEFAULT_DOMAIN.clone_into(&mut domain);
    }
    if domain == DEFAULT_DOMAIN && !remote.contains('/') {
        remote.insert_str(0, "library/");
    }
    (domain, remote)
}

fn valid_domain(domain: &str) -> bool {
    let (host, port) = match domain.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((ip, rest)) => {
                if ip.parse::<std::net::Ipv6Addr>().is_err() {
                    return false;
                }
                return rest.is_empty() || rest.strip_prefix(':').is_some_and(digits);
            }
            None => return false,
        },
        None => match domain.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (domain, None),
        },
    };
    let label = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    host.split('.').all(label) && port.is_none_or(digits)
}

fn digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Components of lower-case letters and digits, joined inside by `.`, `_`, `__` or dashes.
fn valid_path(path: &str) -> bool {
    path.split('/').all(|component| {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let bytes = component.as_bytes();
        let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else { return false };
        plain(*first)
            && plain(*last)
            && component.split(|char: char| char.is_ascii_lowercase() || char.is_ascii_digit()).all(
                |joint| {
                    matches!(joint, "" | "." | "_" | "__") || joint.bytes().all(|byte| byte == b'-')
                },
            )
    })
}

fn valid_tag(tag: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    tag.len() <= MAX_TAG
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|byte| word(byte) || matches!(byte, b'.' | b'-'))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn short_names_are_completed() {
        let digest = Digest::of(b"x");
        for (text, full, familiar) in [
            ("busybox", "docker.io/library/busybox:latest", "busybox:latest"),
            ("a/b:1", "docker.io/a/b:1", "a/b:1"),
            ("localhost/b", "localhost/b:latest", "localhost/b:latest"),
            ("localhost:5000/a/b:c", "localhost:5000/a/b:c", "localhost:5000/a/b:c"),
            ("index.docker.io/x", "docker.io/library/x:latest", "x:latest"),
            ("ghcr.io/x/y-z__1.0", "ghcr.io/x/y-z__1.0:latest", "ghcr.io/x/y-z__1.0:latest"),
        ] {
            let reference = Reference::parse(text).unwrap().tagged();
            assert_eq!(reference.to_string(), full);
            assert_eq!(reference.familiar(), familiar);
        }
        let pinned = Reference::parse(&format!("a@{digest}")).unwrap().tagged();
        assert_eq!(pinned.to_string(), format!("docker.io/library/a@{digest}"));
    }

    #[test]
    fn hostile_names_are_refused() {
        let long = "a".repeat(300);
        for text in [
            "",
            ":",
            "@",
            "a:",
            "a@sha256:1",
            "-a",
            "a-",
            "a//b",
            "/a",
            "a/",
            "../a",
            "A",
            "a b",
            "a\n",
            "a:-b",
            "a...b",
            "a_.b",
            "x.y:z/a",
            "[::1/a",
            "é",
            &long,
            &Digest::of(b"").hex(),
        ] {
            assert!(Reference::parse(text).is_err(), "{text:?} was accepted");
        }
    }
}
