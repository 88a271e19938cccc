//! `COPY`, and what `ADD` has in common with it.
//!
//! One file op copies all sources of an instruction in turn. `--link` copies onto nothing and puts the
//! result on top, so that it does not depend on what is below.

use buffa::MessageField;
use cofferdam_digest::Digest;
use cofferdam_graph::without_credentials;
use cofferdam_wire::pb;
use pb::__buffa::oneof::user_opt::User;

use super::copy_remote::Remote;
use super::dispatch::Step;
use super::error::ConvertError;
use super::naming::display;
use super::plan::{Action, Info, Root, Work, copy_action, make_file};
use super::stage::{Stage, StageId};
use super::{Converter, validate};
use crate::frontend::git::{GitAddress, GitError};
use crate::instructions::{Copy, InlineSource, Sources};
use crate::paths;

/// A `COPY` or `ADD` that does not make sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CopyError {
    /// `--chmod` with a number that is none.
    #[error("invalid chmod parameter: '{0}'. it should be octal string and between 0 and 07777")]
    Octal(String),
    /// `--chmod` with text that is no mode.
    #[error("invalid chmod parameter: '{0}'. it should be an octal number or symbolic modes")]
    Symbolic(String),
    /// The stage comes later in the file.
    #[error(
        "cannot copy from stage {from:?}, it needs to be defined before current stage {stage:?}"
    )]
    LaterStage {
        /// `--from`.
        from: String,
        /// Where it is used.
        stage: String,
    },
    /// Only `ADD` takes repositories.
    #[error("source can't be a git ref for COPY")]
    GitSource,
    /// Only `ADD` takes addresses.
    #[error("source can't be a URL for COPY")]
    UrlSource,
    /// `--checksum` with several sources.
    #[error("checksum can't be specified for multiple sources")]
    ChecksumSources,
    /// `--checksum` with files of the context.
    #[error("checksum requires HTTP(S) or Git sources")]
    ChecksumLocal,
    /// `--checksum` with too few or too many digits.
    #[error("invalid checksum digest length")]
    ChecksumLength,
    /// `--checksum` of a kind that is not known here.
    #[error("unsupported digest algorithm")]
    ChecksumAlgorithm,
    /// `--checksum` that is none.
    #[error("invalid checksum digest format")]
    Checksum,
    /// `--checksum` and the address disagree.
    #[error("checksum mismatch {0:?} != {1:?}")]
    ChecksumMismatch(String, String),
    /// `--keep-git-dir` and the address disagree.
    #[error("inconsistent keep-git-dir configuration")]
    KeepGitDir,
    /// A git address that does not make sense.
    #[error(transparent)]
    Git(#[from] GitError),
}

/// What all sources of an instruction share.
pub(super) struct CopyPlan<'a> {
    pub(super) sources: &'a Sources,
    /// Where paths are looked up.
    pub(super) from: Root,
    pub(super) keyword: &'static str,
    pub(super) chown: &'a str,
    pub(super) chmod: &'a str,
    pub(super) exclude: &'a [String],
    pub(super) link: bool,
    pub(super) parents: bool,
    /// Unpack archives among the paths.
    pub(super) unpack: bool,
    /// What only `ADD` has.
    pub(super) remote: Option<Remote<'a>>,
    /// The paths are those of the build context.
    pub(super) context: bool,
}

