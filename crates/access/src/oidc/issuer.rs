//! The issuers that are trusted, as the operator configures them.

use url::Url;

use super::OidcProvider;

/// What every client asks its provider for.
const DEFAULT_AUDIENCE: &str = "https://depot.dev";

/// Trust in CI providers.
#[derive(Debug, Clone)]
pub struct OidcOptions {
    /// Audiences that tokens may be made for. Must not be empty.
    pub audiences: Vec<String>,
    /// GitHub Actions.
    pub github: Issuer,
    /// CircleCI. Organizations have issuers below this one, at `/org/<uuid>`.
    pub circleci: Issuer,
    /// Buildkite.
    pub buildkite: Issuer,
}

/// One issuer.
#[derive(Debug, Clone, Default)]
pub struct Issuer {
    /// Its URL, exactly as its tokens have it in `iss`. Default: the provider's own. Cleartext only where this says `http://`.
    pub url: Option<String>,
    /// Where its keys are. Default: where the issuer's discovery document says, which must be at the issuer's own origin.
    pub jwks_url: Option<String>,
}

impl Default for OidcOptions {
    fn default() -> Self {
        Self {
            audiences: vec![DEFAULT_AUDIENCE.to_owned()],
            github: Issuer::default(),
            circleci: Issuer::default(),
            buildkite: Issuer::default(),
        }
    }
}

/// Why trust cannot be configured so.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OidcError {
    /// Without an audience any token of the provider would do.
    #[error("no audience is configured")]
    NoAudience,
    /// Not the URL of an issuer or of its keys.
    #[error(
        "{provider}: {url:?} is not a URL of an issuer: expected https://HOST[/PATH], without query or fragment"
    )]
    Url {
        /// Whose.
        provider: OidcProvider,
        /// What was configured.
        url: String,
    },
}

/// An issuer whose URLs are sound.
#[derive(Debug, Clone)]
pub(super) struct Trusted {
    pub(super) provider: OidcProvider,
    pub(super) url: String,
    pub(super) jwks_url: Option<Url>,
}

impl OidcOptions {
    /// Checks what the types cannot say.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn check(&self) -> Result<(), OidcError> {
        if self.audiences.iter().all(String::is_empty) {
            return Err(OidcError::NoAudience);
        }
        for provider in [OidcProvider::GitHub, OidcProvider::CircleCi, OidcProvider::Buildkite] {
            self.trusted(provider)?;
        }
        Ok(())
    }

    pub(super) fn trusted(&self, provider: OidcProvider) -> Result<Trusted, OidcError> {
        let (issuer, default) = match provider {
            OidcProvider::GitHub => (&self.github, "https://token.actions.githubusercontent.com"),
            OidcProvider::CircleCi => (&self.circleci, "https://oidc.circleci.com"),
            OidcProvider::Buildkite => (&self.buildkite, "https://agent.buildkite.com"),
        };
        let url = issuer.url.as_deref().unwrap_or(default);
        let parse = |text: &str| {
            sound(text).ok_or_else(|| OidcError::Url { provider, url: text.to_owned() })
        };
        let parsed = parse(url)?;
        let jwks_url = issuer.jwks_url.as_deref().map(parse).transpose()?;
        // Keys that come in the clear could be anybody's.
        if let Some(jwks_url) = &jwks_url
            && jwks_url.scheme() == "http"
            && parsed.scheme() != "http"
        {
            return Err(OidcError::Url { provider, url: jwks_url.to_string() });
        }
        Ok(Trusted { provider, url: url.to_owned(), jwks_url })
    }
}

fn sound(text: &str) -> Option<Url> {
    let url = Url::parse(text).ok()?;
    let plain = url.username().is_empty() && url.password().is_none();
    let sound = matches!(url.scheme(), "https" | "http")
        && url.has_host()
        && plain
        && url.query().is_none()
        && url.fragment().is_none();
    sound.then_some(url)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn with(url: &str, jwks: Option<&str>) -> Result<(), OidcError> {
        let github = Issuer { url: Some(url.to_owned()), jwks_url: jwks.map(str::to_owned) };
        OidcOptions { github, ..OidcOptions::default() }.check()
    }

    #[test]
    fn the_providers_own_issuers_are_the_default() {
        let options = OidcOptions::default();
        options.check().unwrap();
        let url = |provider| options.trusted(provider).unwrap().url;
        assert_eq!(url(OidcProvider::GitHub), "https://token.actions.githubusercontent.com");
        assert_eq!(url(OidcProvider::CircleCi), "https://oidc.circleci.com");
        assert_eq!(url(OidcProvider::Buildkite), "https://agent.buildkite.com");
    }

    #[test]
    fn urls_are_checked() {
        with("https://issuer.example/path", Some("https://keys.example/jwks")).unwrap();
        with("http://127.0.0.1:8000", Some("http://127.0.0.1:8001/jwks")).unwrap();
        for bad in
            ["issuer.example", "ftp://x", "https://", "https://u:p@x", "https://x?y", "https://x#y"]
        {
            with(bad, None).unwrap_err();
            with("https://issuer.example", Some(bad)).unwrap_err();
        }
        with("https://issuer.example", Some("http://issuer.example/jwks")).unwrap_err();
        let none = OidcOptions { audiences: vec![String::new()], ..OidcOptions::default() };
        assert_eq!(none.check(), Err(OidcError::NoAudience));
    }
}
