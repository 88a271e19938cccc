//! Tokens over time: identities, revocation of chains, the one project, deletion of projects, links.

#![allow(clippy::unwrap_used)]

mod places;

use std::time::Duration;

use chrono::{TimeDelta, Utc};
use cofferdam_access::{
    Access, AccessOptions, Action, Denied, Principal, Resource, TokenKind, Unauthenticated,
    mint_share,
};
use places::Place;

fn access(place: &Place) -> std::sync::Arc<Access> {
    Access::new(place.records.clone(), AccessOptions::default())
}

#[tokio::test]
async fn each_kind_of_token_is_who_it_was_made_for() {
    let place = Place::new().await;
    let access = access(&place);
    let own = place.organization("own").await;
    let found = place.project(&own, "project").await;
    let begun = place.build(&found).await;
    let made = place.organization_token(TokenKind::Organization, &own).await;
    match access.identify(Some(&made.secret)).await.unwrap() {
        Principal::Organization { token_id, organization } => {
            assert_eq!((token_id, organization), (made.token.id.clone(), own.clone()));
        }
        other => panic!("{other:?}"),
    }
    let session = place.token(TokenKind::Session, &own, None, None, Some(&made.token), None).await;
    match access.identify(Some(&session.secret)).await.unwrap() {
        Principal::Session { organization, parent, .. } => {
            assert_eq!((organization, parent), (own.clone(), Some(made.token.id)));
        }
        other => panic!("{other:?}"),
    }
    let of_build = place.build_token(&found, &begun).await;
    match access.identify(Some(&of_build.secret)).await.unwrap() {
        Principal::Build { organization, project, build, .. } => {
            assert_eq!((organization, project, build), (own, found.id, begun.id));
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn refusals_say_what_is_wrong() {
    let place = Place::new().await;
    let access = access(&place);
    let own = place.organization("own").await;
    let made = place.organization_token(TokenKind::Organization, &own).await;
    let late = Some(Utc::now() - TimeDelta::seconds(1));
    let expired = place.token(TokenKind::Organization, &own, None, None, None, late).await;
    let soon = Some(Utc::now() + TimeDelta::seconds(60));
    let living = place.token(TokenKind::Organization, &own, None, None, None, soon).await;
    access.identify(Some(&living.secret)).await.unwrap();
    let cut = &made.secret[..made.secret.len() - 3];
    let flipped = format!("{}{}", cut, "AAA");
    let session_named_org = made.secret.replace("cfd_org_", "cfd_session_");
    for (bearer, expected) in [
        (None, Unauthenticated::Missing),
        (Some(""), Unauthenticated::Missing),
        (Some(" "), Unauthenticated::Missing),
        (Some("hello"), Unauthenticated::Malformed),
        (Some(cut), Unauthenticated::Malformed),
        (Some(flipped.as_str()), Unauthenticated::Unknown),
        (Some(session_named_org.as_str()), Unauthenticated::Unknown),
        (Some(expired.secret.as_str()), Unauthenticated::Expired),
    ] {
        match access.identify(bearer).await.unwrap_err() {
            Denied::Unauthenticated(found) => assert_eq!(found, expected, "{bearer:?}"),
            other => panic!("{other:?}"),
        }
    }
    let surrounded = format!("  {} ", made.secret);
    access.identify(Some(&surrounded)).await.unwrap();
}

#[tokio::test]
async fn forbidden_names_the_token_that_may_and_not_found_repeats_little() {
    let place = Place::new().await;
    let access = access(&place);
    let own = place.organization("own").await;
    let project = place.project(&own, "project").await;
    let made = place.project_token(TokenKind::Project, &project).await;
    let denied = access
        .authorize(Some(&made.secret), Action::DeleteProject, Resource::Project(&project.id))
        .await
        .unwrap_err();
    assert_eq!(
        denied.to_string(),
        "a project token may not delete projects: use an organization token"
    );
    let long = "\n".repeat(100_000);
    let denied = access
        .authorize(Some(&made.secret), Action::ReadProject, Resource::Project(&long))
        .await
        .unwrap_err();
    assert!(denied.to_string().len() < 300, "{denied}");
    assert!(!denied.to_string().contains('\n'));
}

#[tokio::test]
async fn revoking_a_token_ends_everything_made_from_it_at_once() {
    let place = Place::new().await;
    let access = access(&place);
    let own = place.organization("own").await;
    let project = place.project(&own, "project").await;
    let build = place.build(&project).await;
    let parent = place.project_token(TokenKind::Project, &project).await;
    let other = place.project_token(TokenKind::Project, &project).await;
    let child = place
        .token(TokenKind::Build, &own, Some(&project), Some(&build), Some(&parent.token), None)
        .await;
    let grandchild =
        place.token(TokenKind::Pull, &own, Some(&project), None, Some(&child.token), None).await;
    let watched = access.revocations().watch(&grandchild.token.id);
    let unrelated = access.revocations().watch(&other.token.id);
    access.identify(Some(&grandchild.secret)).await.unwrap();

    let gone = place.records.delete_token(&parent.token.id).await.unwrap();
    access.revocations().revoke(&gone);

    tokio::time::timeout(Duration::from_secs(1), watched.revoked()).await.unwrap();
    assert!(!unrelated.is_revoked());
    for secret in [&parent.secret, &child.secret, &grandchild.secret] {
        let denied = access.identify(Some(secret)).await.unwrap_err();
        assert!(matches!(denied, Denied::Unauthenticated(Unauthenticated::Unknown)), "{denied}");
    }
    access.identify(Some(&other.secret)).await.unwrap();
}

#[tokio::test]
async fn the_one_project_that_can_be_meant() {
    let place = Place::new().await;
    let access = access(&place);
    let own = place.organization("own").await;
    let of_organization = place.organization_token(TokenKind::Organization, &own).await;
    let pick = async |secret: &str| {
        let grant = access
            .authorize(Some(secret), Action::CreateBuild, Resource::AnyProject)
            .await
            .unwrap();
        assert_eq!(grant.organization, own);
        grant.project.map(|project| project.id)
    };
    assert_eq!(pick(&of_organization.secret).await, None);
    let first = place.project(&own, "first").await;
    assert_eq!(pick(&of_organization.secret).await, Some(first.id.clone()));
    let second = place.project(&own, "second").await;
    assert_eq!(pick(&of_organization.secret).await, None);
    let of_project = place.project_token(TokenKind::Project, &second).await;
    assert_eq!(pick(&of_project.secret).await, Some(second.id.clone()));
    let foreign = place.organization("foreign").await;
    place.project(&foreign, "theirs").await;
    place.records.begin_delete(&first.id).await.unwrap();
    assert_eq!(pick(&of_organization.secret).await, Some(second.id));
}

#[tokio::test]
async fn a_project_that_is_being_deleted_is_gone() {
    let place = Place::new().await;
    let access = access(&place);
    let own = place.organization("own").await;
    let project = place.project(&own, "project").await;
    let build = place.build(&project).await;
    let of_organization = place.organization_token(TokenKind::Organization, &own).await.secret;
    let of_project = place.project_token(TokenKind::Project, &project).await;
    let of_build = place.build_token(&project, &build).await.secret;
    let bearer = Some(of_organization.as_str());
    access.authorize(bearer, Action::ReadBuild, Resource::Build(&build.id)).await.unwrap();

    place.records.begin_delete(&project.id).await.unwrap();

    for (action, resource) in [
        (Action::ReadProject, Resource::Project(&project.id)),
        (Action::DeleteProject, Resource::Project(&project.id)),
        (Action::ReadBuild, Resource::Build(&build.id)),
        (Action::Pull, Resource::Project(&project.id)),
        (Action::ManageTokens, Resource::Token(&of_project.token.id)),
    ] {
        let denied = access.authorize(bearer, action, resource).await.unwrap_err();
        assert!(matches!(denied, Denied::NotFound { .. }), "{action:?}: {denied}");
    }
    for secret in [&of_project.secret, &of_build] {
        let denied = access.identify(Some(secret)).await.unwrap_err();
        assert!(matches!(denied, Denied::Unauthenticated(Unauthenticated::Unknown)), "{denied}");
    }
}

#[tokio::test]
async fn a_share_link_opens_one_build_until_it_is_taken_back() {
    let place = Place::new().await;
    let access = access(&place);
    let own = place.organization("own").await;
    let project = place.project(&own, "project").await;
    let build = place.build(&project).await;
    let (secret, hash) = mint_share();
    let refused = async |secret: &str| {
        matches!(access.shared(secret).await.unwrap_err(), Denied::NotFound { .. })
    };
    assert!(refused(&secret).await);
    place.records.share_build(&build.id, &hash).await.unwrap();
    assert_eq!(access.shared(&secret).await.unwrap().id, build.id);
    assert!(refused(&hash).await, "the hash is not the secret");
    assert!(refused("").await);
    // A link is no token.
    let denied = access
        .authorize(Some(&secret), Action::ReadBuild, Resource::Build(&build.id))
        .await
        .unwrap_err();
    assert!(matches!(denied, Denied::Unauthenticated(Unauthenticated::Malformed)), "{denied}");
    place.records.stop_sharing(&build.id).await.unwrap();
    assert!(refused(&secret).await);
    place.records.share_build(&build.id, &hash).await.unwrap();
    place.records.begin_delete(&project.id).await.unwrap();
    assert!(refused(&secret).await);
}
