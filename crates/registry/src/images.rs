//! Images as the build API lists and deletes them: one text per tag.
//!
//! The API knows one namespace per project, so a tag of the repository `<project>` is listed as
//! `tag`. A tag of a further repository `<project>/app` is listed as `app:tag`, which can never be
//! mistaken for the first form: tags hold no colon. This module must never touch blobs; a
//! collection frees them.

use std::fmt;

use crate::error::Failure;
use crate::name::{Reference, Repository, is_tag};
use crate::registry::Registry;

/// An image of a project as the build API names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageName {
    repository: Repository,
    tag: String,
}

/// Text that names no image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "invalid image name {text:?}: expected a tag, or repository:tag for one below the project's own"
)]
pub struct ParseImageNameError {
    text: String,
}

/// Images could not be deleted.
#[derive(Debug, thiserror::Error)]
pub enum DeleteImageError {
    /// A name is outside the grammar.
    #[error(transparent)]
    Name(#[from] ParseImageNameError),
    /// The project has no image of this name; none was deleted.
    #[error("no image {0:?} in this project")]
    NotFound(String),
    /// The records do not answer.
    #[error("the registry's records cannot be changed now")]
    Unavailable,
}

impl ImageName {
    /// Reads `tag` or `repository:tag`, the repository without the project.
    ///
    /// # Errors
    /// Text outside the grammar.
    pub fn parse(project: &str, text: &str) -> Result<Self, ParseImageNameError> {
        let parsed = match text.rsplit_once(':') {
            None => Self::new(project, text),
            Some((repository, tag)) => Self::new(&format!("{project}/{repository}"), tag),
        };
        parsed.ok_or_else(|| ParseImageNameError { text: crate::error::excerpt(text) })
    }

    /// The image with `tag` in `repository`, a whole name as the records have it.
    #[must_use]
    pub fn new(repository: &str, tag: &str) -> Option<Self> {
        let repository = Repository::parse(repository)?;
        is_tag(tag).then(|| Self { repository, tag: tag.to_owned() })
    }

    /// The whole name of the repository, project first.
    #[must_use]
    pub fn repository(&self) -> &str {
        self.repository.as_str()
    }

    /// The tag.
    #[must_use]
    pub fn tag(&self) -> &str {
        &self.tag
    }
}

/// The text the build API lists: see [`ImageName::parse`].
impl fmt::Display for ImageName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let below = self.repository.as_str()[self.repository.project().len()..].strip_prefix('/');
        match below {
            Some(below) => write!(formatter, "{below}:{}", self.tag),
            None => formatter.write_str(&self.tag),
        }
    }
}

impl Registry {
    /// Deletes images of a project by the texts [`ImageName`] describes: all of them, or none if
    /// one does not exist. Manifests that nothing names any more go too; their blobs go with the
    /// next [`Registry::collect`].
    ///
    /// # Errors
    /// See [`DeleteImageError`].
    pub async fn delete_images(
        &self,
        project: &str,
        names: &[String],
    ) -> Result<(), DeleteImageError> {
        let names: Vec<ImageName> =
            names.iter().map(|name| ImageName::parse(project, name)).collect::<Result<_, _>>()?;
        let _turn = self.0.exclude(project).await;
        let mut digests = Vec::new();
        for name in &names {
            let row =
                self.0.find_manifest(&name.repository, &Reference::Tag(name.tag.clone())).await?;
            let row = row.ok_or_else(|| DeleteImageError::NotFound(name.to_string()))?;
            digests.push((name.repository.clone(), row.digest));
        }
        for name in &names {
            self.0.delete_manifest(&name.repository, &Reference::Tag(name.tag.clone())).await?;
        }
        for (repository, digest) in digests {
            self.0.delete_unnamed(&repository, digest, true).await?;
        }
        Ok(())
    }
}

impl From<Failure> for DeleteImageError {
    fn from(_: Failure) -> Self {
        Self::Unavailable
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn both_forms_are_read_and_written() {
        for (text, repository, tag) in [
            ("v1", "p", "v1"),
            ("app:v1", "p/app", "v1"),
            ("a/b:sha256-1.sig", "p/a/b", "sha256-1.sig"),
        ] {
            let name = ImageName::parse("p", text).unwrap();
            assert_eq!((name.repository(), name.tag()), (repository, tag));
            assert_eq!(name.to_string(), text);
            assert_eq!(ImageName::new(repository, tag).unwrap(), name);
        }
        for text in [
            "",
            ":",
            "a:",
            ":v1",
            "../q:v1",
            "/q:v1",
            "A:v1",
            "a:b:c",
            "a/v1",
            "v1@sha256:0",
            "p/../q:v",
        ] {
            assert!(ImageName::parse("p", text).is_err(), "{text:?} was accepted");
        }
    }
}
