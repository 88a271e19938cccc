//! Git repositories.
//!
//! `git` runs as a program inside the builder's enclosure, which holds no credential and no other
//! project, with its own configuration, hooks off, and only the protocol of the URL allowed.
//! URLs, refs and subdirectories are checked before they reach a command line; the subdirectory
//! is resolved by the kernel beneath the checkout. Tokens, and users and passwords of URLs, travel in the environment of the one
//! command that needs them and never in an argument.

use std::sync::Arc;

use cofferdam_digest::Digester;
use cofferdam_solver::Step;
use cofferdam_store::Tree;
use cofferdam_wire::pb;

use super::git_bundle::{self, Bundle, CHECKOUT_BUNDLE};
use super::git_refs::{Named, Names, choose, is_commit, is_hex};
use super::git_run::Git;
use super::{SourceKey, cancellable};
use crate::blocking::blocking;
use crate::context::Context;
use crate::failure::Failure;
use crate::op::file::copy_everything;
use crate::rooted::clean;
use crate::snapshot::{Snapshot, Workspace, open_own};

/// Where repositories are unpacked before their files are copied into the store.
pub(super) const TEMPORARY: &str = "/tmp";

/// A repository as an identifier names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Remote {
    /// Without credentials: it goes into command lines, configuration and messages of git.
    pub(super) url: String,
    /// What the URL had of them, as a header.
    pub(super) login: Option<String>,
    /// The only one that git may speak.
    pub(super) protocol: String,
    pub(super) reference: String,
    subdirectory: String,
    keep_git: bool,
    submodules: bool,
    /// Files carry the time of the commit instead of the time of the checkout.
    commit_time: bool,
    /// What the commit has to begin with.
    checksum: Option<String>,
    /// The checksum says what to fetch, whatever the reference names now.
    by_commit: bool,
    /// What the commit is taken from, in place of the server.
    bundle: Option<Bundle>,
    /// A bundle is wanted in place of the files.
    as_bundle: bool,
}

fn parse(op: &pb::SourceOp, identifier: &str) -> Result<Remote, Failure> {
    let (_, fragment) = identifier.split_once('#').unwrap_or((identifier, ""));
    let (reference, subdirectory) = fragment.split_once(':').unwrap_or((fragment, ""));
    super::check_supported(op)?;
    let address = super::git_address::address(op, identifier)?;
    if reference.starts_with('-') || reference.chars().any(|c| c.is_control() || c == ' ') {
        return Err(Failure::invalid("invalid git ref"));
    }
    if subdirectory.split('/').any(|part| part == "..") {
        return Err(Failure::invalid(format!("invalid git subdirectory {subdirectory:?}")));
    }
    let flag = |key: &str| op.attrs.get(key).is_some_and(|value| value == "true");
    let checksum = op.attrs.get("git.checksum").filter(|text| !text.is_empty()).cloned();
    if let Some(checksum) = checksum.as_ref().filter(|checksum| !is_hex(checksum)) {
        return Err(Failure::invalid(format!(
            "invalid checksum {checksum} for Git URL, expected hex commit hash"
        )));
    }
    let bundle = Bundle::of(op)?;
    let as_bundle = flag(CHECKOUT_BUNDLE);
    if as_bundle && flag("git.keepgitdir") {
        return Err(Failure::invalid("git.checkoutbundle is incompatible with git.keepgitdir"));
    }
    if as_bundle && !subdirectory.is_empty() {
        return Err(Failure::invalid("git.checkoutbundle is incompatible with git.subdir"));
    }
    if bundle.is_some() {
        check_pinned(reference, checksum.as_deref())?;
    }
    let (url, login) = super::login::split(&address.url);
    Ok(Remote {
        url,
        login,
        protocol: address.protocol.to_owned(),
        reference: reference.to_owned(),
        subdirectory: clean(subdirectory),
        keep_git: flag("git.keepgitdir"),
        submodules: !flag("git.skipsubmodules") && !as_bundle,
        commit_time: op.attrs.get("git.mtime").is_some_and(|mtime| mtime == "commit"),
        checksum: checksum.map(|checksum| checksum.to_ascii_lowercase()),
        by_commit: flag("git.fetchbycommit"),
        bundle,
        as_bundle,
    })
}

