//! The endpoints below `/v2/`, after the distribution specification 1.1.
//!
//! Every request comes through [`serve`]: its path passes the grammar, its token is asked for,
//! and only then an endpoint sees it. Nothing here may answer a request about a project before
//! the token may know that project.

mod blobs;
mod listing;
mod manifests;
mod uploads;

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};

use crate::auth::{Authorize, Operation, Permit, token};
use crate::error::Failure;
use crate::limits::QUERY_BYTES;
use crate::name::Repository;
use crate::registry::{Inner, Registry};
use crate::route::{Misrouted, Route};

/// Tells old clients that this is the second version of the API.
const VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");
/// The digest of what was asked for or made.
const DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

impl Registry {
    /// The endpoints, for `/v2`, `/v2/` and everything below.
    pub fn router(&self, authorize: Arc<dyn Authorize>) -> Router {
        let api = Api { registry: Arc::clone(&self.0), authorize };
        Router::new()
            .route("/v2", any(serve))
            .route("/v2/", any(serve))
            .route("/v2/{*path}", any(serve))
            .with_state(api)
    }
}

#[derive(Clone)]
struct Api {
    registry: Arc<Inner>,
    authorize: Arc<dyn Authorize>,
}

/// A request that may be carried out.
struct Ask {
    registry: Arc<Inner>,
    permit: Permit,
    method: Method,
    headers: HeaderMap,
    query: Query,
}

async fn serve(State(api): State<Api>, request: Request) -> Response {
    let mut response = match answer(api, request).await {
        Ok(response) => response,
        Err(failure) => failure.into_response(),
    };
    let headers = response.headers_mut();
    headers.insert(VERSION, HeaderValue::from_static("registry/2.0"));
    // What clients pushed must never be anything but data, should a browser come by.
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'; sandbox"),
    );
    response
}

async fn answer(api: Api, request: Request) -> Result<Response, Failure> {
    let (parts, body) = request.into_parts();
    let token = token(&parts.headers);
    let token = token.as_ref().map(crate::auth::Token::as_str);
    let path = parts.uri.path().strip_prefix("/v2").unwrap_or_default();
    let route = Route::parse(path.strip_prefix('/').unwrap_or(path));
    let Some(repository) = route.as_ref().ok().and_then(Route::repository) else {
        api.authorize.identify(token).await?;
        return without_repository(route, &parts.method);
    };
    let operation = operation(&route, &parts.method);
    let permit = api.authorize.authorize(token, operation, repository.project()).await?;
    let ask = Ask {
        registry: api.registry,
        permit,
        method: parts.method,
        headers: parts.headers,
        query: Query::parse(parts.uri.query())?,
    };
    match route? {
        Route::Base | Route::Catalog => Err(Failure::NoEndpoint),
        Route::Tags(repository) => listing::tags(ask, repository).await,
        Route::Referrers(repository, digest) => listing::referrers(ask, repository, digest).await,
        Route::Manifest(repository, reference) => {
            manifests::serve(ask, body, repository, reference).await
        }
        Route::Blob(repository, digest) => blobs::serve(ask, repository, digest).await,
        Route::Uploads(repository) => uploads::start(ask, body, repository).await,
        Route::Upload(repository, id) => uploads::serve(ask, body, repository, &id).await,
    }
}

fn without_repository(
    route: Result<Route, Misrouted>,
    method: &Method,
) -> Result<Response, Failure> {
    match route? {
        Route::Base if matches!(*method, Method::GET | Method::HEAD) => {
            Ok(json(StatusCode::OK, "application/json", "{}".to_owned()))
        }
        Route::Base => Err(Failure::WrongMethod(READ)),
        // A list of all repositories would be one across projects.
        _ => Err(Failure::NoCatalog),
    }
}

/// An upload's state is its client's own: looking at it and giving it up are part of the push.
fn operation(route: &Result<Route, Misrouted>, method: &Method) -> Operation {
    match *method {
        _ if matches!(route, Ok(Route::Uploads(_) | Route::Upload(..))) => Operation::Push,
        Method::GET | Method::HEAD => Operation::Pull,
        Method::DELETE => Operation::Delete,
        _ => Operation::Push,
    }
}

/// Methods of what can only be read.
const READ: &str = "GET, HEAD";

impl From<Misrouted> for Failure {
    fn from(why: Misrouted) -> Self {
        match why {
            Misrouted::Unknown => Self::NoEndpoint,
            Misrouted::Name => Self::NameInvalid,
            Misrouted::Digest => Self::DigestMalformed,
            Misrouted::Tag => Self::TagInvalid,
            Misrouted::Upload => Self::UploadUnknown,
        }
    }
}

impl Ask {
    fn header(&self, name: &HeaderName) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// The announced length of the body, if it is not chunked.
    fn content_length(&self) -> Option<u64> {
        self.header(&header::CONTENT_LENGTH).and_then(|text| text.parse().ok())
    }

    fn is_head(&self) -> bool {
        self.method == Method::HEAD
    }
}

/// The parameters behind the question mark.
struct Query(Vec<(String, String)>);

impl Query {
    fn parse(text: Option<&str>) -> Result<Self, Failure> {
        let text = text.unwrap_or_default();
        if text.len() > QUERY_BYTES {
            return Err(Failure::Query("query: it is too long"));
        }
        Ok(Self(url::form_urlencoded::parse(text.as_bytes()).into_owned().collect()))
    }

    /// The first value of `name`.
    fn get<'a>(&'a self, name: &'a str) -> Option<&'a str> {
        self.all(name).next()
    }

    fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// A response with a JSON body of the given type.
fn json(status: StatusCode, content_type: &'static str, body: String) -> Response {
    (status, [(header::CONTENT_TYPE, HeaderValue::from_static(content_type))], body).into_response()
}

/// A response without a body, with text headers. Values come from grammars that fit headers.
fn bare(status: StatusCode, headers: &[(HeaderName, &str)]) -> Response {
    let mut response = status.into_response();
    for (name, value) in headers {
        if let Ok(value) = HeaderValue::from_str(value) {
            response.headers_mut().insert(name, value);
        }
    }
    response
}

impl Route {
    /// The repository a route is about.
    fn repository(&self) -> Option<&Repository> {
        match self {
            Self::Base | Self::Catalog => None,
            Self::Tags(repository)
            | Self::Manifest(repository, _)
            | Self::Blob(repository, _)
            | Self::Uploads(repository)
            | Self::Upload(repository, _)
            | Self::Referrers(repository, _) => Some(repository),
        }
    }
}
