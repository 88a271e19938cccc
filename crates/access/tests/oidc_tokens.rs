//! JWTs of an issuer that is really there, and all the ways they can be wrong.

#![allow(clippy::unwrap_used)]

mod places;

use chrono::Utc;
use cofferdam_access::{Action, Denied, Refused, Resource, Unauthenticated};
use cofferdam_records::Provider;
use places::issuer::{Key, encode, sign_with_secret};
use places::jobs::{world, world_with};
use serde_json::json;

const UUID: &str = "0123abcd-0000-4000-8000-0123456789ab";

#[tokio::test]
async fn jobs_of_trusted_repositories_are_let_into_their_projects_alone() {
    for key in [Key::rsa("first", 0), Key::ec("curve")] {
        let world = world_with(key).await;
        let jwt = world.key.sign(&world.claims());
        assert_eq!(world.accepts(&jwt).await, std::slice::from_ref(&world.project.id));
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
    assert_eq!(world.accepts(&good).await, std::slice::from_ref(&world.project.id));
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
