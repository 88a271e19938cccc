//! `SOURCE_DATE_EPOCH`: the time that a reproducible build carries.
//!
//! The build argument is a number of seconds, or says where the time comes from: `context`, a named
//! context, or a stage that does nothing but `ADD` one remote source. See
//! <https://reproducible-builds.org/docs/source-date-epoch/> for the idea.

use std::collections::BTreeMap;

use super::Request;
use super::env::Env;
use super::error::Located;
use super::plan::Source;
use crate::client::ClientError;
use crate::expand::{ExpandError, Expander};
use crate::frontend::git::{GitAddress, GitError};
use crate::frontend::named::{ContextTree, NamedContextError};
use crate::frontend::sources;
use crate::instructions::{Add, ArgPair, Command, Dockerfile, Stage};

const NAME: &str = "SOURCE_DATE_EPOCH";

/// A `SOURCE_DATE_EPOCH` that does not name a time.
#[derive(Debug, thiserror::Error)]
pub enum EpochError {
    /// Neither a number, a context nor a stage.
    #[error("invalid SOURCE_DATE_EPOCH: {0}")]
    Invalid(String),
    /// The stage has a base.
    #[error("SOURCE_DATE_EPOCH stage must use FROM scratch")]
    NotScratch,
    /// The stage does more than fetch.
    #[error(
        "SOURCE_DATE_EPOCH stage does not meet source-only requirements: unsupported {0} instruction"
    )]
    Instruction(String),
    /// Not exactly one `ADD`.
    #[error("SOURCE_DATE_EPOCH stage must contain exactly one remote ADD")]
    OneAdd,
    /// The `ADD` has several sources.
    #[error("SOURCE_DATE_EPOCH stage must contain exactly one remote ADD source")]
    OneSource,
    /// The `ADD` is of the build context.
    #[error("SOURCE_DATE_EPOCH stage source must be a single HTTP(S) or Git ADD")]
    Local,
    /// A git address that does not make sense.
    #[error(transparent)]
    Git(#[from] GitError),
    /// A word does not expand.
    #[error(transparent)]
    Word(#[from] ExpandError),
    /// The named context cannot be used.
    #[error(transparent)]
    Named(#[from] NamedContextError),
    /// The builder cannot tell.
    #[error(transparent)]
    Client(#[from] ClientError),
}

/// Finds the time and puts its number wherever the argument is seen.
pub(super) async fn resolve(
    request: Request<'_>,
    dockerfile: &Dockerfile,
    globals: &mut Env,
    build_args: &mut BTreeMap<String, String>,
    expander: &Expander,
) -> Result<Option<i64>, Located> {
    let global = globals.value(NAME).filter(|value| !value.is_empty());
    let Some(value) = build_args.get(NAME).map(String::as_str).or(global) else {
        return Ok(None);
    };
    let value = value.to_owned();
    let epoch = match value.parse::<i64>() {
        Ok(seconds) => Some(seconds),
        Err(_) if value.is_empty() => None,
        Err(_) => look_up(request, &value, dockerfile, globals, build_args, expander).await?,
    };
    let text = epoch.map(|seconds| seconds.to_string());
    if build_args.contains_key(NAME) {
        match &text {
            Some(text) => build_args.insert(NAME.to_owned(), text.clone()),
            None => build_args.remove(NAME),
        };
    }
    if globals.value(NAME).is_some() {
        match &text {
            Some(text) => globals.set(NAME, text),
            None => globals.remove(NAME),
        }
    }
    Ok(epoch)
}

async fn look_up(
    request: Request<'_>,
    value: &str,
    dockerfile: &Dockerfile,
    globals: &Env,
    build_args: &BTreeMap<String, String>,
    expander: &Expander,
) -> Result<Option<i64>, Located> {
    let contexts = request.contexts;
    let (source, log_name) = if value == "context" {
        let log_name = "[internal] resolve main build context metadata".to_owned();
        (contexts.main_source().cloned(), log_name)
    } else if let Some(named) = contexts.named(value, None).map_err(nowhere)? {
        let loaded = contexts.load(&named).await.map_err(nowhere)?;
        let source = match loaded.tree {
            ContextTree::Tree(tree) => tree.source().cloned(),
            _ => None,
        };
        (source, format!("[internal] resolve {NAME} named context {value}"))
    } else {
        let matches = |stage: &&Stage| {
            stage.name.as_deref().is_some_and(|name| name.eq_ignore_ascii_case(value))
        };
        let Some(stage) = dockerfile.stages.iter().find(matches) else {
            return Err(nowhere(EpochError::Invalid(value.to_owned())));
        };
        let source = stage_source(stage, globals, build_args, expander)
            .map_err(|error| Located::new(error, stage.lines))?;
        let name = stage.name.as_deref().unwrap_or_default();
        (Some(source), format!("[internal] resolve {NAME} source stage {name}"))
    };
    let Some(source) = source else { return Ok(None) };
    contexts.client.source_time(&source.op(), &log_name).await.map_err(nowhere)
}

fn nowhere(error: impl Into<EpochError>) -> Located {
    Located::nowhere(error.into())
}

/// The only source of a stage that does nothing but fetch.
fn stage_source(
    stage: &Stage,
    globals: &Env,
    build_args: &BTreeMap<String, String>,
    expander: &Expander,
) -> Result<Source, EpochError> {
    let mut env = globals.clone();
    env.remove(NAME);
    if expander.expand(&stage.base, &env)?.text != "scratch" {
        return Err(EpochError::NotScratch);
    }
    let mut found = None;
    for instruction in &stage.instructions {
        match &instruction.command {
            Command::Arg(pairs) => declare(&mut env, pairs, build_args, expander)?,
            Command::Add(_) if found.is_some() => return Err(EpochError::OneAdd),
            Command::Add(add) => found = Some(add_source(add, &env, expander)?),
            _ => return Err(EpochError::Instruction(instruction.keyword.clone())),
        }
    }
    found.ok_or(EpochError::OneAdd)
}

fn declare(
    env: &mut Env,
    pairs: &[ArgPair],
    build_args: &BTreeMap<String, String>,
    expander: &Expander,
) -> Result<(), ExpandError> {
    for pair in pairs {
        if let Some(given) = build_args.get(&pair.key) {
            env.set(&pair.key, given);
        } else if let Some(default) = &pair.value {
            let value = expander.expand(default, env)?.text;
            env.set(&pair.key, &value);
        }
    }
    Ok(())
}

fn add_source(add: &Add, env: &Env, expander: &Expander) -> Result<Source, EpochError> {
    let ([path], []) = (add.sources.paths.as_slice(), add.sources.inline.as_slice()) else {
        return Err(EpochError::OneSource);
    };
    let address = expander.expand(path, env)?.text;
    let checksum = expander.expand(&add.checksum, env)?.text;
    if let Some(git) = GitAddress::parse(&address).transpose()?.filter(|git| !git.like_path) {
        let keep = add.keep_git_dir == Some(true) || git.keep_git_dir == Some(true);
        let checksum = if checksum.is_empty() { git.checksum.clone() } else { checksum };
        return Ok(sources::git(&git, keep, &checksum));
    }
    if address.starts_with("http://") || address.starts_with("https://") {
        let checksum = Some(checksum.as_str()).filter(|text| !text.is_empty());
        return Ok(sources::http(&address, &sources::http_filename(&address), checksum));
    }
    Err(EpochError::Local)
}
