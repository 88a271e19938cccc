//! Fetches an issuer's keys: small documents, from the issuer's own origin, within a short time.
//!
//! Redirects are not followed: where keys are is the operator's and the issuer's word alone.

use std::sync::Once;
use std::time::Duration;

use futures::StreamExt;
use serde::Deserialize;
use url::Url;

use super::keys::{Keys, KeysError};

/// How long both documents may take together.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
/// Largest document. Real ones stay below 20 KiB.
const MAX_DOCUMENT: usize = 1 << 20;

#[derive(Deserialize)]
struct Discovery {
    issuer: String,
    jwks_uri: String,
}

/// The keys of an issuer.
pub(super) async fn keys(issuer: &str, jwks_url: Option<&Url>) -> Result<Keys, KeysError> {
    let fetched = async {
        let http = client(issuer)?;
        let url = match jwks_url {
            Some(url) => url.clone(),
            None => discover(&http, issuer).await?,
        };
        Keys::parse(&get(&http, url).await?)
    };
    tokio::time::timeout(PATIENCE, fetched).await.map_err(|_| KeysError::Slow)?
}

fn client(issuer: &str) -> Result<reqwest::Client, KeysError> {
    static PROVIDER: Once = Once::new();
    // Losing to a provider that somebody else installed is fine.
    PROVIDER.call_once(|| drop(rustls::crypto::ring::default_provider().install_default()));
    let mut client = reqwest::Client::builder()
        .user_agent(concat!("cofferdam/", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::none())
        .referer(false);
    if issuer.starts_with("http://") {
        // Does not need the machine's roots, which may not exist.
        client = client.tls_certs_only([]);
    }
    client.build().map_err(KeysError::Fetch)
}

async fn discover(http: &reqwest::Client, issuer: &str) -> Result<Url, KeysError> {
    let base = issuer.trim_end_matches('/');
    let url = parse(&format!("{base}/.well-known/openid-configuration"))?;
    let document = get(http, url.clone()).await?;
    let discovery: Discovery =
        serde_json::from_slice(&document).map_err(|_| KeysError::Document("discovery"))?;
    if discovery.issuer != issuer {
        return Err(KeysError::OtherIssuer);
    }
    let keys = parse(&discovery.jwks_uri)?;
    if keys.origin() != url.origin() {
        return Err(KeysError::Elsewhere);
    }
    Ok(keys)
}

fn parse(url: &str) -> Result<Url, KeysError> {
    Url::parse(url).map_err(|_| KeysError::Document("discovery"))
}

async fn get(http: &reqwest::Client, url: Url) -> Result<Vec<u8>, KeysError> {
    let response = http.get(url).send().await.map_err(KeysError::Fetch)?;
    let status = response.status();
    if status.is_redirection() {
        return Err(KeysError::Elsewhere);
    }
    if status != reqwest::StatusCode::OK {
        return Err(KeysError::Status(status.as_u16()));
    }
    let mut document = Vec::new();
    let mut chunks = response.bytes_stream();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(KeysError::Fetch)?;
        if document.len() + chunk.len() > MAX_DOCUMENT {
            return Err(KeysError::TooLarge);
        }
        document.extend_from_slice(&chunk);
    }
    Ok(document)
}
