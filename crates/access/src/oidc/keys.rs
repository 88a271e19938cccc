//! Keys of issuers, kept for a while.
//!
//! Whoever sends tokens decides how often keys are wanted; how often an issuer is asked for them is decided here.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;
use tokio::time::Instant;
use url::Url;

use super::fetch;

/// Keys older than this are fetched again in the background.
const FRESH: Duration = Duration::from_secs(10 * 60);
/// Keys older than this are not used any more: an issuer may have given one up.
const USABLE: Duration = Duration::from_secs(60 * 60);
/// A key nobody knows makes the issuer be asked at most this often.
const ASK_AGAIN: Duration = Duration::from_secs(60);
/// After a failure the issuer is left alone for this long.
const ASK_AGAIN_FAILED: Duration = Duration::from_secs(10);
/// Most keys of one issuer that are looked at.
const MAX_KEYS: usize = 100;
/// Shortest and longest RSA modulus in bytes: what is shorter is weak, what is longer only costs time.
const RSA_BYTES: std::ops::RangeInclusive<usize> = 256..=512;

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
pub(super) enum KeysError {
    #[error("the issuer cannot be reached")]
    Fetch(#[source] reqwest::Error),
    #[error("the issuer answered with status {0}")]
    Status(u16),
    #[error("the issuer's answer is too large")]
    TooLarge,
    #[error("the issuer took too long")]
    Slow,
    #[error("the issuer's {0} document is not one")]
    Document(&'static str),
    #[error("the issuer's discovery document is of another issuer")]
    OtherIssuer,
    #[error("the issuer sends for its keys to another place")]
    Elsewhere,
    #[error("{0} (asked a moment ago)")]
    AskedInVain(String),
    #[error("fetching the keys broke off")]
    BrokenOff,
}

/// One issuer's keys by their names.
pub(super) struct Keys(HashMap<String, (Algorithm, DecodingKey)>);

#[derive(Deserialize)]
struct Set {
    keys: Vec<serde_json::Value>,
}

#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: String,
    alg: Option<String>,
    #[serde(rename = "use")]
    purpose: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

impl Keys {
    /// Keys of a JWK set that can be used here; others are left out, as RFC 7517 wants it.
    pub(super) fn parse(document: &[u8]) -> Result<Self, KeysError> {
        let set: Set = serde_json::from_slice(document).map_err(|_| KeysError::Document("keys"))?;
        let mut keys = HashMap::new();
        for key in set.keys.into_iter().take(MAX_KEYS) {
            let Ok(jwk) = serde_json::from_value::<Jwk>(key) else { continue };
            if let Some(key) = usable(&jwk) {
                keys.entry(jwk.kid).or_insert(key);
            }
        }
        Ok(Self(keys))
    }
}

fn usable(jwk: &Jwk) -> Option<(Algorithm, DecodingKey)> {
    if jwk.purpose.as_deref().is_some_and(|purpose| purpose != "sig") {
        return None;
    }
    let is_for = |name: &str| jwk.alg.as_deref().is_none_or(|alg| alg == name);
    let bytes = |text: &Option<String>| URL_SAFE_NO_PAD.decode(text.as_deref()?).ok();
    match jwk.kty.as_str() {
        "RSA" if is_for("RS256") => {
            let (modulus, exponent) = (bytes(&jwk.n)?, bytes(&jwk.e)?);
            let significant = modulus.iter().skip_while(|byte| **byte == 0).count();
            let sound =
                RSA_BYTES.contains(&significant) && !exponent.is_empty() && exponent.len() <= 4;
            let key = DecodingKey::from_rsa_raw_components(&modulus, &exponent);
            sound.then_some((Algorithm::RS256, key))
        }
        "EC" if is_for("ES256") && jwk.crv.as_deref() == Some("P-256") => {
            let sound = bytes(&jwk.x)?.len() == 32 && bytes(&jwk.y)?.len() == 32;
            let key = DecodingKey::from_ec_components(jwk.x.as_deref()?, jwk.y.as_deref()?).ok()?;
            sound.then_some((Algorithm::ES256, key))
        }
        _ => None,
    }
}

/// One issuer and its keys.
pub(super) struct KeySource {
    issuer: String,
    jwks_url: Option<Url>,
    state: Mutex<State>,
    /// Held while the issuer is asked: one question at a time.
    asking: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct State {
    keys: Option<(Instant, Arc<Keys>)>,
    /// Not asked again before.
    not_before: Option<Instant>,
    /// What the last question failed with.
    failure: String,
}

impl KeySource {
    pub(super) fn new(issuer: String, jwks_url: Option<Url>) -> Arc<Self> {
        let (state, asking) = (Mutex::default(), tokio::sync::Mutex::default());
        Arc::new(Self { issuer, jwks_url, state, asking })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A key by its name; None when the issuer has no such key.
    pub(super) async fn find(
        self: &Arc<Self>,
        name: &str,
    ) -> Result<Option<(Algorithm, DecodingKey)>, KeysError> {
        if let Some((age, keys)) = self.known()
            && let Some(key) = keys.0.get(name)
        {
            if age > FRESH {
                // Whoever comes meanwhile uses what is known.
                tokio::spawn(Arc::clone(self).ask(false));
            }
            return Ok(Some(key.clone()));
        }
        // In a task of its own: a caller who goes away must not leave the next ones without an answer.
        let asked = tokio::spawn(Arc::clone(self).ask(true)).await;
        asked.map_err(|_| KeysError::BrokenOff)??;
        let in_vain = || KeysError::AskedInVain(self.state().failure.clone());
        let (_, keys) = self.known().ok_or_else(in_vain)?;
        Ok(keys.0.get(name).cloned())
    }

    /// Keys that may be used, and their age.
    fn known(&self) -> Option<(Duration, Arc<Keys>)> {
        let state = self.state();
        let (fetched, keys) = state.keys.as_ref()?;
        let age = fetched.elapsed();
        (age <= USABLE).then(|| (age, Arc::clone(keys)))
    }

    /// Asks the issuer for its keys, unless that was done a moment ago. `wait`: also when somebody else is asking.
    async fn ask(self: Arc<Self>, wait: bool) -> Result<(), KeysError> {
        let _asking = if wait {
            self.asking.lock().await
        } else {
            let Ok(asking) = self.asking.try_lock() else { return Ok(()) };
            asking
        };
        if self.state().not_before.is_some_and(|moment| Instant::now() < moment) {
            return Ok(());
        }
        let fetched = fetch::keys(&self.issuer, self.jwks_url.as_ref()).await;
        let now = Instant::now();
        let mut state = self.state();
        match fetched {
            Ok(keys) => {
                state.keys = Some((now, Arc::new(keys)));
                state.not_before = Some(now + ASK_AGAIN);
                Ok(())
            }
            Err(error) => {
                state.not_before = Some(now + ASK_AGAIN_FAILED);
                state.failure = error.to_string();
                tracing::warn!(
                    issuer = self.issuer,
                    error = &error as &dyn std::error::Error,
                    "the keys of an issuer cannot be had"
                );
                Err(error)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn names(json: &serde_json::Value) -> Vec<String> {
        let mut names: Vec<String> =
            Keys::parse(json.to_string().as_bytes()).unwrap().0.into_keys().collect();
        names.sort();
        names
    }

    #[test]
    fn only_keys_that_are_sound_and_meant_for_signatures_are_used() {
        let modulus = |bytes: usize| URL_SAFE_NO_PAD.encode(vec![0xff; bytes]);
        let point = URL_SAFE_NO_PAD.encode([7; 32]);
        let rsa = |kid: &str, bytes: usize| serde_json::json!({"kty": "RSA", "kid": kid, "n": modulus(bytes), "e": "AQAB"});
        let with = |mut key: serde_json::Value, name: &str, value: &str| {
            key[name] = value.into();
            key
        };
        let ec = |kid: &str| serde_json::json!({"kty": "EC", "crv": "P-256", "kid": kid, "x": point, "y": point});
        let keys = serde_json::json!({"keys": [
            rsa("good", 256),
            with(rsa("marked", 384), "use", "sig"),
            ec("curve"),
            rsa("short", 128),
            rsa("long", 2048),
            with(rsa("padded short", 128), "n", &URL_SAFE_NO_PAD.encode([vec![0; 200], vec![0xff; 128]].concat())),
            with(rsa("encryption", 256), "use", "enc"),
            with(rsa("other algorithm", 256), "alg", "PS256"),
            with(rsa("large exponent", 256), "e", &modulus(64)),
            with(ec("other curve"), "crv", "P-384"),
            with(ec("short point"), "x", "AAAA"),
            {"kty": "oct", "kid": "secret", "k": "AAAA"},
            {"kty": "RSA", "n": modulus(256), "e": "AQAB"},
            "text",
        ]});
        assert_eq!(names(&keys), ["curve", "good", "marked"]);
    }

    #[test]
    fn documents_that_are_no_key_set() {
        for bad in ["", "[]", "{}", "{\"keys\": 1}", "<html>"] {
            assert!(Keys::parse(bad.as_bytes()).is_err(), "{bad}");
        }
        let many: Vec<_> = (0..1000)
            .map(|number| {
                serde_json::json!({"kty": "EC", "crv": "P-256", "kid": number.to_string(),
                "x": URL_SAFE_NO_PAD.encode([7; 32]), "y": URL_SAFE_NO_PAD.encode([7; 32])})
            })
            .collect();
        assert_eq!(names(&serde_json::json!({"keys": many})).len(), MAX_KEYS);
    }
}
