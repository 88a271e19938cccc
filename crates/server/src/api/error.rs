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
    ConnectError::unavailable("the server cannot reach its records right now: try again")
}
