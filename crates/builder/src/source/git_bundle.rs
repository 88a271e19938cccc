//! Bundles of repositories: single files with a commit and all that leads to it.
//!
//! One can be given in place of the server of a repository, and one can be made of a commit. Nothing in a given one is believed: its
//! header is read here and must ask for nothing, git computes all names of objects anew while it unpacks, and of those objects only
//! what the commit that the build names leads to is used. Git gets to see neither the header nor a path of the store.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read as _, Seek as _, SeekFrom};
use std::process::Stdio;
use std::sync::Arc;

use cofferdam_digest::Digest;
use cofferdam_image::Reference;
use cofferdam_store::Tree;
use cofferdam_wire::pb;

use super::blob::{self, Home, Wanted};
use super::git::{TEMPORARY, nanoseconds};
use super::git_refs::{choose, is_commit};
use super::git_run::{Git, SHA256_LENGTH};
use crate::blocking::blocking;
use crate::failure::Failure;
use crate::op::file::{Maker, mkfile_from};
use crate::snapshot::{Snapshot, Workspace};

/// Attribute that names a bundle to take a commit from.
pub(crate) const BUNDLE: &str = "git.bundle";
/// Attribute that asks for a bundle in place of files.
pub(super) const CHECKOUT_BUNDLE: &str = "git.checkoutbundle";
/// The file that a bundle is made as.
const FILE_NAME: &str = "bundle";
/// What a bundle calls a commit that was not asked for by name.
const DEFAULT_NAME: &str = "refs/heads/main";
/// Longest header: the references of the largest repositories fit.
const MAX_HEADER: u64 = 16 << 20;

/// Why a file is not taken for a bundle.
#[derive(Debug, thiserror::Error)]
enum BundleError {
    #[error("failed to read it")]
    Read(#[from] io::Error),
    #[error("it is no git bundle of version 2 or 3")]
    Version,
    #[error("its header is not whole, or longer than any is")]
    Header,
    #[error("its header has a line that means nothing: {0:?}")]
    Line(String),
    #[error("it demands {0:?}, which is not supported")]
    Capability(String),
    #[error("it builds upon commits that are not in it")]
    Prerequisite,
    #[error("its commits are named by {0}, and not as the one that is wanted")]
    Format(&'static str),
}

/// A bundle that a commit is taken from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Bundle {
    home: Home,
    /// Repository and digest, as they were written.
    pub(crate) reference: String,
    /// What the file has to be.
    pub(crate) digest: Digest,
}

impl Bundle {
    /// The bundle that a source names.
    pub(crate) fn of(op: &pb::SourceOp) -> Result<Option<Self>, Failure> {
        let named = op.attrs.get(BUNDLE).filter(|text| !text.is_empty());
        named.map(|text| Self::parse(text)).transpose()
    }

    fn parse(text: &str) -> Result<Self, Failure> {
        let invalid =
            |reason: &str| Failure::invalid(format!("invalid {BUNDLE} {text:?}: {reason}"));
        let (scheme, name) = text.split_once("://").ok_or_else(|| invalid("missing scheme"))?;
        let home = match scheme {
            "docker-image+blob" => Home::Registry,
            "oci-layout+blob" => Home::Layout,
            _ => return Err(invalid("neither docker-image+blob nor oci-layout+blob")),
        };
        let reference =
            Reference::parse_name(name).map_err(|error| invalid(&crate::failure::chain(&error)))?;
        let digest = reference.digest().ok_or_else(|| invalid("missing digest"))?;
        Ok(Self { home, reference: name.to_owned(), digest })
    }

    /// From a store of the client, not from a registry.
    pub(crate) fn is_local(&self) -> bool {
        self.home == Home::Layout
    }

