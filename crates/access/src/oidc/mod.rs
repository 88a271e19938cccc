//! Trust in jobs of CI providers: OpenID Connect tokens, verified against their issuer's keys.
//!
//! Follows RFC 7519 and RFC 8725: the algorithm is ours to choose (RS256, ES256), the key is looked up at an issuer the operator
//! trusts and never taken from the token, and issuer, audience and times must hold. Nothing a token says is believed, nor is
//! anybody asked because of it, except for the keys of an issuer that is configured.

mod claims;
mod fetch;
mod issuer;
mod keys;
mod verifier;

use std::fmt;

pub use issuer::{Issuer, OidcError, OidcOptions};
pub(crate) use verifier::Verifier;

/// The CI providers whose jobs can be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OidcProvider {
    /// GitHub Actions.
    GitHub,
    /// CircleCI, where each organization has an issuer of its own.
    CircleCi,
    /// Buildkite.
    Buildkite,
}

impl fmt::Display for OidcProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::GitHub => "GitHub Actions",
            Self::CircleCi => "CircleCI",
            Self::Buildkite => "Buildkite",
        })
    }
}

/// What is wrong with a JWT.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// A part is no JSON, lacks a claim or has one of another type.
    #[error("it lacks the claims of a job's token, or has them in another form")]
    Claims,
    /// Signed in a way that is not accepted, or not at all.
    #[error("its algorithm is not accepted: expected RS256 or ES256")]
    Algorithm,
    /// It needs extensions that are not known here.
    #[error("its header asks for extensions that are not known here")]
    Critical,
    /// It does not name its key.
    #[error("it does not name the key it is signed with")]
    NoKey,
    /// The issuer has no such key.
    #[error("its issuer has no key of the name it is signed with")]
    UnknownKey,
    /// The signature is not the key's.
    #[error("its signature does not hold")]
    Signature,
    /// It was made for somebody else.
    #[error("its audience is another: ask for the audience {0:?}")]
    Audience(String),
    /// Its time is over.
    #[error("it has expired: ask the provider for a new one")]
    Expired,
    /// Its time has not come.
    #[error("it is not valid yet: check the clocks")]
    TooEarly,
}

impl Refused {
    /// Whether whoever sent it has not shown to have it from the issuer.
    pub(crate) const fn shows_no_key(&self) -> bool {
        matches!(
            self,
            Self::Claims
                | Self::Algorithm
                | Self::Critical
                | Self::NoKey
                | Self::UnknownKey
                | Self::Signature
        )
    }
}
