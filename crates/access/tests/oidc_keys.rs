//! Keys of issuers that are really there: how often they are asked for, and all the ways an issuer can misbehave.

#![allow(clippy::unwrap_used)]

mod places;

use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::Utc;
use cofferdam_access::{Access, AccessOptions, Issuer, OidcOptions, Refused};
use cofferdam_records::Provider;
use places::Place;
use places::issuer::{Answer, Key, Server};
use places::jobs::world;
use serde_json::json;

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
    assert!(elapsed < Duration::from_secs(9), "{elapsed:?}");
    assert!(trickled.contains("too long"), "{trickled}");
    assert!(errors.iter().all(|error| error.contains("too long")), "{errors:?}");
    let all = begun.elapsed();
    assert!(all > Duration::from_secs(9) && all < Duration::from_secs(30), "{all:?}");
    assert_eq!(world.server.hits("/github/keys"), 1);
}

/// Lets time pass for whoever looks at the clock of the runtime.
async fn later(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}