    /// The blob, and where the client has it.
    fn wanted(&self, op: &pb::SourceOp) -> Result<Wanted, Failure> {
        let attr = |key: &str| op.attrs.get(key).map(String::as_str);
        let name = self.reference.split('@').next().unwrap_or_default();
        let store = attr("oci.store").filter(|store| !store.is_empty()).unwrap_or(name);
        Wanted::new(self.home, &self.reference, store, attr("oci.session"))
    }
}

/// The whole name of a reference where no server can be asked what it is: a branch, unless it says that it is a tag.
pub(super) fn whole_name(reference: &str) -> String {
    if reference.is_empty() || reference == "HEAD" || is_commit(reference) {
        return DEFAULT_NAME.to_owned();
    }
    if reference.starts_with("refs/tags/") {
        return reference.to_owned();
    }
    let name = reference.strip_prefix("refs/").unwrap_or(reference);
    format!("refs/heads/{}", name.strip_prefix("heads/").unwrap_or(name))
}

/// Unpacks `bundle` into the repository, which then has `commit` by the name that the source has for it.
pub(super) async fn unpack(git: &Git<'_>, bundle: &Bundle, commit: &str) -> Result<(), Failure> {
    let what = format!("failed to take a commit from git bundle {}", bundle.reference);
    let during = |failure: Failure| failure.during(&what);
    let blob = blob::fetch(git.context, &bundle.wanted(git.op)?, git.step).await.map_err(during)?;
    let is_long = commit.len() == SHA256_LENGTH;
    let read = move || -> Result<(String, File), BundleError> {
        let mut file = blob.open()?;
        let (length, listing) = header(&mut BufReader::new((&file).take(MAX_HEADER)), is_long)?;
        file.seek(SeekFrom::Start(length))?;
        Ok((listing, file))
    };
    let (listing, file) = blocking(read).await?.map_err(|error| during(Failure::of(error)))?;
    git.run_with(&["index-pack", "--stdin"], Stdio::from(file)).await.map_err(during)?;
    let kind = git.text(&["cat-file", "-t", commit]).await;
    if !kind.is_ok_and(|kind| kind == "commit") {
        return Err(during(Failure::unknown(format!("commit {commit} is not in it"))));
    }
    let wanted = git.remote.reference.as_str();
    if wanted.is_empty() || is_commit(wanted) {
        return Ok(());
    }
    let named = choose(&listing, wanted)
        .ok_or_else(|| during(Failure::unknown(format!("it does not contain ref {wanted}"))))?;
    let target = format!("{}^{{commit}}", named.object);
    let found = git.text(&["rev-parse", "--verify", "-q", &target]).await.map_err(during)?;
    if found != commit {
        let text = format!("expected checksum to match {commit}, got {found} for {wanted}");
        return Err(during(Failure::unknown(text)));
    }
    git.run(&["update-ref", &named.reference, &named.object]).await.map(|_| ())
}

/// Reads the header of a bundle: its length, and the references as servers list them. `is_long` is the kind of commits wanted.
fn header(bundle: &mut impl BufRead, is_long: bool) -> Result<(u64, String), BundleError> {
    let (mut length, mut listing, mut is_sha256) = (0, String::new(), false);
    let has_capabilities = match line(bundle, &mut length)?.as_str() {
        "# v2 git bundle" => false,
        "# v3 git bundle" => true,
        _ => return Err(BundleError::Version),
    };
    loop {
        let text = line(bundle, &mut length)?;
        if text.is_empty() {
            break;
        }
        if let Some(capability) = text.strip_prefix('@').filter(|_| has_capabilities) {
            is_sha256 = match capability {
                "object-format=sha1" => false,
                "object-format=sha256" => true,
                _ => return Err(BundleError::Capability(short(capability))),
            };
            continue;
        }
        if text.starts_with('-') {
            return Err(BundleError::Prerequisite);
        }
        let reference = text.split_once(' ').filter(|(object, name)| {
            is_commit(object) && !name.is_empty() && !name.chars().any(char::is_control)
        });
        let (object, name) = reference.ok_or_else(|| BundleError::Line(short(&text)))?;
        listing.push_str(&format!("{object}\t{name}\n"));
    }
    if is_sha256 != is_long {
        return Err(BundleError::Format(if is_sha256 { "SHA-256" } else { "SHA-1" }));
    }
    Ok((length, listing))
}

/// One line of a header, which must end.
fn line(bundle: &mut impl BufRead, length: &mut u64) -> Result<String, BundleError> {
    let mut bytes = Vec::new();
    *length += bundle.read_until(b'\n', &mut bytes)? as u64;
    if bytes.pop() != Some(b'\n') {
        return Err(BundleError::Header);
    }
    String::from_utf8(bytes).map_err(|_| BundleError::Header)
}

/// As much of a stranger's text as an error may show.
fn short(text: &str) -> String {
    text.chars().take(100).collect()
}

/// A directory with a bundle of `commit`, which is in the repository with all that leads to it.
pub(super) async fn make(git: &Git<'_>, commit: &str) -> Result<Snapshot, Failure> {
    let directory =
        tempfile::Builder::new().prefix("git-").tempdir_in(TEMPORARY).map_err(Failure::store)?;
    let path = directory.path().join(FILE_NAME);
    let shown = path.to_str().ok_or_else(|| Failure::unknown("a path that is no text"))?;
    let name = whole_name(&git.remote.reference);
    git.run(&["update-ref", &name, commit]).await?;
    // What several threads pack is another file each time.
    git.run(&["-c", "pack.threads=1", "bundle", "create", "-q", shown, &name]).await?;
    let time = nanoseconds(&git.text(&["show", "-s", "--format=%ct", commit]).await?);
    let store = Arc::clone(&git.context.store);
    let description = format!("bundle of {}", super::http::redacted(&git.remote.url));
    blocking(move || {
        let workspace = Workspace::new(&store, Tree::scratch(), &description)?;
        let ids = store.ids();
        let root = (ids.first, ids.first);
        let maker = Maker { owner: Some(root), root };
        let mut content = File::open(directory.path().join(FILE_NAME)).map_err(Failure::store)?;
        let time = time.unwrap_or(0);
        mkfile_from(workspace.root(), FILE_NAME, &mut content, 0o644, time, maker)
            .map_err(Failure::of)?;
        workspace.commit().map(Snapshot::committed)
    })
    .await?
}

#[cfg(test)]
#[path = "git_bundle_tests.rs"]
mod tests;
