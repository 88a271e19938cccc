//! A server's API over records of its own, and everybody who may call it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use cofferdam_access::{Access, AccessOptions, Issuer, OidcOptions};
use cofferdam_fleet::{Fleet, FleetOptions};
use cofferdam_records::Records;
use http::Request;
use metrics_exporter_prometheus::PrometheusBuilder;
use serde_json::{Value, json};
use tower::ServiceExt;

use super::Line;
use super::people::{Caller, ISSUER, Population};
use crate::api::{Api, Logins, service};
use crate::builds::Builds;
use crate::gateway::Authority;
use crate::registry::Gatekeeper;

/// An id that nothing has.
const MISSING: &str = "zzzzzzzzzz";

/// An answer, as far as it matters.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Said {
    /// Empty when there is no error.
    pub(super) code: String,
    pub(super) message: String,
    body: String,
}

impl Said {
    pub(super) fn letter(&self) -> char {
        match self.code.as_str() {
            "unauthenticated" => 'U',
            "permission_denied" => 'F',
            "not_found" => '-',
            _ => '+',
        }
    }
}

pub(super) struct World {
    /// Everything the server has on its port.
    pub(super) router: Router,
    pub(super) callers: Vec<Caller>,
    /// What stands for what in bodies.
    ids: Vec<(&'static str, String)>,
    _directory: tempfile::TempDir,
}

impl World {
    pub(super) async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let records = Records::open(directory.path()).await.unwrap();
        let (key, jwks_url) = issuer().await;
        let github = Issuer { url: Some(ISSUER.to_owned()), jwks_url: Some(jwks_url) };
        let oidc = OidcOptions { github, ..OidcOptions::default() };
        let access = Access::new(records.clone(), AccessOptions { oidc });
        let api = api(&records, access, directory.path()).await;
        let (callers, ids) = Population { records, key }.populate().await;
        let metrics = PrometheusBuilder::new().build_recorder().handle();
        let gatekeeper = Arc::new(Gatekeeper(Arc::clone(&api.access)));
        let router = crate::web::router(&api, metrics)
            .merge(api.images.router(gatekeeper))
            .fallback_service(service(&api));
        Self { router, callers, ids, _directory: directory }
    }

    /// Sends a call.
    pub(super) async fn say(
        &self,
        call: &str,
        body: &str,
        streams: bool,
        bearer: Option<&str>,
    ) -> Said {
        self.send(call, self.with_ids(body), streams, bearer).await
    }

    /// Sends the same call about things that do not exist.
    pub(super) async fn say_missing(&self, line: &Line, bearer: Option<&str>) -> Said {
        self.send(&line.call, self.with_missing(line.body), line.streams, bearer).await
    }

    /// A text of the table, with the ids of what it speaks of.
    pub(super) fn with_ids(&self, text: &str) -> String {
        self.ids.iter().fold(text.to_owned(), |text, (word, id)| text.replace(word, id))
    }

    /// The same with ids that nothing has.
    pub(super) fn with_missing(&self, text: &str) -> String {
        self.ids.iter().fold(text.to_owned(), |text, (word, _)| text.replace(word, MISSING))
    }

    /// An answer without the ids that were asked for.
    pub(super) fn hide_ids(&self, text: &str) -> String {
        let hide = |text: String, (_, id): &(&str, String)| text.replace(id, "ID");
        self.ids.iter().fold(text.replace(MISSING, "ID"), hide)
    }

    /// An answer to somebody else names nothing of this organization that was not in the question.
    pub(super) fn keeps_to_itself(&self, call: &str, body: &str, said: &Said) {
        for (word, id) in &self.ids {
            let asked = body.contains(word);
            assert!(asked || !said.body.contains(id.as_str()), "{call}: {said:?}");
        }
        assert!(!said.body.contains("the name of the project"), "{call}: {said:?}");
    }

    async fn send(&self, call: &str, body: String, streams: bool, bearer: Option<&str>) -> Said {
        let kind = if streams { "application/connect+json" } else { "application/json" };
        let mut request = Request::post(format!("/{call}"))
            .header("content-type", kind)
            .header("connect-protocol-version", "1");
        if let Some(bearer) = bearer {
            request = request.header("authorization", format!("Bearer {bearer}"));
        }
        let body = if streams { frame(&body) } else { body.into_bytes() };
        let request = request.body(Body::from(body)).unwrap();
        let answer = self.router.clone().oneshot(request).await.unwrap();
        let answer = axum::body::to_bytes(answer.into_body(), 1 << 20).await.unwrap();
        let error = if streams { last(&answer)["error"].clone() } else { json_of(&answer) };
        let word = |name: &str| error[name].as_str().unwrap_or_default().to_owned();
        // Messages of answers have no code.
        let body = String::from_utf8_lossy(&answer).into_owned();
        Said { code: word("code"), message: word("message"), body }
    }
}

fn json_of(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(bytes)))
}

/// A message of a stream.
fn frame(message: &str) -> Vec<u8> {
    let mut frame = vec![0];
    frame.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
    frame.extend(message.as_bytes());
    frame
}

/// The last message of a stream, which says how it ended.
fn last(mut bytes: &[u8]) -> Value {
    while let Some((head, rest)) = bytes.split_first_chunk::<5>() {
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
        if head[0] & 2 != 0 {
            return json_of(&rest[..length]);
        }
        bytes = &rest[length..];
    }
    panic!("the stream has no end")
}

/// Serves the key of an issuer.
async fn issuer() -> (rcgen::KeyPair, String) {
    use base64::Engine;
    let encode = |bytes: &[u8]| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes);
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let point = key.public_key_raw();
    let keys = json!({"keys": [{"kty": "EC", "crv": "P-256", "kid": "key",
        "x": encode(&point[1..33]), "y": encode(&point[33..])}]});
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/keys", listener.local_addr().unwrap());
    let router = axum::Router::new().fallback(move || async move { keys.to_string() });
    tokio::spawn(async move { axum::serve(listener, router).await });
    (key, url)
}

async fn api(records: &Records, access: Arc<Access>, directory: &std::path::Path) -> Arc<Api> {
    let fleet = Fleet::new(FleetOptions {
        // No call gets as far as a builder.
        program: PathBuf::from("/nonexistent"),
        data_dir: directory.to_owned(),
        builder_config: toml::Table::new(),
        idle: Duration::from_secs(1),
        most: 1,
    });
    let images = crate::registry::open(records.clone(), directory).unwrap();
    let builds = Builds::new(
        records.clone(),
        Arc::clone(&access),
        fleet.await.unwrap(),
        images.clone(),
        Authority::new().unwrap(),
        cofferdam_fleet::Isolation::default(),
    );
    let logins = Arc::new(Logins::default());
    Arc::new(Api { records: records.clone(), access, builds, images, logins })
}
