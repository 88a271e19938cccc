//! Where a module is: every form of `--buildpack` and of `uri` in TOML files.
//!
//! The order in which a naked locator is tried is pack's: local path, id in the builder, image. What
//! is shadowed by that order is told. Nothing is ever looked up in a buildpack registry: a name
//! alone would then be enough to bring in a stranger's code. This module must never open a path.

mod address;

use std::fmt;

use cofferdam_cnb::{Id, IdError, Version};

use crate::image_name::{ImageName, ImageNameError};
use crate::text::short;

pub use address::{GitLocator, HttpLocator};

/// Longest locator: addresses are rarely longer than browsers accept.
const MAX_LOCATOR: usize = 2048;
/// Names of files that hold a module, or several.
const ARCHIVES: [&str; 4] = [".tgz", ".tar.gz", ".tar", ".cnb"];

/// Where a module is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Locator {
    /// In the builder.
    Builder {
        /// Its id.
        id: Id,
        /// Its version; where it is missing, the builder has to have exactly one.
        version: Option<Version>,
    },
    /// All groups of the builder's order, spliced in: `from=builder`.
    FromBuilder,
    /// An image that is a buildpackage.
    Image(ImageName),
    /// A directory; the path as it is written, without `file://`.
    Local(String),
    /// A `.tgz`, `.tar` or `.cnb` file; the path as it is written, without `file://`.
    LocalFile(String),
    /// A file at an address.
    Http(HttpLocator),
    /// A directory of a git repository.
    Git(GitLocator),
}

/// What a local path is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LocalKind {
    /// A directory.
    Directory,
    /// A file.
    File,
}

/// What is there, as far as locators ask.
#[derive(Clone, Copy)]
pub struct Surroundings<'a> {
    /// What a local path is, if it exists. Paths come as they are written, without `file://`.
    pub local: &'a dyn Fn(&str) -> Option<LocalKind>,
    /// Whether the builder has a module of this id, and of this version where one is given.
    pub in_builder: &'a dyn Fn(&Id, Option<&Version>) -> bool,
}

/// A locator and what is to be told about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located {
    /// Where the module is.
    pub locator: Locator,
    /// Something that whoever wrote it may not have meant.
    pub warning: Option<String>,
}

/// A locator that leads nowhere.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LocatorError {
    /// Empty or too long.
    #[error("locator {0:?} is empty or longer than {MAX_LOCATOR} bytes")]
    Length(String),
    /// It has characters that no locator has.
    #[error("locator {0:?} has control characters or spaces around it")]
    Characters(String),
    /// The registry of buildpacks is not asked.
    #[error("locator {0:?}: no buildpack registry is configured; name the image with docker://")]
    Registry(String),
    /// An unknown `urn:cnb:` or scheme.
    #[error("locator {0:?} is of no form that is known")]
    Form(String),
    /// Not an id, or not a version.
    #[error("locator {locator:?}: {source}")]
    Id {
        /// The locator.
        locator: String,
        /// What is wrong.
        source: IdError,
    },
    /// Not an image.
    #[error("locator {locator:?}: {source}")]
    Image {
        /// The locator.
        locator: String,
        /// What is wrong.
        source: ImageNameError,
    },
    /// It says that the builder has it.
    #[error("locator {0:?}: the builder has no such module")]
    NotInBuilder(String),
    /// It says that there is a file.
    #[error("locator {0:?}: there is no such local file or directory")]
    NoPath(String),
    /// An address that cannot be used.
    #[error("locator {locator:?}: {problem}")]
    Address {
        /// The locator, without a password.
        locator: String,
        /// What is wrong.
        problem: &'static str,
    },
    /// A naked locator that is nothing.
    #[error("locator {0:?} is neither a local path, nor a module of the builder, nor an image")]
    Nothing(String),
}

