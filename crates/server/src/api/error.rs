//! Failures of the rooms below, as codes and messages of the API.
//!
//! A message says what was wrong and what to do; it never carries a secret, a path of the machine or another tenant's name.

use cofferdam_access::{Denied, Unavailable};
use cofferdam_records::RecordsError;
use connectrpc::ConnectError;

use crate::metrics::ERRORS;

/// A refusal of the authorization function.
pub(crate) fn denied(denied: Denied) -> ConnectError {
    match &denied {
        Denied::Unauthenticated(_) => ConnectError::unauthenticated(denied.to_string()),
        Denied::NotFound { .. } => ConnectError::not_found(denied.to_string()),
        Denied::Forbidden { .. } => ConnectError::permission_denied(denied.to_string()),
        Denied::Unavailable(error) => {
            ERRORS.count("records", 1);
            tracing::error!(error = error as &dyn std::error::Error, "cannot authorize");
            let why = match error {
                // Whose keys cannot be had is no secret, and who waits for them should know.
                Unavailable::Keys { .. } => format!(": {error}"),
                Unavailable::Records(_) => String::new(),
            };
            let message = format!("the server cannot check this token right now{why}: try again");
            ConnectError::unavailable(message)
        }
    }
}

/// A failure of the records: the caller's fault where it was a page request, else the server's.
pub(crate) fn failed(error: RecordsError) -> ConnectError {
    if error.is_bad_request() {
        return ConnectError::invalid_argument(error.to_string());
    }
    ERRORS.count("records", 1);
    tracing::error!(error = &error as &dyn std::error::Error, "records failed");
    if error.is_full() {
        return ConnectError::resource_exhausted("the server's disk is full: try again later");
    }
    ConnectError::unavailable("the server cannot reach its records right now: try again")
}

#[cfg(test)]
mod tests {
    use std::io::{Error, ErrorKind};

    use connectrpc::ErrorCode;

    use super::*;

    #[test]
    fn a_full_disk_is_told() {
        let failed = |kind: ErrorKind| {
            let (action, path) = ("write", "/var/lib/logs/b1".into());
            failed(RecordsError::File { action, path, source: Error::from(kind) })
        };
        let full = failed(ErrorKind::StorageFull);
        let message = full.message.unwrap_or_default();
        assert_eq!(full.code, ErrorCode::ResourceExhausted);
        assert!(message.contains("disk is full") && !message.contains("/var"), "{message}");
        assert_eq!(failed(ErrorKind::BrokenPipe).code, ErrorCode::Unavailable);
    }
}
