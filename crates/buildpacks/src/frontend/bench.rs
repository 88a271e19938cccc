//! What every phase works with: the builder, the graph, the request.

use bytes::Bytes;
use cofferdam_cnb::MAX_FILE;
use cofferdam_wire::pb;

use super::attrs::{Operation, Request};
use super::error::BuildErrorKind;
use super::graph::{Graph, Tree};
use crate::client::{Client, ClientError, Entry, EntryKind, Image};
use crate::locator::{GitLocator, HttpLocator};

/// Name of the local source that has the app.
const CONTEXT: &str = "context";
/// Name of the local source that has `builder.toml` or `package.toml`.
const CONFIG: &str = "config";
/// Bytes of small files that a module or an image may have read, all together: they are held in memory.
const MAX_BYTES: usize = 16 << 20;
/// How many of them.
const MAX_COUNT: usize = 20_000;
/// Secrets that git sources may ask the session for, as for Dockerfiles.
const GIT_SECRETS: [(&str, &str); 2] =
    [("git.authtokensecret", "GIT_AUTH_TOKEN"), ("git.authheadersecret", "GIT_AUTH_HEADER")];

/// The parts.
pub(crate) struct Bench<'a> {
    pub(crate) client: &'a dyn Client,
    pub(crate) graph: Graph,
    pub(crate) request: Request,
}

/// What may still be read of a module's or an image's small files: each is small, and there may be many.
pub(crate) struct Allowance {
    bytes: usize,
    files: usize,
}

impl Default for Allowance {
    fn default() -> Self {
        Self { bytes: MAX_BYTES, files: MAX_COUNT }
    }
}

impl Allowance {
    fn take(&mut self, path: &str, bytes: usize) -> Result<(), BuildErrorKind> {
        match (self.bytes.checked_sub(bytes), self.files.checked_sub(1)) {
            (Some(bytes), Some(files)) => {
                *self = Self { bytes, files };
                Ok(())
            }
            _ => {
                let problem =
                    format!("there are more than {MAX_BYTES} bytes or {MAX_COUNT} files to read");
                Err(BuildErrorKind::attribute(path, problem))
            }
        }
    }
}

/// Which files of a directory of the client are wanted.
#[derive(Default)]
pub(crate) struct Wanted<'a> {
    pub(crate) follow: &'a [&'a str],
    pub(crate) include: &'a [String],
    pub(crate) exclude: &'a [String],
}

fn source(identifier: String, attrs: &[(&str, &str)]) -> pb::SourceOp {
    let mut source = pb::SourceOp { identifier, ..pb::SourceOp::default() };
    for (name, value) in attrs {
        source.attrs.insert((*name).to_owned(), (*value).to_owned());
    }
    source
}

