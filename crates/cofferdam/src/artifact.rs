//! Images as they are looked at from here: in a registry, or in an OCI layout that is a directory or a tar (`.cnb` files are such).
//!
//! Whoever made them had a say in every byte. Documents are bounded and their digests are checked before anything is believed.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, anyhow, bail, ensure};
use async_trait::async_trait;
use cofferdam_buildpacks::is_archive_name;
use cofferdam_image::registry::{
    Client, ClientConfig, Credentials, CredentialsError, Login, Repository, Secret,
};
use cofferdam_image::{
    Descriptor, Document, ImageConfig, MAX_DOCUMENT, Manifest, Platform, Reference,
};
use cofferdam_session::DockerConfig;
use futures::TryStreamExt;

/// Largest layer that is read whole: only those of SBOMs and single modules are.
const MAX_LAYER: u64 = 64 << 20;

/// Most entries of a layout's tar.
const MAX_ENTRIES: usize = 100_000;

/// Indexes inside indexes.
const MAX_NESTING: usize = 4;

/// One image for one platform.
pub(crate) struct Artifact {
    /// What it was asked for by, in full.
    pub(crate) name: String,
    /// What names it exactly, `sha256:…`.
    pub(crate) digest: String,
    /// Its configuration.
    pub(crate) config: ImageConfig,
    manifest: Manifest,
    source: Source,
}

enum Source {
    Registry(Repository),
    Layout(Layout),
}

/// An OCI layout.
enum Layout {
    Directory(PathBuf),
    /// A tar and where its entries lie in it.
    Tar(PathBuf, HashMap<String, (u64, u64)>),
}

impl Artifact {
    /// The image that `text` names: a path when it is one beyond doubt, else a reference.
    pub(crate) async fn open(text: &str, platform: &Platform) -> anyhow::Result<Self> {
        let opened = if is_path(text) {
            Self::open_layout(Path::new(text), platform)
        } else {
            Self::open_registry(text, platform).await
        };
        opened.with_context(|| format!("read {text}"))
    }

    async fn open_registry(text: &str, platform: &Platform) -> anyhow::Result<Self> {
        let reference = Reference::parse(text)?;
        let config = DockerConfig::from_environment().context("read docker's credentials")?;
        let proxy = proxy(reference.domain(), crate::remote::variable);
        let client = Client::new(ClientConfig { proxy, ..ClientConfig::default() })?;
        let repository = client.repository(&reference, Arc::new(UserCredentials(config)));
        let target = reference.digest().map(|digest| digest.to_string());
        let target = target.or_else(|| reference.tag().map(str::to_owned));
        let target = target.context("the reference has neither tag nor digest")?;
        let resolved = repository.resolve(&target, platform).await?;
        let bytes = repository.small_blob(&resolved.manifest.config).await?;
        Ok(Self {
            name: reference.to_string(),
            digest: resolved.root.descriptor.digest.to_string(),
            config: serde_json::from_slice(&bytes).context("read the image's configuration")?,
            manifest: resolved.manifest,
            source: Source::Registry(repository),
        })
    }

    fn open_layout(path: &Path, platform: &Platform) -> anyhow::Result<Self> {
        let layout = Layout::open(path)?;
        let index = layout.entry("index.json", MAX_DOCUMENT)?;
        let mut document = Document::parse(&index, None)?;
        let mut digest = String::new();
        for _ in 0..MAX_NESTING {
            let index = match document {
                Document::Manifest(manifest) => {
                    let config = layout.blob(&manifest.config, MAX_DOCUMENT)?;
                    return Ok(Self {
                        name: path.display().to_string(),
                        digest,
                        config: serde_json::from_slice(&config)
                            .context("read the image's configuration")?,
                        manifest,
                        source: Source::Layout(layout),
                    });
                }
                Document::Index(index) => index,
            };
            let chosen =
                index.select(platform).with_context(|| format!("it has nothing for {platform}"))?;
            let bytes = layout.blob(chosen, MAX_DOCUMENT)?;
            if digest.is_empty() {
                digest = chosen.digest.to_string();
            }
            document = Document::parse(&bytes, Some(&chosen.media_type))?;
        }
        bail!("its indexes are nested too deeply")
    }

    /// A label.
    pub(crate) fn label(&self, name: &str) -> Option<&str> {
        self.config.config.labels.get(name).map(String::as_str)
    }