/// Nobody vouches for a bundle: the build has to say which commit it means.
fn check_pinned(reference: &str, checksum: Option<&str>) -> Result<(), Failure> {
    let checksum =
        checksum.ok_or_else(|| Failure::invalid("git.bundle requires git.checksum to be set"))?;
    if !is_commit(checksum) {
        return Err(Failure::invalid(format!(
            "git.bundle requires git.checksum to be a whole commit hash, got {checksum:?}"
        )));
    }
    if is_commit(reference) && !reference.eq_ignore_ascii_case(checksum) {
        let text = format!("expected checksum to match {checksum}, got {reference}");
        return Err(Failure::invalid(text));
    }
    Ok(())
}

/// What names a checkout: the commit and what is taken of it.
pub(crate) async fn key(
    context: &Arc<Context>,
    op: &pb::SourceOp,
    identifier: &str,
    step: &Step,
) -> Result<SourceKey, Failure> {
    let remote = parse(op, identifier)?;
    let git = Git { context, op, remote: &remote, directory: None, step };
    let named = cancellable(step, name(&git)).await?;
    let commit = named.commit();
    let mut digester = Digester::new();
    digester.field("git");
    digester.field(commit);
    digester.field(&remote.subdirectory);
    digester.field([remote.keep_git, remote.submodules, remote.commit_time].map(u8::from));
    if remote.keep_git || remote.submodules || remote.as_bundle {
        // All depend on where the repository is, not only on the commit.
        digester.field(&remote.url);
        digester.field(&remote.reference);
    }
    if remote.as_bundle {
        digester.field("as bundle");
    }
    if remote.keep_git && remote.bundle.is_some() {
        // More is kept then than a server is asked for.
        digester.field("of bundle");
    }
    Ok(SourceKey { digest: digester.finish(), volatile: false, pin: Some(commit.into()) })
}

/// What is known of a repository without a checkout.
pub(crate) struct Described {
    /// What the reference names.
    pub(crate) named: Named,
    /// The commit itself, when it was asked for.
    pub(crate) commit: Vec<u8>,
    /// The annotated tag itself, when there is one and it was asked for.
    pub(crate) tag: Vec<u8>,
}

/// What the reference of a source names, and with `objects` the commit and the tag themselves.
pub(crate) async fn describe(
    context: &Arc<Context>,
    op: &pb::SourceOp,
    identifier: &str,
    objects: bool,
    step: &Step,
) -> Result<Described, Failure> {
    let remote = parse(op, identifier)?;
    let git = Git { context, op, remote: &remote, directory: None, step };
    let describe = async {
        let mut named = name(&git).await?;
        if !objects {
            return Ok(Described { named, commit: Vec::new(), tag: Vec::new() });
        }
        let directory = tempfile::Builder::new()
            .prefix("git-")
            .tempdir_in(TEMPORARY)
            .map_err(Failure::store)?;
        let git = Git { directory: Some(directory.path()), ..git };
        git.init(&named.object).await?;
        obtain(&git, &named.object).await?;
        let kind = git.text(&["cat-file", "-t", &named.object]).await?;
        let mut tag = Vec::new();
        if kind == "tag" {
            tag = git.run(&["cat-file", "tag", &named.object]).await?;
            let target = format!("{}^{{commit}}", named.object);
            named.tagged = Some(git.text(&["rev-parse", "--verify", "-q", &target]).await?);
        }
        let commit = git.run(&["cat-file", "commit", named.commit()]).await?;
        Ok(Described { named, commit, tag })
    };
    cancellable(step, describe).await
}

