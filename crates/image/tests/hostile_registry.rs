//! The client against registries that lie, break off, or fish for credentials.
#![allow(clippy::unwrap_used)]

mod common {
    pub(crate) mod server;
}

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use cofferdam_digest::Digest;
use cofferdam_image::registry::{
    Anonymous, Client, ClientConfig, Credentials, CredentialsError, HostConfig, Login,
    RegistryError, Repository, Secret, Token, TokenRequest,
};
use cofferdam_image::{Descriptor, Index, Manifest, Platform, Reference, media};
use common::server::{Asked, Reply, Server};
use futures::TryStreamExt;

const SECRET: &str = "canary-password";

#[derive(Default)]
struct Watched {
    identity: String,
    username: &'static str,
    token: Option<&'static str>,
    lookups: Mutex<Vec<String>>,
}

#[async_trait]
impl Credentials for Watched {
    fn identity(&self) -> String {
        self.identity.clone()
    }

    async fn login(&self, host: &str) -> Result<Option<Login>, CredentialsError> {
        self.lookups.lock().unwrap().push(host.to_owned());
        Ok(Some(Login {
            username: self.username.to_owned(),
            secret: Secret::new(SECRET.to_owned()),
        }))
    }

    async fn token(&self, request: &TokenRequest) -> Result<Option<Token>, CredentialsError> {
        self.lookups.lock().unwrap().push(request.realm.clone());
        Ok(self
            .token
            .map(|token| Token { secret: Secret::new(token.to_owned()), expires_in: None }))
    }
}

fn user() -> Arc<Watched> {
    Arc::new(Watched { identity: "me".to_owned(), username: "user", ..Watched::default() })
}

fn client() -> Arc<Client> {
    client_with(ClientConfig::default())
}

fn client_with(config: ClientConfig) -> Arc<Client> {
    Client::new(ClientConfig {
        backoff: Duration::from_millis(2),
        max_retry_after: Duration::from_millis(200),
        read_timeout: Duration::from_secs(2),
        ..config
    })
    .unwrap()
}

fn repository(server: &Server, credentials: Arc<dyn Credentials>) -> Repository {
    client().repository(&Reference::parse(&format!("{}/x", server.host)).unwrap(), credentials)
}

fn anonymous(server: &Server) -> Repository {
    repository(server, Arc::new(Anonymous))
}

fn manifest() -> Vec<u8> {
    let config = Descriptor::of(media::OCI_CONFIG, b"{}");
    serde_json::to_vec(&Manifest::new(media::OCI_MANIFEST, config, Vec::new())).unwrap()
}

fn manifest_reply() -> Reply {
    Reply::new(200).header("Content-Type", media::OCI_MANIFEST).body(manifest())
}

async fn read(repository: &Repository, descriptor: &Descriptor) -> Result<Vec<u8>, RegistryError> {
    let chunks: Vec<Bytes> = repository.blob(descriptor, 0).try_collect().await?;
    Ok(chunks.concat())
}

fn saw_secret(server: &Server) -> bool {
    server.asked().iter().any(|asked| {
        asked.header("authorization").is_some()
            || String::from_utf8_lossy(&asked.body).contains(SECRET)
            || asked.path.contains(SECRET)
    })
}

#[tokio::test]
async fn wrong_content_is_refused() {
    let other = Digest::of(b"other");
    let by_digest = anonymous(&Server::start(|_| manifest_reply())).fetch(&other.to_string()).await;
    assert!(matches!(by_digest, Err(RegistryError::Mismatch { .. })), "{by_digest:?}");
    let stated =
        Server::start(move |_| manifest_reply().header("Docker-Content-Digest", other.to_string()));
    assert!(matches!(anonymous(&stated).fetch("1").await, Err(RegistryError::Mismatch { .. })));
    let malformed =
        Server::start(|_| manifest_reply().header("Docker-Content-Digest", "sha256:../../x"));
    assert!(anonymous(&malformed).fetch("1").await.is_err());
    assert!(anonymous(&malformed).head("1").await.is_err());
    let config = Descriptor::of(media::OCI_CONFIG, b"right");
    let swapped = Server::start(|_| Reply::new(200).body("wrong"));
    assert!(matches!(
        anonymous(&swapped).small_blob(&config).await,
        Err(RegistryError::Mismatch { .. })
    ));
    // A size or media type other than the descriptor's.
    let good = Server::start(|_| manifest_reply());
    let right = Descriptor::of(media::OCI_MANIFEST, &manifest());
    assert!(anonymous(&good).document(&right).await.is_ok());
    assert!(anonymous(&good).document(&Descriptor { size: 5, ..right.clone() }).await.is_err());
    let renamed = Descriptor { media_type: media::DOCKER_MANIFEST.to_owned(), ..right };
    assert!(matches!(
        anonymous(&good).document(&renamed).await,
        Err(RegistryError::Document { .. })
    ));
}

