//! Why a build by buildpacks failed.
//!
//! Messages say what, where and how to mend it; where the specification has an exit code for the
//! phase, it ends the message, for clients that pass it on.

use cofferdam_cnb::{ApiError, DescriptorError, FileError};
use cofferdam_graph::LoadError;
use cofferdam_lifecycle::{
    DetectError, ExportError, ExtendError, LookupError, RebaseError, TargetError,
};

use crate::client::ClientError;
use crate::{BuilderImageError, ImageNameError, InlineError, LocatorError, OrderError};

/// Why a build failed.
#[derive(Debug, thiserror::Error)]
#[error("{kind}{}", suffix(.kind))]
pub struct BuildError {
    kind: BuildErrorKind,
}

/// What failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BuildErrorKind {
    #[error("{name}: {problem}")]
    Attribute { name: String, problem: String },
    #[error("{0}")]
    Client(ClientError),
    #[error("{attempt}: {source}")]
    During { attempt: String, source: ClientError },
    #[error("platform-api: {0}")]
    PlatformApi(ApiError),
    #[error("{image}: not found, or access to it is denied")]
    NoImage { image: String },
    #[error("builder {image}: {source}")]
    Builder { image: String, source: BuilderImageError },
    #[error(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    Descriptor(#[from] DescriptorError),
    #[error("{module}: {source}")]
    Module { module: String, source: Box<BuildErrorKind> },
    #[error(transparent)]
    Locator(#[from] LocatorError),
    #[error(transparent)]
    ImageName(#[from] ImageNameError),
    #[error("project descriptor: {0}")]
    Inline(#[from] InlineError),
    #[error(transparent)]
    Order(#[from] OrderError),
    #[error(transparent)]
    Lookup(#[from] LookupError),
    #[error("{0}")]
    Unusable(String),
    #[error("{0}")]
    Detect(DetectError<ClientError>),
    #[error("{module}: bin/build failed with exit code {code}{}", reached(source))]
    BuildpackFailed { module: String, code: i32, source: ClientError },
    #[error("{module}: bin/generate failed with exit code {code}{}", reached(source))]
    GenerateFailed { module: String, code: i32, source: ClientError },
    #[error("{module}: {source}")]
    ExtensionFailed { module: String, source: ClientError },
    #[error("{module}: {problem}")]
    Generated { module: String, problem: String },
    #[error("{module}: {problem}")]
    Extended { module: String, problem: String },
    #[error(transparent)]
    Build(#[from] cofferdam_lifecycle::BuildError),
    #[error(transparent)]
    Export(#[from] ExportError),
    #[error(transparent)]
    Extend(#[from] ExtendError),
    #[error(transparent)]
    Rebase(#[from] RebaseError),
    #[error(transparent)]
    Target(#[from] TargetError),
    #[error("no run image: {0}")]
    RunImage(String),
    #[error("failed to write a layer: {0}")]
    Layer(#[from] cofferdam_cnb::LayerTarError),
    #[error("failed to load LLB: {0}")]
    Graph(#[from] LoadError),
    #[error("failed to write JSON: {0}")]
    Json(#[from] serde_json::Error),
}

impl BuildError {
    /// The builder's error, if it was one.
    #[must_use]
    pub fn client_error(&self) -> Option<&ClientError> {
        match self.kind.innermost() {
            BuildErrorKind::Client(source)
            | BuildErrorKind::During { source, .. }
            | BuildErrorKind::BuildpackFailed { source, .. }
            | BuildErrorKind::GenerateFailed { source, .. }
            | BuildErrorKind::ExtensionFailed { source, .. }
            | BuildErrorKind::Detect(DetectError::Detector { source, .. }) => Some(source),
            _ => None,
        }
    }

    /// The exit code of the phase, where the specification has one.
    #[must_use]
    pub fn exit_code(&self) -> Option<i32> {
        self.kind.exit_code()
    }
}

impl BuildErrorKind {
    /// What went wrong with a module, where it was with one.
    fn innermost(&self) -> &Self {
        match self {
            Self::Module { source, .. } => source.innermost(),
            other => other,
        }
    }

    fn exit_code(&self) -> Option<i32> {
        Some(match self.innermost() {
            Self::PlatformApi(_)
            | Self::Builder { source: BuilderImageError::PlatformApi { .. }, .. } => 11,
            Self::Descriptor(DescriptorError::Api { .. }) => 12,
            Self::Detect(error) => error.exit_code(),
            Self::BuildpackFailed { .. } => 51,
            Self::GenerateFailed { .. } => 91,
            Self::Generated { .. } => 92,
            Self::ExtensionFailed { .. } | Self::Extended { .. } => 102,
            Self::Build(error) => error.exit_code(),
            Self::Export(error) => error.exit_code(),
            Self::Extend(error) => error.exit_code(),
            Self::Rebase(error) => error.exit_code(),
            Self::Target(error) => error.exit_code(),
            Self::Lookup(_) => 22,
            Self::Unusable(_) => 12,
            Self::RunImage(_) => 32,
            _ => return None,
        })
    }

    pub(crate) fn attribute(name: &str, problem: impl Into<String>) -> Self {
        Self::Attribute { name: name.to_owned(), problem: problem.into() }
    }
}

fn suffix(kind: &BuildErrorKind) -> String {
    kind.exit_code().map_or_else(String::new, |code| format!(" (exit code {code})"))
}

fn reached(source: &ClientError) -> String {
    source.reached.as_ref().map_or_else(String::new, |reached| format!(": {reached}"))
}

impl<E: Into<BuildErrorKind>> From<E> for BuildError {
    fn from(kind: E) -> Self {
        Self { kind: kind.into() }
    }
}

impl From<ClientError> for BuildErrorKind {
    fn from(error: ClientError) -> Self {
        Self::Client(error)
    }
}

impl From<DetectError<ClientError>> for BuildErrorKind {
    fn from(error: DetectError<ClientError>) -> Self {
        Self::Detect(error)
    }
}
