//! Names of images, as trust is given to them.
//!
//! Follows Docker's normalisation: no registry means `docker.io`, a single name there means
//! `library/<name>`. A tag that is missing stays missing, because for trust "any tag" and `latest`
//! are not the same. Text that another reader could take for another registry must never pass.

use std::fmt;

use cofferdam_digest::Digest;

use crate::text::short;

/// Longest repository name that registries accept, registry included.
const MAX_NAME: usize = 255;
/// Longest tag that registries accept.
const MAX_TAG: usize = 128;
const HUB: &str = "docker.io";
/// Other names of Docker Hub.
const HUB_ALIASES: [&str; 2] = ["index.docker.io", "registry-1.docker.io"];

/// A name of an image, with its registry.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImageName {
    /// Registry, with a port where one is given.
    pub domain: String,
    /// Repository without the registry.
    pub path: String,
    /// Tag, where one is given.
    pub tag: Option<String>,
    /// Digest, where one is given.
    pub digest: Option<Digest>,
}

/// Text that does not name an image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not an image name: {reason}")]
pub struct ImageNameError {
    text: String,
    reason: &'static str,
}

impl ImageName {
    /// Parses and normalises `[registry/]repository[:tag][@sha256:…]`.
    ///
    /// # Errors
    /// The text is something else.
    pub fn parse(text: &str) -> Result<Self, ImageNameError> {
        Self::split(text).map_err(|reason| ImageNameError { text: short(text), reason })
    }

    fn split(text: &str) -> Result<Self, &'static str> {
        if text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err("64 hexadecimal digits are an image id");
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => {
                let digest = Digest::parse(digest).map_err(|_| "the digest is not a SHA-256")?;
                (rest, Some(digest))
            }
            None => (text, None),
        };
        let (name, tag) = match rest.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (rest, None),
        };
        let (domain, path) = split_domain(name);
        if domain.len() + 1 + path.len() > MAX_NAME {
            return Err("it is longer than 255 characters");
        }
        if !valid_domain(&domain) {
            return Err("the registry is not a host");
        }
        if !valid_path(&path) {
            return Err("the repository is not lower-case words joined by '.', '_', '-' or '/'");
        }
        if !tag.is_none_or(valid_tag) {
            return Err("the tag has other characters than letters, digits, '_', '.' and '-'");
        }
        Ok(Self { domain, path, tag: tag.map(str::to_owned), digest })
    }

    /// Registry and repository.
    #[must_use]
    pub fn repository(&self) -> String {
        format!("{}/{}", self.domain, self.path)
    }

    /// The tag that is pulled: the one given, or `latest` where there is no digest either.
    #[must_use]
    pub fn effective_tag(&self) -> Option<&str> {
        match (&self.tag, &self.digest) {
            (Some(tag), _) => Some(tag),
            (None, Some(_)) => None,
            (None, None) => Some("latest"),
        }
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.domain, self.path)?;
        if let Some(tag) = &self.tag {
            write!(formatter, ":{tag}")?;
        }
        self.digest.iter().try_for_each(|digest| write!(formatter, "@{digest}"))
    }
}

/// The first component is a registry when it looks like a host.
fn split_domain(name: &str) -> (String, String) {
    let (mut domain, mut path) = match name.split_once('/') {
        Some((first, rest))
            if first.contains(['.', ':', '['])
                || first == "localhost"
                || first.bytes().any(|byte| byte.is_ascii_uppercase()) =>
        {
            (first.to_ascii_lowercase(), rest.to_owned())
        }
        _ => (HUB.to_owned(), name.to_owned()),
    };
    if HUB_ALIASES.contains(&domain.as_str()) {
        HUB.clone_into(&mut domain);
    }
    if domain == HUB && !path.contains('/') {
        path.insert_str(0, "library/");
    }
    (domain, path)
}

fn valid_domain(domain: &str) -> bool {
    if let Some(rest) = domain.strip_prefix('[') {
        let Some((address, port)) = rest.split_once(']') else { return false };
        return address.parse::<std::net::Ipv6Addr>().is_ok()
            && (port.is_empty() || port.strip_prefix(':').is_some_and(valid_port));
    }
    let (host, port) = match domain.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (domain, None),
    };
    let label = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    host.split('.').all(label) && port.is_none_or(valid_port)
}

fn valid_port(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit())
        && text.parse::<u16>().is_ok_and(|port| port > 0)
        && !text.starts_with('0')
}

/// Components of lower-case letters and digits, joined inside by `.`, `_`, `__` or dashes.
fn valid_path(path: &str) -> bool {
    let plain = |char: char| char.is_ascii_lowercase() || char.is_ascii_digit();
    let joint = |joint: &str| {
        matches!(joint, "" | "." | "_" | "__") || joint.bytes().all(|byte| byte == b'-')
    };
    path.split('/').all(|component| {
        component.starts_with(plain)
            && component.ends_with(plain)
            && component.split(plain).all(joint)
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
        for (text, full) in [
            ("busybox", "docker.io/library/busybox"),
            ("heroku/builder:24", "docker.io/heroku/builder:24"),
            ("docker.io/heroku/builder:24", "docker.io/heroku/builder:24"),
            ("index.docker.io/heroku/builder", "docker.io/heroku/builder"),
            ("registry-1.docker.io/x", "docker.io/library/x"),
            ("Docker.IO/a/b", "docker.io/a/b"),
            ("localhost/b", "localhost/b"),
            ("host:5000/a/b:c", "host:5000/a/b:c"),
            ("[::1]:5000/a", "[::1]:5000/a"),
            ("ghcr.io/x/y-z__1.0", "ghcr.io/x/y-z__1.0"),
        ] {
            assert_eq!(ImageName::parse(text).unwrap().to_string(), full);
        }
        let digest = Digest::of(b"x");
        let name = ImageName::parse(&format!("a:1@{digest}")).unwrap();
        assert_eq!((name.tag.as_deref(), name.digest), (Some("1"), Some(digest)));
        assert_eq!(ImageName::parse("a").unwrap().effective_tag(), Some("latest"));
        assert_eq!(ImageName::parse(&format!("a@{digest}")).unwrap().effective_tag(), None);
    }

    #[test]
    fn hostile_names_are_refused() {
        let long = "a".repeat(300);
        let tag = format!("a:{}", "b".repeat(129));
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
            "./a",
            "A",
            "a b",
            "a\n",
            "a\u{1b}[31m",
            "a:-b",
            "a...b",
            "a_.b",
            "x.y:z/a",
            "x.y:0/a",
            "x.y:99999/a",
            "x.y:080/a",
            "[::1/a",
            "[x]/a",
            "é",
            "docker.io",
            "a..b/c",
            "u:p@h.io/a",
            "good.io\\evil/a",
            "https://a.io/b",
            "a@b",
            "good.io%2fx/a",
            "ｇood.io/a",
            &long,
            &tag,
            &Digest::of(b"").hex(),
        ] {
            if text == "docker.io" {
                // Alone it is a repository of Docker Hub, never a registry.
                assert_eq!(
                    ImageName::parse(text).unwrap().repository(),
                    "docker.io/library/docker.io"
                );
                continue;
            }
            let error = ImageName::parse(text).expect_err(text).to_string();
            assert!(!error.contains('\u{1b}'), "{error:?}");
        }
    }
}
