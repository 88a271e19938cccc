//! The client against a real registry.
#![allow(clippy::unwrap_used)]

mod common {
    pub(crate) mod registry;
}

use std::collections::HashMap;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use cofferdam_digest::Digest;
use cofferdam_image::registry::{
    Anonymous, BlobBody, Client, ClientConfig, Credentials, CredentialsError, FileBody, HostConfig,
    KeyPair, Login, Pushed, RegistryError, Repository, Secret,
};
use cofferdam_image::{Descriptor, ImageConfig, Index, Manifest, Platform, Reference, media};
use common::registry::{Registry, Setup};
use futures::TryStreamExt;

struct Fixed(&'static str, &'static str);

#[async_trait]
impl Credentials for Fixed {
    fn identity(&self) -> String {
        self.0.to_owned()
    }

    async fn login(&self, _host: &str) -> Result<Option<Login>, CredentialsError> {
        Ok(Some(Login { username: self.0.to_owned(), secret: Secret::new(self.1.to_owned()) }))
    }
}

fn settings() -> ClientConfig {
    ClientConfig { backoff: Duration::from_millis(5), ..ClientConfig::default() }
}

fn repository(
    client: &Arc<Client>,
    name: &str,
    credentials: impl Credentials + 'static,
) -> Repository {
    client.repository(&Reference::parse(name).unwrap(), Arc::new(credentials))
}

/// Pushes a one-layer image for `platform`; its manifest's descriptor.
async fn push_image(
    repository: &Repository,
    platform: &str,
    layer: &[u8],
    tag: Option<&str>,
) -> Descriptor {
    let platform = Platform::parse(platform).unwrap();
    let mut config = ImageConfig::new(&platform);
    config.rootfs.diff_ids.push(Digest::of(layer));
    let config = Bytes::from(config.to_vec().unwrap());
    let layer = Bytes::copy_from_slice(layer);
    let config_descriptor = Descriptor::of(media::OCI_CONFIG, &config);
    let layer_descriptor = Descriptor::of(media::OCI_LAYER, &layer);
    repository.push_blob(&config_descriptor, &config, None).await.unwrap();
    repository.push_blob(&layer_descriptor, &layer, None).await.unwrap();
    let manifest = Manifest::new(media::OCI_MANIFEST, config_descriptor, vec![layer_descriptor]);
    let bytes = Bytes::from(serde_json::to_vec(&manifest).unwrap());
    let digest = repository.push_manifest(media::OCI_MANIFEST, bytes.clone(), tag).await.unwrap();
    assert_eq!(digest, Digest::of(&bytes));
    Descriptor { platform: Some(platform), ..Descriptor::of(media::OCI_MANIFEST, &bytes) }
}

async fn read(repository: &Repository, descriptor: &Descriptor, offset: u64) -> Vec<u8> {
    let chunks: Vec<Bytes> = repository.blob(descriptor, offset).try_collect().await.unwrap();
    chunks.concat()
}

