//! Answers challenges: Basic, or Bearer tokens from the registry's token server.
//!
//! Tokens are kept per (host, scopes, identity of the credentials): what one person was given is
//! never used for another. Credentials are looked up only for a registry's own token server (see
//! [`Endpoint::trusts_realm`]); any other realm is asked anonymously.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::Method;
use http::header::{ACCEPT, CONTENT_TYPE, HeaderValue};
use serde::Deserialize;
use url::Url;

use super::challenge::Challenge;
use super::credentials::{Credentials, Login, Secret, Token, TokenRequest};
use super::endpoint::Endpoint;
use super::error::RegistryError;
use super::transport::{Request, Transport, read_bounded, refusal, shown};

/// A token without a stated life lives this long, says the token specification.
const DEFAULT_LIFE: Duration = Duration::from_secs(60);
/// Tokens are renewed this long before they end.
const MARGIN: Duration = Duration::from_secs(5);
/// Longest life that is believed.
const MAX_LIFE: Duration = Duration::from_secs(3600);
/// Bytes of a token server's answer.
const MAX_TOKEN_BODY: u64 = 1 << 20;
/// Tokens kept; all are dropped when there are more.
const MAX_TOKENS: usize = 4096;

#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    host: String,
    scopes: String,
    identity: String,
}

#[derive(Clone)]
struct Known {
    header: HeaderValue,
    until: Option<Instant>,
}

type Slot = Arc<tokio::sync::Mutex<Option<Known>>>;

/// Authorization headers by what they are good for.
#[derive(Default)]
pub(super) struct Tokens {
    slots: Mutex<HashMap<Key, Slot>>,
}

/// On whose behalf, where and for what.
pub(super) struct Grant<'a> {
    pub(super) endpoint: &'a Endpoint,
    pub(super) credentials: &'a dyn Credentials,
    pub(super) scopes: &'a [String],
}

impl Tokens {
    fn slot(&self, grant: &Grant<'_>) -> Slot {
        let mut scopes = grant.scopes.to_vec();
        scopes.sort();
        let key = Key {
            host: grant.endpoint.host.clone(),
            scopes: scopes.join(" "),
            identity: grant.credentials.identity(),
        };
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if slots.len() >= MAX_TOKENS {
            slots.clear();
        }
        Arc::clone(slots.entry(key).or_default())
    }

    /// The header that worked last time, while it lasts.
    pub(super) async fn known(&self, grant: &Grant<'_>) -> Option<HeaderValue> {
        let slot = self.slot(grant);
        let known = slot.lock().await;
        known.as_ref().filter(|known| known.is_fresh()).map(|known| known.header.clone())
    }

    /// A header that answers `challenge`, other than `rejected`; `None` when there is nothing to say.
    pub(super) async fn answer(
        &self,
        transport: &Transport,
        grant: &Grant<'_>,
        challenge: &Challenge,
        rejected: Option<&HeaderValue>,
    ) -> Result<Option<HeaderValue>, RegistryError> {
        let slot = self.slot(grant);
        let mut known = slot.lock().await;
        // Somebody else may have answered the same challenge meanwhile.
        if let Some(known) = known.as_ref()
            && known.is_fresh()
            && Some(&known.header) != rejected
        {
            return Ok(Some(known.header.clone()));
        }
        let answer = match challenge {
            Challenge::Basic => {
                grant.login().await?.map(|login| Known { header: basic(&login), until: None })
            }
            Challenge::Bearer { realm, service, scope } => {
                let token = fetch(transport, grant, realm, service, scope.as_deref()).await?;
                let life = token.expires_in.unwrap_or(DEFAULT_LIFE).clamp(DEFAULT_LIFE, MAX_LIFE);
                let header = bearer(&token, realm)?;
                Some(Known { header, until: Some(Instant::now() + life.saturating_sub(MARGIN)) })
            }
        };
        known.clone_from(&answer);
        Ok(answer.map(|known| known.header).filter(|header| Some(header) != rejected))
    }
}

impl Known {
    fn is_fresh(&self) -> bool {
        self.until.is_none_or(|until| Instant::now() < until)
    }
}

impl Grant<'_> {
    async fn login(&self) -> Result<Option<Login>, RegistryError> {
        let login = self.credentials.login(&self.endpoint.host).await?;
        Ok(login.filter(|login| !(login.username.is_empty() && login.secret.expose().is_empty())))
    }
}

fn basic(login: &Login) -> HeaderValue {
    let text = STANDARD.encode(format!("{}:{}", login.username, login.secret.expose()));
    // Base64 is always a valid header.
    let mut header = HeaderValue::from_str(&format!("Basic {text}"))
        .unwrap_or_else(|_| HeaderValue::from_static("Basic"));
    header.set_sensitive(true);
    header
}

