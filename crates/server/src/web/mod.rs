//! What browsers and machines get with plain HTTP: pages, their assets, health and metrics.
//!
//! Pages are made by the room `pages` from values; who may see them is decided by the same function as every call of the API.
//! Every answer carries the pages' security headers.

mod builds;
mod lists;
mod login;
mod session;
mod views;

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use axum::{Router, middleware};
use cofferdam_access::Denied;
use cofferdam_pages::{ErrorPage, PAGE_HEADERS, SECURITY_HEADERS, Viewer};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use metrics_exporter_prometheus::PrometheusHandle;

use crate::api::Api;

/// All routes.
pub(crate) fn router(api: &Arc<Api>, metrics: PrometheusHandle) -> Router {
    let pages = Router::new()
        .route("/", get(|| async { Redirect::to(cofferdam_pages::PROJECTS) }))
        .route(cofferdam_pages::FAVICON, get(asset))
        .route("/assets/{file}", get(asset))
        .route(cofferdam_pages::SIGN_IN, get(login::form).post(login::sign_in))
        .route(cofferdam_pages::SIGN_OUT, post(login::sign_out))
        .route("/login/approve/{id}", get(login::approval).post(login::approve))
        .route(cofferdam_pages::PROJECTS, get(lists::projects))
        .route("/projects/{project}", get(lists::builds))
        .route("/projects/{project}/builds/{build}", get(builds::page))
        .route("/projects/{project}/builds/{build}/logs/{ordinal}", get(builds::log))
        .route("/shared/{secret}", get(builds::shared))
        .route("/shared/{secret}/logs/{ordinal}", get(builds::shared_log))
        .layer(middleware::map_response(secure))
        .with_state(Arc::clone(api));
    let measured = Arc::clone(api);
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/metrics", get(move || async move { figures(&measured, &metrics) }))
        .merge(pages)
}

/// All figures, in the text that Prometheus reads.
fn figures(api: &Api, metrics: &PrometheusHandle) -> Response {
    api.builds.measure();
    crate::metrics::measure();
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], metrics.render())
        .into_response()
}

async fn secure(mut response: Response) -> Response {
    for (name, value) in SECURITY_HEADERS {
        let (name, value) = (HeaderName::from_static(name), HeaderValue::from_static(value));
        response.headers_mut().insert(name, value);
    }
    response
}

async fn asset(request: Request) -> Response {
    match cofferdam_pages::asset(request.uri().path()) {
        Some(asset) => (
            [
                (header::CONTENT_TYPE, asset.content_type),
                (header::CACHE_CONTROL, cofferdam_pages::ASSET_CACHE_CONTROL),
            ],
            asset.body,
        )
            .into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

/// A page as an answer.
fn page(status: StatusCode, html: String) -> Response {
    let mut response = (status, html).into_response();
    for (name, value) in PAGE_HEADERS {
        let (name, value) = (HeaderName::from_static(name), HeaderValue::from_static(value));
        response.headers_mut().insert(name, value);
    }
    response
}

/// Why a page is not shown.
struct Refused {
    viewer: Viewer,
    status: StatusCode,
    message: Option<String>,
    path: Option<String>,
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let Self { viewer, status, message, path } = self;
        let html = ErrorPage { viewer, status: status.as_u16(), message, path }.render();
        page(status, html)
    }
}

impl Refused {
    fn new(viewer: &Viewer, denied: &Denied, path: &str) -> Self {
        let status = match denied {
            Denied::Unauthenticated(_) => StatusCode::UNAUTHORIZED,
            Denied::Forbidden { .. } => StatusCode::FORBIDDEN,
            Denied::NotFound { .. } => StatusCode::NOT_FOUND,
            Denied::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
        };
        let message = match denied {
            // Without a token there is nothing to explain: the page offers to sign in.
            Denied::Unauthenticated(_) | Denied::Unavailable(_) => None,
            _ => Some(denied.to_string()),
        };
        Self { viewer: viewer.clone(), status, message, path: Some(path.to_owned()) }
    }

    fn missing(viewer: &Viewer, path: &str) -> Self {
        let (status, path) = (StatusCode::NOT_FOUND, Some(path.to_owned()));
        Self { viewer: viewer.clone(), status, message: None, path }
    }

    fn failed(viewer: &Viewer, error: &cofferdam_records::RecordsError) -> Self {
        let bad = error.is_bad_request();
        if !bad {
            crate::metrics::ERRORS.count("records", 1);
            tracing::error!(error = error as &dyn std::error::Error, "records failed");
        }
        let status = if bad { StatusCode::BAD_REQUEST } else { StatusCode::SERVICE_UNAVAILABLE };
        let message = bad.then(|| error.to_string());
        Self { viewer: viewer.clone(), status, message, path: None }
    }
}

type Shared = State<Arc<Api>>;
type Answer = Result<Response, Refused>;

/// Plain text, for whole logs.
fn text_headers() -> HeaderMap {
    let mut headers = HeaderMap::new();
    let text = HeaderValue::from_static("text/plain; charset=utf-8");
    headers.insert(header::CONTENT_TYPE, text);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers
}
