//! Who looks at a page: a token in the `Authorization` header, or a browser's session in a cookie.

use axum::extract::FromRequestParts;
use cofferdam_access::{Action, Denied, Grant, Principal, Resource};
use cofferdam_pages::Viewer;
use http::header::{COOKIE, ORIGIN};
use http::request::Parts;
use http::{HeaderMap, HeaderValue};

use super::Refused;
use crate::api::Api;
use crate::origin::Origin;

/// Name of the cookie.
const COOKIE_NAME: &str = "cofferdam_session";
/// How long a browser keeps it; the session itself expires on the server.
pub(super) const SESSION_SECONDS: i64 = 12 * 3600;

/// What a request says about who sent it, not yet believed.
pub(super) struct Visitor {
    token: Option<String>,
    /// Where the request was sent.
    pub(super) origin: Origin,
    /// The path and query that were asked for.
    pub(super) path: String,
    headers: HeaderMap,
}

impl<S: Sync> FromRequestParts<S> for Visitor {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Self::Rejection> {
        let bearer = crate::origin::bearer(&parts.headers).map(str::to_owned);
        let token = bearer.or_else(|| cookie(&parts.headers).map(str::to_owned));
        let path = parts.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
        Ok(Self {
            token,
            origin: parts.extensions.get::<Origin>().cloned().unwrap_or_default(),
            path: path.to_owned(),
            headers: parts.headers.clone(),
        })
    }
}

fn cookie(headers: &HeaderMap) -> Option<&str> {
    let cookies = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs = cookies.flat_map(|value| value.split(';'));
    pairs.find_map(|pair| pair.trim().strip_prefix(COOKIE_NAME)?.strip_prefix('='))
}

/// The header that gives a browser its session, or takes it away with an empty one.
pub(super) fn set_cookie(session: &str, origin: &Origin) -> Option<HeaderValue> {
    let age = if session.is_empty() { 0 } else { SESSION_SECONDS };
    let secure = if origin.secure { "; Secure" } else { "" };
    // Lax: a link to a build from elsewhere shows the build; forms of other sites send no cookie.
    let cookie =
        format!("{COOKIE_NAME}={session}; Path=/; HttpOnly; SameSite=Lax; Max-Age={age}{secure}");
    HeaderValue::from_str(&cookie).ok()
}

impl Visitor {
    /// The token, for what wants to end it.
    pub(super) fn token(&self) -> Option<&str> {
        self.token.as_deref()
    }

    /// How pages address the visitor.
    pub(super) async fn viewer(&self, api: &Api) -> Viewer {
        let Ok(principal) = api.access.identify(self.token()).await else {
            return Viewer::SignedOut;
        };
        let organization = match &principal {
            Principal::Organization { organization, .. }
            | Principal::Session { organization, .. } => organization,
            _ => return Viewer::SignedOut,
        };
        let name = api.records.organization(organization).await.ok().flatten();
        Viewer::SignedIn {
            organization: name.map_or_else(|| organization.clone(), |found| found.name),
        }
    }

    /// May the visitor do this? The same function as for every call of the API decides.
    pub(super) async fn authorize(
        &self,
        api: &Api,
        action: Action,
        resource: Resource<'_>,
    ) -> Result<(Grant, Viewer), Refused> {
        let viewer = self.viewer(api).await;
        match api.access.authorize(self.token(), action, resource).await {
            Ok(grant) => Ok((grant, viewer)),
            Err(denied) => Err(self.refused(&viewer, &denied)),
        }
    }

    pub(super) fn refused(&self, viewer: &Viewer, denied: &Denied) -> Refused {
        Refused::new(viewer, denied, &self.path)
    }

    /// Whether a form was sent by a page of this server. Browsers say where a form comes from; what says nothing is no browser.
    pub(super) fn is_same_origin(&self) -> bool {
        match self.headers.get(ORIGIN).map(HeaderValue::to_str) {
            None => true,
            Some(Ok(origin)) => origin == self.origin.url(""),
            Some(Err(_)) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn cookies_are_found_among_others() {
        let mut headers = HeaderMap::new();
        headers.append(COOKIE, "a=b; cofferdam_session_x=1".parse().unwrap());
        assert_eq!(cookie(&headers), None);
        headers.append(COOKIE, "c=d;cofferdam_session=abc; e=f".parse().unwrap());
        assert_eq!(cookie(&headers), Some("abc"));
    }

    #[test]
    fn cookies_are_for_this_server_alone() {
        let secure = Origin { secure: true, authority: "x".into() };
        let cookie = set_cookie("abc", &secure).unwrap();
        let cookie = cookie.to_str().unwrap();
        for part in ["cofferdam_session=abc;", "HttpOnly", "SameSite=Lax", "Secure"] {
            assert!(cookie.contains(part), "{cookie}");
        }
        let gone = set_cookie("", &Origin::default()).unwrap();
        assert!(gone.to_str().unwrap().contains("Max-Age=0"));
        assert!(set_cookie("a\nb", &secure).is_none());
    }
}