    /// The bytes of the layer that is `diff_id` when uncompressed: a tar that may be compressed.
    pub(crate) async fn layer(&self, diff_id: &str) -> anyhow::Result<Vec<u8>> {
        let layers = &self.manifest.layers;
        let diff_ids = &self.config.rootfs.diff_ids;
        ensure!(layers.len() == diff_ids.len(), "its manifest and configuration do not fit");
        let number = diff_ids.iter().position(|layer| layer.to_string() == diff_id);
        let number = number.with_context(|| format!("it has no layer {diff_id:?}"))?;
        let descriptor = layers.get(number).context("its manifest and configuration do not fit")?;
        ensure!(
            descriptor.size <= MAX_LAYER,
            "its layer {diff_id} has {} bytes, which is more than is read",
            descriptor.size
        );
        match &self.source {
            Source::Layout(layout) => layout.blob(descriptor, MAX_LAYER),
            Source::Registry(repository) => {
                let mut bytes = Vec::new();
                let mut stream = repository.blob(descriptor, 0);
                while let Some(chunk) = stream.try_next().await? {
                    bytes.extend_from_slice(&chunk);
                }
                verified(bytes, descriptor)
            }
        }
    }
}

/// Whether `text` is a path: it starts like one, or ends as archives do.
pub(crate) fn is_path(text: &str) -> bool {
    text.starts_with(['.', '/']) || is_archive_name(text)
}

impl Layout {
    fn open(path: &Path) -> anyhow::Result<Self> {
        if path.is_dir() {
            return Ok(Self::Directory(path.to_owned()));
        }
        let mut archive = tar::Archive::new(File::open(path)?);
        let mut entries = HashMap::new();
        for entry in archive.entries_with_seek().context("it is no tar of an OCI layout")? {
            let entry = entry.context("it is no tar of an OCI layout")?;
            ensure!(entries.len() < MAX_ENTRIES, "it has too many entries");
            if !entry.header().entry_type().is_file() {
                continue;
            }
            let name = entry.path()?.to_string_lossy().trim_start_matches("./").to_owned();
            entries.insert(name, (entry.raw_file_position(), entry.size()));
        }
        ensure!(entries.contains_key("index.json"), "it is no tar of an OCI layout");
        Ok(Self::Tar(path.to_owned(), entries))
    }

    fn entry(&self, name: &str, most: u64) -> anyhow::Result<Vec<u8>> {
        let failed = || format!("read {name} of the layout");
        let (file, size) = match self {
            Self::Directory(path) => {
                let file = File::open(path.join(name)).with_context(failed)?;
                (file, most.saturating_add(1))
            }
            Self::Tar(path, entries) => {
                let (position, size) = *entries
                    .get(name)
                    .ok_or_else(|| anyhow!("it is not there"))
                    .with_context(failed)?;
                let mut file = File::open(path).with_context(failed)?;
                file.seek(SeekFrom::Start(position)).with_context(failed)?;
                (file, size)
            }
        };
        let mut bytes = Vec::new();
        file.take(size.min(most.saturating_add(1))).read_to_end(&mut bytes).with_context(failed)?;
        ensure!(bytes.len() as u64 <= most, "{name} of the layout has more than {most} bytes");
        Ok(bytes)
    }

    fn blob(&self, descriptor: &Descriptor, most: u64) -> anyhow::Result<Vec<u8>> {
        let name = format!("blobs/sha256/{}", descriptor.digest.hex());
        verified(self.entry(&name, most)?, descriptor)
    }
}

fn verified(bytes: Vec<u8>, descriptor: &Descriptor) -> anyhow::Result<Vec<u8>> {
    let found = Descriptor::of(&descriptor.media_type, &bytes).digest;
    ensure!(found == descriptor.digest, "{} has other content", descriptor.digest);
    Ok(bytes)
}

/// What docker's configuration knows.
struct UserCredentials(DockerConfig);

#[async_trait]
impl Credentials for UserCredentials {
    fn identity(&self) -> String {
        "user".to_owned()
    }

    async fn login(&self, host: &str) -> Result<Option<Login>, CredentialsError> {
        let failed = |error: &cofferdam_session::DockerConfigError| CredentialsError {
            host: host.to_owned(),
            reason: error.to_string(),
        };
        let found = self.0.credentials(host).await.map_err(|error| failed(&error))?;
        if found.is_anonymous() {
            return Ok(None);
        }
        let secret = Secret::new(found.secret.clone());
        Ok(Some(Login { username: found.username.clone(), secret }))
    }
}