#[tokio::test]
async fn ambiguous_and_huge_documents_are_refused() {
    let config =
        serde_json::json!({"mediaType": media::OCI_CONFIG, "digest": Digest::of(b"{}"), "size": 2});
    let both =
        serde_json::json!({"schemaVersion": 2, "config": config, "layers": [], "manifests": []})
            .to_string();
    let ambiguous = Server::start(move |_| {
        Reply::new(200).header("Content-Type", media::OCI_INDEX).body(both.clone())
    });
    assert!(matches!(anonymous(&ambiguous).fetch("1").await, Err(RegistryError::Document { .. })));
    let huge = Server::start(|_| {
        Reply::new(200).header("Content-Type", media::OCI_INDEX).body(vec![b' '; 5 << 20])
    });
    assert!(matches!(anonymous(&huge).fetch("1").await, Err(RegistryError::Document { .. })));
    let endless = Server::start(|_| {
        let index = Index::new(media::OCI_INDEX, vec![Descriptor::of(media::OCI_INDEX, b"x")]);
        Reply::new(200)
            .header("Content-Type", media::OCI_INDEX)
            .body(serde_json::to_vec(&index).unwrap())
    });
    assert!(anonymous(&endless).resolve("1", &Platform::host()).await.is_err());
    let pushed = anonymous(&ambiguous)
        .push_manifest(
            media::OCI_MANIFEST,
            Bytes::from_static(b"{\"schemaVersion\":2,\"manifests\":[],\"layers\":[]}"),
            None,
        )
        .await;
    assert!(matches!(pushed, Err(RegistryError::Document { .. })));
}

fn content() -> Vec<u8> {
    (0..40_000_u32).flat_map(u32::to_le_bytes).collect()
}

/// Serves the content from the asked offset.
fn ranged(asked: &Asked) -> (usize, Reply) {
    let content = content();
    match asked.header("range") {
        None => (0, Reply::new(200).body(content)),
        Some(range) => {
            let start: usize =
                range.trim_start_matches("bytes=").trim_end_matches('-').parse().unwrap();
            let header = format!("bytes {start}-{}/{}", content.len() - 1, content.len());
            (start, Reply::new(206).header("Content-Range", header).body(&content[start..]))
        }
    }
}

#[tokio::test]
async fn broken_downloads_are_resumed() {
    let descriptor = Descriptor::of(media::OCI_LAYER, &content());
    let breaking = Server::start(|asked| {
        let (start, mut reply) = ranged(asked);
        reply.cut = (start < 100_000).then_some(30_000);
        reply
    });
    assert_eq!(read(&anonymous(&breaking), &descriptor).await.unwrap(), content());
    let starts: Vec<_> =
        breaking.asked().iter().map(|asked| asked.header("range").map(str::to_owned)).collect();
    assert_eq!(starts.len(), 5, "{starts:?}");
    assert_eq!(starts[1].as_deref(), Some("bytes=30000-"));

    // Ranges are not honoured: what is known already is skipped.
    let count = AtomicUsize::new(0);
    let forgetful = Server::start(move |_| {
        let cut = (count.fetch_add(1, Ordering::Relaxed) == 0).then_some(50_000);
        Reply { cut, ..Reply::new(200).body(content()) }
    });
    assert_eq!(read(&anonymous(&forgetful), &descriptor).await.unwrap(), content());
}