impl Converter<'_> {
    pub(super) fn copy_files(
        &mut self,
        stage: &mut Stage,
        copy: &Copy,
        step: &mut Step<'_>,
    ) -> Result<(), ConvertError> {
        let source = step.sources.first().copied().flatten();
        let from = match source {
            None => Some(self.context),
            Some(id) => self.finished_root(id, stage, &copy.from)?,
        };
        let plan = CopyPlan {
            sources: &copy.sources,
            from,
            keyword: "COPY",
            chown: &copy.chown,
            chmod: &copy.chmod,
            exclude: &copy.exclude,
            link: copy.link,
            parents: copy.parents,
            unpack: false,
            remote: None,
            context: source.is_none(),
        };
        self.copy(stage, &plan, step)?;
        let paths = copy.sources.paths.iter().map(|path| paths::join("/", path));
        match source {
            None => stage.used.context.extend(paths),
            Some(id) => {
                let own = self.stages[id].used.own;
                self.paths[own].extend(paths);
            }
        }
        Ok(())
    }

    fn finished_root(&self, id: StageId, stage: &Stage, from: &str) -> Result<Root, CopyError> {
        let source = &self.stages[id];
        if source.status.dispatched {
            return Ok(source.state.root);
        }
        Err(CopyError::LaterStage { from: from.to_owned(), stage: stage.name.clone() })
    }

    /// Plans a copy; the destination is relative to the working directory.
    pub(super) fn copy(
        &mut self,
        stage: &mut Stage,
        plan: &CopyPlan<'_>,
        step: &mut Step<'_>,
    ) -> Result<(), ConvertError> {
        self.budget.items(plan.sources.paths.len() + plan.sources.inline.len() + 1)?;
        let template = template(stage, plan)?;
        let prefix = self.prefix(stage);
        let name = display(&self.expander, &step.instruction.text, &stage.state.env);
        let title = format!("{prefix}{name}");
        let mut actions = Vec::new();
        let mut remote = plan.remote.clone();
        for path in &plan.sources.paths {
            match &mut remote {
                Some(remote) => {
                    if let Some(action) = self.remote_action(path, remote, &template, &title)? {
                        actions.push(action);
                        continue;
                    }
                }
                None => refuse_remote(path)?,
            }
            if let Some(matcher) = self.matcher.as_ref().filter(|_| plan.context) {
                let instruction = if plan.keyword == "ADD" { "Add" } else { "Copy" };
                validate::copy_source(path, instruction, matcher, step);
            }
            actions.push(local_action(path, plan, &template));
        }
        for inline in &plan.sources.inline {
            actions.push(self.inline_action(inline, &template));
        }
        let info = Info {
            name: Some(title.clone()),
            lines: Some(step.instruction.lines),
            ignore_cache: stage.ignore_cache,
            ..Info::default()
        };
        stage.state.root = if plan.link && plan.chmod.is_empty() {
            let linked = Info { name: Some(format!("{prefix}LINK {name}")), ..info.clone() };
            Some(self.link_on_top(stage.state.root, actions, info, linked))
        } else {
            Some(self.plan.file(stage.state.root, actions, info))
        };
        self.commit(stage, &history_text(plan), true);
        Ok(())
    }

    /// A copy onto nothing, put on top of `base`; clients show the two as one group.
    fn link_on_top(
        &mut self,
        base: Root,
        actions: Vec<Action>,
        mut info: Info,
        mut merged: Info,
    ) -> super::plan::NodeId {
        let title = info.name.clone().unwrap_or_default();
        // Unique in the build, and equal in the next one.
        let id = Digest::of(format!("{}:{title}", self.plan.nodes.len())).hex();
        let group = |weak| pb::ProgressGroup {
            id: id[..25].to_owned(),
            name: title.clone(),
            weak,
            ..Default::default()
        };
        info.group = Some(group(true));
        merged.group = Some(group(false));
        let copied = self.plan.file(None, actions, info);
        self.plan.add(Work::Merge(vec![base, Some(copied)]), merged)
    }

    fn inline_action(&mut self, inline: &InlineSource, template: &pb::FileActionCopy) -> Action {
        let file = make_file(&paths::join("/", &inline.name), 0o644, &inline.data);
        let info = Info::internal("preparing inline document");
        let document = self.plan.file(None, vec![file], info);
        let src = paths::join("/", &inline.name);
        let copy = pb::FileActionCopy { src, ..template.clone() };
        Action { source: Some(document), action: copy.into() }
    }
}

fn refuse_remote(path: &str) -> Result<(), CopyError> {
    if GitAddress::parse(path).transpose()?.is_some_and(|git| !git.like_path) {
        return Err(CopyError::GitSource);
    }
    if path.starts_with("http://") || path.starts_with("https://") {
        return Err(CopyError::UrlSource);
    }
    Ok(())
}

/// What every copy of the instruction has in common.
fn template(stage: &Stage, plan: &CopyPlan<'_>) -> Result<pb::FileActionCopy, CopyError> {
    let mut template = copy_action("", &destination(stage, &plan.sources.destination));
    template.createDestPath = true;
    template.exclude_patterns = plan.exclude.to_vec();
    if !plan.chown.is_empty() {
        template.owner = owner(plan.chown).into();
    }
    match parse_mode(plan.chmod)? {
        Mode::Keep => {}
        Mode::Number(mode) => template.mode = mode,
        Mode::Symbolic => {
            template.mode = 0;
            plan.chmod.clone_into(&mut template.modeStr);
        }
    }
    Ok(template)
}

/// The destination in the image, absolute; how it ends decides how files land in it.
fn destination(stage: &Stage, path: &str) -> String {
    let path = if path.is_empty() || path == "." { "./" } else { path };
    paths::normalize(&stage.state.dir, path, true)
}

