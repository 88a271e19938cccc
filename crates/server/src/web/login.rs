//! Signing in with a token, signing out, and approving the login of a terminal.
//!
//! A browser never keeps the token that was typed in: it gets a session that ends by itself, with that token, or at sign-out.

use axum::Form;
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Redirect, Response};
use chrono::{TimeDelta, Utc};
use cofferdam_access::{Action, Denied, Grant, Resource, TokenKind, mint};
use cofferdam_pages::{ApprovePage, ApprovedPage, ErrorPage, PROJECTS, SignInPage, Viewer};
use cofferdam_records::{NewToken, RecordsError};
use http::StatusCode;
use http::header::SET_COOKIE;
use serde::Deserialize;

use super::session::{SESSION_SECONDS, Visitor, set_cookie};
use super::{Answer, Refused, Shared, page};
use crate::api::Api;

#[derive(Deserialize)]
pub(super) struct Next {
    next: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct SignIn {
    token: String,
    next: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct Approval {
    token: String,
}

/// The path to go on to, if it is one of this server's own.
fn local(next: Option<String>) -> Option<String> {
    // A second slash or a backslash would make it another host's.
    let plain = |path: &String| {
        path.starts_with('/')
            && !path.starts_with("//")
            && !path.contains('\\')
            && !path.chars().any(char::is_control)
    };
    next.filter(plain)
}

pub(super) async fn form(Query(query): Query<Next>) -> Response {
    page(StatusCode::OK, SignInPage { next: local(query.next), error: None }.render())
}

pub(super) async fn sign_in(
    State(api): Shared,
    visitor: Visitor,
    Form(form): Form<SignIn>,
) -> Answer {
    from_here(&visitor)?;
    let next = local(form.next);
    let grant = match organization(&api, &form.token, Action::SignIn).await {
        Ok(grant) => grant,
        Err(denied) => {
            let error = Some(explain(&denied));
            return Ok(page(StatusCode::UNAUTHORIZED, SignInPage { next, error }.render()));
        }
    };
    let life = TimeDelta::seconds(SESSION_SECONDS);
    let session = token(&api, &grant, TokenKind::Session, "browser", Some(life))
        .await
        .map_err(|error| Refused::failed(&Viewer::SignedOut, &error))?;
    let mut response = Redirect::to(next.as_deref().unwrap_or(PROJECTS)).into_response();
    if let Some(cookie) = set_cookie(&session, &visitor.origin) {
        response.headers_mut().insert(SET_COOKIE, cookie);
    }
    Ok(response)
}

pub(super) async fn sign_out(State(api): Shared, visitor: Visitor) -> Answer {
    from_here(&visitor)?;
    if let Some(secret) = visitor.token() {
        let hash = cofferdam_access::hash(secret);
        let known = api.records.token_by_hash(&hash).await.ok().flatten();
        // Only a session ends here: a script's own token does not.
        if let Some(session) = known.filter(|known| known.kind == TokenKind::Session) {
            let gone = api.records.delete_token(&session.id).await;
            let gone = gone.map_err(|error| Refused::failed(&Viewer::SignedOut, &error))?;
            api.access.revocations().revoke(&gone);
        }
    }
    let mut response = Redirect::to(cofferdam_pages::SIGN_IN).into_response();
    if let Some(cookie) = set_cookie("", &visitor.origin) {
        response.headers_mut().insert(SET_COOKIE, cookie);
    }
    Ok(response)
}

pub(super) async fn approval(
    State(api): Shared,
    visitor: Visitor,
    Path(id): Path<String>,
) -> Response {
    let viewer = visitor.viewer(&api).await;
    if !api.logins.waits(&id) {
        return gone(viewer);
    }
    page(StatusCode::OK, ApprovePage { viewer, id, error: None }.render())
}

pub(super) async fn approve(
    State(api): Shared,
    visitor: Visitor,
    Path(id): Path<String>,
    Form(form): Form<Approval>,
) -> Answer {
    from_here(&visitor)?;
    let viewer = visitor.viewer(&api).await;
    if !api.logins.waits(&id) {
        return Ok(gone(viewer));
    }
    let grant = match organization(&api, &form.token, Action::ApproveLogin).await {
        Ok(grant) => grant,
        Err(denied) => {
            let error = Some(explain(&denied));
            return Ok(page(StatusCode::UNAUTHORIZED, ApprovePage { viewer, id, error }.render()));
        }
    };
    let kind = TokenKind::Organization;
    let secret = token(&api, &grant, kind, "login of a terminal", None)
        .await
        .map_err(|error| Refused::failed(&viewer, &error))?;
    if !api.logins.approve(&id, secret) {
        return Ok(gone(viewer));
    }
    let found = api.records.organization(&grant.organization).await.ok().flatten();
    let organization = found.map_or(grant.organization, |found| found.name);
    Ok(page(StatusCode::OK, ApprovedPage { viewer, organization }.render()))
}

/// Forms of other sites are refused before anything is read from them.
fn from_here(visitor: &Visitor) -> Result<(), Refused> {
    if visitor.is_same_origin() {
        return Ok(());
    }
    Err(Refused {
        viewer: Viewer::SignedOut,
        status: StatusCode::FORBIDDEN,
        message: Some("this form was sent by another site".to_owned()),
        path: None,
    })
}

fn gone(viewer: Viewer) -> Response {
    let message =
        Some("This login is not waiting any more: start it again in your terminal.".to_owned());
    let status = StatusCode::GONE;
    page(status, ErrorPage { viewer, status: status.as_u16(), message, path: None }.render())
}

async fn organization(api: &Api, token: &str, action: Action) -> Result<Grant, Denied> {
    let token = Some(token.trim()).filter(|token| !token.is_empty());
    api.access.authorize(token, action, Resource::Organization(None)).await
}

/// What the form says to somebody whose token was refused.
fn explain(denied: &Denied) -> String {
    match denied {
        Denied::Unauthenticated(_) => "There is no such token.".to_owned(),
        Denied::Unavailable(_) => "The server cannot check tokens right now.".to_owned(),
        Denied::Forbidden { .. } | Denied::NotFound { .. } => {
            "This needs the token of an organization.".to_owned()
        }
    }
}

/// A further token for whoever holds the granted one; it ends with that one.
async fn token(
    api: &Api,
    grant: &Grant,
    kind: TokenKind,
    description: &str,
    life: Option<TimeDelta>,
) -> Result<String, RecordsError> {
    let (secret, hash) = mint(kind);
    let token = NewToken {
        kind,
        organization: grant.organization.clone(),
        project: None,
        build: None,
        parent: grant.token.as_ref().map(|token| token.id.clone()),
        description: description.to_owned(),
        hash,
        expires_at: life.map(|life| Utc::now() + life),
    };
    api.records.create_token(token).await?;
    Ok(secret)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_local_paths_are_gone_on_to() {
        for good in ["/", "/projects/x?page=1"] {
            assert_eq!(local(Some(good.to_owned())), Some(good.to_owned()));
        }
        for bad in ["", "projects", "//evil.example", "/\\evil.example", "https://x", "/a\r\nb"] {
            assert_eq!(local(Some(bad.to_owned())), None, "{bad}");
        }
    }
}
