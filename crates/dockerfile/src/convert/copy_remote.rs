//! `ADD`: files of the context, downloads and repositories.

use cofferdam_digest::Digest;
use cofferdam_wire::pb;

use super::Converter;
use super::copy::{CopyError, CopyPlan};
use super::dispatch::Step;
use super::error::ConvertError;
use super::plan::{Action, Info};
use super::stage::Stage;
use crate::frontend::git::GitAddress;
use crate::frontend::sources;
use crate::instructions::Add;
use crate::paths;

/// Flags of `ADD` about remote sources.
#[derive(Debug, Clone)]
pub(super) struct Remote<'a> {
    keep_git_dir: Option<bool>,
    checksum: std::borrow::Cow<'a, str>,
    /// Unpack downloads.
    unpack: bool,
}

impl Converter<'_> {
    pub(super) fn add_files(
        &mut self,
        stage: &mut Stage,
        add: &Add,
        step: &mut Step<'_>,
    ) -> Result<(), ConvertError> {
        check_checksum(add)?;
        let plan = CopyPlan {
            sources: &add.sources,
            from: Some(self.context),
            keyword: "ADD",
            chown: &add.chown,
            chmod: &add.chmod,
            exclude: &add.exclude,
            link: add.link,
            parents: false,
            unpack: add.unpack.unwrap_or(true),
            remote: Some(Remote {
                keep_git_dir: add.keep_git_dir,
                checksum: add.checksum.as_str().into(),
                unpack: add.unpack.unwrap_or(false),
            }),
            context: true,
        };
        self.copy(stage, &plan, step)?;
        let local = add.sources.paths.iter().filter(|path| !is_remote(path));
        stage.used.context.extend(local.map(|path| paths::join("/", path)));
        Ok(())
    }

    /// The copy of a remote source; `None` for a path.
    pub(super) fn remote_action(
        &mut self,
        source: &str,
        remote: &mut Remote<'_>,
        template: &pb::FileActionCopy,
        title: &str,
    ) -> Result<Option<Action>, CopyError> {
        if let Some(git) = GitAddress::parse(source).transpose()?.filter(|git| !git.like_path) {
            return self.git_action(&git, remote, template, title).map(Some);
        }
        if !is_http(source) {
            return Ok(None);
        }
        let checksum = (!remote.checksum.is_empty()).then_some(remote.checksum.as_ref());
        checksum.map(check_digest).transpose()?;
        let filename = sources::http_filename(source);
        let download = sources::http(source, &filename, checksum);
        let node = self.plan.source(download, Info::named(title));
        let copy = pb::FileActionCopy {
            src: paths::join("/", &filename),
            attemptUnpackDockerCompatibility: remote.unpack,
            ..template.clone()
        };
        Ok(Some(Action { source: Some(node), action: copy.into() }))
    }

    fn git_action(
        &mut self,
        git: &GitAddress,
        remote: &mut Remote<'_>,
        template: &pb::FileActionCopy,
        title: &str,
    ) -> Result<Action, CopyError> {
        if let Some(keep) = git.keep_git_dir {
            if remote.keep_git_dir.is_some_and(|flag| flag != keep) {
                return Err(CopyError::KeepGitDir);
            }
            remote.keep_git_dir = Some(keep);
        }
        if !git.checksum.is_empty() {
            if !remote.checksum.is_empty() && remote.checksum != git.checksum {
                let (flag, own) = (remote.checksum.to_string(), git.checksum.clone());
                return Err(CopyError::ChecksumMismatch(flag, own));
            }
            remote.checksum = git.checksum.clone().into();
        }
        let keep = remote.keep_git_dir == Some(true);
        // Files of an ADD get the time of the copy, so the policy of the address does not apply.
        let git = GitAddress { mtime: String::new(), ..git.clone() };
        let source = sources::git(&git, keep, &remote.checksum);
        let node = self.plan.source(source, Info::named(title));
        let copy = pb::FileActionCopy { src: "/".to_owned(), ..template.clone() };
        Ok(Action { source: Some(node), action: copy.into() })
    }
}

fn is_http(source: &str) -> bool {
    source.starts_with("http://") || source.starts_with("https://")
}

/// Sources that are not files of the context.
fn is_remote(source: &str) -> bool {
    let git = GitAddress::parse(source).is_some_and(|git| git.is_ok_and(|git| !git.like_path));
    git || is_http(source)
}

/// A checksum of a download names its algorithm.
fn check_digest(text: &str) -> Result<(), CopyError> {
    if Digest::parse(text).is_ok() {
        return Ok(());
    }
    Err(match text.split_once(':') {
        Some(("sha256", hex)) if hex.len() != 64 => CopyError::ChecksumLength,
        Some(("sha256", _)) | None => CopyError::Checksum,
        Some(_) => CopyError::ChecksumAlgorithm,
    })
}

fn check_checksum(add: &Add) -> Result<(), CopyError> {
    if add.checksum.is_empty() {
        return Ok(());
    }
    match add.sources.paths.as_slice() {
        [source] if is_http(source) || GitAddress::parse(source).is_some() => Ok(()),
        [_] => Err(CopyError::ChecksumLocal),
        _ => Err(CopyError::ChecksumSources),
    }
}