/// What a source names, as far as its build may use it.
async fn name(git: &Git<'_>) -> Result<Named, Failure> {
    let remote = git.remote;
    let wanted = remote.reference.as_str();
    let named = if is_commit(wanted) {
        Named::commit_of("", wanted)
    } else if remote.bundle.is_some() {
        // Whether the bundle agrees is found out when it is unpacked.
        let reference = match wanted {
            "" => String::new(),
            _ => git_bundle::whole_name(wanted),
        };
        Named::commit_of(&reference, remote.checksum.as_deref().unwrap_or_default())
    } else if remote.by_commit {
        let checksum = remote.checksum.as_deref().ok_or_else(|| {
            Failure::invalid("fetch-by-commit requires a checksum or a commit SHA ref")
        })?;
        if !is_commit(checksum) {
            return Err(Failure::invalid(format!(
                "fetch-by-commit requires a full commit SHA checksum, got {checksum:?}"
            )));
        }
        let whole = wanted.is_empty() || wanted.starts_with("refs/");
        let reference = if whole { wanted.to_owned() } else { format!("refs/heads/{wanted}") };
        Named::commit_of(&reference, checksum)
    } else {
        list(git).await?
    };
    if let Some(expected) = &remote.checksum {
        named.check(expected)?;
    }
    Ok(named)
}

/// What the repository says that a reference names. Within one build that is one answer: a tag that moves meanwhile would
/// make what was decided about the build wrong.
async fn list(git: &Git<'_>) -> Result<Named, Failure> {
    let remote = git.remote;
    let mut digester = Digester::new();
    digester.field(&remote.url);
    digester.field(&remote.reference);
    digester.field(remote.login.as_deref().unwrap_or_default());
    let question = digester.finish();
    let builds = git.context.builds_of(git.step);
    let names: Vec<Arc<Names>> = builds.into_iter().map(|build| build.names).collect();
    let known = names.iter().find_map(|names| names.get(&question));
    let named = match known {
        Some(known) => known,
        None => ask(git).await?,
    };
    for names in &names {
        names.keep(question, &named);
    }
    Ok(named)
}

/// Asks the repository what a reference names now.
async fn ask(git: &Git<'_>) -> Result<Named, Failure> {
    let remote = git.remote;
    let wanted = remote.reference.as_str();
    let listing = if wanted.is_empty() {
        git.text(&["ls-remote", "--symref", "--", &remote.url, "HEAD"]).await?
    } else {
        let peeled = format!("{wanted}^{{}}");
        git.text(&["ls-remote", "--", &remote.url, wanted, &peeled]).await?
    };
    let shown = if wanted.is_empty() { "HEAD" } else { wanted };
    choose(&listing, wanted)
        .ok_or_else(|| Failure::unknown(format!("repository does not contain ref {shown}")))
}

/// Brings `object` into the repository: from the bundle that the source names, else from the server.
async fn obtain(git: &Git<'_>, object: &str) -> Result<(), Failure> {
    match &git.remote.bundle {
        Some(bundle) => git_bundle::unpack(git, bundle, object).await,
        // A bundle holds all that leads to its commit.
        None => git.fetch(object, git.remote.as_bundle).await,
    }
}

/// The files of `commit`, which the source was named by.
pub(crate) async fn snapshot(
    context: &Arc<Context>,
    op: &pb::SourceOp,
    identifier: &str,
    commit: &str,
    step: &Step,
) -> Result<Snapshot, Failure> {
    let remote = parse(op, identifier)?;
    cancellable(step, checkout(context, op, &remote, commit, step)).await
}