impl Locator {
    /// Parses a locator in its surroundings.
    ///
    /// # Errors
    /// See [`LocatorError`].
    pub fn parse(text: &str, surroundings: Surroundings<'_>) -> Result<Located, LocatorError> {
        if text.is_empty() || text.len() > MAX_LOCATOR {
            return Err(LocatorError::Length(short(text)));
        }
        if text.trim() != text || text.chars().any(char::is_control) {
            return Err(LocatorError::Characters(short(text)));
        }
        if text == "from=builder" {
            return Ok(Self::FromBuilder.into());
        }
        let in_builder = ["urn:cnb:builder:", "from=builder:"];
        if let Some(module) = in_builder.iter().find_map(|prefix| text.strip_prefix(prefix)) {
            let (id, version) = parse_module(module)
                .map_err(|source| LocatorError::Id { locator: short(text), source })?;
            if !(surroundings.in_builder)(&id, version.as_ref()) {
                return Err(LocatorError::NotInBuilder(short(text)));
            }
            return Ok(Self::Builder { id, version }.into());
        }
        if text == "urn:cnb:registry" || text.starts_with("urn:cnb:registry:") {
            return Err(LocatorError::Registry(short(text)));
        }
        if text.starts_with("urn:") {
            return Err(LocatorError::Form(short(text)));
        }
        if let Some(name) = text.strip_prefix("docker:/") {
            let name = name.strip_prefix('/').unwrap_or(name);
            let image = ImageName::parse(name)
                .map_err(|source| LocatorError::Image { locator: short(text), source })?;
            return Ok(Self::Image(image).into());
        }
        if let Some(path) = possible_local_path(text).filter(|_| text.starts_with("file:")) {
            let local = (surroundings.local)(path).map(|kind| Self::local(path, kind));
            return local.map(Located::from).ok_or_else(|| LocatorError::NoPath(short(text)));
        }
        if let Some(located) = address::parse(text)? {
            return Ok(located);
        }
        if text.contains("://") || text.starts_with("file:") {
            return Err(LocatorError::Form(short(text)));
        }
        naked(text, surroundings)
    }

    fn local(path: &str, kind: LocalKind) -> Self {
        match kind {
            LocalKind::Directory => Self::Local(path.to_owned()),
            LocalKind::File => Self::LocalFile(path.to_owned()),
        }
    }
}

impl From<Locator> for Located {
    fn from(locator: Locator) -> Self {
        Self { locator, warning: None }
    }
}

impl fmt::Display for Locator {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Builder { id, version: None } => write!(formatter, "urn:cnb:builder:{id}"),
            Self::Builder { id, version: Some(version) } => {
                write!(formatter, "urn:cnb:builder:{id}@{version}")
            }
            Self::FromBuilder => formatter.write_str("from=builder"),
            Self::Image(name) => write!(formatter, "docker://{name}"),
            Self::Local(path) | Self::LocalFile(path) => formatter.write_str(path),
            Self::Http(http) => http.fmt(formatter),
            Self::Git(git) => git.fmt(formatter),
        }
    }
}

/// The path of a locator that may be local: what a command line looks for before it asks a builder.
///
/// `None` where the locator says that it is something else.
#[must_use]
pub fn possible_local_path(locator: &str) -> Option<&str> {
    if let Some(path) = locator.strip_prefix("file://") {
        let path =
            path.strip_prefix("localhost").filter(|rest| rest.starts_with('/')).unwrap_or(path);
        return (!path.is_empty()).then_some(path);
    }
    let elsewhere = locator.is_empty()
        || locator.contains("://")
        || ["urn:", "from=builder", "docker:/", "git@", "file:"]
            .iter()
            .any(|prefix| locator.starts_with(prefix));
    (!elsewhere).then_some(locator)
}

/// Whether a path names an archive, by its ending.
#[must_use]
pub fn is_archive_name(path: &str) -> bool {
    let path = path.to_ascii_lowercase();
    ARCHIVES.iter().any(|ending| path.ends_with(ending))
}

/// Splits `id[@version]`.
///
/// # Errors
/// One of the two is not of its form.
pub fn parse_module(text: &str) -> Result<(Id, Option<Version>), IdError> {
    let (id, version) = match text.split_once('@') {
        Some((id, version)) => (id, Some(version)),
        None => (text, None),
    };
    Ok((Id::parse(id)?, version.map(Version::parse).transpose()?))
}

fn naked(text: &str, surroundings: Surroundings<'_>) -> Result<Located, LocatorError> {
    let module = parse_module(text)
        .ok()
        .filter(|(id, version)| (surroundings.in_builder)(id, version.as_ref()));
    if let Some(kind) = (surroundings.local)(text) {
        let warning = module.map(|(id, _)| {
            format!(
                "locator {text:?} is a local path and hides the builder's module {id}; write \
                 urn:cnb:builder:{id} to mean the module"
            )
        });
        return Ok(Located { locator: Locator::local(text, kind), warning });
    }
    if let Some((id, version)) = module {
        return Ok(Locator::Builder { id, version }.into());
    }
    if text.starts_with(['.', '/', '~']) || is_archive_name(text) {
        return Err(LocatorError::NoPath(short(text)));
    }
    match ImageName::parse(text) {
        Ok(image) => Ok(Locator::Image(image).into()),
        Err(_) => Err(LocatorError::Nothing(short(text))),
    }
}

#[cfg(test)]
mod tests;
