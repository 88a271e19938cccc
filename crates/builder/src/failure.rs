//! What goes wrong in a builder, on its way to a client.
//!
//! Rooms below have their own error enums; here they become one message (each cause printed
//! once), one RPC code and the typed details that BuildKit's clients decode. This is the only
//! place that chooses codes: absence is NotFound, a client's mistake InvalidArgument, a full disk
//! or memory or a registry that wants fewer requests ResourceExhausted, content that is not what its
//! digest says DataLoss, other system errors Internal, a failing step Unknown as BuildKit has it. Messages must never carry a secret, and never a path of the host.

use std::error::Error;
use std::fmt::Write as _;

use base64::Engine as _;
use bytes::Bytes;
use cofferdam_image::registry::RegistryError;
use cofferdam_solver::{SolveError, StepError};
use cofferdam_store::ContentError;
use connectrpc::{ConnectError, ErrorCode, ErrorDetail};
use rustix::io::Errno;

use crate::remains::Left;

/// Bytes of details that one error tells: they travel in a trailer, and clients take no more than 16 MiB of those.
const MAX_DETAILS: usize = 4 << 20;

/// A failure with code, message and details.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    code: ErrorCode,
    message: String,
    details: Vec<(String, Bytes)>,
    left: Option<Left>,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.message)
    }
}

impl Error for Failure {}

/// An error and its causes as one line.
pub(crate) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        // A transparent wrapper repeats its cause; the reader should not.
        if !text.ends_with(&next) {
            let _ = write!(text, ": {next}");
        }
        cause = error.source();
    }
    text
}

fn code_of(error: &(dyn Error + 'static)) -> ErrorCode {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(code) = code_of_one(error) {
            return code;
        }
        cause = error.source();
    }
    ErrorCode::Unknown
}

/// What an error says without its causes.
fn code_of_one(error: &(dyn Error + 'static)) -> Option<ErrorCode> {
    match error.downcast_ref::<RegistryError>() {
        // Trouble that passes by itself, be it a pull, a push or a cache that is exported.
        Some(RegistryError::RateLimited { .. }) => return Some(ErrorCode::ResourceExhausted),
        Some(RegistryError::Mismatch { .. }) => return Some(ErrorCode::DataLoss),
        _ => {}
    }
    match error.downcast_ref::<ContentError>() {
        Some(ContentError::Digest { .. }) => return Some(ErrorCode::DataLoss),
        // Too few bytes are a transfer that broke off; what there is of them may be right.
        Some(ContentError::Size { size, found, .. }) if found > size => {
            return Some(ErrorCode::DataLoss);
        }
        _ => {}
    }
    let errno = error
        .downcast_ref::<Errno>()
        .copied()
        .or_else(|| error.downcast_ref::<std::io::Error>().and_then(Errno::from_io_error));
    match errno? {
        Errno::NOSPC | Errno::DQUOT | Errno::NOMEM | Errno::MFILE => {
            Some(ErrorCode::ResourceExhausted)
        }
        Errno::IO => Some(ErrorCode::Internal),
        _ => None,
    }
}

impl Failure {
    /// A failure with a message.
    pub(crate) fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), details: Vec::new(), left: None }
    }

    /// An error of a room below, with its causes.
    pub(crate) fn of(error: impl Error + 'static) -> Self {
        Self::new(code_of(&error), chain(&error))
    }

    /// The store, or a file in it, refused.
    pub(crate) fn store(error: impl Error + 'static) -> Self {
        Self::of(error)
    }

    /// Something that cannot happen did.
    pub(crate) fn internal(error: impl Error + 'static) -> Self {
        Self::new(ErrorCode::Internal, chain(&error))
    }

    /// The client asked for something that makes no sense.
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::InvalidArgument, message)
    }

    /// A failure as BuildKit reports most of them: with a bare message.
    pub(crate) fn unknown(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::Unknown, message)
    }

    /// Something is not there.
    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::NotFound, message)
    }

    /// The client went away or asked to stop.
    pub(crate) fn canceled() -> Self {
        Self::new(ErrorCode::Canceled, "context canceled")
    }

    /// The same failure, said to have happened while doing something.
    #[must_use]
    pub(crate) fn during(mut self, attempt: &str) -> Self {
        self.message = format!("{attempt}: {}", self.message);
        self
    }

    /// The same failure, with the reason behind it.
    #[must_use]
    pub(crate) fn because(mut self, reason: &str) -> Self {
        self.message = format!("{}: {reason}", self.message);
        self
    }

    /// The same failure, its message without every `text`.
    #[must_use]
    pub(crate) fn without(mut self, text: &str) -> Self {
        if self.message.contains(text) {
            self.message = self.message.replace(text, "");
        }
        self
    }

    /// The same failure with one more detail, outermost first.
    #[must_use]
    pub(crate) fn with_detail(mut self, type_url: &str, value: impl Into<Bytes>) -> Self {
        self.details.insert(0, (type_url.to_owned(), value.into()));
        self
    }

    /// The same failure with what its step left.
    #[must_use]
    pub(crate) fn with_left(mut self, left: Left) -> Self {
        self.left = Some(left);
        self
    }

    /// What the step left that failed.
    pub(crate) const fn left(&self) -> Option<&Left> {
        self.left.as_ref()
    }

    /// The same failure under another code.
    #[must_use]
    pub(crate) const fn with_code(mut self, code: ErrorCode) -> Self {
        self.code = code;
        self
    }

    /// The RPC code.
    pub(crate) const fn code(&self) -> ErrorCode {
        self.code
    }

    /// The message without code.
    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    /// The typed details, outermost first.
    pub(crate) fn details(&self) -> &[(String, Bytes)] {
        &self.details
    }
}