/// The proxy that the environment has for registries, unless `host` is to be reached without.
fn proxy(host: &str, variable: impl Fn(&str) -> Option<String>) -> Option<String> {
    let either = |name: &str| variable(&name.to_ascii_lowercase()).or_else(|| variable(name));
    let proxy = either("HTTPS_PROXY")?;
    let bare = host.rsplit_once(':').map_or(host, |(bare, _)| bare);
    let local = bare == "localhost"
        || bare
            .trim_matches(['[', ']'])
            .parse::<std::net::IpAddr>()
            .is_ok_and(|ip| ip.is_loopback());
    let direct = either("NO_PROXY").unwrap_or_default();
    let excluded = direct.split(',').map(str::trim).any(|entry| {
        let entry = entry.trim_start_matches("*.").trim_start_matches('.');
        let below = || bare.strip_suffix(entry).is_some_and(|rest| rest.ends_with('.'));
        entry == "*" || !entry.is_empty() && (bare == entry || host == entry || below())
    });
    (!local && !excluded).then_some(proxy)
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// An OCI layout in a tar: one image with these labels and this layer, uncompressed.
    pub(crate) fn layout(labels: &[(&str, &str)], layer: &[u8]) -> Vec<u8> {
        use cofferdam_image::{ContainerConfig, Index, RootFs, media};
        let labels = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let layer_descriptor = Descriptor::of(media::OCI_LAYER, layer);
        let config = ImageConfig {
            platform: Platform::host(),
            config: ContainerConfig { labels, ..ContainerConfig::default() },
            rootfs: RootFs { diff_ids: vec![layer_descriptor.digest], ..RootFs::default() },
            ..ImageConfig::default()
        };
        let config = serde_json::to_vec(&config).unwrap();
        let config_descriptor = Descriptor::of(media::OCI_CONFIG, &config);
        let manifest = Manifest::new(
            media::OCI_MANIFEST,
            config_descriptor.clone(),
            vec![layer_descriptor.clone()],
        );
        let manifest = serde_json::to_vec(&manifest).unwrap();
        let manifest_descriptor = Descriptor::of(media::OCI_MANIFEST, &manifest);
        let index = Index::new(media::OCI_INDEX, vec![manifest_descriptor.clone()]);
        let index = serde_json::to_vec(&index).unwrap();
        let blob = |descriptor: &Descriptor| format!("blobs/sha256/{}", descriptor.digest.hex());
        let mut tar = tar::Builder::new(Vec::new());
        for (name, bytes) in [
            ("oci-layout".to_owned(), &br#"{"imageLayoutVersion":"1.0.0"}"#[..]),
            ("index.json".to_owned(), &index),
            (blob(&manifest_descriptor), &manifest),
            (blob(&config_descriptor), &config),
            (blob(&layer_descriptor), layer),
        ] {
            let mut header = tar::Header::new_ustar();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            tar.append_data(&mut header, name, bytes).unwrap();
        }
        tar.into_inner().unwrap()
    }

    #[tokio::test]
    async fn layouts_are_read_as_tars_and_directories() {
        let dir = tempfile::tempdir().unwrap();
        let bytes = layout(&[("a", "b")], b"layer");
        let file = dir.path().join("x.cnb");
        std::fs::write(&file, &bytes).unwrap();
        let unpacked = dir.path().join("layout");
        tar::Archive::new(bytes.as_slice()).unpack(&unpacked).unwrap();
        for path in [&file, &unpacked] {
            let image = Artifact::open(path.to_str().unwrap(), &Platform::host()).await.unwrap();
            assert_eq!(image.label("a"), Some("b"));
            assert!(image.digest.starts_with("sha256:"));
            let diff_id = image.config.rootfs.diff_ids[0].to_string();
            assert_eq!(image.layer(&diff_id).await.unwrap(), b"layer");
            assert!(image.layer("sha256:x").await.is_err());
        }
    }

    #[tokio::test]
    async fn other_content_is_not_believed() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("x.tar");
        let open = async |bytes: &[u8]| {
            std::fs::write(&file, bytes).unwrap();
            Artifact::open(file.to_str().unwrap(), &Platform::host()).await
        };
        let mut bytes = layout(&[("label", "original")], b"layer");
        assert!(open(&bytes).await.is_ok());
        let place = bytes.windows(8).position(|window| window == b"original").unwrap();
        bytes[place] = b'O';
        let error = format!("{:#}", open(&bytes).await.err().unwrap());
        assert!(error.contains("other content"), "{error}");
        for bytes in [&b"no tar"[..], b"", &[0; 1024]] {
            assert!(open(bytes).await.is_err());
        }
    }

    #[test]
    fn paths_are_paths_beyond_doubt() {
        for text in ["./x", "../x", "/x", "x.cnb", "dir/x.tgz", "."] {
            assert!(is_path(text), "{text}");
        }
        for text in ["x", "r.example/x", "r.example/x:1", "localhost:5000/x"] {
            assert!(!is_path(text), "{text}");
        }
    }

    #[test]
    fn proxies() {
        let found = |host: &str, direct: &str| {
            proxy(host, |name| match name {
                "HTTPS_PROXY" => Some("http://proxy:3128".to_owned()),
                "no_proxy" => Some(direct.to_owned()),
                _ => None,
            })
        };
        assert!(found("docker.io", "").is_some() && found("r.example", "example.org").is_some());
        for (host, direct) in [
            ("localhost:5000", ""),
            ("127.0.0.1:5000", ""),
            ("[::1]:5000", ""),
            ("r.example:5000", ".example"),
            ("r.example", "a, r.example"),
            ("r.example", "*"),
        ] {
            assert_eq!(found(host, direct), None, "{host} {direct}");
        }
        assert_eq!(proxy("docker.io", |_| None), None);
    }
}
