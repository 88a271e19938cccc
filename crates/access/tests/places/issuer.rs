//! An issuer of JWTs with keys of its own, on loopback.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{Response, StatusCode};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rsa::pkcs1::EncodeRsaPrivateKey;
use rsa::pkcs8::{EncodePublicKey, LineEnding};
use rsa::traits::PublicKeyParts;
use serde_json::{Value, json};

/// What is at a path.
#[derive(Clone)]
pub(crate) enum Answer {
    Json(Value),
    Text(Vec<u8>),
    Status(u16),
    Redirect(String),
    /// The document, after a while.
    Slow(Duration, Value),
    /// A document without an end, a byte at a time.
    Trickle,
}

#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Documents>>);

#[derive(Default)]
struct Documents {
    answers: HashMap<String, Answer>,
    hits: HashMap<String, usize>,
}

/// The issuer's server. Ends with the runtime.
pub(crate) struct Server {
    pub(crate) origin: String,
    shared: Shared,
}

impl Server {
    pub(crate) async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let origin = format!("http://{}", listener.local_addr().unwrap());
        let shared = Shared::default();
        let router = axum::Router::new().fallback(answer).with_state(shared.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { origin, shared }
    }

    pub(crate) fn put(&self, path: &str, answer: Answer) {
        self.shared.0.lock().unwrap().answers.insert(path.to_owned(), answer);
    }

    pub(crate) fn hits(&self, path: &str) -> usize {
        self.shared.0.lock().unwrap().hits.get(path).copied().unwrap_or(0)
    }

    /// Makes a path an issuer with some keys.
    pub(crate) fn issuer(&self, path: &str, keys: &[&Key]) -> String {
        let issuer = format!("{}{path}", self.origin);
        let jwks = format!("{issuer}/keys");
        let discovery = json!({"issuer": issuer, "jwks_uri": jwks});
        self.put(&format!("{path}/.well-known/openid-configuration"), Answer::Json(discovery));
        self.keys(path, keys);
        issuer
    }

    /// Replaces the keys of an issuer.
    pub(crate) fn keys(&self, path: &str, keys: &[&Key]) {
        let keys: Vec<_> = keys.iter().map(|key| key.jwk.clone()).collect();
        self.put(&format!("{path}/keys"), Answer::Json(json!({"keys": keys})));
    }
}

async fn answer(State(shared): State<Shared>, request: Request) -> Response<Body> {
    let path = request.uri().path().to_owned();
    let answer = {
        let mut documents = shared.0.lock().unwrap();
        *documents.hits.entry(path.clone()).or_default() += 1;
        documents.answers.get(&path).cloned()
    };
    let json = |json: Value| Response::new(Body::from(json.to_string()));
    let status = |status: u16| {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::from_u16(status).unwrap();
        response
    };
    match answer {
        Some(Answer::Json(value)) => json(value),
        Some(Answer::Text(bytes)) => Response::new(Body::from(bytes)),
        Some(Answer::Status(code)) => status(code),
        Some(Answer::Redirect(to)) => {
            let mut response = status(302);
            response.headers_mut().insert("location", to.parse().unwrap());
            response
        }
        Some(Answer::Slow(time, value)) => {
            tokio::time::sleep(time).await;
            json(value)
        }
        Some(Answer::Trickle) => {
            let bytes = futures::stream::unfold((), |()| async {
                tokio::time::sleep(Duration::from_millis(500)).await;
                Some((Ok::<_, std::io::Error>(" "), ()))
            });
            Response::new(Body::from_stream(bytes))
        }
        None => status(404),
    }
}

/// A key of an issuer.
pub(crate) struct Key {
    pub(crate) name: String,
    pub(crate) algorithm: Algorithm,
    pub(crate) jwk: Value,
    secret: EncodingKey,
    /// The public half in the forms that a careless verifier could take for a shared secret.
    pub(crate) public: Vec<Vec<u8>>,
}

impl Key {
    /// RSA keys take a while to make: there are three of them, shared by all tests of a process.
    pub(crate) fn rsa(name: &str, which: usize) -> Self {
        static KEYS: [OnceLock<rsa::RsaPrivateKey>; 3] =
            [OnceLock::new(), OnceLock::new(), OnceLock::new()];
        let key = KEYS[which]
            .get_or_init(|| rsa::RsaPrivateKey::new(&mut rsa::rand_core::OsRng, 2048).unwrap());
        let modulus = URL_SAFE_NO_PAD.encode(key.n().to_bytes_be());
        let exponent = URL_SAFE_NO_PAD.encode(key.e().to_bytes_be());
        let public = key.to_public_key();
        Self {
            name: name.to_owned(),
            algorithm: Algorithm::RS256,
            jwk: json!({"kty": "RSA", "use": "sig", "alg": "RS256", "kid": name, "n": modulus, "e": exponent}),
            secret: EncodingKey::from_rsa_der(key.to_pkcs1_der().unwrap().as_bytes()),
            public: vec![
                modulus.into_bytes(),
                key.n().to_bytes_be(),
                public.to_public_key_der().unwrap().as_bytes().to_vec(),
                public.to_public_key_pem(LineEnding::LF).unwrap().into_bytes(),
            ],
        }
    }

    pub(crate) fn ec(name: &str) -> Self {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let point = key.public_key_raw().to_vec();
        let (x, y) = (URL_SAFE_NO_PAD.encode(&point[1..33]), URL_SAFE_NO_PAD.encode(&point[33..]));
        Self {
            name: name.to_owned(),
            algorithm: Algorithm::ES256,
            jwk: json!({"kty": "EC", "crv": "P-256", "kid": name, "x": x, "y": y}),
            secret: EncodingKey::from_ec_der(&key.serialize_der()),
            public: vec![point, key.public_key_pem().into_bytes()],
        }
    }

    pub(crate) fn sign(&self, claims: &Value) -> String {
        let mut header = Header::new(self.algorithm);
        header.kid = Some(self.name.clone());
        jsonwebtoken::encode(&header, claims, &self.secret).unwrap()
    }

    /// Signs under a header of one's own making.
    pub(crate) fn sign_with(&self, header: &Value, claims: &Value) -> String {
        let message = format!("{}.{}", encode(header), encode(claims));
        let signature =
            jsonwebtoken::crypto::sign(message.as_bytes(), &self.secret, self.algorithm).unwrap();
        format!("{message}.{signature}")
    }
}

/// Signs with a shared secret.
pub(crate) fn sign_with_secret(header: &Value, claims: &Value, secret: &[u8]) -> String {
    let message = format!("{}.{}", encode(header), encode(claims));
    let key = EncodingKey::from_secret(secret);
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key, Algorithm::HS256).unwrap();
    format!("{message}.{signature}")
}

pub(crate) fn encode(json: &Value) -> String {
    URL_SAFE_NO_PAD.encode(json.to_string())
}