#[tokio::test]
async fn downloads_that_cannot_succeed_end() {
    let descriptor = Descriptor::of(media::OCI_LAYER, &content());
    let stuck = Server::start(|asked| Reply { cut: Some(0), ..ranged(asked).1 });
    assert!(read(&anonymous(&stuck), &descriptor).await.is_err());
    assert_eq!(stuck.asked().len(), 5);
    let another =
        || Reply::new(206).header("Content-Range", "bytes 7-159999/160000").body(&content()[7..]);
    let elsewhere = Server::start(move |asked| match asked.header("range") {
        Some(_) => another(),
        None => Reply { cut: Some(1000), ..ranged(asked).1 },
    });
    assert!(read(&anonymous(&elsewhere), &descriptor).await.is_err());
    assert!((2..=10).contains(&elsewhere.asked().len()));
    let first = AtomicBool::new(true);
    let deaf = Server::start(move |asked| match asked.header("range") {
        Some(_) => another(),
        None => {
            let cut = first.swap(false, Ordering::Relaxed).then_some(1000);
            Reply { cut, ..ranged(asked).1 }
        }
    });
    assert_eq!(read(&anonymous(&deaf), &descriptor).await.unwrap(), content());
    for body in [vec![1; 160_001], vec![1; 10]] {
        let sized = Server::start(move |_| Reply::new(200).body(body.clone()));
        assert!(matches!(
            read(&anonymous(&sized), &descriptor).await,
            Err(RegistryError::Mismatch { .. })
        ));
    }
}

