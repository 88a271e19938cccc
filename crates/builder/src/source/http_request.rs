//! What is asked of a server, and what it may answer.
//!
//! A download that is remembered is asked after with `HEAD` first: some servers name versions and yet
//! send the whole file to whoever asks whether it changed. Credentials come from the client's secrets,
//! are marked as sensitive, and are not sent on to other hosts.

use std::sync::Arc;

use cofferdam_solver::Step;
use cofferdam_store::Blob;
use cofferdam_wire::pb;
use reqwest::header::{
    ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, HeaderMap, HeaderName, HeaderValue, USER_AGENT,
};
use reqwest::{Method, Response};

use super::http::redacted;
use super::http_cache::Remembered;
use crate::context::Context;
use crate::failure::Failure;

/// What a server says.
pub(super) enum Answer {
    /// What is remembered is current.
    Unchanged(Remembered, Blob),
    /// A file follows.
    New(Response),
}

/// Asks for a file, or whether what is known of it still holds.
pub(super) async fn ask(
    context: &Arc<Context>,
    op: &pb::SourceOp,
    url: &url::Url,
    known: Option<(Remembered, Blob)>,
    step: &Step,
) -> Result<Answer, Failure> {
    let mut headers = headers(context, op, url, step).await?;
    if let Some((known, _)) = &known {
        let validators =
            [("if-none-match", &known.etag), ("if-modified-since", &known.last_modified)];
        for (name, value) in validators {
            let value = value.as_deref().and_then(|text| HeaderValue::from_str(text).ok());
            headers.extend(value.map(|value| (HeaderName::from_static(name), value)));
        }
    }
    if let Some((known, blob)) = &known
        && let Some(etag) = &known.etag
        && let Ok(response) = send(context, Method::HEAD, url, &headers).await
        && is_same(&response, etag)
    {
        return Ok(Answer::Unchanged(known.clone(), blob.clone()));
    }
    let response = send(context, Method::GET, url, &headers).await?;
    if let (304, Some((known, blob))) = (response.status().as_u16(), known) {
        return Ok(Answer::Unchanged(known, blob));
    }
    if !response.status().is_success() {
        return Err(Failure::unknown(format!(
            "invalid response status {} for {}",
            response.status().as_u16(),
            redacted(url.as_str())
        )));
    }
    Ok(Answer::New(response))
}

/// Whether a server says that it still has the version `etag`.
fn is_same(response: &Response, etag: &str) -> bool {
    let status = response.status().as_u16();
    match response.headers().get("etag").map(HeaderValue::to_str) {
        Some(Ok(found)) => matches!(status, 200 | 304) && strong(found) == strong(etag),
        Some(Err(_)) => false,
        // The answer is about the only version that was asked for.
        None => status == 304,
    }
}

/// A version's name; that it is a weak one is no part of it.
fn strong(etag: &str) -> &str {
    etag.strip_prefix("W/").unwrap_or(etag)
}

async fn send(
    context: &Arc<Context>,
    method: Method,
    url: &url::Url,
    headers: &HeaderMap,
) -> Result<Response, Failure> {
    let request = context.http()?.request(method, url.clone()).headers(headers.clone());
    // The error of a request names the whole URL, which may hold a token.
    let sent = request.send().await;
    sent.map_err(|error| Failure::of(error.without_url()).during(&redacted(url.as_str())))
}

async fn headers(
    context: &Arc<Context>,
    op: &pb::SourceOp,
    url: &url::Url,
    step: &Step,
) -> Result<HeaderMap, Failure> {
    let mut headers = HeaderMap::new();
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
    if let Some(value) = authorization(context, op, url, step).await? {
        headers.insert(AUTHORIZATION, value);
    }
    chosen(op, &mut headers)?;
    Ok(headers)
}

/// Headers that a graph may choose. Like BuildKit, others are left out: they could say who asks, or which version is wanted.
fn chosen(op: &pb::SourceOp, headers: &mut HeaderMap) -> Result<(), Failure> {
    for (key, value) in &op.attrs {
        let Some(name) = key.strip_prefix("http.header.") else { continue };
        let allowed = [ACCEPT, USER_AGENT];
        let same = |header: &HeaderName| header.as_str().eq_ignore_ascii_case(name);
        let Some(allowed) = allowed.into_iter().find(same) else { continue };
        let value = HeaderValue::from_str(value)
            .map_err(|_| Failure::invalid(format!("invalid HTTP header {name:?}")))?;
        headers.insert(allowed, value);
    }
    Ok(())
}

/// What proves to the server that the client may download: the secret the graph names, which has to
/// be there then, or one that is named after the host. Redirects to other hosts do not get it.
async fn authorization(
    context: &Arc<Context>,
    op: &pb::SourceOp,
    url: &url::Url,
    step: &Step,
) -> Result<Option<HeaderValue>, Failure> {
    let secret = |id: String, prefix: &'static str| async move {
        let mut value = prefix.as_bytes().to_vec();
        value.extend_from_slice(context.secret(step, &id).await?.trim_ascii());
        let mut header = HeaderValue::from_bytes(&value)
            .map_err(|_| Failure::invalid(format!("secret {id} cannot be sent as a header")))?;
        header.set_sensitive(true);
        Ok::<_, Failure>(header)
    };
    if let Some(id) = op.attrs.get("http.authheadersecret").filter(|id| !id.is_empty()) {
        let header = secret(id.clone(), "").await.map_err(|failure| {
            failure.during(&format!("failed to retrieve HTTP auth secret {id}"))
        })?;
        return Ok(Some(header));
    }
    let Some(host) = url.host_str() else { return Ok(None) };
    for (name, prefix) in [("HTTP_AUTH_HEADER_", ""), ("HTTP_AUTH_TOKEN_", "Bearer ")] {
        if let Ok(header) = secret(format!("{name}{host}"), prefix).await {
            return Ok(Some(header));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn graphs_choose_harmless_headers_only() {
        let mut op = pb::SourceOp::default();
        for (name, value) in [
            ("accept", "text/plain"),
            ("User-Agent", "me"),
            ("authorization", "x"),
            ("host", "elsewhere"),
            ("not a name", "x"),
        ] {
            op.attrs.insert(format!("http.header.{name}"), value.to_owned());
        }
        let mut headers = HeaderMap::new();
        chosen(&op, &mut headers).unwrap();
        assert_eq!(headers.len(), 2, "{headers:?}");
        assert_eq!(headers[ACCEPT], "text/plain");
        assert_eq!(headers[USER_AGENT], "me");
        op.attrs.insert("http.header.accept".to_owned(), "a\nb".to_owned());
        assert!(chosen(&op, &mut headers).is_err());
    }
}
