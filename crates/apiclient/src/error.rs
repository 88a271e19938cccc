//! What a call to a server can end with.

use std::fmt;

use connectrpc::{ConnectError, ErrorCode};

/// A call that did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The server answered no.
    #[error("{message} ({})", code.as_str())]
    Refused {
        /// The kind of answer.
        code: ErrorCode,
        /// What the server says; anything at all may be in it.
        message: String,
    },
    /// Nobody answered, or not in a way that could be understood.
    #[error("cannot reach {server}")]
    Unreachable {
        /// The server.
        server: String,
        /// Why not.
        #[source]
        source: Cause,
    },
    /// An answer that lacks what it must have.
    #[error("the server's answer has no {what}")]
    Incomplete {
        /// What is missing.
        what: &'static str,
    },
    /// A token that cannot be sent.
    #[error("the token has characters that no token has")]
    Token,
    /// The authorities of this machine cannot be read.
    #[error("no certificate authority is known to this machine: set SSL_CERT_FILE")]
    Authorities,
}

impl ApiError {
    /// The server's code, when it answered.
    #[must_use]
    pub const fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Refused { code, .. } => Some(*code),
            Self::Unreachable { .. }
            | Self::Incomplete { .. }
            | Self::Token
            | Self::Authorities => None,
        }
    }

    /// Whether the same call may succeed a moment later.
    #[must_use]
    pub const fn is_passing(&self) -> bool {
        matches!(
            self,
            Self::Unreachable { .. } | Self::Refused { code: ErrorCode::Unavailable, .. }
        )
    }

    pub(crate) fn from_call(server: &str, error: ConnectError) -> Self {
        match error.source_arc() {
            // Only this side's own failures have a cause: answers carry none.
            Some(source) => {
                Self::Unreachable { server: server.to_owned(), source: Cause::new(&*source) }
            }
            None => Self::Refused {
                code: error.code,
                message: error.message.unwrap_or_else(|| "no reason given".to_owned()),
            },
        }
    }
}

/// Why a server could not be reached: the innermost reason, because those around it only repeat that it was so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause(String);

impl Cause {
    fn new(error: &(dyn std::error::Error + 'static)) -> Self {
        let mut innermost = error;
        while let Some(next) = innermost.source() {
            innermost = next;
        }
        Self(innermost.to_string())
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for Cause {}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn answers_keep_code_and_message() {
        let error = ApiError::from_call("http://h", ConnectError::not_found("no such build: x"));
        assert_eq!(error.to_string(), "no such build: x (not_found)");
        assert_eq!(error.code(), Some(ErrorCode::NotFound));
        assert!(!error.is_passing());
        assert!(ApiError::from_call("h", ConnectError::unavailable("later")).is_passing());
    }

    #[test]
    fn silence_names_server_and_reason() {
        let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
        let error = ConnectError::unavailable_from_transport("h2 send failed", refused);
        let error = ApiError::from_call("http://h:1", error);
        assert_eq!(error.to_string(), "cannot reach http://h:1");
        let source = std::error::Error::source(&error).map(ToString::to_string);
        assert_eq!(source.as_deref(), Some("connection refused"));
        assert!(error.is_passing() && error.code().is_none());
    }
}