#[tokio::test]
async fn patience_is_bounded() {
    let count = AtomicUsize::new(0);
    let busy = Server::start(move |_| match count.fetch_add(1, Ordering::Relaxed) {
        0 => Reply::new(429).header("Retry-After", "0"),
        1 => Reply::new(503),
        _ => manifest_reply(),
    });
    assert!(anonymous(&busy).fetch("1").await.is_ok());
    assert_eq!(busy.asked().len(), 3);
    let started = Instant::now();
    let down =
        Server::start(|_| Reply::new(503).header("Retry-After", "100000").body("be patient"));
    let error = anonymous(&down).fetch("1").await.unwrap_err();
    assert!(
        error.to_string().contains("503") && error.to_string().contains("be patient"),
        "{error}"
    );
    assert_eq!(
        down.asked().len(),
        1,
        "the registry said when to come again, and nobody waits for it"
    );
    let silent = Server::start(|_| Reply::new(503));
    assert!(anonymous(&silent).fetch("1").await.is_err());
    assert_eq!(silent.asked().len(), 5);
    assert!(started.elapsed() < Duration::from_secs(5));
    let refused = Server::start(|_| {
        Reply::new(400).body(r#"{"errors":[{"code":"NAME_INVALID","message":"bad name"}]}"#)
    });
    let error = anonymous(&refused).fetch("1").await.unwrap_err();
    assert!(error.to_string().contains("name invalid: bad name"), "{error}");
    assert_eq!(refused.asked().len(), 1);
}

/// A registry that wants a bearer token from `realm`.
fn wanting(realm: impl Fn(&str) -> String + Send + Sync + 'static) -> Server {
    Server::start(move |asked| {
        let host = asked.header("host").unwrap().to_owned();
        if asked.path.starts_with("/token") {
            return Reply::new(200).body(r#"{"token":"good","expires_in":300}"#);
        }
        if asked.header("authorization") == Some("Bearer good") {
            return manifest_reply();
        }
        let realm = realm(&host);
        Reply::new(401).header(
            "WWW-Authenticate",
            format!(r#"Bearer realm="{realm}",service="s",scope="repository:x:pull""#),
        )
    })
}

fn own_realm(host: &str) -> String {
    format!("http://{host}/token")
}

#[tokio::test]
async fn tokens_are_fetched_and_kept() {
    let server = wanting(own_realm);
    let client = client();
    let name = Reference::parse(&format!("{}/x", server.host)).unwrap();
    let mine = client.repository(&name, user());
    mine.fetch("1").await.unwrap();
    mine.fetch("1").await.unwrap();
    client.repository(&name, user()).fetch("1").await.unwrap();
    assert_eq!(server.count("/token"), 1, "the token was not shared between equal identities");
    let asked = server.asked().into_iter().find(|asked| asked.path.starts_with("/token")).unwrap();
    assert!(
        asked.path.contains("service=s") && asked.path.contains("scope=repository%3Ax%3Apull"),
        "{}",
        asked.path
    );
    assert!(asked.header("authorization").unwrap().starts_with("Basic "));
    // Another person, or another scope, needs another token.
    client.repository(&name, Arc::new(Anonymous)).fetch("1").await.unwrap();
    assert_eq!(server.count("/token"), 2);
    assert!(
        server
            .asked()
            .iter()
            .filter(|asked| asked.path.starts_with("/token"))
            .nth(1)
            .unwrap()
            .header("authorization")
            .is_none()
    );
    mine.push_manifest(media::OCI_MANIFEST, Bytes::from(manifest()), Some("1")).await.unwrap();
    assert_eq!(server.count("pull%2Cpush"), 1);
    // An identity token is exchanged, not sent as a password; a holder may bring its own token.
    let exchanged = wanting(own_realm);
    let identity = Arc::new(Watched { identity: "id".to_owned(), ..Watched::default() });
    repository(&exchanged, identity).fetch("1").await.unwrap();
    let asked =
        exchanged.asked().into_iter().find(|asked| asked.path.starts_with("/token")).unwrap();
    assert_eq!(asked.method, "POST");
    assert!(String::from_utf8_lossy(&asked.body).contains("grant_type=refresh_token"));
    let brought = wanting(own_realm);
    let holder = Arc::new(Watched {
        identity: "holder".to_owned(),
        token: Some("good"),
        ..Watched::default()
    });
    repository(&brought, holder).fetch("1").await.unwrap();
    assert_eq!(brought.count("/token"), 0);
}

#[tokio::test]
async fn foreign_realms_see_no_credentials() {
    let evil = Server::start(|_| Reply::new(200).body(r#"{"token":"good"}"#));
    let host = evil.host.clone();
    let server = wanting(move |_| format!("http://{host}/token"));
    let credentials = user();
    repository(&server, Arc::clone(&credentials) as Arc<dyn Credentials>).fetch("1").await.unwrap();
    assert_eq!(evil.asked().len(), 1);
    assert!(!saw_secret(&evil));
    assert_eq!(*credentials.lookups.lock().unwrap(), [] as [String; 0]);
    // Unless the settings name it.
    let hosts = [(
        server.host.clone(),
        HostConfig { realms: vec![evil.host.clone()], ..HostConfig::default() },
    )];
    let client = client_with(ClientConfig { hosts: hosts.into(), ..ClientConfig::default() });
    let name = Reference::parse(&format!("{}/x", server.host)).unwrap();
    client.repository(&name, user()).fetch("1").await.unwrap();
    assert!(saw_secret(&evil));
    for realm in ["file:///etc/passwd", "not a url", "ftp://x/y", "http://user:pass@localhost/"] {
        let server = wanting(move |_| realm.to_owned());
        assert!(repository(&server, user()).fetch("1").await.is_err(), "{realm}");
    }
}

#[tokio::test]
async fn redirects_elsewhere_see_no_credentials() {
    let elsewhere = Server::start(|asked| match asked.path.as_str() {
        path if path.starts_with("/challenge") => {
            Reply::new(401).header("WWW-Authenticate", "Basic realm=x")
        }
        _ => Reply::new(200).body("blob"),
    });
    let target = elsewhere.host.clone();
    let server = Server::start(move |asked| {
        if asked.header("authorization").is_none() {
            return Reply::new(401).header("WWW-Authenticate", "Basic realm=x");
        }
        match asked.path.as_str() {
            path if path.contains("loop") => Reply::new(302).header("Location", path),
            path if path.contains("manifests") => {
                Reply::new(307).header("Location", format!("http://{target}/challenge"))
            }
            _ => Reply::new(307).header("Location", format!("http://{target}/blob?signature=1")),
        }
    });
    let repository = repository(&server, user());
    let blob = Descriptor::of(media::OCI_LAYER, b"blob");
    assert_eq!(read(&repository, &blob).await.unwrap(), b"blob");
    assert!(server.asked().iter().any(|asked| asked.header("authorization").is_some()));
    assert!(matches!(repository.fetch("1").await, Err(RegistryError::Denied { .. })));
    assert!(repository.fetch("loop").await.is_err());
    assert!(elsewhere.asked().len() >= 2);
    assert!(!saw_secret(&elsewhere));
}

#[tokio::test]
async fn uploads_elsewhere_see_no_credentials() {
    let elsewhere = Server::start(|_| Reply::new(201));
    let target = elsewhere.host.clone();
    let server =
        Server::start(move |asked| match (asked.header("authorization"), asked.method.as_str()) {
            (None, _) => Reply::new(401).header("WWW-Authenticate", "Basic realm=x"),
            (_, "HEAD") => Reply::new(404),
            _ => Reply::new(202).header("Location", format!("http://{target}/upload?state=1")),
        });
    let blob = Descriptor::of(media::OCI_LAYER, b"blob");
    repository(&server, user()).push_blob(&blob, &Bytes::from_static(b"blob"), None).await.unwrap();
    let asked = elsewhere.asked();
    assert_eq!((asked.len(), asked[0].body.as_slice()), (1, &b"blob"[..]));
    assert!(asked[0].path.starts_with("/upload?state=1&digest=sha256%3A"), "{}", asked[0].path);
    assert!(!saw_secret(&elsewhere));
}

#[tokio::test]
async fn urls_of_descriptors_are_not_followed() {
    let elsewhere = Server::start(|_| Reply::new(200).body("blob"));
    let server = Server::start(|_| Reply::new(404));
    let urls = vec![format!("http://{}/blob", elsewhere.host)];
    let blob = Descriptor { urls, ..Descriptor::of(media::OCI_LAYER, b"blob") };
    assert!(read(&anonymous(&server), &blob).await.unwrap_err().is_not_found());
    assert_eq!(elsewhere.asked().len(), 0);
}

#[tokio::test]
async fn targets_cannot_leave_the_repository() {
    let server = Server::start(|_| manifest_reply());
    for target in ["../../other/manifests/1", "", "a/b", "1?x=y", "sha256:../../x", "."] {
        assert!(anonymous(&server).fetch(target).await.is_err(), "{target:?}");
        let pushed = anonymous(&server)
            .push_manifest(media::OCI_MANIFEST, Bytes::from(manifest()), Some(target))
            .await;
        assert!(pushed.is_err(), "{target:?}");
    }
    assert_eq!(server.asked().len(), 0);
}

#[tokio::test]
async fn endless_challenges_end() {
    let server = Server::start(|_| Reply::new(401).header("WWW-Authenticate", "Basic realm=x"));
    assert!(matches!(
        repository(&server, user()).fetch("1").await,
        Err(RegistryError::Denied { .. })
    ));
    assert!(server.asked().len() <= 3);
    assert!(!format!("{:?}", Secret::new(SECRET.to_owned())).contains(SECRET));
}

#[tokio::test]
async fn what_refers_to_a_manifest_is_listed_or_tagged() {
    let about = Digest::of(b"about");
    let found = |text: &str| Descriptor::of(media::OCI_MANIFEST, text.as_bytes());
    let list =
        |text: &str| serde_json::to_vec(&Index::new(media::OCI_INDEX, vec![found(text)])).unwrap();
    let reply =
        |body: &[u8]| Reply::new(200).header("Content-Type", media::OCI_INDEX).body(body.to_vec());
    let (listed, tagged) = (list("listed"), list("tagged"));
    let lists = Server::start(move |_| reply(&listed));
    assert_eq!(anonymous(&lists).referrers(&about).await.unwrap(), [found("listed")]);
    assert_eq!(lists.asked()[0].path, format!("/v2/x/referrers/{about}"));

    // A registry that has no lists.
    let tag = format!("/manifests/sha256-{}", about.hex());
    let tags = Server::start(move |asked| match asked.path.ends_with(&tag) {
        true => reply(&tagged),
        false => Reply::new(404),
    });
    assert_eq!(anonymous(&tags).referrers(&about).await.unwrap(), [found("tagged")]);
    let nothing = Server::start(|_| Reply::new(404));
    assert!(anonymous(&nothing).referrers(&about).await.unwrap().is_empty());

    let huge = Server::start(|_| Reply::new(200).body(vec![b' '; 5 << 20]));
    let refused = anonymous(&huge).referrers(&about).await;
    assert!(matches!(refused, Err(RegistryError::Document { .. })), "{refused:?}");
    let denied = Server::start(|_| Reply::new(403));
    let refused = anonymous(&denied).referrers(&about).await;
    assert!(matches!(refused, Err(RegistryError::Denied { .. })), "{refused:?}");
}

#[tokio::test]
async fn the_size_of_a_blob_is_told_or_there_is_none() {
    let digest = Digest::of(b"12345");
    let has = Server::start(|_| Reply::new(200).body("12345"));
    assert_eq!(anonymous(&has).blob_size(&digest).await.unwrap(), 5);
    let asked = has.asked().remove(0);
    assert_eq!(
        (asked.method.as_str(), asked.path.clone()),
        ("HEAD", format!("/v2/x/blobs/{digest}"))
    );
    let nothing = Server::start(|_| Reply::new(404));
    let missing = anonymous(&nothing).blob_size(&digest).await;
    assert!(matches!(missing, Err(RegistryError::NotFound { .. })), "{missing:?}");
    let denied = Server::start(|_| Reply::new(403));
    let refused = anonymous(&denied).blob_size(&digest).await;
    assert!(matches!(refused, Err(RegistryError::Denied { .. })), "{refused:?}");
}
