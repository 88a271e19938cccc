//! Which thing a path below `/v2/` names.
//!
//! Repository names hold slashes, so paths are read from their end. Every part passes its grammar
//! here, before anybody is asked whether the caller may have it; nothing here touches the disk.

use crate::digest::ContentDigest;
use crate::name::{Reference, Repository};

/// Characters of an upload's id: a UUID.
const UPLOAD_ID: usize = 36;

/// A well-formed path below `/v2/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Route {
    /// `/v2/` itself.
    Base,
    /// `_catalog`.
    Catalog,
    /// `<name>/tags/list`.
    Tags(Repository),
    /// `<name>/manifests/<reference>`.
    Manifest(Repository, Reference),
    /// `<name>/blobs/<digest>`.
    Blob(Repository, ContentDigest),
    /// `<name>/blobs/uploads/`.
    Uploads(Repository),
    /// `<name>/blobs/uploads/<id>`.
    Upload(Repository, String),
    /// `<name>/referrers/<digest>`.
    Referrers(Repository, ContentDigest),
}

/// Why a path is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Misrouted {
    /// No endpoint looks like this.
    Unknown,
    /// The repository's name is outside the grammar.
    Name,
    /// The digest is outside the grammar, or of an algorithm that is not supported.
    Digest,
    /// The tag is outside the grammar.
    Tag,
    /// The upload's id is none this registry gave.
    Upload,
}

impl Route {
    /// Reads what follows `/v2/`, still percent-encoded.
    pub(crate) fn parse(path: &str) -> Result<Self, Misrouted> {
        if path.is_empty() {
            return Ok(Self::Base);
        }
        if path == "_catalog" {
            return Ok(Self::Catalog);
        }
        let segments =
            path.split('/').map(decoded).collect::<Option<Vec<_>>>().ok_or(Misrouted::Name)?;
        let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
        let repository =
            |parts: &[&str]| Repository::parse(&parts.join("/")).ok_or(Misrouted::Name);
        let digest = |text: &str| ContentDigest::parse(text).ok_or(Misrouted::Digest);
        match segments.as_slice() {
            [name @ .., "tags", "list"] => Ok(Self::Tags(repository(name)?)),
            [name @ .., "manifests", reference] => {
                let name = repository(name)?;
                let wrong =
                    if reference.contains(':') { Misrouted::Digest } else { Misrouted::Tag };
                Ok(Self::Manifest(name, Reference::parse(reference).ok_or(wrong)?))
            }
            [name @ .., "blobs", "uploads"] | [name @ .., "blobs", "uploads", ""] => {
                Ok(Self::Uploads(repository(name)?))
            }
            [name @ .., "blobs", "uploads", id] => {
                let name = repository(name)?;
                is_upload_id(id)
                    .then(|| Self::Upload(name, (*id).to_owned()))
                    .ok_or(Misrouted::Upload)
            }
            [name @ .., "blobs", text] => Ok(Self::Blob(repository(name)?, digest(text)?)),
            [name @ .., "referrers", text] => Ok(Self::Referrers(repository(name)?, digest(text)?)),
            _ => Err(Misrouted::Unknown),
        }
    }
}

fn is_upload_id(text: &str) -> bool {
    text.len() == UPLOAD_ID
        && text.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'a'..=b'f' | b'-'))
}

/// Undoes percent-encoding of one segment, once. A slash that appears by it stays inside the
/// segment, where no grammar allows one.
fn decoded(segment: &str) -> Option<String> {
    if !segment.contains('%') {
        return Some(segment.to_owned());
    }
    let mut bytes = Vec::with_capacity(segment.len());
    let mut rest = segment.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        if *first != b'%' {
            bytes.push(*first);
            rest = tail;
            continue;
        }
        let mut byte = [0];
        hex::decode_to_slice(tail.get(..2)?, &mut byte).ok()?;
        if byte[0] == b'/' {
            return None;
        }
        bytes.push(byte[0]);
        rest = &tail[2..];
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn every_endpoint_is_found() {
        let name = |text: &str| Repository::parse(text).unwrap();
        let digest = ContentDigest::parse(&format!("sha256:{HEX}")).unwrap();
        let id = "01234567-89ab-4def-8123-456789abcdef";
        for (path, route) in [
            (String::new(), Route::Base),
            ("_catalog".to_owned(), Route::Catalog),
            ("p/a/tags/list".to_owned(), Route::Tags(name("p/a"))),
            (
                "p/manifests/v1".to_owned(),
                Route::Manifest(name("p"), Reference::Tag("v1".to_owned())),
            ),
            (format!("p/blobs/sha256:{HEX}"), Route::Blob(name("p"), digest.clone())),
            (format!("p/blobs/sha256%3A{HEX}"), Route::Blob(name("p"), digest.clone())),
            ("p/blobs/uploads/".to_owned(), Route::Uploads(name("p"))),
            ("p/blobs/uploads".to_owned(), Route::Uploads(name("p"))),
            (format!("p/blobs/uploads/{id}"), Route::Upload(name("p"), id.to_owned())),
            (format!("p/referrers/sha256:{HEX}"), Route::Referrers(name("p"), digest)),
            ("p/manifests/manifests/v1".to_owned(), {
                Route::Manifest(name("p/manifests"), Reference::Tag("v1".to_owned()))
            }),
        ] {
            assert_eq!(Route::parse(&path), Ok(route), "{path}");
        }
    }

    #[test]
    fn hostile_paths_are_refused() {
        for (path, why) in [
            ("p".to_owned(), Misrouted::Unknown),
            ("p/".to_owned(), Misrouted::Unknown),
            ("../p/tags/list".to_owned(), Misrouted::Name),
            ("p/%2e%2e/tags/list".to_owned(), Misrouted::Name),
            ("p%2f..%2fq/tags/list".to_owned(), Misrouted::Name),
            ("p%00/tags/list".to_owned(), Misrouted::Name),
            ("p%/tags/list".to_owned(), Misrouted::Name),
            ("p%é/tags/list".to_owned(), Misrouted::Name),
            ("tags/list".to_owned(), Misrouted::Name),
            ("P/tags/list".to_owned(), Misrouted::Name),
            ("p/manifests/".to_owned(), Misrouted::Tag),
            ("p/manifests/..".to_owned(), Misrouted::Tag),
            ("p/manifests/sha256:../..".to_owned(), Misrouted::Unknown),
            ("p/manifests/sha256:..".to_owned(), Misrouted::Digest),
            ("p/blobs/sha256:..%2f..".to_owned(), Misrouted::Name),
            ("p/blobs/x".to_owned(), Misrouted::Digest),
            ("p/blobs/uploads/..".to_owned(), Misrouted::Upload),
            ("p/blobs/uploads/x".to_owned(), Misrouted::Upload),
            (format!("p/referrers/sha1:{HEX}"), Misrouted::Digest),
            (format!("{}/tags/list", "a/".repeat(5000)), Misrouted::Name),
        ] {
            assert_eq!(Route::parse(&path), Err(why), "{path}");
        }
    }
}
