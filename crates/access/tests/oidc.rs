//! JWTs of an issuer that is really there, and all the ways they can be wrong.

#![allow(clippy::unwrap_used)]

mod places;

use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::Utc;
use cofferdam_access::{
    Access, AccessOptions, Action, Denied, Issuer, OidcOptions, Principal, Refused, Resource,
    Unauthenticated,
};
use cofferdam_records::{Project, Provider};
use places::Place;
use places::issuer::{Answer, Key, Server, encode, sign_with_secret};
use serde_json::{Value, json};

const UUID: &str = "0123abcd-0000-4000-8000-0123456789ab";

struct World {
    place: Place,
    server: Server,
    access: Arc<Access>,
    project: Project,
    key: Key,
    github: String,
}

async fn world_with(key: Key) -> World {
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

async fn world() -> World {
    world_with(Key::rsa("first", 0)).await
}

impl World {
    fn claims(&self) -> Value {
        let now = Utc::now().timestamp();
        json!({
            "iss": self.github, "aud": "https://depot.dev", "sub": "repo:acme/app:ref:refs/heads/main",
            "iat": now, "nbf": now - 5, "exp": now + 300,
            "repository_owner": "acme", "repository": "acme/app",
        })
    }

    fn with(&self, name: &str, value: Value) -> Value {
        let mut claims = self.claims();
        claims[name] = value;
        claims
    }

    fn without(&self, name: &str) -> Value {
        let mut claims = self.claims();
        claims.as_object_mut().unwrap().remove(name);
        claims
    }

    async fn accepts(&self, jwt: &str) -> Vec<String> {
        match self.access.identify(Some(jwt)).await.unwrap() {
            Principal::Oidc { projects, subject, .. } => {
                assert!(!subject.is_empty());
                projects.into_iter().map(|project| project.id).collect()
            }
            other => panic!("{other:?}"),
        }
    }

    async fn refuses(&self, jwt: &str) -> Refused {
        match self.access.identify(Some(jwt)).await.unwrap_err() {
            Denied::Unauthenticated(Unauthenticated::Refused { reason, .. }) => reason,
            other => panic!("{other:?}"),
        }
    }

    async fn cannot_tell(&self, jwt: &str) -> String {
        match self.access.identify(Some(jwt)).await.unwrap_err() {
            Denied::Unavailable(error) => error.to_string(),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn jobs_of_trusted_repositories_are_let_into_their_projects_alone() {
    for key in [Key::rsa("first", 0), Key::ec("curve")] {
        let world = world_with(key).await;
        let jwt = world.key.sign(&world.claims());
        assert_eq!(world.accepts(&jwt).await, [world.project.id.clone()]);
        let build = async |id: &str| {
            world.access.authorize(Some(&jwt), Action::CreateBuild, Resource::Project(id)).await
        };
        let grant = build(&world.project.id).await.unwrap();
        assert!(grant.token.is_none());
        let sibling = world.place.project(&world.project.organization, "sibling").await;
        assert!(matches!(build(&sibling.id).await.unwrap_err(), Denied::NotFound { .. }));
        // Audiences may be a list.
        let several = world.with("aud", json!(["elsewhere", "https://depot.dev"]));
        world.accepts(&world.key.sign(&several)).await;
        // A second project that trusts it.
        let provider = Provider::GitHub { owner: "acme".into(), repository: "app".into() };
        world.place.records.add_trust_policy(&sibling.id, provider).await.unwrap();
        build(&sibling.id).await.unwrap();
        assert_eq!(world.accepts(&jwt).await.len(), 2);
        world.place.records.begin_delete(&world.project.id).await.unwrap();
        assert_eq!(world.accepts(&jwt).await, [sibling.id]);
    }
}

#[tokio::test]
async fn other_repositories_are_trusted_by_nobody() {
    let world = world().await;
    for (owner, repository) in
        [("acme", "other"), ("evil", "app"), ("ACME", "app"), ("acme", "App")]
    {
        let mut claims = world.with("repository_owner", json!(owner));
        claims["repository"] = json!(format!("{owner}/{repository}"));
        let denied = world.access.identify(Some(&world.key.sign(&claims))).await.unwrap_err();
        assert!(
            matches!(denied, Denied::Unauthenticated(Unauthenticated::Untrusted { .. })),
            "{denied}"
        );
        assert!(denied.to_string().contains(repository), "{denied}");
    }
    let mixed = world.with("repository", json!("evil/app"));
    assert_eq!(world.refuses(&world.key.sign(&mixed)).await, Refused::Claims);
}

#[tokio::test]
async fn a_policy_that_is_removed_is_gone_at_once() {
    let world = world().await;
    let jwt = world.key.sign(&world.claims());
    world.accepts(&jwt).await;
    let policies = world.place.records.trust_policies(&world.project.id).await.unwrap();
    let removed =
        world.place.records.remove_trust_policy(&world.project.id, &policies[0].id).await.unwrap();
    assert!(removed);
    let denied = world.access.identify(Some(&jwt)).await.unwrap_err();
    assert!(matches!(denied, Denied::Unauthenticated(Unauthenticated::Untrusted { .. })));
}

#[tokio::test]
async fn claims_that_do_not_hold() {
    let world = world().await;
    let now = Utc::now().timestamp();
    for (claims, expected) in [
        (
            world.with("aud", json!("https://elsewhere.example")),
            Refused::Audience("https://depot.dev".into()),
        ),
        (world.with("aud", json!(["a", "b"])), Refused::Audience("https://depot.dev".into())),
        (
            world.with("aud", json!("https://depot.dev/")),
            Refused::Audience("https://depot.dev".into()),
        ),
        (world.with("aud", json!([])), Refused::Audience("https://depot.dev".into())),
        (world.with("aud", json!(7)), Refused::Claims),
        (world.without("aud"), Refused::Claims),
        (world.with("exp", json!(now - 3600)), Refused::Expired),
        (world.with("exp", json!(now - 60)), Refused::Expired),
        (world.with("exp", json!("tomorrow")), Refused::Claims),
        (world.with("exp", json!(-1)), Refused::Claims),
        (world.without("exp"), Refused::Claims),
        (world.with("nbf", json!(now + 3600)), Refused::TooEarly),
        (world.with("nbf", json!(now + 60)), Refused::TooEarly),
        (world.with("nbf", json!("never")), Refused::Claims),
        (world.with("iat", json!(now + 3600)), Refused::TooEarly),
        (world.without("iat"), Refused::Claims),
        (world.without("sub"), Refused::Claims),
        (world.without("repository"), Refused::Claims),
    ] {
        assert_eq!(world.refuses(&world.key.sign(&claims)).await, expected, "{claims}");
    }
    // Clocks may be some seconds apart.
    world.accepts(&world.key.sign(&world.with("exp", json!(now - 10)))).await;
    world.accepts(&world.key.sign(&world.with("nbf", json!(now + 10)))).await;
    world.accepts(&world.key.sign(&world.with("iat", json!(now as f64 + 10.5)))).await;
}

#[tokio::test]
async fn issuers_that_are_not_configured() {
    let world = world().await;
    let evil = Key::rsa("first", 1);
    let elsewhere = world.server.issuer("/evil", &[&evil]);
    for issuer in [
        json!(elsewhere),
        json!(format!("{}/", world.github)),
        json!(format!("{}/x", world.github)),
        json!(world.github.to_uppercase()),
        json!(""),
    ] {
        let jwt = evil.sign(&world.with("iss", issuer.clone()));
        let denied = world.access.identify(Some(&jwt)).await.unwrap_err();
        assert!(
            matches!(denied, Denied::Unauthenticated(Unauthenticated::UnknownIssuer)),
            "{issuer}: {denied}"
        );
    }
    for issuer in [json!([world.github]), json!([world.github, elsewhere]), json!(null)] {
        let jwt = evil.sign(&world.with("iss", issuer.clone()));
        let denied = world.access.identify(Some(&jwt)).await.unwrap_err();
        assert!(
            matches!(denied, Denied::Unauthenticated(Unauthenticated::Malformed)),
            "{issuer}: {denied}"
        );
    }
    assert_eq!(world.server.hits("/evil/.well-known/openid-configuration"), 0);
    assert_eq!(world.server.hits("/evil/keys"), 0);
}

#[tokio::test]
async fn signatures_that_do_not_hold() {
    let world = world().await;
    let claims = world.claims();
    let good = world.key.sign(&claims);
    // Another key under the same name.
    assert_eq!(world.refuses(&Key::rsa("first", 1).sign(&claims)).await, Refused::Signature);
    // Changed claims, header or signature.
    let parts: Vec<&str> = good.split('.').collect();
    let changed = encode(&world.with("sub", json!("another")));
    let forged = format!("{}.{changed}.{}", parts[0], parts[2]);
    assert_eq!(world.refuses(&forged).await, Refused::Signature);
    let cut = &good[..good.len() - 4];
    assert_eq!(world.refuses(cut).await, Refused::Signature);
    let none = format!("{}.{}.", parts[0], parts[1]);
    assert_eq!(world.refuses(&none).await, Refused::Signature);
    // A key of another kind under the name of this one.
    let curve = Key::ec("first");
    assert_eq!(world.refuses(&curve.sign(&claims)).await, Refused::Algorithm);
    // A key in the header.
    let evil = Key::rsa("first", 1);
    for header in [
        json!({"alg": "RS256", "kid": "first", "jwk": evil.jwk}),
        json!({"alg": "RS256", "kid": "first", "jku": format!("{}/evil/keys", world.server.origin)}),
    ] {
        assert_eq!(world.refuses(&evil.sign_with(&header, &claims)).await, Refused::Signature);
    }
    let nameless = world.key.sign_with(&json!({"alg": "RS256"}), &claims);
    assert_eq!(world.refuses(&nameless).await, Refused::NoKey);
    let critical = json!({"alg": "RS256", "kid": "first", "crit": ["b64"], "b64": false});
    assert_eq!(world.refuses(&world.key.sign_with(&critical, &claims)).await, Refused::Critical);
    assert_eq!(world.server.hits("/evil/keys"), 0);
    world.accepts(&good).await;
}

#[tokio::test]
async fn algorithms_are_ours_to_choose() {
    for key in [Key::rsa("first", 0), Key::ec("curve")] {
        let world = world_with(key).await;
        let claims = world.claims();
        let kid = world.key.name.clone();
        for alg in ["none", "None", "NONE", "nOnE", ""] {
            let message =
                format!("{}.{}", encode(&json!({"alg": alg, "kid": kid})), encode(&claims));
            for signature in ["", "AAAA"] {
                let jwt = format!("{message}.{signature}");
                assert_eq!(world.refuses(&jwt).await, Refused::Algorithm, "{alg}");
            }
        }
        // The public key as a shared secret.
        for public in &world.key.public {
            let header = json!({"alg": "HS256", "kid": kid});
            let jwt = sign_with_secret(&header, &claims, public);
            assert_eq!(world.refuses(&jwt).await, Refused::Algorithm);
            for alg in ["RS256", "ES256"] {
                let header = json!({"alg": alg, "kid": kid});
                let reason = world.refuses(&sign_with_secret(&header, &claims, public)).await;
                assert!(matches!(reason, Refused::Signature | Refused::Algorithm), "{reason}");
            }
        }
        for alg in ["HS384", "HS512", "RS384", "RS512", "PS256", "ES384", "EdDSA", "rs256"] {
            let jwt = world.key.sign_with(&json!({"alg": alg, "kid": kid}), &claims);
            assert_eq!(world.refuses(&jwt).await, Refused::Algorithm, "{alg}");
        }
    }
}

#[tokio::test]
async fn an_unknown_key_makes_the_issuer_be_asked_once_a_minute() {
    let world = world().await;
    let claims = world.claims();
    let next = Key::ec("next");
    world.accepts(&world.key.sign(&claims)).await;
    assert_eq!(world.server.hits("/github/keys"), 1);
    for number in 0..50 {
        let stranger = Key::rsa(&format!("stranger{number}"), 1);
        assert_eq!(world.refuses(&stranger.sign(&claims)).await, Refused::UnknownKey);
    }
    assert_eq!(world.server.hits("/github/keys"), 1);
    world.server.keys("/github", &[&next]);
    assert_eq!(world.refuses(&next.sign(&claims)).await, Refused::UnknownKey);
    later(Duration::from_secs(61)).await;
    world.accepts(&next.sign(&claims)).await;
    assert_eq!(world.server.hits("/github/keys"), 2);
    // The key that the issuer gave up is not accepted any more.
    assert_eq!(world.refuses(&world.key.sign(&claims)).await, Refused::UnknownKey);
    assert_eq!(world.server.hits("/github/keys"), 2);
}

#[tokio::test]
async fn many_at_once_ask_the_issuer_once() {
    let world = Arc::new(world().await);
    let jwt = world.key.sign(&world.claims());
    let asking = (0..100).map(|_| {
        let (world, jwt) = (Arc::clone(&world), jwt.clone());
        tokio::spawn(async move { world.accepts(&jwt).await.len() })
    });
    for asked in futures::future::join_all(asking).await {
        assert_eq!(asked.unwrap(), 1);
    }
    assert_eq!(world.server.hits("/github/keys"), 1);
}

#[tokio::test]
async fn keys_are_refreshed_and_outlive_an_issuer_that_is_away_for_a_while() {
    let world = world().await;
    let jwt = world.key.sign(&world.claims());
    world.accepts(&jwt).await;
    world.server.put("/github/keys", Answer::Status(503));
    later(Duration::from_secs(11 * 60)).await;
    // Old enough to be fetched anew, in the background; still good.
    world.accepts(&jwt).await;
    let begun = Instant::now();
    while world.server.hits("/github/keys") < 2 {
        assert!(begun.elapsed() < Duration::from_secs(5));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // Its answer has been read.
    tokio::time::sleep(Duration::from_millis(300)).await;
    world.accepts(&jwt).await;
    later(Duration::from_secs(60 * 60)).await;
    let error = world.cannot_tell(&jwt).await;
    assert!(error.contains("503"), "{error}");
    // A failing issuer is left alone for some seconds.
    let hits = world.server.hits("/github/keys");
    let error = world.cannot_tell(&jwt).await;
    assert!(error.contains("503") && error.contains("a moment ago"), "{error}");
    assert_eq!(world.server.hits("/github/keys"), hits);
    world.server.keys("/github", &[&world.key]);
    later(Duration::from_secs(11)).await;
    world.accepts(&jwt).await;
}

#[tokio::test]
async fn issuers_that_misbehave() {
    let evil = Key::rsa("first", 1);
    let discovery = "/github/.well-known/openid-configuration";
    let oversized = json!({"keys": [], "padding": "x".repeat(2 << 20)});
    for (path, answer, expected) in [
        ("/github/keys", Answer::Json(oversized.clone()), "too large"),
        (discovery, Answer::Json(oversized), "too large"),
        ("/github/keys", Answer::Text(vec![b'['; 1 << 20]), "keys document is not one"),
        ("/github/keys", Answer::Text(b"<html>".to_vec()), "keys document is not one"),
        (discovery, Answer::Text(b"<html>".to_vec()), "discovery document is not one"),
        (discovery, Answer::Status(404), "404"),
        ("/github/keys", Answer::Status(500), "500"),
        ("/github/keys", Answer::Redirect("EVIL/evil/keys".into()), "another place"),
        ("/github/keys", Answer::Redirect("/evil/keys".into()), "another place"),
        (
            discovery,
            Answer::Redirect("EVIL/evil/.well-known/openid-configuration".into()),
            "another place",
        ),
    ] {
        let (world, elsewhere) = (world().await, Server::start().await);
        let answer = match answer {
            Answer::Redirect(to) => Answer::Redirect(to.replace("EVIL", &elsewhere.origin)),
            answer => answer,
        };
        elsewhere.issuer("/evil", &[&evil]);
        world.server.issuer("/evil", &[&evil]);
        world.server.put(path, answer);
        let jwt = evil.sign(&world.claims());
        let error = world.cannot_tell(&jwt).await;
        assert!(error.contains(expected), "{error}");
        assert_eq!(elsewhere.hits("/evil/keys"), 0);
        assert_eq!(world.server.hits("/evil/keys"), 0);
    }
}

#[tokio::test]
async fn discovery_must_be_the_issuers_own_and_name_keys_at_its_own_origin() {
    let evil = Key::rsa("first", 1);
    let elsewhere = Server::start().await;
    let theirs = elsewhere.issuer("/evil", &[&evil]);
    for (issuer, keys, expected) in [
        (None, Some(format!("{theirs}/keys")), "another place"),
        (None, Some("file:///etc/passwd".to_owned()), "another place"),
        (None, Some("https://127.0.0.1/keys".to_owned()), "another place"),
        (None, Some("keys".to_owned()), "discovery document is not one"),
        (Some(theirs.clone()), None, "of another issuer"),
    ] {
        let world = world().await;
        let document = json!({
            "issuer": issuer.unwrap_or_else(|| world.github.clone()),
            "jwks_uri": keys.unwrap_or_else(|| format!("{}/keys", world.github)),
        });
        world.server.put("/github/.well-known/openid-configuration", Answer::Json(document));
        let error = world.cannot_tell(&evil.sign(&world.claims())).await;
        assert!(error.contains(expected), "{error}");
        assert_eq!(elsewhere.hits("/evil/keys"), 0);
    }
}

#[tokio::test]
async fn a_configured_place_of_keys_is_used_instead_of_discovery() {
    let place = Place::new().await;
    let server = Server::start().await;
    let key = Key::ec("key");
    server.keys("/mirror", &[&key]);
    let issuer = "https://issuer.invalid";
    // Keys in the clear are refused for an issuer that is not.
    let github = Issuer {
        url: Some(issuer.into()),
        jwks_url: Some(format!("{}/mirror/keys", server.origin)),
    };
    OidcOptions { github, ..OidcOptions::default() }.check().unwrap_err();
    let issuer = "http://issuer.invalid";
    let github = Issuer {
        url: Some(issuer.into()),
        jwks_url: Some(format!("{}/mirror/keys", server.origin)),
    };
    let oidc = OidcOptions { github, audiences: vec!["mine".into()], ..OidcOptions::default() };
    oidc.check().unwrap();
    let access = Access::new(place.records.clone(), AccessOptions { oidc });
    let own = place.organization("own").await;
    let project = place.project(&own, "project").await;
    let provider = Provider::GitHub { owner: "acme".into(), repository: "app".into() };
    place.records.add_trust_policy(&project.id, provider).await.unwrap();
    let now = Utc::now().timestamp();
    let claims = json!({"iss": issuer, "aud": "mine", "sub": "job", "iat": now, "exp": now + 60,
        "repository_owner": "acme", "repository": "acme/app"});
    access.identify(Some(&key.sign(&claims))).await.unwrap();
    assert_eq!(server.hits("/mirror/keys"), 1);
}

#[tokio::test]
async fn slow_issuers_are_given_up_and_hold_up_nobody_else() {
    let (world, trickling) = (world().await, world().await);
    let keys = json!({"keys": [world.key.jwk]});
    world.server.put("/github/keys", Answer::Slow(Duration::from_secs(60), keys));
    trickling.server.put("/github/keys", Answer::Trickle);
    let provider = Provider::Buildkite { organization: "acme".into(), pipeline: "app".into() };
    world.place.records.add_trust_policy(&world.project.id, provider).await.unwrap();
    let buildkite = world.server.issuer("/buildkite", &[&world.key]);
    let jwt = world.key.sign(&world.claims());
    let begun = Instant::now();
    let waiting = (0..20).map(|_| world.cannot_tell(&jwt));
    let other = async {
        let mut claims = world.with("iss", json!(buildkite));
        claims["organization_slug"] = json!("acme");
        claims["pipeline_slug"] = json!("app");
        world.accepts(&world.key.sign(&claims)).await;
        begun.elapsed()
    };
    let theirs = trickling.key.sign(&trickling.claims());
    let (errors, elapsed, trickled) =
        tokio::join!(futures::future::join_all(waiting), other, trickling.cannot_tell(&theirs));
    assert!(elapsed < Duration::from_secs(5), "{elapsed:?}");
    assert!(trickled.contains("too long"), "{trickled}");
    assert!(errors.iter().all(|error| error.contains("too long")), "{errors:?}");
    let all = begun.elapsed();
    assert!(all > Duration::from_secs(9) && all < Duration::from_secs(15), "{all:?}");
    assert_eq!(world.server.hits("/github/keys"), 1);
}

#[tokio::test]
async fn circleci_organizations_have_issuers_of_their_own() {
    let world = world().await;
    let issuer = world.server.issuer(&format!("/circleci/org/{UUID}"), &[&world.key]);
    let stranger = "ffffffff-0000-4000-8000-0123456789ab";
    let theirs = world.server.issuer(&format!("/circleci/org/{stranger}"), &[&world.key]);
    let provider = Provider::CircleCi { organization: UUID.into(), project: "p".into() };
    world.place.records.add_trust_policy(&world.project.id, provider).await.unwrap();
    let now = Utc::now().timestamp();
    let claims = |issuer: &str, audience: &str, project: &str| {
        json!({"iss": issuer, "aud": audience, "sub": "job", "iat": now, "exp": now + 300,
            "oidc.circleci.com/project-id": project})
    };
    let good = world.key.sign(&claims(&issuer, UUID, "p"));
    assert_eq!(world.accepts(&good).await, [world.project.id.clone()]);
    world.accepts(&world.key.sign(&claims(&issuer, "https://depot.dev", "p"))).await;
    let reason = world.refuses(&world.key.sign(&claims(&issuer, stranger, "p"))).await;
    assert!(matches!(reason, Refused::Audience(_)), "{reason}");
    // Whom nobody trusts, and who only says to be trusted, get the same answer; strangers' issuers are not asked.
    let untrusted = async |jwt: String| match world.access.identify(Some(&jwt)).await.unwrap_err() {
        Denied::Unauthenticated(error @ Unauthenticated::Untrusted { .. }) => error.to_string(),
        other => panic!("{other:?}"),
    };
    let other_project = untrusted(world.key.sign(&claims(&issuer, UUID, "q"))).await;
    let forged = untrusted(Key::rsa("first", 1).sign(&claims(&issuer, UUID, "p"))).await;
    let unknown = untrusted(Key::rsa("unknown", 1).sign(&claims(&issuer, UUID, "p"))).await;
    assert_eq!(other_project.replace("\"q\"", "\"p\""), forged);
    assert_eq!(forged, unknown);
    untrusted(world.key.sign(&claims(&theirs, stranger, "p"))).await;
    assert_eq!(world.server.hits(&format!("/circleci/org/{stranger}/keys")), 0);
    for bad in ["", "/", "/..", "/%2e%2e"] {
        let issuer = format!("{}/circleci/org/{UUID}{bad}x", world.server.origin);
        let jwt = world.key.sign(&claims(&issuer, UUID, "p"));
        let denied = world.access.identify(Some(&jwt)).await.unwrap_err();
        assert!(matches!(denied, Denied::Unauthenticated(Unauthenticated::UnknownIssuer)));
    }
}

#[tokio::test]
async fn a_token_of_one_provider_is_none_of_another() {
    let world = world().await;
    let buildkite = world.server.issuer("/buildkite", &[&world.key]);
    let provider = Provider::Buildkite { organization: "acme".into(), pipeline: "app".into() };
    world.place.records.add_trust_policy(&world.project.id, provider).await.unwrap();
    // Claims of GitHub in a token of Buildkite, and the other way round.
    let claims = world.with("iss", json!(buildkite));
    assert_eq!(world.refuses(&world.key.sign(&claims)).await, Refused::Claims);
    let mut claims = world.without("repository");
    claims["organization_slug"] = json!("acme");
    claims["pipeline_slug"] = json!("app");
    assert_eq!(world.refuses(&world.key.sign(&claims)).await, Refused::Claims);
    claims["iss"] = json!(buildkite);
    world.accepts(&world.key.sign(&claims)).await;
}

/// Lets time pass for whoever looks at the clock of the runtime.
async fn later(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}
