//! Single requests: connections, redirects, retries and patience.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, Once, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{HeaderMap, HeaderValue, LOCATION};
use http::{Method, StatusCode};
use reqwest::{Body, Response};
use url::Url;

use super::config::ClientConfig;
use super::endpoint::Endpoint;
use super::error::RegistryError;
use super::lookup::SystemNames;
use super::pace::{HARDLY_SENT, NO_ANSWER, Pace, Progress, TooSlow};
use super::retry_after::retry_after;

/// Redirects followed for one request; content delivery takes one or two.
const MAX_REDIRECTS: usize = 6;
/// How much longer than we the kernel waits for the other side to take something.
const KERNEL_MARGIN: Duration = Duration::from_secs(10);
/// Attempts when no connection can be made at all: a dead registry should fail fast.
const CONNECT_ATTEMPTS: u32 = 2;
/// Bytes of an error document that are looked at.
const MAX_ERROR_BODY: usize = 64 << 10;
/// Time that its words are worth.
const ERROR_BODY_TIME: Duration = Duration::from_secs(10);
/// Characters of it that are shown.
const MAX_DETAIL: usize = 500;

/// Makes the body of a request, anew for each attempt.
pub(super) type MakeBody<'a> = &'a (dyn Fn() -> Body + Send + Sync);

/// Makes the body of an upload, which may take as long as it keeps going.
pub(super) type MakeUpload<'a> = &'a (dyn Fn(&Arc<Progress>) -> Body + Send + Sync);

/// One request. Its URL is on the endpoint or was given out by it.
pub(super) struct Request<'a> {
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) headers: HeaderMap,
    /// Small enough to be sent within the time for an answer.
    pub(super) body: Option<MakeBody<'a>>,
    /// Instead of `body`.
    pub(super) upload: Option<MakeUpload<'a>>,
    /// Sent once only, for requests that are not safe to repeat.
    pub(super) once: bool,
}

impl Request<'_> {
    pub(super) fn new(method: Method, url: Url) -> Self {
        Self { method, url, headers: HeaderMap::new(), body: None, upload: None, once: false }
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
            .dns_resolver(SystemNames)
            .connect_timeout(self.config.connect_timeout)
            // Silence is looked for here and not by the client, whose limit would run while a body is
            // sent. Nor must the kernel be the first to lose patience with one that does not read.
            .tcp_user_timeout(self.config.read_timeout.saturating_add(KERNEL_MARGIN))
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
        let mut patience = self.config.max_retry_after;
        loop {
            let result = self.follow(endpoint, request, authorization).await;
            let limit = match &result {
                Ok(response) if is_temporary(response.status()) => self.config.attempts,
                Err(error) if error.is_connect() => CONNECT_ATTEMPTS.min(self.config.attempts),
                Err(RegistryError::Transport { .. } | RegistryError::Stalled { .. }) => {
                    self.config.attempts
                }
                _ => return result,
            };
            let answer = result.as_ref().ok();
            let asked = answer.and_then(|response| retry_after(response.headers()));
            // Who says when it will end is asked again until then, however often.
            let limited = asked.is_some()
                && answer.is_some_and(|answer| answer.status() == StatusCode::TOO_MANY_REQUESTS);
            if request.once || (attempt >= limit && !limited) {
                return result;
            }
            let Some(wait) = self.wait(attempt, asked, &mut patience) else { return result };
            drop(result);
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

    /// How long to wait after an attempt whose answer asked for a wait, or did not; `None` when that
    /// is more than what is left of `patience`.
    pub(super) fn wait(
        &self,
        attempt: u32,
        asked: Option<Duration>,
        patience: &mut Duration,
    ) -> Option<Duration> {
        let backoff = self.backoff(attempt);
        let Some(asked) = asked else { return Some(backoff) };
        let wait = asked.max(backoff);
        *patience = patience.checked_sub(wait)?;
        Some(wait)
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
        let (silence, answer) = (self.config.read_timeout, self.config.answer_timeout);
        let progress = Progress::new();
        let sent = match (request.upload, request.body) {
            (Some(upload), _) => {
                let sent = builder.body(upload(&progress)).send();
                tokio::select! {
                    sent = sent => Ok(sent),
                    told = progress.stalled(silence, answer) => Err(told),
                }
            }
            (None, body) => {
                if let Some(body) = body {
                    builder = builder.body(body());
                }
                let sent = tokio::time::timeout(silence, builder.send()).await;
                sent.map_err(|_| (NO_ANSWER, silence))
            }
        };
        match sent {
            Ok(sent) => sent.map_err(|error| transport_error(&request.method, url, error)),
            Err((reason, limit)) => Err(stalled(&request.method, url, reason, limit)),
        }
    }
}

/// The registry did not do something for too long.
pub(super) fn stalled(
    method: &Method,
    url: &Url,
    reason: &'static str,
    limit: Duration,
) -> RegistryError {
    RegistryError::Stalled { method: method.to_string(), url: shown(url), reason, limit }
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

/// Reads a body of at most `limit` bytes; `None` when there is more. In each `window` of time some of
/// it has to come.
pub(super) async fn read_bounded(
    response: Response,
    limit: u64,
    window: Duration,
) -> Result<Option<Bytes>, RegistryError> {
    let url = response.url().clone();
    let mut bytes = BytesMut::new();
    let mut pace = Pace::new(window);
    let mut stream = response.bytes_stream();
    loop {
        let chunk = match pace.next(&mut stream).await {
            Ok(Some(Ok(chunk))) => chunk,
            Ok(Some(Err(error))) => return Err(transport_error(&Method::GET, &url, error)),
            Ok(None) => return Ok(Some(bytes.freeze())),
            Err(TooSlow) => return Err(stalled(&Method::GET, &url, HARDLY_SENT, window)),
        };
        if (bytes.len() + chunk.len()) as u64 > limit {
            return Ok(None);
        }
        bytes.extend_from_slice(&chunk);
    }
}

/// Turns an answer that is not what was hoped for into an error about `what`.
pub(super) async fn refusal(method: &Method, what: &str, response: Response) -> RegistryError {
    let status = response.status();
    let (url, host) = (shown(response.url()), authority(response.url()));
    let after = retry_after(response.headers());
    let body = read_bounded(response, MAX_ERROR_BODY as u64, ERROR_BODY_TIME);
    let body = tokio::time::timeout(ERROR_BODY_TIME, body).await;
    let body = body.ok().and_then(Result::ok).flatten().unwrap_or_default();
    let detail = error_detail(&body);
    let what = what.to_owned();
    match status {
        StatusCode::NOT_FOUND => RegistryError::NotFound { what },
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            let detail = if detail.is_empty() { status.to_string() } else { detail };
            RegistryError::Denied { what, detail }
        }
        StatusCode::TOO_MANY_REQUESTS => RegistryError::RateLimited { host, after, detail },
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
