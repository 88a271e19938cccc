//! Single requests: connections, redirects, retries and patience.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, Once, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use http::header::{HeaderMap, HeaderValue, LOCATION, RETRY_AFTER};
use http::{Method, StatusCode};
use reqwest::{Body, Response};
use url::Url;

use super::config::ClientConfig;
use super::endpoint::Endpoint;
use super::error::RegistryError;

/// Redirects followed for one request; content delivery takes one or two.
const MAX_REDIRECTS: usize = 6;
/// Attempts when no connection can be made at all: a dead registry should fail fast.
const CONNECT_ATTEMPTS: u32 = 2;
/// Bytes of an error document that are looked at.
const MAX_ERROR_BODY: usize = 64 << 10;
/// Characters of it that are shown.
const MAX_DETAIL: usize = 500;

/// Makes the body of a request, anew for each attempt.
pub(super) type MakeBody<'a> = &'a (dyn Fn() -> Body + Send + Sync);

/// One request. Its URL is on the endpoint or was given out by it.
pub(super) struct Request<'a> {
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) headers: HeaderMap,
    pub(super) body: Option<MakeBody<'a>>,
    /// Sent once only, for requests that are not safe to repeat.
    pub(super) once: bool,
}

impl Request<'_> {
    pub(super) fn new(method: Method, url: Url) -> Self {
        Self { method, url, headers: HeaderMap::new(), body: None, once: false }
    }
}

/// Connections to all hosts, made when first needed.
pub(super) struct Transport {
    pub(super) config: Arc<ClientConfig>,
    clients: Mutex<HashMap<(String, bool), reqwest::Client>>,
}

impl Transport {
    pub(super) fn new(config: ClientConfig) -> Self {
        static PROVIDER: Once = Once::new();
        // Losing to a provider that somebody else installed is fine.
        PROVIDER.call_once(|| drop(rustls::crypto::ring::default_provider().install_default()));
        Self { config: Arc::new(config), clients: Mutex::new(HashMap::new()) }
    }

    /// The client with the trust and keys configured for `host`.
    pub(super) fn client(&self, host: &str, tls: bool) -> Result<reqwest::Client, RegistryError> {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (host.to_owned(), tls);
        if let Some(client) = clients.get(&key) {
            return Ok(client.clone());
        }
        // Hosts of redirects are named by strangers; their number must not grow without bound.
        const MAX_CLIENTS: usize = 256;
        if clients.len() >= MAX_CLIENTS {
            clients.clear();
        }
        let client = self.build(host, tls)?;
        clients.insert(key, client.clone());
        Ok(client)
    }