#[tokio::test]
async fn images_come_back_as_they_were_pushed() {
    let registry = Registry::start(&Setup::default());
    let client = Client::new(settings()).unwrap();
    let repository = repository(&client, &format!("{}/a/b", registry.host), Anonymous);
    let amd64 = push_image(&repository, "linux/amd64", b"layer for amd64", Some("one")).await;
    let arm64 = push_image(&repository, "linux/arm64", b"layer for arm64", None).await;

    let resolved = repository.resolve("one", &Platform::host()).await.unwrap();
    assert_eq!(resolved.descriptor.digest, amd64.digest);
    assert_eq!(read(&repository, &resolved.manifest.layers[0], 0).await, b"layer for amd64");
    assert_eq!(read(&repository, &resolved.manifest.layers[0], 10).await, b"amd64");
    assert_eq!(read(&repository, &resolved.manifest.layers[0], 15).await, b"");
    let config = repository.small_blob(&resolved.manifest.config).await.unwrap();
    assert_eq!(ImageConfig::parse(&config).unwrap().platform.architecture, "amd64");
    assert_eq!(repository.head("one").await.unwrap().digest, amd64.digest);

    let index = Index::new(media::OCI_INDEX, vec![amd64.clone(), arm64.clone()]);
    let bytes = Bytes::from(serde_json::to_vec(&index).unwrap());
    let digest = repository.push_manifest(media::OCI_INDEX, bytes, Some("many")).await.unwrap();
    let resolved =
        repository.resolve("many", &Platform::parse("linux/arm64/v8").unwrap()).await.unwrap();
    assert_eq!(
        (resolved.root.descriptor.digest, resolved.descriptor.digest),
        (digest, arm64.digest)
    );
    let error =
        repository.resolve("many", &Platform::parse("linux/s390x").unwrap()).await.unwrap_err();
    assert!(matches!(error, RegistryError::NoPlatform { .. }), "{error}");
    assert!(repository.manifest_exists(&digest).await.unwrap());
    assert!(!repository.manifest_exists(&Digest::of(b"nothing")).await.unwrap());
    let error = repository.fetch("missing").await.unwrap_err();
    assert_eq!(error.to_string(), format!("{}/a/b:missing: not found", registry.host));
}

#[tokio::test]
async fn blobs_are_uploaded_once() {
    let registry = Registry::start(&Setup::default());
    let content: Vec<u8> = (0..1_500_000_u32).flat_map(u32::to_le_bytes).collect();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &content).unwrap();
    let descriptor = Descriptor::of(media::OCI_LAYER, &content);
    for (name, chunk_size) in [("whole", None), ("chunked", Some(1 << 20)), ("odd", Some(999_999))]
    {
        let client = Client::new(ClientConfig { chunk_size, ..settings() }).unwrap();
        let first = repository(&client, &format!("{}/{name}", registry.host), Anonymous);
        let body = FileBody::new(file.reopen().unwrap());
        assert!(!first.blob_exists(&descriptor.digest).await.unwrap());
        assert_eq!(first.push_blob(&descriptor, &body, None).await.unwrap(), Pushed::Uploaded);
        assert_eq!(first.push_blob(&descriptor, &body, None).await.unwrap(), Pushed::Existed);
        assert_eq!(read(&first, &descriptor, 0).await, content);
        let second = repository(&client, &format!("{}/{name}-2", registry.host), Anonymous);
        assert_eq!(
            second.push_blob(&descriptor, &body, Some(name)).await.unwrap(),
            Pushed::Mounted
        );
        let third = repository(&client, &format!("{}/{name}-3", registry.host), Anonymous);
        assert_eq!(
            third.push_blob(&descriptor, &body, Some("no/such")).await.unwrap(),
            Pushed::Uploaded
        );
        let empty = Descriptor::of(media::OCI_LAYER, b"");
        assert_eq!(third.push_blob(&empty, &Bytes::new(), None).await.unwrap(), Pushed::Uploaded);
    }
    let client = Client::new(settings()).unwrap();
    let repository = repository(&client, &format!("{}/wrong", registry.host), Anonymous);
    let wrong =
        Descriptor { digest: Digest::of(b"other"), ..Descriptor::of(media::OCI_LAYER, b"these") };
    let body: &dyn BlobBody = &Bytes::from_static(b"these");
    assert!(repository.push_blob(&wrong, body, None).await.is_err());
}

#[tokio::test]
async fn passwords_are_checked() {
    // The password is `secret`.
    let htpasswd = "user:$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n";
    let registry = Registry::start(&Setup { htpasswd: Some(htpasswd), ..Setup::default() });
    let name = format!("{}/private", registry.host);
    let client = Client::new(settings()).unwrap();
    let good = repository(&client, &name, Fixed("user", "secret"));
    push_image(&good, "linux/amd64", b"layer", Some("1")).await;
    assert!(good.fetch("1").await.is_ok());
    for bad in
        [repository(&client, &name, Anonymous), repository(&client, &name, Fixed("other", "wrong"))]
    {
        let error = bad.fetch("1").await.unwrap_err();
        assert!(matches!(error, RegistryError::Denied { .. }), "{error}");
    }
}