fn bearer(token: &Token, realm: &str) -> Result<HeaderValue, RegistryError> {
    let bad = |_| RegistryError::Protocol {
        url: realm.to_owned(),
        reason: "the token is not valid in a header",
    };
    let mut header =
        HeaderValue::from_str(&format!("Bearer {}", token.secret.expose())).map_err(bad)?;
    header.set_sensitive(true);
    Ok(header)
}

async fn fetch(
    transport: &Transport,
    grant: &Grant<'_>,
    realm: &str,
    service: &str,
    scope: Option<&str>,
) -> Result<Token, RegistryError> {
    let endpoint = grant.endpoint;
    let refuse = |reason| RegistryError::Protocol { url: shown(&endpoint.base), reason };
    let url = Url::parse(realm).map_err(|_| refuse("the realm is not a URL"))?;
    if !endpoint.allows_realm(&url) || !url.username().is_empty() || url.password().is_some() {
        return Err(refuse("the realm is not safe to ask"));
    }
    let mut scopes = grant.scopes.to_vec();
    scopes.extend(scope.map(str::to_owned).filter(|scope| !grant.scopes.contains(scope)));
    let mut login = None;
    if endpoint.trusts_realm(&url) {
        let request = TokenRequest {
            host: endpoint.host.clone(),
            realm: realm.to_owned(),
            service: service.to_owned(),
            scopes: scopes.clone(),
        };
        if let Some(token) = grant.credentials.token(&request).await? {
            return Ok(token);
        }
        login = grant.login().await?;
    } else {
        tracing::warn!(
            host = endpoint.host,
            realm,
            "foreign token server is asked without credentials"
        );
    }
    request_token(transport, endpoint, url, service, &scopes, login.as_ref()).await
}

async fn request_token(
    transport: &Transport,
    endpoint: &Endpoint,
    mut url: Url,
    service: &str,
    scopes: &[String],
    login: Option<&Login>,
) -> Result<Token, RegistryError> {
    let what = shown(&url);
    // The realm is an endpoint of its own: nothing of the registry's goes there by itself.
    let realm = Endpoint {
        base: url.clone(),
        config_host: config_host(endpoint, &url),
        ..endpoint.clone()
    };
    let refresh = login.filter(|login| login.username.is_empty());
    let form = refresh.map(|login| refresh_form(service, scopes, login));
    if form.is_none() {
        let mut pairs = url.query_pairs_mut();
        if !service.is_empty() {
            pairs.append_pair("service", service);
        }
        for scope in scopes {
            pairs.append_pair("scope", scope);
        }
    }
    let body = || reqwest::Body::from(form.clone().unwrap_or_default());
    let method = if form.is_some() { Method::POST } else { Method::GET };
    let mut request = Request::new(method.clone(), url);
    request.headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
    let mut authorization = None;
    if form.is_some() {
        request
            .headers
            .insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
        request.body = Some(&body);
    } else {
        authorization = login.map(basic);
    }
    let response = transport.send(&realm, &request, authorization.as_ref()).await?;
    if !response.status().is_success() {
        return Err(refusal(&method, &what, response).await);
    }
    let broken = |reason| RegistryError::Protocol { url: what.clone(), reason };
    let body = read_bounded(response, MAX_TOKEN_BODY, transport.config.read_timeout)
        .await?
        .ok_or_else(|| broken("the answer is too large"))?;
    parse_token(&body).ok_or_else(|| broken("the answer holds no token"))
}

/// A realm on the registry's own host shares its trust settings.
fn config_host(endpoint: &Endpoint, realm: &Url) -> String {
    if endpoint.base.host() == realm.host() {
        return endpoint.config_host.clone();
    }
    let host = realm.host_str().unwrap_or_default();
    realm.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

fn refresh_form(service: &str, scopes: &[String], login: &Login) -> String {
    url::form_urlencoded::Serializer::new(String::new())
        .append_pair("grant_type", "refresh_token")
        .append_pair("service", service)
        .append_pair("client_id", "cofferdam")
        .append_pair("scope", &scopes.join(" "))
        .append_pair("refresh_token", login.secret.expose())
        .finish()
}

fn parse_token(body: &[u8]) -> Option<Token> {
    #[derive(Deserialize)]
    struct Answer {
        #[serde(default)]
        token: String,
        #[serde(default)]
        access_token: String,
        #[serde(default)]
        expires_in: Option<f64>,
    }
    let answer: Answer = serde_json::from_slice(body).ok()?;
    let secret = if answer.token.is_empty() { answer.access_token } else { answer.token };
    let expires_in =
        answer.expires_in.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    (!secret.is_empty()).then(|| Token { secret: Secret::new(secret), expires_in })
}
