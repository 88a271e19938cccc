//! Why a build request could not be turned into graphs.

use std::error::Error as _;
use std::fmt;

use cofferdam_wire::pb;

use super::attrs::AttrError;
use super::context::ContextError;
use crate::client::ClientError;
use crate::convert::lower::ranges;
use crate::convert::{ConvertError, Located};
use crate::lines::Lines;
use crate::lint::LintOptionError;

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum BuildErrorKind {
    /// The attributes are wrong.
    #[error(transparent)]
    Attrs(#[from] AttrError),
    /// The request needs a capability this frontend lacks; gRPC code `Unimplemented`.
    #[error("unsupported frontend capability {0}")]
    UnsupportedCapability(String),
    /// The request is of a kind this frontend lacks; gRPC code `Unimplemented`.
    #[error("unsupported request {0}")]
    UnsupportedRequest(String),
    /// The context or the Dockerfile cannot be read.
    #[error(transparent)]
    Context(#[from] ContextError),
    /// The `check` directive is wrong.
    #[error(transparent)]
    Check(LintOptionError),
    /// The Dockerfile cannot become a graph.
    #[error(transparent)]
    Convert(#[from] ConvertError),
    /// Another frontend failed.
    #[error(transparent)]
    Forward(#[from] ClientError),
    /// A result cannot be written.
    #[error("failed to write result")]
    Write(#[source] serde_json::Error),
}

/// A failed build. Displayed with all its causes in one line.
#[derive(Debug)]
pub struct BuildError {
    kind: Box<BuildErrorKind>,
    source_info: Option<Box<pb::SourceInfo>>,
    places: Vec<Lines>,
}

impl BuildError {
    /// What went wrong.
    #[must_use]
    pub fn kind(&self) -> &BuildErrorKind {
        &self.kind
    }

    /// The places in the Dockerfile to show with the error: the file and lines of it.
    #[must_use]
    pub fn sources(&self) -> Vec<(pb::SourceInfo, Vec<pb::Range>)> {
        let Some(info) = &self.source_info else { return Vec::new() };
        self.places.iter().map(|lines| ((**info).clone(), ranges(*lines))).collect()
    }

    /// The builder's answer at the bottom, if that is what failed.
    #[must_use]
    pub fn client_error(&self) -> Option<&ClientError> {
        let mut error: Option<&(dyn std::error::Error + 'static)> = Some(&*self.kind);
        while let Some(current) = error {
            if let Some(client) = current.downcast_ref() {
                return Some(client);
            }
            error = current.source();
        }
        transparent_client(&self.kind)
    }

    pub(crate) fn located(error: Located, info: &pb::SourceInfo) -> Self {
        Self {
            kind: Box::new((*error.error).into()),
            source_info: Some(Box::new(info.clone())),
            places: error.places,
        }
    }

    pub(crate) fn places(&self) -> &[Lines] {
        &self.places
    }

    pub(crate) fn at(mut self, info: &pb::SourceInfo, lines: Lines) -> Self {
        self.source_info = Some(Box::new(info.clone()));
        self.places.push(lines);
        self
    }
}

/// Transparent wrappers hide the error they wrap from `source`.
fn transparent_client(kind: &BuildErrorKind) -> Option<&ClientError> {
    use crate::convert::{EpochError, StageError};
    use crate::frontend::named::NamedContextError;
    fn named(error: &NamedContextError) -> Option<&ClientError> {
        match error {
            NamedContextError::Client(client) => Some(client),
            NamedContextError::Context(context) => context_client(context),
            _ => None,
        }
    }
    fn context_client(error: &ContextError) -> Option<&ClientError> {
        match error {
            ContextError::Dockerfile(client)
            | ContextError::Ignore(client)
            | ContextError::Download(client) => Some(client),
            _ => None,
        }
    }
    match kind {
        BuildErrorKind::Forward(client) => Some(client),
        BuildErrorKind::Context(context) => context_client(context),
        BuildErrorKind::Convert(convert) => match convert {
            ConvertError::Stage(StageError::Image { source, .. }) => Some(source),
            ConvertError::Named(error) | ConvertError::Epoch(EpochError::Named(error)) => {
                named(error)
            }
            ConvertError::Epoch(EpochError::Client(client)) => Some(client),
            ConvertError::Context(context) => context_client(context),
            _ => None,
        },
        _ => None,
    }
}

impl<E: Into<BuildErrorKind>> From<E> for BuildError {
    fn from(error: E) -> Self {
        Self { kind: Box::new(error.into()), source_info: None, places: Vec::new() }
    }
}

impl fmt::Display for BuildError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.kind.to_string();
        formatter.write_str(&text)?;
        // A client error says all there is to say, and some errors say it in their own text.
        let client = self.client_error().map(ToString::to_string);
        if client.is_some_and(|client| text.contains(&client)) {
            return Ok(());
        }
        let mut cause = self.kind.source();
        while let Some(error) = cause {
            write!(formatter, ": {error}")?;
            if error.is::<ClientError>() {
                break;
            }
            cause = error.source();
        }
        Ok(())
    }
}

impl std::error::Error for BuildError {}