impl From<&StepError> for Failure {
    fn from(error: &StepError) -> Self {
        let code = u32::try_from(error.code.number()).ok().and_then(ErrorCode::from_grpc_code);
        Self {
            code: code.unwrap_or(ErrorCode::Unknown),
            message: chain(error),
            details: error.details.clone(),
            left: Left::of(error),
        }
    }
}

impl From<&SolveError> for Failure {
    fn from(error: &SolveError) -> Self {
        match error.step() {
            Some(step) => Self::from(&**step),
            None => {
                let code = u32::try_from(error.code().number()).ok();
                let code = code.and_then(ErrorCode::from_grpc_code).unwrap_or(ErrorCode::Unknown);
                Self::new(code, error.to_string())
            }
        }
    }
}

impl From<Failure> for StepError {
    fn from(failure: Failure) -> Self {
        let mut error = Self::new(step_code(failure.code), failure.message);
        error.details = failure.details;
        match failure.left {
            Some(left) => error.with_source(left),
            None => error,
        }
    }
}

fn step_code(code: ErrorCode) -> cofferdam_solver::ErrorCode {
    use cofferdam_solver::ErrorCode as Step;
    match code {
        ErrorCode::Canceled => Step::Canceled,
        ErrorCode::InvalidArgument => Step::InvalidArgument,
        ErrorCode::DeadlineExceeded => Step::DeadlineExceeded,
        ErrorCode::NotFound => Step::NotFound,
        ErrorCode::AlreadyExists => Step::AlreadyExists,
        ErrorCode::PermissionDenied => Step::PermissionDenied,
        ErrorCode::ResourceExhausted => Step::ResourceExhausted,
        ErrorCode::FailedPrecondition => Step::FailedPrecondition,
        ErrorCode::Aborted => Step::Aborted,
        ErrorCode::OutOfRange => Step::OutOfRange,
        ErrorCode::Unimplemented => Step::Unimplemented,
        ErrorCode::Internal => Step::Internal,
        ErrorCode::Unavailable => Step::Unavailable,
        ErrorCode::DataLoss => Step::DataLoss,
        ErrorCode::Unauthenticated => Step::Unauthenticated,
        _ => Step::Unknown,
    }
}

impl From<ConnectError> for Failure {
    fn from(error: ConnectError) -> Self {
        let details = error
            .details
            .iter()
            .map(|detail| {
                let value = detail.value.as_deref().map(decode_detail).unwrap_or_default();
                (detail.type_url.clone(), Bytes::from(value))
            })
            .collect();
        Self {
            code: error.code,
            message: error.message.clone().unwrap_or_default(),
            details,
            left: None,
        }
    }
}

impl From<Failure> for ConnectError {
    fn from(failure: Failure) -> Self {
        let mut error = Self::new(failure.code, failure.message);
        let mut room = MAX_DETAILS;
        for (type_url, value) in failure.details {
            // What does not fit is left out; the next one may.
            let Some(rest) = room.checked_sub(value.len()) else { continue };
            room = rest;
            error = error.with_detail(ErrorDetail {
                type_url,
                value: Some(base64::engine::general_purpose::STANDARD_NO_PAD.encode(value)),
                debug: None,
            });
        }
        error
    }
}

fn decode_detail(text: &str) -> Vec<u8> {
    let text = text.trim_end_matches('=');
    base64::engine::general_purpose::STANDARD_NO_PAD.decode(text).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use cofferdam_digest::Digest;

    use super::*;

    fn limited() -> RegistryError {
        RegistryError::RateLimited {
            host: "registry.example.com".to_owned(),
            after: Some(Duration::from_secs(3600)),
            detail: String::new(),
        }
    }

    #[test]
    fn clients_are_told_that_a_registry_wants_fewer_requests() {
        // As pushes and exports of caches have it, and as it goes from a step to a client.
        let pushed = Failure::of(limited()).during("pushing layers");
        let step = StepError::from(Failure::of(limited()));
        for failure in [pushed, Failure::from(&step)] {
            let error = ConnectError::from(failure);
            assert_eq!(error.code, ErrorCode::ResourceExhausted);
            let message = error.message.clone().unwrap_or_default();
            assert!(message.contains("rate-limited by registry.example.com"), "{message}");
        }
        let other = RegistryError::Protocol { url: String::new(), reason: "it is broken" };
        assert_eq!(Failure::of(other).code(), ErrorCode::Unknown);
    }

    #[test]
    fn content_that_is_not_what_its_digest_says_has_a_code() {
        let digest = Digest::of("expected");
        let found = Digest::of("found");
        let wrong = ContentError::Digest { expected: digest, found };
        assert_eq!(Failure::store(wrong).code(), ErrorCode::DataLoss);
        let short = ContentError::Size { expected: digest, size: 2, found: 1 };
        assert_eq!(Failure::store(short).code(), ErrorCode::Unknown);
        let long = ContentError::Size { expected: digest, size: 1, found: 2 };
        assert_eq!(Failure::store(long).code(), ErrorCode::DataLoss);
        let (url, reason) = (String::new(), "it is too short");
        let mismatch = RegistryError::Mismatch { url, expected: digest, reason };
        assert_eq!(Failure::of(mismatch).code(), ErrorCode::DataLoss);
    }
}
