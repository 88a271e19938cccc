//! From a JWT to an identity that its issuer vouches for.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use chrono::Utc;
use cofferdam_records::Provider;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, Validation};

use super::claims::{self, Claims, Header};
use super::issuer::{OidcOptions, Trusted};
use super::keys::KeySource;
use super::{OidcProvider, Refused};
use crate::denied::{Denied, Unauthenticated, Unavailable};

/// How far clocks may be apart, in seconds.
const LEEWAY: u64 = 30;
/// Most issuers whose keys are kept; only those of trusted organizations come here.
const MAX_ISSUERS: usize = 1000;

/// Verifies JWTs of the configured issuers.
pub(crate) struct Verifier {
    audiences: Vec<String>,
    issuers: Vec<Trusted>,
    sources: Mutex<HashMap<String, Arc<KeySource>>>,
}

/// What a JWT says. Nothing of it is believed yet.
pub(crate) struct Claim<'a> {
    jwt: &'a str,
    header: Header,
    claims: Claims,
    trusted: Trusted,
    /// The organization whose own issuer it names, with CircleCI.
    organization: Option<String>,
    /// What the job would belong to.
    pub(crate) provider: Provider,
}

/// Who a verified JWT is about.
pub(crate) struct Identity {
    pub(crate) provider: Provider,
    pub(crate) subject: String,
}

impl Claim<'_> {
    /// Whether its issuer is one of many, of which only some are of interest.
    pub(crate) const fn has_own_issuer(&self) -> bool {
        self.organization.is_some()
    }

    /// The refusal of somebody whom no project trusts.
    pub(crate) fn untrusted(&self) -> Unauthenticated {
        Unauthenticated::Untrusted {
            provider: self.trusted.provider,
            identity: claims::describe(&self.provider),
        }
    }

    fn refused(&self, reason: Refused) -> Denied {
        Unauthenticated::Refused { provider: self.trusted.provider, reason }.into()
    }
}

impl Verifier {
    pub(crate) fn new(options: OidcOptions) -> Self {
        let providers = [OidcProvider::GitHub, OidcProvider::CircleCi, OidcProvider::Buildkite];
        let sound = |provider| match options.trusted(provider) {
            Ok(trusted) => Some(trusted),
            Err(error) => {
                tracing::error!(%error, "tokens of this provider will be refused");
                None
            }
        };
        let issuers = providers.into_iter().filter_map(sound).collect();
        let mut audiences = options.audiences;
        audiences.retain(|audience| !audience.is_empty());
        Self { audiences, issuers, sources: Mutex::default() }
    }

    /// Reads a JWT that claims to come from one of the issuers.
    pub(crate) fn read<'a>(&self, jwt: &'a str) -> Result<Claim<'a>, Unauthenticated> {
        let (header, claims) = claims::read(jwt)?;
        let (trusted, organization) = self
            .issuers
            .iter()
            .find_map(|trusted| Some((trusted.clone(), issued_by(trusted, &claims.iss)?)))
            .ok_or(Unauthenticated::UnknownIssuer)?;
        let provider = claims
            .provider(trusted.provider, organization.as_deref())
            .map_err(|reason| Unauthenticated::Refused { provider: trusted.provider, reason })?;
        Ok(Claim { jwt, header, claims, trusted, organization, provider })
    }

    /// Verifies it against its issuer's keys.
    pub(crate) async fn verify(&self, claim: &Claim<'_>) -> Result<Identity, Denied> {
        let refused = |reason| claim.refused(reason);
        let algorithm = match claim.header.alg.as_str() {
            "RS256" => Algorithm::RS256,
            "ES256" => Algorithm::ES256,
            _ => return Err(refused(Refused::Algorithm)),
        };
        if claim.header.crit.is_some() {
            return Err(refused(Refused::Critical));
        }
        let name = claim.header.kid.as_deref().ok_or_else(|| refused(Refused::NoKey))?;
        let found = self.source(claim).find(name).await.map_err(|error| Unavailable::Keys {
            provider: claim.trusted.provider,
            reason: error.to_string(),
        })?;
        let (made_for, key) = found.ok_or_else(|| refused(Refused::UnknownKey))?;
        if made_for != algorithm {
            return Err(refused(Refused::Algorithm));
        }
        let validation = self.validation(claim, algorithm);
        // What it verifies are the same bytes that were read before.
        jsonwebtoken::decode::<serde::de::IgnoredAny>(claim.jwt, &key, &validation)
            .map_err(|error| refused(self.reason(error.kind())))?;
        self.issued_in_the_past(claim)?;
        Ok(Identity { provider: claim.provider.clone(), subject: claim.claims.sub.clone() })
    }

    fn validation(&self, claim: &Claim<'_>, algorithm: Algorithm) -> Validation {
        let mut validation = Validation::new(algorithm);
        validation.leeway = LEEWAY;
        validation.validate_nbf = true;
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        validation.set_issuer(&[&claim.claims.iss]);
        let mut audiences: Vec<&str> = self.audiences.iter().map(String::as_str).collect();
        // CircleCI makes tokens for the organization unless a job asks for something else.
        audiences.extend(claim.organization.as_deref());
        validation.set_audience(&audiences);
        validation
    }

    fn issued_in_the_past(&self, claim: &Claim<'_>) -> Result<(), Denied> {
        let at = claim.claims.iat.ok_or_else(|| claim.refused(Refused::Claims))?;
        // Seconds since 1970 are far from where a float loses whole numbers.
        #[allow(clippy::cast_precision_loss)]
        let latest = (Utc::now().timestamp() + LEEWAY.cast_signed()) as f64;
        if at <= latest { Ok(()) } else { Err(claim.refused(Refused::TooEarly)) }
    }

    fn reason(&self, error: &ErrorKind) -> Refused {
        match error {
            ErrorKind::ExpiredSignature => Refused::Expired,
            ErrorKind::ImmatureSignature => Refused::TooEarly,
            ErrorKind::InvalidAudience => {
                Refused::Audience(self.audiences.first().cloned().unwrap_or_default())
            }
            ErrorKind::InvalidAlgorithm | ErrorKind::InvalidAlgorithmName => Refused::Algorithm,
            ErrorKind::MissingRequiredClaim(_)
            | ErrorKind::InvalidClaimFormat(_)
            | ErrorKind::InvalidIssuer => Refused::Claims,
            _ => Refused::Signature,
        }
    }

    /// The keys of the issuer that a token names.
    fn source(&self, claim: &Claim<'_>) -> Arc<KeySource> {
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(source) = sources.get(&claim.claims.iss) {
            return Arc::clone(source);
        }
        if sources.len() >= MAX_ISSUERS {
            sources.clear();
        }
        let issuer = claim.claims.iss.clone();
        let source = KeySource::new(issuer.clone(), claim.trusted.jwks_url.clone());
        sources.insert(issuer, Arc::clone(&source));
        source
    }
}

/// Whether an issuer is the trusted one. With CircleCI, the organization whose issuer below that it is.
// Some(None) is the issuer itself, Some(Some) one of an organization.
#[allow(clippy::option_option)]
fn issued_by(trusted: &Trusted, issuer: &str) -> Option<Option<String>> {
    match trusted.provider {
        OidcProvider::CircleCi => {
            claims::circleci_organization(issuer, &trusted.url).map(|id| Some(id.to_owned()))
        }
        OidcProvider::GitHub | OidcProvider::Buildkite => (issuer == trusted.url).then_some(None),
    }
}
