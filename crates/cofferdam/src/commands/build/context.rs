//! Where a build reads from: context, Dockerfile and named contexts, as attributes of the frontend and offers of the session.

use std::collections::BTreeMap;
use std::io::{Cursor, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use cofferdam_client::options::{BuildContext, parse_build_context};
use cofferdam_session::{ContentStore, Services, UploadSource};
use tokio::io::{AsyncRead, AsyncReadExt};

use super::arguments::BuildArgs;
use super::own::PrivateDir;

/// Name of the Dockerfile when nobody says otherwise.
const DOCKERFILE: &str = "Dockerfile";

/// Longest Dockerfile taken from standard input; the frontend's own bound is lower.
const MAX_DOCKERFILE: u64 = 16 << 20;

/// As much of standard input as tells an archive from a Dockerfile: a tar's mark ends at byte 262.
const PEEK: usize = 512;

/// Host part of URLs that the session itself answers.
const SESSION_URL: &str = "http://buildkit-session/";

/// Longest `index.json` of a named OCI layout.
const MAX_INDEX: u64 = 4 << 20;

/// What was found out about the sources of a build.
#[derive(Debug, Default)]
pub(super) struct Sources {
    /// Attributes of the frontend.
    pub(super) attrs: BTreeMap<String, String>,
    /// Directories to offer, by the name the build knows them under.
    pub(super) directories: Vec<(String, PathBuf)>,
    /// OCI layouts to offer, by their id.
    pub(super) layouts: Vec<(String, PathBuf)>,
    /// Standard input, when it is an archive, and the id it is offered under.
    pub(super) upload: Option<(String, UploadSource)>,
    /// Names the local context across builds; empty without one.
    pub(super) shared_key: String,
    /// Holds what came from standard input; read until the build ends.
    pub(super) held: Option<PrivateDir>,
    /// Hold files that were set apart to be offered alone.
    pub(super) apart: Vec<PrivateDir>,
}

impl Sources {
    /// Looks at what the arguments name. Reads standard input if they name that.
    pub(super) async fn find(args: &BuildArgs) -> anyhow::Result<Self> {
        let mut sources = Self::default();
        let from_stdin = args.file.as_deref() == Some("-");
        match args.context.as_str() {
            "-" if from_stdin => {
                bail!("standard input cannot be both the context and the Dockerfile")
            }
            "-" => sources.read_stdin(args).await?,
            url if is_remote(url) => {
                sources.set("context", url);
                if from_stdin {
                    sources.dockerfile_from_stdin()?;
                    // Otherwise the Dockerfile is looked for in the context.
                    sources.set("dockerfilekey", "dockerfile");
                } else if let Some(file) = &args.file {
                    sources.set("filename", file);
                }
            }
            path => sources.read_directory(Path::new(path), args.file.as_deref())?,
        }
        for text in &args.inputs.build_context {
            let (name, context) = parse_build_context(text)?;
            sources.named(&name, context)?;
        }
        Ok(sources)
    }

    /// Looks at the app of a build by buildpacks. Leaves standard input to be read by the build.
    pub(super) async fn find_app(args: &BuildArgs) -> anyhow::Result<Self> {
        let mut sources = Self::default();
        match args.context.as_str() {
            "-" => {
                let mut input = tokio::io::stdin();
                let start = peek(&mut input).await.context("read standard input")?;
                ensure!(is_archive(&start), "standard input is no tar archive of an app");
                sources.upload_stdin(start, input)?;
            }
            url if is_remote(url) => sources.set("context", url),
            path => {
                let path = Path::new(path);
                ensure!(
                    !path.is_file(),
                    "{} is a file: unpack it and name the directory",
                    path.display()
                );
                sources.directory("context", path)?;
                sources.shared_key = shared_key(path);
            }
        }
        Ok(sources)
    }

    /// What a build works on that has no app: directories alone.
    pub(super) fn of_directories(directories: Vec<(String, PathBuf)>) -> Self {
        Self { directories, ..Self::default() }
    }

    fn upload_stdin(&mut self, start: Vec<u8>, input: tokio::io::Stdin) -> anyhow::Result<()> {
        let id = random_id()?;
        self.set("context", format!("{SESSION_URL}{id}"));
        let source = UploadSource::new(AsyncReadExt::chain(Cursor::new(start), input));
        self.upload = Some((id, source));
        Ok(())
    }

    /// Puts everything the session is to answer for into `services`.
    pub(super) fn offer(&mut self, mut services: Services) -> anyhow::Result<Services> {
        for (name, path) in &self.directories {
            services = services.directory(name, path);
        }
        for (id, path) in &self.layouts {
            services = services.content_store(format!("oci:{id}"), ContentStore::open(path)?);
        }
        if let Some((id, source)) = self.upload.take() {
            services = services.upload(id, source);
        }
        Ok(services)
    }

    fn set(&mut self, key: &str, value: impl Into<String>) {
        self.attrs.insert(key.to_owned(), value.into());
    }

    fn directory(&mut self, name: &str, path: &Path) -> anyhow::Result<()> {
        // Said now, in the caller's words, instead of by the builder later.
        let metadata =
            std::fs::metadata(path).with_context(|| format!("directory {}", path.display()))?;
        ensure!(metadata.is_dir(), "{} is not a directory", path.display());
        self.directories.push((name.to_owned(), path.to_owned()));
        Ok(())
    }

    fn read_directory(&mut self, path: &Path, file: Option<&str>) -> anyhow::Result<()> {
        self.directory("context", path)?;
        self.shared_key = shared_key(path);
        match file {
            None => {
                self.directory("dockerfile", path)?;
                self.set("filename", DOCKERFILE);
            }
            Some("-") => self.dockerfile_from_stdin()?,
            Some(file) => {
                let file = Path::new(file);
                let name = file.file_name().and_then(|name| name.to_str());
                let name =
                    name.with_context(|| format!("--file {} names no file", file.display()))?;
                let parent = file.parent().filter(|parent| !parent.as_os_str().is_empty());
                self.directory("dockerfile", parent.unwrap_or(Path::new(".")))?;
                self.set("filename", name);
            }
        }
        Ok(())
    }

    /// An archive is the context, anything else a Dockerfile without one.
    async fn read_stdin(&mut self, args: &BuildArgs) -> anyhow::Result<()> {
        let mut input = tokio::io::stdin();
        let start = peek(&mut input).await.context("read standard input")?;
        if is_archive(&start) {
            if let Some(file) = &args.file {
                self.set("filename", file);
            }
            return self.upload_stdin(start, input);
        }
        ensure!(args.file.is_none(), "standard input is a Dockerfile, and --file names another");
        let mut text = start;
        input
            .take(MAX_DOCKERFILE + 1)
            .read_to_end(&mut text)
            .await
            .context("read standard input")?;
        self.hold_dockerfile(&text)?;
        let empty = self.held.as_ref().map(|dir| dir.path().join("context")).unwrap_or_default();
        std::fs::create_dir(&empty).with_context(|| format!("create {}", empty.display()))?;
        self.directory("context", &empty)
    }

    fn dockerfile_from_stdin(&mut self) -> anyhow::Result<()> {
        let mut text = Vec::new();
        std::io::stdin()
            .take(MAX_DOCKERFILE + 1)
            .read_to_end(&mut text)
            .context("read standard input")?;
        self.hold_dockerfile(&text)
    }

    fn hold_dockerfile(&mut self, text: &[u8]) -> anyhow::Result<()> {
        ensure!(!text.is_empty(), "standard input is empty");
        ensure!(text.len() as u64 <= MAX_DOCKERFILE, "standard input is too long for a Dockerfile");
        let dir = PrivateDir::new()?;
        let inner = dir.path().join("dockerfile");
        std::fs::create_dir(&inner).with_context(|| format!("create {}", inner.display()))?;
        std::fs::write(inner.join(DOCKERFILE), text).context("keep the Dockerfile")?;
        self.directory("dockerfile", &inner)?;
        self.set("filename", DOCKERFILE);
        self.held = Some(dir);
        Ok(())
    }

    fn named(&mut self, name: &str, context: BuildContext) -> anyhow::Result<()> {
        let value = match context {
            BuildContext::Remote(value) => value,
            BuildContext::Directory(path) => {
                // The frontend's own names for directories are taken.
                let local = if matches!(name, "context" | "dockerfile") {
                    format!("_{name}")
                } else {
                    name.to_owned()
                };
                self.directory(&local, &path)?;
                format!("local:{local}")
            }
            BuildContext::OciLayout { path, tag, digest } => {
                let tag = tag.unwrap_or_else(|| "latest".to_owned());
                let digest = match digest {
                    Some(digest) => digest,
                    None => tagged(&path, &tag)?,
                };
                let id = format!("cofferdam-layout-{}", self.layouts.len());
                self.layouts.push((id.clone(), path));
                format!("oci-layout://{id}:{tag}@{digest}")
            }
        };
        self.set(&format!("context:{name}"), value);
        Ok(())
    }
}

/// What the builder fetches itself.
pub(super) fn is_remote(text: &str) -> bool {
    const PREFIXES: &[&str] = &["http://", "https://", "git://", "ssh://", "git@", "github.com/"];
    PREFIXES.iter().any(|prefix| text.starts_with(prefix))
}

async fn peek(input: &mut (impl AsyncRead + Unpin)) -> std::io::Result<Vec<u8>> {
    let mut start = Vec::with_capacity(PEEK);
    input.take(PEEK as u64).read_to_end(&mut start).await?;
    Ok(start)
}

/// Whether these are the first bytes of a tar, plain or compressed.
fn is_archive(start: &[u8]) -> bool {
    const MARKS: &[&[u8]] = &[b"\x1f\x8b\x08", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd"];
    MARKS.iter().any(|mark| start.starts_with(mark)) || start.get(257..262) == Some(b"ustar")
}

/// The digest that `tag` names in the OCI layout at `path`.
fn tagged(path: &Path, tag: &str) -> anyhow::Result<String> {
    #[derive(serde::Deserialize)]
    struct Index {
        manifests: Vec<Entry>,
    }
    #[derive(serde::Deserialize)]
    struct Entry {
        digest: String,
        #[serde(default)]
        annotations: BTreeMap<String, String>,
    }
    let file = path.join("index.json");
    let failed = || format!("read {}", file.display());
    let mut bytes = Vec::new();
    let opened = std::fs::File::open(&file).with_context(failed)?;
    opened.take(MAX_INDEX).read_to_end(&mut bytes).with_context(failed)?;
    let index: Index = serde_json::from_slice(&bytes).with_context(failed)?;
    let has_tag = |entry: &&Entry| {
        entry.annotations.get("org.opencontainers.image.ref.name").is_some_and(|name| name == tag)
    };
    let found = index.manifests.iter().find(has_tag);
    // A layout with one image needs no names.
    let only = (index.manifests.len() == 1).then(|| index.manifests.first()).flatten();
    match found.or(only) {
        Some(entry) => Ok(entry.digest.clone()),
        None => bail!("{} has no image named {tag:?}", path.display()),
    }
}

/// The same for every build of one directory, and nothing that says where it is.
fn shared_key(path: &Path) -> String {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    path.canonicalize().unwrap_or_else(|_| path.to_owned()).hash(&mut hasher);
    rustix::system::uname().nodename().hash(&mut hasher);
    format!("cofferdam-{:016x}", hasher.finish())
}

fn random_id() -> anyhow::Result<String> {
    let mut random = [0; 16];
    rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
    Ok(format!("{:032x}", u128::from_ne_bytes(random)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn find(context: &str, file: Option<&str>, named: &[String]) -> anyhow::Result<Sources> {
        let mut args = BuildArgs {
            context: context.into(),
            file: file.map(Into::into),
            ..BuildArgs::default()
        };
        args.inputs.build_context = named.to_vec();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(Sources::find(&args))
    }

    #[test]
    fn a_directory_is_context_and_place_of_the_dockerfile() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().to_str().unwrap();
        let sources = find(path, None, &[]).unwrap();
        let both = [
            ("context".to_owned(), dir.path().to_owned()),
            ("dockerfile".to_owned(), dir.path().to_owned()),
        ];
        assert_eq!(sources.directories, both);
        assert_eq!(sources.attrs["filename"], "Dockerfile");
        assert_eq!(sources.shared_key, find(&format!("{path}/."), None, &[]).unwrap().shared_key);
    }

    #[test]
    fn a_dockerfile_elsewhere_has_its_own_directory() {
        let dir = tempfile::tempdir().unwrap();
        let sub = dir.path().join("docker");
        std::fs::create_dir(&sub).unwrap();
        let path = dir.path().to_str().unwrap();
        let sources = find(path, Some(&format!("{path}/docker/app.Dockerfile")), &[]).unwrap();
        assert_eq!(sources.directories[1], ("dockerfile".to_owned(), sub));
        assert_eq!(sources.attrs["filename"], "app.Dockerfile");
        let sources = find(path, Some("app.Dockerfile"), &[]).unwrap();
        assert_eq!(sources.directories[1].1, Path::new("."));
    }

    #[test]
    fn urls_are_the_builders_business() {
        for url in
            ["https://example.com/x.git#main:sub", "git@example.com:a/b.git", "github.com/a/b"]
        {
            let sources = find(url, Some("sub/Dockerfile"), &[]).unwrap();
            assert_eq!(
                (sources.attrs["context"].as_str(), sources.attrs["filename"].as_str()),
                (url, "sub/Dockerfile")
            );
            assert!(sources.directories.is_empty() && sources.shared_key.is_empty());
        }
    }

    #[test]
    fn named_contexts() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().to_str().unwrap();
        let index = r#"{"manifests":[{"digest":"sha256:aa","annotations":{"org.opencontainers.image.ref.name":"v1"}},{"digest":"sha256:bb"}]}"#;
        std::fs::write(dir.path().join("index.json"), index).unwrap();
        let named = [
            format!("src={path}"),
            format!("context={path}"),
            "base=docker-image://busybox".to_owned(),
            format!("layout=oci-layout://{path}:v1"),
        ];
        let sources = find(path, None, &named).unwrap();
        assert_eq!(sources.attrs["context:src"], "local:src");
        assert_eq!(sources.attrs["context:context"], "local:_context");
        assert_eq!(sources.attrs["context:base"], "docker-image://busybox");
        assert_eq!(sources.attrs["context:layout"], "oci-layout://cofferdam-layout-0:v1@sha256:aa");
        assert!(find(path, None, &[format!("x=oci-layout://{path}:v2")]).is_err());
        assert!(find(path, None, &["x=/no/such/directory".to_owned()]).is_err());
    }

    #[test]
    fn what_is_missing_is_named() {
        let error = format!("{:#}", find("/no/such/directory", None, &[]).unwrap_err());
        assert!(error.contains("/no/such/directory") && error.contains("No such file"), "{error}");
        assert!(find("-", Some("-"), &[]).is_err());
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(find(file.path().to_str().unwrap(), None, &[]).is_err());
    }

    #[test]
    fn archives_are_told_from_dockerfiles() {
        let mut tar = vec![0; 512];
        tar[257..262].copy_from_slice(b"ustar");
        assert!(
            is_archive(&tar) && is_archive(b"\x1f\x8b\x08rest") && is_archive(b"\x28\xb5\x2f\xfd")
        );
        assert!(!is_archive(b"FROM scratch\n") && !is_archive(b"") && !is_archive(&[0; 300]));
    }
}
