//! Why a registry did not do what was asked.

use std::time::Duration;

use cofferdam_digest::Digest;

use super::credentials::CredentialsError;
use crate::{ConfigError, DocumentError};

/// A failed registry operation.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The registry does not have it (or hides it).
    #[error("{what}: not found")]
    NotFound {
        /// Reference or digest.
        what: String,
    },
    /// Credentials are missing or insufficient.
    #[error("{what}: access denied ({detail})")]
    Denied {
        /// Reference or digest.
        what: String,
        /// What the registry said.
        detail: String,
    },
    /// The registry answered with an error.
    #[error("unexpected answer from registry: {method} {url}: {status} {detail}")]
    Status {
        /// HTTP method.
        method: String,
        /// URL without query.
        url: String,
        /// HTTP status.
        status: u16,
        /// What the registry said, bounded.
        detail: String,
    },
    /// The registry could not be reached or the connection broke.
    #[error("failed to {method} {url}")]
    Transport {
        /// HTTP method.
        method: String,
        /// URL without query.
        url: String,
        /// Why.
        #[source]
        source: reqwest::Error,
    },
    /// The registry was reached and then did next to nothing for too long.
    #[error("failed to {method} {url}: {reason} in {limit:?}")]
    Stalled {
        /// HTTP method.
        method: String,
        /// URL without query.
        url: String,
        /// What did not happen.
        reason: &'static str,
        /// How long that was waited for.
        limit: Duration,
    },
    /// The registry wants fewer requests, and for longer than we wait.
    #[error("rate-limited by {host} (429 Too Many Requests){}", terms(.after, .detail))]
    RateLimited {
        /// The host.
        host: String,
        /// When it asks to come again, where it says so.
        after: Option<Duration>,
        /// What the registry said, bounded.
        detail: String,
    },
    /// The registry broke the protocol.
    #[error("{url}: {reason}")]
    Protocol {
        /// URL without query.
        url: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// The content is not what its digest or size says.
    #[error("content of {url} is not {expected}: {reason}")]
    Mismatch {
        /// URL without query.
        url: String,
        /// The digest that was asked for.
        expected: Digest,
        /// What differs.
        reason: &'static str,
    },
    /// A manifest or index was refused.
    #[error("{what} is not an acceptable manifest")]
    Document {
        /// Reference or digest.
        what: String,
        /// Why.
        #[source]
        source: DocumentError,
    },
    /// An image config was refused.
    #[error("the image config is not acceptable")]
    Config(#[source] ConfigError),
    /// No manifest for the wanted platform.
    #[error("no match for platform in manifest {what}: {wanted} is not among {offered}")]
    NoPlatform {
        /// Reference.
        what: String,
        /// The platform.
        wanted: String,
        /// The platforms there are.
        offered: String,
    },
    /// The credentials could not be had.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// The settings of a host do not work.
    #[error("failed to set up the connection to {host}: {reason}")]
    Setup {
        /// The host.
        host: String,
        /// What was attempted or is wrong.
        reason: &'static str,
        /// Why.
        #[source]
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
    /// The content to push could not be read.
    #[error("failed to read the content of {digest}")]
    Body {
        /// The blob.
        digest: Digest,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

impl RegistryError {
    /// Whether no connection could be made at all.
    #[must_use]
    pub fn is_connect(&self) -> bool {
        matches!(self, Self::Transport { source, .. } if source.is_connect())
    }

    /// Whether the registry does not have what was asked for.
    #[must_use]
    pub const fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }
}

/// What is known of a limit, as the end of a sentence.
fn terms(after: &Option<Duration>, detail: &str) -> String {
    let mut text = String::new();
    if let Some(after) = after {
        text = format!(", asks to come again in {} s", after.as_secs_f64().ceil());
    }
    if !detail.is_empty() {
        text.push_str(": ");
        text.push_str(detail);
    }
    text
}
