//! Refusals, with messages for whoever was refused.
//!
//! A message never tells a foreign resource from a missing one, and never repeats a secret.

use cofferdam_records::RecordsError;

use crate::oidc::{OidcProvider, Refused};
use crate::principal::PrincipalKind;

/// Longest part of an id that is repeated to whoever sent it.
const MAX_SHOWN: usize = 64;

/// Why a request may not go on.
#[derive(Debug, thiserror::Error)]
pub enum Denied {
    /// Nobody is known to be asking.
    #[error("{0}")]
    Unauthenticated(#[from] Unauthenticated),
    /// What was named does not exist, or is not for this principal to know of. Which of both is nowhere said.
    #[error("{what} {id:?} does not exist, or this token has no access to it")]
    NotFound {
        /// What kind of thing.
        what: &'static str,
        /// What was asked for, shortened.
        id: String,
    },
    /// The principal may see it but not do this with it.
    #[error("{principal} may not {action}: use {needed}")]
    Forbidden {
        /// Who asked.
        principal: PrincipalKind,
        /// What for, as in "may not …".
        action: &'static str,
        /// Kinds of tokens that may.
        needed: String,
    },
    /// It cannot be found out at the moment.
    #[error("{0}")]
    Unavailable(#[from] Unavailable),
}

/// Why nobody is known to be asking.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unauthenticated {
    /// No token at all.
    #[error("no token was sent: expected the header `Authorization: Bearer <token>`")]
    Missing,
    /// The text is no token.
    #[error("this is not a token: it was cut short, or belongs to another service")]
    Malformed,
    /// No such token: it never was, or it has been revoked.
    #[error("this token is unknown here or was revoked: get a new one")]
    Unknown,
    /// Its time is over.
    #[error("this token has expired: get a new one")]
    Expired,
    /// A JWT whose issuer is not one of the configured ones.
    #[error(
        "this JWT's issuer is not trusted here: expected one of GitHub Actions, CircleCI or Buildkite"
    )]
    UnknownIssuer,
    /// A JWT that says it comes from a provider, but does not hold.
    #[error("this JWT of {provider} was refused: {reason}")]
    Refused {
        /// Whose it claims to be.
        provider: OidcProvider,
        /// What is wrong with it.
        reason: Refused,
    },
    /// A JWT that no project's trust policy names.
    #[error(
        "no project trusts this JWT of {provider} ({identity}): it must be signed by {provider} and match a trust policy of \
         the project"
    )]
    Untrusted {
        /// Whose it is.
        provider: OidcProvider,
        /// What it says of itself.
        identity: String,
    },
}

/// What could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum Unavailable {
    /// The records.
    #[error("the records cannot be read")]
    Records(#[from] RecordsError),
    /// An issuer's keys.
    #[error("the keys of {provider} cannot be had: {reason}")]
    Keys {
        /// Whose keys.
        provider: OidcProvider,
        /// Why not. Names no more than the operator configured.
        reason: String,
    },
}

impl From<RecordsError> for Denied {
    fn from(error: RecordsError) -> Self {
        Self::Unavailable(error.into())
    }
}

impl Denied {
    pub(crate) fn not_found(what: &'static str, id: &str) -> Self {
        Self::NotFound { what, id: id.chars().take(MAX_SHOWN).collect() }
    }
}