fn local_action(path: &str, plan: &CopyPlan<'_>, template: &pb::FileActionCopy) -> Action {
    let mut copy = template.clone();
    let mut source = path;
    if plan.parents {
        // Only what stands behind `/./` is kept of the path.
        let (parent, pattern) = path.split_once("/./").unwrap_or(("/", path));
        source = parent;
        let pattern = paths::absolute("/", pattern, false);
        if !paths::has_wildcard(parent) && !paths::has_wildcard(&pattern) {
            copy.required_paths = vec![paths::join(&paths::join("/", parent), &pattern)];
        }
        copy.include_patterns = vec![pattern.strip_prefix('/').unwrap_or(&pattern).to_owned()];
    }
    copy.src = paths::join("/", source);
    copy.followSymlink = true;
    copy.dirCopyContents = true;
    copy.allowWildcard = true;
    copy.allowEmptyWildcard = true;
    copy.attemptUnpackDockerCompatibility = plan.unpack;
    Action { source: plan.from, action: copy.into() }
}

fn history_text(plan: &CopyPlan<'_>) -> String {
    let mut text = plan.keyword.to_owned();
    if plan.parents {
        text.push_str(" --parents");
    }
    for (flag, value) in [("chown", plan.chown), ("chmod", plan.chmod)] {
        if !value.is_empty() {
            text.push_str(&format!(" --{flag}={value}"));
        }
    }
    for path in &plan.sources.paths {
        text.push_str(&format!(" {}", without_credentials(path)));
    }
    for inline in &plan.sources.inline {
        text.push_str(&format!(" <<{}", inline.name));
    }
    format!("{text} {} # buildkit", plan.sources.destination)
}

/// `user[:group]`, names or numbers.
pub(super) fn owner(text: &str) -> pb::ChownOpt {
    let user = |name: &str| pb::UserOpt {
        user: Some(match parse_id(name) {
            Some(id) => User::ByID(id),
            None => pb::NamedUserOpt { name: name.to_owned(), ..Default::default() }.into(),
        }),
        ..Default::default()
    };
    let (name, group) = match text.split_once(':') {
        Some((name, group)) => (name, Some(group)),
        None => (text, None),
    };
    pb::ChownOpt {
        user: MessageField::some(user(name)),
        group: group.map(user).into(),
        ..Default::default()
    }
}

/// `root` is 0 in every image; ids are those of 31 bits.
fn parse_id(text: &str) -> Option<u32> {
    if text == "root" {
        return Some(0);
    }
    text.parse::<i32>().ok().and_then(|id| u32::try_from(id).ok())
}

enum Mode {
    Keep,
    Number(i32),
    Symbolic,
}

fn parse_mode(text: &str) -> Result<Mode, CopyError> {
    if text.is_empty() {
        return Ok(Mode::Keep);
    }
    if text.starts_with(|char: char| char.is_ascii_digit()) {
        let number = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o7777);
        let number = number.and_then(|mode| i32::try_from(mode).ok());
        return number.map(Mode::Number).ok_or_else(|| CopyError::Octal(text.to_owned()));
    }
    if text.split(',').all(is_symbolic) {
        return Ok(Mode::Symbolic);
    }
    Err(CopyError::Symbolic(text.to_owned()))
}

/// `[ugoa…][+-=][rwxXst…|ugo]`, the part behind the users repeated.
fn is_symbolic(clause: &str) -> bool {
    let rest = clause.trim_start_matches(['u', 'g', 'o', 'a']);
    if !rest.starts_with(['+', '-', '=']) {
        return false;
    }
    rest.split(['+', '-', '=']).skip(1).all(|permissions| {
        matches!(permissions, "u" | "g" | "o")
            || permissions.chars().all(|char| matches!(char, 'r' | 'w' | 'x' | 'X' | 's' | 't'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_numbers_or_symbols() {
        assert!(matches!(parse_mode("0755"), Ok(Mode::Number(0o755))));
        for text in ["u=rwX,go=rX", "a+x", "+t", "g=u", "u+r-w"] {
            assert!(matches!(parse_mode(text), Ok(Mode::Symbolic)), "{text}");
        }
        for text in ["64a", "10000", "8", "rwx", "u", "u=q", ",", "u=rw,", "-1x"] {
            assert!(parse_mode(text).is_err(), "{text:?} was accepted");
        }
    }

    #[test]
    fn owners_are_numbers_or_names() {
        let owner = owner("root:wheel");
        assert_eq!(owner.user.user, Some(User::ByID(0)));
        assert!(matches!(&owner.group.user, Some(User::ByName(named)) if named.name == "wheel"));
    }
}
