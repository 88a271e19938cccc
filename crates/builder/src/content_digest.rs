//! Digests of file trees, for content-based cache keys.
//!
//! A digest covers what a copy would carry: names below the selected path, types, permission
//! bits, owners, link targets, device numbers, content attributes and data, but no times and no
//! name of the selected path itself (the operation that selects it holds that). Two trees with
//! equal digests are interchangeable to every consumer; nothing that a tenant writes (a digest
//! in a file, a label) may stand in for reading the bytes.

mod kept;
mod known;
mod readers;
mod walk;

use std::io;
use std::sync::Arc;

use cofferdam_digest::{Digest, Digester};
use cofferdam_session::patterns::PatternError;
use cofferdam_store::IdRange;

pub(crate) use self::known::{KnownFiles, KnownMirrors, Stamp, now};
use self::readers::{Readers, Reading};
use self::walk::Walk;
use crate::rooted::{Root, clean};

/// What part of a tree a consumer looks at.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Selector {
    /// Path, absolute within the tree.
    pub(crate) path: String,
    /// Whether the path may have wildcards.
    pub(crate) wildcard: bool,
    /// Whether a link at the end of the path is followed.
    pub(crate) follow: bool,
    /// Include patterns, relative to the path.
    pub(crate) include: Vec<String>,
    /// Exclude patterns, relative to the path.
    pub(crate) exclude: Vec<String>,
    /// Paths, absolute within the tree, that must exist: patterns that stand in for plain paths.
    pub(crate) required: Vec<String>,
}

/// Why a tree could not be digested.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ContentDigestError {
    /// The selected path is not there.
    #[error("{0:?}: not found")]
    NotFound(String),
    /// A pattern that cannot be read.
    #[error("invalid pattern")]
    Pattern(#[from] PatternError),
    /// The system refused.
    #[error("failed to read {path:?}")]
    Read {
        /// Path within the tree.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl Selector {
    /// Selects the whole tree.
    pub(crate) fn whole() -> Self {
        Self::path("/")
    }

    /// Selects one path, following a link at its end.
    pub(crate) fn path(path: &str) -> Self {
        Self { path: clean(path), follow: true, ..Self::default() }
    }

    /// A digest that names this selection.
    pub(crate) fn digest(&self) -> Digest {
        let mut digester = Digester::new();
        digester.field(&self.path);
        digester.field([u8::from(self.wildcard), u8::from(self.follow)]);
        for list in [&self.include, &self.exclude, &self.required] {
            digester.field((list.len() as u64).to_le_bytes());
            for pattern in list {
                digester.field(pattern);
            }
        }
        digester.finish()
    }
}

/// Digests what `selectors` name in `root`. Ids are taken as the step sees them, so that the
/// same tree has the same digest under every id range. Files that `known` has are not read again; the
/// digest is the same with and without it. What is found out is added; whoever has the tree keeps it when done with it.
pub(crate) fn digest(
    root: &Root,
    ids: IdRange,
    selectors: &[Selector],
    known: Option<Arc<KnownFiles>>,
) -> Result<Digest, ContentDigestError> {
    let readers = Readers::new(Reading::new(ids, known));
    std::thread::scope(|scope| {
        let _closing = readers.closing();
        let mut walk = Walk::new(scope, &readers);
        for selector in selectors {
            walk.selector(root, selector)?;
        }
        Ok(walk.finish())
    })
}

#[cfg(test)]
mod tests;
