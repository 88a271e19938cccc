//! What a JWT says, before anything of it is believed.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use cofferdam_records::Provider;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::{OidcProvider, Refused};
use crate::denied::Unauthenticated;

/// Longest name in a claim that is used.
const MAX_NAME: usize = 256;

/// The parts of a header that matter.
#[derive(Debug, Deserialize)]
pub(super) struct Header {
    pub(super) alg: String,
    pub(super) kid: Option<String>,
    pub(super) crit: Option<serde_json::Value>,
}

/// The claims that matter. Times are checked to be numbers where they are compared.
#[derive(Debug, Deserialize)]
pub(super) struct Claims {
    pub(super) iss: String,
    #[serde(default)]
    pub(super) sub: String,
    #[serde(default)]
    pub(super) iat: Option<f64>,
    #[serde(default)]
    repository_owner: Option<String>,
    #[serde(default)]
    repository: Option<String>,
    #[serde(default, rename = "oidc.circleci.com/project-id")]
    circleci_project: Option<String>,
    #[serde(default)]
    organization_slug: Option<String>,
    #[serde(default)]
    pipeline_slug: Option<String>,
}

/// A JWT's header and claims.
pub(super) fn read(jwt: &str) -> Result<(Header, Claims), Unauthenticated> {
    let mut parts = jwt.split('.');
    let (Some(header), Some(claims), Some(_), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(Unauthenticated::Malformed);
    };
    let header = part(header).ok_or(Unauthenticated::Malformed)?;
    let claims = part(claims).ok_or(Unauthenticated::Malformed)?;
    Ok((header, claims))
}

fn part<T: DeserializeOwned>(text: &str) -> Option<T> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(text).ok()?).ok()
}

impl Claims {
    /// What a job belongs to, in the terms of trust policies.
    ///
    /// `organization` is the one of a CircleCI issuer.
    pub(super) fn provider(
        &self,
        provider: OidcProvider,
        organization: Option<&str>,
    ) -> Result<Provider, Refused> {
        let named = |claim: &Option<String>| {
            claim.clone().filter(|name| is_name(name)).ok_or(Refused::Claims)
        };
        match provider {
            OidcProvider::GitHub => {
                let owner = named(&self.repository_owner)?;
                let full = self.repository.as_deref().ok_or(Refused::Claims)?;
                let (of, repository) = full.split_once('/').ok_or(Refused::Claims)?;
                if of != owner || !is_name(repository) {
                    return Err(Refused::Claims);
                }
                Ok(Provider::GitHub { owner, repository: repository.to_owned() })
            }
            OidcProvider::CircleCi => Ok(Provider::CircleCi {
                organization: organization.ok_or(Refused::Claims)?.to_owned(),
                project: named(&self.circleci_project)?,
            }),
            OidcProvider::Buildkite => Ok(Provider::Buildkite {
                organization: named(&self.organization_slug)?,
                pipeline: named(&self.pipeline_slug)?,
            }),
        }
    }
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.len() <= MAX_NAME && !text.contains(['/', '\0'])
}

/// What a provider is told apart by, in words.
pub(super) fn describe(provider: &Provider) -> String {
    match provider {
        Provider::GitHub { owner, repository } => format!("repository {owner:?}/{repository:?}"),
        Provider::CircleCi { organization, project } => {
            format!("project {project:?} of organization {organization:?}")
        }
        Provider::Buildkite { organization, pipeline } => {
            format!("pipeline {pipeline:?} of organization {organization:?}")
        }
    }
}

/// The organization of a CircleCI issuer below `base`.
pub(super) fn circleci_organization<'a>(issuer: &'a str, base: &str) -> Option<&'a str> {
    let id = issuer.strip_prefix(base.trim_end_matches('/'))?.strip_prefix("/org/")?;
    is_uuid(id).then_some(id)
}

/// Whether it is a UUID as providers write it. It becomes part of a URL.
fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(index, byte)| match index {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
        })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const UUID: &str = "0123abcd-0000-4000-8000-0123456789ab";

    fn claims(json: serde_json::Value) -> Claims {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn github_names_must_agree() {
        let read = |owner: &str, repository: &str| {
            claims(
                serde_json::json!({"iss": "", "repository_owner": owner, "repository": repository}),
            )
            .provider(OidcProvider::GitHub, None)
        };
        let expected = Provider::GitHub { owner: "o".into(), repository: "r".into() };
        assert_eq!(read("o", "o/r").unwrap(), expected);
        for (owner, repository) in [
            ("o", "p/r"),
            ("o", "r"),
            ("o", "o/"),
            ("", "/r"),
            ("o", "o/r/s"),
            ("o/r", "o/r"),
            ("O", "o/r"),
        ] {
            assert_eq!(read(owner, repository), Err(Refused::Claims), "{owner} {repository}");
        }
    }

    #[test]
    fn circleci_issuers() {
        let base = "https://oidc.circleci.com";
        let of =
            |rest: &str| circleci_organization(&format!("{base}{rest}"), base).map(str::to_owned);
        assert_eq!(of(&format!("/org/{UUID}")), Some(UUID.to_owned()));
        for bad in ["", "/", "/org/", "/org/x", "/org/../org/x", ".evil.example/org/"] {
            assert_eq!(of(bad), None, "{bad}");
            assert_eq!(of(&format!("{bad}{UUID}/..")), None, "{bad}");
        }
        assert_eq!(of(&format!(".evil.example/org/{UUID}")), None);
        assert_eq!(of(&format!("/org/{}", UUID.to_uppercase())), None);
    }

    #[test]
    fn texts_that_are_no_jwt() {
        let encode = |text: &str| URL_SAFE_NO_PAD.encode(text);
        let header = encode("{\"alg\":\"RS256\"}");
        let body = encode("{\"iss\":\"x\"}");
        assert!(read(&format!("{header}.{body}.")).is_ok());
        let twice = encode("{\"iss\":\"x\",\"iss\":\"y\"}");
        let list = encode("{\"iss\":[\"x\"]}");
        for bad in [
            String::new(),
            "..".to_owned(),
            "a.b.c".to_owned(),
            format!("{header}.{body}"),
            format!("{header}.{body}.a.b"),
            format!("{header}=.{body}.a"),
            format!("{header}.{twice}.a"),
            format!("{header}.{list}.a"),
            format!("{}.{body}.a", encode("{}")),
        ] {
            assert_eq!(read(&bad).err(), Some(Unauthenticated::Malformed), "{bad}");
        }
    }
}