impl Bench<'_> {
    /// A directory of the client.
    pub(crate) fn local(&self, name: &str, title: &str, wanted: &Wanted<'_>) -> Tree {
        let mut op = source(format!("local://{name}"), &[("local.sharedkeyhint", name)]);
        let session = self.client.session_id();
        let mut set = |key: &str, value: String| op.attrs.insert(key.to_owned(), value);
        if !session.is_empty() {
            set("local.session", session.to_owned());
        }
        if !wanted.follow.is_empty() {
            set("local.followpaths", serde_json::json!(wanted.follow).to_string());
        }
        if !wanted.include.is_empty() {
            set("local.includepattern", serde_json::json!(wanted.include).to_string());
        }
        if !wanted.exclude.is_empty() {
            set("local.excludepatterns", serde_json::json!(wanted.exclude).to_string());
        }
        self.graph.source(title, op, None)
    }

    /// The app's directory; of a builder or buildpackage, the directory of its file.
    pub(crate) fn context(&self, title: &str, wanted: &Wanted<'_>) -> Result<Tree, BuildErrorKind> {
        if self.request.operation != Operation::Build {
            return Ok(self.local(CONFIG, title, wanted));
        }
        let Some(address) = self.request.get("context") else {
            return Ok(self.local(CONTEXT, title, wanted));
        };
        let none = crate::Surroundings { local: &|_| None, in_builder: &|_, _| false };
        match crate::Locator::parse(address, none)?.locator {
            crate::Locator::Git(git) => Ok(self.git(&git)),
            crate::Locator::Http(http) => {
                let file = self.http(&http);
                Ok(self.unpacked(file, "/file", &format!("{title}: unpack")))
            }
            _ => Err(BuildErrorKind::attribute(
                "context",
                format!("{address:?} is neither a git repository nor an archive's address"),
            )),
        }
    }

    /// A downloaded file, at `/file`.
    pub(crate) fn http(&self, http: &HttpLocator) -> Tree {
        let checksum = http.checksum.map(|checksum| checksum.to_string());
        let mut attrs = vec![("http.filename", "file")];
        if let Some(checksum) = &checksum {
            attrs.push(("http.checksum", checksum));
        }
        self.graph.source(&format!("download {}", http.url), source(http.url.clone(), &attrs), None)
    }

    /// A git repository, or a directory of it.
    pub(crate) fn git(&self, git: &GitLocator) -> Tree {
        let place = git.remote.split_once("://").map_or(git.remote.as_str(), |(_, place)| place);
        let mut identifier = format!("git://{place}#{}", git.reference.as_deref().unwrap_or(""));
        if let Some(directory) = &git.directory {
            identifier.push(':');
            identifier.push_str(directory);
        }
        let mut attrs = GIT_SECRETS.to_vec();
        attrs.push(("git.fullurl", &git.remote));
        self.graph.source(&format!("clone {git}"), source(identifier, &attrs), None)
    }

    /// An image's files.
    pub(crate) fn image(&self, image: &Image, title: &str) -> Tree {
        let op = source(format!("docker-image://{}", image.pinned), &[]);
        self.graph.source(title, op, Some(self.request.platform.clone()))
    }

    /// What is in the archive `path` of a tree.
    pub(crate) fn unpacked(&self, tree: Tree, path: &str, title: &str) -> Tree {
        use super::graph::{Change, Copying};
        let options = Copying { unpack: true, ..Copying::default() };
        let copy = Change::Copy { source: tree, path, dest: "/", owner: None, options };
        self.graph.files(title, None, &[copy])
    }

    /// Looks an image up that must be there.
    pub(crate) async fn need_image(
        &self,
        reference: &str,
        title: &str,
    ) -> Result<Image, BuildErrorKind> {
        let found = self.client.image(reference, &self.request.platform, title).await?;
        found.ok_or_else(|| BuildErrorKind::NoImage { image: reference.to_owned() })
    }

    /// A small file; one byte more than is allowed is read, so that parsers refuse larger ones.
    pub(crate) async fn read(&self, tree: Tree, path: &str) -> Result<Option<Bytes>, ClientError> {
        if tree.is_none() {
            return Ok(None);
        }
        self.client.read_file(&self.graph.definition(tree), path, MAX_FILE + 1).await
    }

    /// As [`Bench::read`], of what is left of an allowance.
    pub(crate) async fn read_some(
        &self,
        tree: Tree,
        path: &str,
        allowance: &mut Allowance,
    ) -> Result<Option<Vec<u8>>, BuildErrorKind> {
        let Some(bytes) = self.read(tree, path).await? else { return Ok(None) };
        allowance.take(path, bytes.len())?;
        Ok(Some(bytes.to_vec()))
    }

    /// The entries of a directory; none when it is not there.
    pub(crate) async fn list(&self, tree: Tree, path: &str) -> Result<Vec<Entry>, ClientError> {
        if tree.is_none() {
            return Ok(Vec::new());
        }
        let found = self.client.list(&self.graph.definition(tree), path).await?;
        Ok(found.unwrap_or_default())
    }

    /// The small regular files directly in a directory, by name.
    pub(crate) async fn files(
        &self,
        tree: Tree,
        path: &str,
        allowance: &mut Allowance,
    ) -> Result<std::collections::BTreeMap<String, Vec<u8>>, BuildErrorKind> {
        let mut files = std::collections::BTreeMap::new();
        for entry in self.list(tree, path).await? {
            if !matches!(entry.kind, EntryKind::File | EntryKind::Link) {
                continue;
            }
            let file = format!("{path}/{}", entry.name);
            // What a link leads to may be a directory; that is no variable.
            match self.read(tree, &file).await {
                Ok(Some(bytes)) => {
                    allowance.take(&file, bytes.len())?;
                    files.insert(entry.name, bytes.to_vec());
                }
                Ok(None) => {}
                Err(error) if entry.kind == EntryKind::File => return Err(error.into()),
                Err(_) => {}
            }
        }
        Ok(files)
    }
}
