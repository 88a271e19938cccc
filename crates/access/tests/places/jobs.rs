//! A project, and jobs of CI providers that want to build in it.

use std::sync::Arc;

use chrono::Utc;
use cofferdam_access::{
    Access, AccessOptions, Denied, Issuer, OidcOptions, Principal, Refused, Unauthenticated,
};
use cofferdam_records::{Project, Provider};
use serde_json::{Value, json};

use super::Place;
use super::issuer::{Key, Server};

/// A project that trusts one repository, and the issuer of its jobs' tokens.
pub(crate) struct World {
    pub(crate) place: Place,
    pub(crate) server: Server,
    pub(crate) access: Arc<Access>,
    pub(crate) project: Project,
    pub(crate) key: Key,
    pub(crate) github: String,
}

pub(crate) async fn world_with(key: Key) -> World {
    let place = Place::new().await;
    let server = Server::start().await;
    let github = server.issuer("/github", &[&key]);
    let issuer =
        |path: &str| Issuer { url: Some(format!("{}{path}", server.origin)), jwks_url: None };
    let options = OidcOptions {
        github: issuer("/github"),
        circleci: issuer("/circleci"),
        buildkite: issuer("/buildkite"),
        ..OidcOptions::default()
    };
    options.check().unwrap();
    let access = Access::new(place.records.clone(), AccessOptions { oidc: options });
    let own = place.organization("own").await;
    let project = place.project(&own, "project").await;
    let provider = Provider::GitHub { owner: "acme".into(), repository: "app".into() };
    place.records.add_trust_policy(&project.id, provider).await.unwrap();
    World { place, server, access, project, key, github }
}

pub(crate) async fn world() -> World {
    world_with(Key::rsa("first", 0)).await
}

impl World {
    pub(crate) fn claims(&self) -> Value {
        let now = Utc::now().timestamp();
        json!({
            "iss": self.github, "aud": "https://depot.dev", "sub": "repo:acme/app:ref:refs/heads/main",
            "iat": now, "nbf": now - 5, "exp": now + 300,
            "repository_owner": "acme", "repository": "acme/app",
        })
    }

    pub(crate) fn with(&self, name: &str, value: Value) -> Value {
        let mut claims = self.claims();
        claims[name] = value;
        claims
    }

    pub(crate) fn without(&self, name: &str) -> Value {
        let mut claims = self.claims();
        claims.as_object_mut().unwrap().remove(name);
        claims
    }

    pub(crate) async fn accepts(&self, jwt: &str) -> Vec<String> {
        match self.access.identify(Some(jwt)).await.unwrap() {
            Principal::Oidc { projects, subject, .. } => {
                assert!(!subject.is_empty());
                projects.into_iter().map(|project| project.id).collect()
            }
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn refuses(&self, jwt: &str) -> Refused {
        match self.access.identify(Some(jwt)).await.unwrap_err() {
            Denied::Unauthenticated(Unauthenticated::Refused { reason, .. }) => reason,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn cannot_tell(&self, jwt: &str) -> String {
        match self.access.identify(Some(jwt)).await.unwrap_err() {
            Denied::Unavailable(error) => error.to_string(),
            other => panic!("{other:?}"),
        }
    }
}