async fn checkout(
    context: &Arc<Context>,
    op: &pb::SourceOp,
    remote: &Remote,
    commit: &str,
    step: &Step,
) -> Result<Snapshot, Failure> {
    let directory =
        tempfile::Builder::new().prefix("git-").tempdir_in(TEMPORARY).map_err(Failure::store)?;
    let path = directory.path();
    let git = Git { context, op, remote, directory: Some(path), step };
    git.init(commit).await?;
    obtain(&git, commit).await?;
    if remote.as_bundle {
        return git_bundle::make(&git, commit).await;
    }
    git.run(&["checkout", "-q", "--detach", commit]).await?;
    if remote.submodules && path.join(".gitmodules").is_file() {
        let update = ["submodule", "update", "-q", "--init", "--recursive"];
        // A server of plain files cannot serve a part of the history.
        if git.run(&[&update[..], &["--depth=1"]].concat()).await.is_err() {
            git.run(&["submodule", "deinit", "-q", "--force", "--all"]).await?;
            git.run(&update).await?;
        }
    }
    let time = match remote.commit_time {
        true => nanoseconds(&git.text(&["show", "-s", "--format=%ct", "HEAD"]).await?),
        false => None,
    };
    let store = Arc::clone(&context.store);
    let description = format!("checkout of {}", super::http::redacted(&remote.url));
    let (subdirectory, keep_git) = (remote.subdirectory.clone(), remote.keep_git);
    let root = open_own(path).map_err(Failure::store)?;
    let result = blocking(move || {
        let source = root.directory(&subdirectory).map_err(|error| {
            Failure::of(error).during(&format!("git subdirectory {subdirectory:?}"))
        })?;
        if !keep_git {
            source.remove(".git".as_ref()).map_err(Failure::store)?;
        }
        let workspace = Workspace::new(&store, Tree::scratch(), &description)?;
        let ids = store.ids();
        copy_everything(&source, workspace.root(), Some((ids.first, ids.first)), time)
            .map_err(Failure::store)?;
        workspace.commit().map(Snapshot::committed)
    })
    .await?;
    drop(directory);
    result
}

/// What `%ct` printed, as file times are counted.
pub(super) fn nanoseconds(seconds: &str) -> Option<i64> {
    seconds.trim().parse::<i64>().ok()?.checked_mul(1_000_000_000)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const COMMIT: &str = "0123456789012345678901234567890123456789";

    fn parsed(reference: &str, attrs: &[(&str, &str)]) -> Result<Remote, Failure> {
        let attrs = attrs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        let op = pb::SourceOp { attrs: attrs.collect(), ..pb::SourceOp::default() };
        parse(&op, &format!("host/r.git#{reference}"))
    }

    #[test]
    fn a_commit_from_a_bundle_has_to_be_named() {
        let digest = cofferdam_digest::Digest::of("bundle");
        let locator = format!("docker-image+blob://host/r@{digest}");
        let bundle = (git_bundle::BUNDLE, locator.as_str());
        for reference in ["", "main", COMMIT] {
            let remote = parsed(reference, &[bundle, ("git.checksum", COMMIT)]).unwrap();
            assert!(remote.bundle.is_some());
        }
        let other = COMMIT.replace('0', "1");
        for (reference, checksum, reason) in [
            ("main", "", "requires git.checksum"),
            ("main", "0123456", "whole commit hash"),
            (other.as_str(), COMMIT, "expected checksum to match"),
        ] {
            let failure = parsed(reference, &[bundle, ("git.checksum", checksum)]).unwrap_err();
            assert!(failure.message().contains(reason), "{failure}");
        }
    }

    #[test]
    fn a_bundle_is_made_of_a_whole_repository() {
        let made = (CHECKOUT_BUNDLE, "true");
        let remote = parsed("main", &[made]).unwrap();
        assert!(remote.as_bundle && !remote.submodules);
        assert!(parsed("main", &[made, ("git.keepgitdir", "true")]).is_err());
        assert!(parsed("main:directory", &[made]).is_err());
        assert!(!parsed("main", &[(CHECKOUT_BUNDLE, "false")]).unwrap().as_bundle);
    }
}