    fn build(&self, host: &str, tls: bool) -> Result<reqwest::Client, RegistryError> {
        type Source = Box<dyn std::error::Error + Send + Sync>;
        let setup = |reason: &'static str, source: Source| RegistryError::Setup {
            host: host.to_owned(),
            reason,
            source: Some(source),
        };
        let settings = self.config.host(host);
        let mut builder = reqwest::Client::builder()
            .user_agent(&self.config.user_agent)
            .connect_timeout(self.config.connect_timeout)
            .read_timeout(self.config.read_timeout)
            .redirect(reqwest::redirect::Policy::none())
            .referer(false);
        builder = match &self.config.proxy {
            None => builder.no_proxy(),
            Some(proxy) => builder.proxy(
                reqwest::Proxy::all(proxy)
                    .map_err(|error| setup("the proxy is not valid", error.into()))?,
            ),
        };
        if !tls {
            // Does not need the machine's roots, which may not exist.
            builder = builder.tls_certs_only([]);
        } else if settings.insecure {
            builder = builder.tls_danger_accept_invalid_certs(true);
        }
        let read = |path: &std::path::Path| {
            std::fs::read(path)
                .map_err(|error| setup("a certificate or key cannot be read", error.into()))
        };
        let bad = |error: reqwest::Error| setup("a certificate or key is not valid", error.into());
        for path in settings.ca.iter().filter(|_| tls) {
            builder = builder
                .tls_certs_merge(reqwest::Certificate::from_pem_bundle(&read(path)?).map_err(bad)?);
        }
        match settings.keypairs.as_slice() {
            [] => {}
            [pair] => {
                let pem = [read(&pair.key)?, b"\n".to_vec(), read(&pair.cert)?].concat();
                builder = builder.identity(reqwest::Identity::from_pem(&pem).map_err(bad)?);
            }
            _ => {
                let reason = "more than one client certificate is configured";
                return Err(RegistryError::Setup { host: host.to_owned(), reason, source: None });
            }
        }
        builder
            .build()
            .map_err(|error| setup("the connection settings are not valid", error.into()))
    }

    /// Sends a request, retrying what may pass. Any final answer is `Ok`, errors included.
    pub(super) async fn send(
        &self,
        endpoint: &Endpoint,
        request: &Request<'_>,
        authorization: Option<&HeaderValue>,
    ) -> Result<Response, RegistryError> {
        let mut attempt = 1;
        loop {
            let result = self.follow(endpoint, request, authorization).await;
            let limit = match &result {
                Ok(response) if is_temporary(response.status()) => self.config.attempts,
                Err(error) if error.is_connect() => CONNECT_ATTEMPTS.min(self.config.attempts),
                Err(RegistryError::Transport { .. }) => self.config.attempts,
                _ => return result,
            };
            if request.once || attempt >= limit {
                return result;
            }
            let wait =
                result.as_ref().ok().and_then(|response| self.retry_after(response.headers()));
            let wait = wait.unwrap_or_else(|| self.backoff(attempt));
            tracing::debug!(
                url = shown(&request.url),
                attempt,
                ?wait,
                "registry request will be repeated"
            );
            tokio::time::sleep(wait).await;
            attempt += 1;
        }
    }

    /// Doubling waits: 1, 2, 4 … times the configured one.
    pub(super) fn backoff(&self, attempt: u32) -> Duration {
        self.config.backoff * 2_u32.saturating_pow(attempt.saturating_sub(1).min(6))
    }

    /// What the answer asks for, in seconds or as a date, within reason.
    fn retry_after(&self, headers: &HeaderMap) -> Option<Duration> {
        let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
        let wait = match text.parse() {
            Ok(seconds) => Duration::from_secs(seconds),
            Err(_) => {
                let date = chrono::DateTime::parse_from_rfc2822(text).ok()?;
                (date.to_utc() - chrono::Utc::now()).to_std().unwrap_or_default()
            }
        };
        Some(wait.min(self.config.max_retry_after))
    }

    /// One attempt, with redirects of safe methods. Credentials go to the endpoint's own host only,
    /// and never again once a redirect has left it.
    async fn follow(
        &self,
        endpoint: &Endpoint,
        request: &Request<'_>,
        authorization: Option<&HeaderValue>,
    ) -> Result<Response, RegistryError> {
        let mut url = request.url.clone();
        let mut authorization = authorization;
        for _ in 0..=MAX_REDIRECTS {
            if !endpoint.owns(&url) {
                authorization = None;
            }
            let response = self.once(endpoint, request, &url, authorization).await?;
            let safe = request.method == Method::GET || request.method == Method::HEAD;
            if !safe || !is_redirect(response.status()) {
                return Ok(response);
            }
            let broken = |reason| RegistryError::Protocol { url: shown(&url), reason };
            let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
            let location = location.ok_or_else(|| broken("a redirect without a target"))?;
            let next = url.join(location).map_err(|_| broken("a redirect to an invalid target"))?;
            let downgrade = url.scheme() == "https" && next.scheme() != "https" && !endpoint.lax;
            if downgrade || !matches!(next.scheme(), "http" | "https") {
                return Err(broken("a redirect to an unsafe target"));
            }
            url = next;
        }
        Err(RegistryError::Protocol { url: shown(&request.url), reason: "too many redirects" })
    }

    async fn once(
        &self,
        endpoint: &Endpoint,
        request: &Request<'_>,
        url: &Url,
        authorization: Option<&HeaderValue>,
    ) -> Result<Response, RegistryError> {
        let host = if endpoint.owns(url) { endpoint.config_host.clone() } else { authority(url) };
        let client = self.client(&host, url.scheme() == "https")?;
        let mut headers = request.headers.clone();
        if let Some(authorization) = authorization {
            headers.insert(http::header::AUTHORIZATION, authorization.clone());
        }
        let mut builder = client.request(request.method.clone(), url.clone()).headers(headers);
        if let Some(body) = request.body {
            builder = builder.body(body());
        }
        builder.send().await.map_err(|error| transport_error(&request.method, url, error))
    }
}

pub(super) fn transport_error(method: &Method, url: &Url, error: reqwest::Error) -> RegistryError {
    // The URL may carry signatures of a storage provider.
    RegistryError::Transport {
        method: method.to_string(),
        url: shown(url),
        source: error.without_url(),
    }
}

/// A URL for messages: no query, which may be a secret, and no user info.
pub(super) fn shown(url: &Url) -> String {
    format!("{}://{}{}", url.scheme(), authority(url), url.path())
}

fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

fn is_temporary(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 429 | 500 | 502 | 503 | 504)
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

/// Reads a body of at most `limit` bytes; `None` when there is more.
pub(super) async fn read_bounded(
    response: Response,
    limit: u64,
) -> Result<Option<Bytes>, RegistryError> {
    let url = response.url().clone();
    let mut bytes = BytesMut::new();
    let mut stream = response.bytes_stream();
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.map_err(|error| transport_error(&Method::GET, &url, error))?;
        if (bytes.len() + chunk.len()) as u64 > limit {
            return Ok(None);
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(Some(bytes.freeze()))
}

/// Turns an answer that is not what was hoped for into an error about `what`.
pub(super) async fn refusal(method: &Method, what: &str, response: Response) -> RegistryError {
    let status = response.status();
    let url = shown(response.url());
    let body =
        read_bounded(response, MAX_ERROR_BODY as u64).await.ok().flatten().unwrap_or_default();
    let detail = error_detail(&body);
    let what = what.to_owned();
    match status {
        StatusCode::NOT_FOUND => RegistryError::NotFound { what },
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            let detail = if detail.is_empty() { status.to_string() } else { detail };
            RegistryError::Denied { what, detail }
        }
        _ => RegistryError::Status {
            method: method.to_string(),
            url,
            status: status.as_u16(),
            detail,
        },
    }
}

fn error_detail(body: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    struct Document {
        errors: Vec<Item>,
    }
    #[derive(serde::Deserialize)]
    struct Item {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    let text = match serde_json::from_slice::<Document>(body) {
        Ok(document) => {
            let line = |item: &Item| {
                format!("{}: {}", item.code.to_lowercase().replace('_', " "), item.message)
            };
            document.errors.iter().map(line).collect::<Vec<_>>().join("; ")
        }
        Err(_) => String::from_utf8_lossy(body).trim().to_owned(),
    };
    text.chars().filter(|character| !character.is_control()).take(MAX_DETAIL).collect()
}
