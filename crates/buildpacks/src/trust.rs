//! Whether a builder is trusted.
//!
//! Trust is given to a registry and a repository, and to a tag or a digest where an entry names
//! one. A registry is never ignored. A deny entry wins over everything. This module must never
//! decide from a name alone where an entry has a digest.

mod file;

use std::fmt;

use cofferdam_digest::Digest;

use crate::image_name::{ImageName, ImageNameError};
use crate::known::KNOWN_BUILDERS;

pub use file::TrustFile;

/// One line of a list: `registry/repository[:tag][@sha256:…]`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrustEntry {
    /// What it names.
    pub name: ImageName,
}

impl TrustEntry {
    /// Parses an entry and normalises it.
    ///
    /// # Errors
    /// It does not name an image.
    pub fn parse(text: &str) -> Result<Self, ImageNameError> {
        ImageName::parse(text).map(|name| Self { name })
    }

    /// Whether a builder may be trusted by this entry.
    ///
    /// Where a builder is named with a digest, the digest is what is pulled and its tag is
    /// decoration that nobody checks, so an entry with a tag and no digest does not match it.
    fn trusts(&self, builder: &ImageName, resolved: Digest) -> bool {
        let Self { name } = self;
        if !self.same_repository(builder) {
            return false;
        }
        if let Some(digest) = name.digest {
            let tag = name.tag.as_deref();
            return has_digest(builder, resolved, digest)
                && (tag.is_none() || tag == builder.effective_tag());
        }
        let Some(tag) = name.tag.as_deref() else { return true };
        builder.digest.is_none() && builder.effective_tag() == Some(tag)
    }

    /// Whether a builder is refused trust by this entry: the widest reading of it.
    fn denies(&self, builder: &ImageName, resolved: Digest) -> bool {
        let Self { name } = self;
        self.same_repository(builder)
            && match (name.digest, name.tag.as_deref()) {
                (Some(digest), _) => has_digest(builder, resolved, digest),
                (None, Some(tag)) => builder.effective_tag() == Some(tag),
                (None, None) => true,
            }
    }

    fn same_repository(&self, builder: &ImageName) -> bool {
        self.name.domain == builder.domain && self.name.path == builder.path
    }
}

/// The digest in a reference may be an index and the resolved one a manifest of it: both name what
/// is pulled.
fn has_digest(builder: &ImageName, resolved: Digest, digest: Digest) -> bool {
    resolved == digest || builder.digest == Some(digest)
}

impl fmt::Display for TrustEntry {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.name.fmt(formatter)
    }
}

/// What is trusted in one build.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trust {
    /// Compiled in.
    pub known: Vec<TrustEntry>,
    /// Configured.
    pub trusted: Vec<TrustEntry>,
    /// Configured; wins over everything.
    pub denied: Vec<TrustEntry>,
    /// `--trust-builder`.
    pub trust_builder: bool,
}

/// Whether a builder is trusted, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Whether it is.
    pub trusted: bool,
    /// Whether a deny entry is the reason that it is not.
    pub denied: bool,
    /// Why, as the end of a sentence that starts with the builder: `is a known builder (…)`.
    pub why: String,
    /// The entry that decided, where one did.
    pub entry: Option<TrustEntry>,
}

impl Trust {
    /// The known builders and what is configured.
    #[must_use]
    pub fn new(trusted: Vec<TrustEntry>, denied: Vec<TrustEntry>, trust_builder: bool) -> Self {
        let known = KNOWN_BUILDERS.iter().filter_map(|known| TrustEntry::parse(known).ok());
        Self { known: known.collect(), trusted, denied, trust_builder }
    }

    /// Judges a builder by the name that was given and the digest it resolved to.
    ///
    /// # Errors
    /// `reference` does not name an image.
    pub fn judge(&self, reference: &str, resolved: Digest) -> Result<Verdict, ImageNameError> {
        let builder = ImageName::parse(reference)?;
        let find = |entries: &[TrustEntry]| {
            entries.iter().find(|entry| entry.trusts(&builder, resolved)).cloned()
        };
        let denying = self.denied.iter().find(|entry| entry.denies(&builder, resolved)).cloned();
        let (trusted, why, entry) = if let Some(entry) = &denying {
            (false, format!("is denied by the entry {entry}"), denying.clone())
        } else if self.trust_builder {
            (true, "is trusted by --trust-builder".to_owned(), None)
        } else if let Some(entry) = find(&self.trusted) {
            (true, format!("is trusted by the entry {entry}"), Some(entry))
        } else if let Some(entry) = find(&self.known) {
            (true, format!("is a known builder ({entry})"), Some(entry))
        } else {
            (false, "is neither known nor trusted by an entry".to_owned(), None)
        };
        Ok(Verdict { trusted, denied: denying.is_some(), why, entry })
    }
}

#[cfg(test)]
mod tests;