#[tokio::test]
async fn mirrors_come_first_and_may_be_dead() {
    let registry = Registry::start(&Setup::default());
    let mirrors = vec!["127.0.0.1:1".to_owned(), registry.host.clone()];
    let hosts =
        HashMap::from([("docker.io".to_owned(), HostConfig { mirrors, ..HostConfig::default() })]);
    let client = Client::new(ClientConfig { hosts, ..settings() }).unwrap();
    let direct = repository(&client, &format!("{}/library/busybox", registry.host), Anonymous);
    let pushed = push_image(&direct, "linux/amd64", b"layer", Some("latest")).await;
    let through = repository(&client, "busybox", Fixed("user", "for docker.io only"));
    let resolved =
        through.resolve("latest", &Platform::parse("linux/amd64").unwrap()).await.unwrap();
    assert_eq!(resolved.descriptor.digest, pushed.digest);
    assert_eq!(read(&through, &resolved.manifest.layers[0], 0).await, b"layer");
}

fn openssl(dir: &Path, arguments: &str) -> bool {
    let output = Command::new("openssl").args(arguments.split(' ')).current_dir(dir).output();
    output.is_ok_and(|output| output.status.success())
}

#[tokio::test]
async fn certificates_are_checked() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    std::fs::write(at("ext"), "subjectAltName=DNS:localhost\n").unwrap();
    let new_key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    let made = openssl(
        dir.path(),
        &format!("req -x509 {new_key} -keyout ca.key -out ca.pem -subj /CN=ca -days 30"),
    ) && openssl(
        dir.path(),
        &format!("req {new_key} -keyout s.key -out s.csr -subj /CN=localhost"),
    ) && openssl(
        dir.path(),
        "x509 -req -in s.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out s.pem -days 30 -extfile ext",
    ) && openssl(
        dir.path(),
        &format!("req {new_key} -keyout c.key -out c.csr -subj /CN=client"),
    ) && openssl(
        dir.path(),
        "x509 -req -in c.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out c.pem -days 30 -extfile ext",
    );
    assert!(made, "the Debian package openssl is needed");
    let (cert, key, ca) = (at("s.pem"), at("s.key"), at("ca.pem"));
    let registry = Registry::start(&Setup { tls: Some((&cert, &key, &ca)), ..Setup::default() });
    let keypairs = vec![KeyPair { key: at("c.key"), cert: at("c.pem") }];
    let base = HostConfig { http: Some(false), ..HostConfig::default() };
    let trusted = HostConfig { ca: vec![ca], ..base.clone() };
    for (host, works) in [
        (base.clone(), false),
        (HostConfig { keypairs: keypairs.clone(), ..base.clone() }, false),
        (trusted.clone(), false),
        (HostConfig { keypairs: keypairs.clone(), ..trusted }, true),
        (HostConfig { keypairs, insecure: true, ..base }, true),
    ] {
        let hosts = HashMap::from([(registry.host.clone(), host.clone())]);
        let client = Client::new(ClientConfig { hosts, ..settings() }).unwrap();
        let repository = repository(&client, &format!("{}/x", registry.host), Anonymous);
        let result = repository.blob_exists(&Digest::of(b"")).await;
        assert_eq!(result.is_ok(), works, "{host:?}: {result:?}");
    }
}

#[tokio::test]
async fn insecure_hosts_may_be_plain() {
    let registry = Registry::start(&Setup::default());
    let host = HostConfig { http: Some(false), insecure: true, ..HostConfig::default() };
    let client = Client::new(ClientConfig {
        hosts: HashMap::from([(registry.host.clone(), host)]),
        ..settings()
    })
    .unwrap();
    let repository = repository(&client, &format!("{}/x", registry.host), Anonymous);
    let pushed = push_image(&repository, "linux/amd64", b"layer", Some("1")).await;
    assert_eq!(repository.head("1").await.unwrap().digest, pushed.digest);
}
