//! What can be said of an extension's Dockerfiles from their text.
//!
//! Follows Platform API "Image extension": an argument with the base image, one stage, a `FROM`
//! that keeps or switches the image. Must never execute an instruction.

mod dockerfile;
#[cfg(test)]
mod tests;

use cofferdam_cnb::{FileError, exit, parse_toml};
use serde::Deserialize;

use crate::extend::dockerfile::{Instruction, read};

/// Arguments that the platform gives.
const RESERVED: [&str; 4] = ["base_image", "build_id", "user_id", "group_id"];
/// Instructions without a warning.
const RECOMMENDED: [&str; 10] =
    ["FROM", "ADD", "ARG", "COPY", "ENV", "LABEL", "RUN", "SHELL", "USER", "WORKDIR"];
/// How a `FROM` names the image that is extended.
const BASE_IMAGE: &str = "${base_image}";

/// `extend-config.toml`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExtendConfig {
    /// For the build image.
    pub build: Vec<BuildArg>,
    /// For the run image.
    pub run: Vec<BuildArg>,
}

/// One argument of a Dockerfile.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct BuildArg {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
}

/// What a `run.Dockerfile` does.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RunDockerfile {
    /// The image it puts in the place of the run image.
    pub switch_to: Option<String>,
    /// Whether it has other instructions, so that it must be executed.
    pub extends: bool,
    /// Lines for the user: instructions that are not recommended.
    pub warnings: Vec<String>,
}

/// What all `run.Dockerfile`s together do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RunChange {
    /// The new run image.
    pub switch_to: Option<String>,
    /// Which Dockerfiles are to be executed, by index.
    pub execute: Vec<usize>,
}

/// An extension's output that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ExtendError {
    /// A file is not of its form.
    #[error(transparent)]
    File(#[from] FileError),
    /// A Dockerfile does what is not allowed.
    #[error("{file}: line {line}: {problem}")]
    Dockerfile {
        /// The file.
        file: String,
        /// From 1.
        line: usize,
        /// What is wrong.
        problem: &'static str,
    },
}

impl ExtendError {
    /// The exit code a lifecycle ends with.
    #[must_use]
    pub fn exit_code(&self) -> i32 {
        i32::from(exit::GENERATE)
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawConfig {
    build: RawArgs,
    run: RawArgs,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawArgs {
    args: Vec<BuildArg>,
}

/// Parses `extend-config.toml`; `file` is named in errors.
///
/// # Errors
/// It is not of that form, or sets a reserved argument.
pub fn extend_config(file: &str, bytes: &[u8]) -> Result<ExtendConfig, ExtendError> {
    let raw: RawConfig = parse_toml(file, bytes)?;
    for (key, args) in [("build.args.name", &raw.build.args), ("run.args.name", &raw.run.args)] {
        for BuildArg { name, .. } in args {
            if RESERVED.contains(&name.as_str()) {
                let problem = format!("{name} is given by the platform");
                return Err(FileError::value(file, key, problem).into());
            }
            let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
            if name.is_empty() || !name.bytes().all(fits) {
                let problem = "is no name of an argument";
                return Err(FileError::value(file, key, problem).into());
            }
        }
    }
    Ok(ExtendConfig { build: raw.build.args, run: raw.run.args })
}

/// Checks a `build.Dockerfile`; gives lines for the user.
///
/// # Errors
/// It has not the one form that is allowed.
pub fn check_build_dockerfile(file: &str, bytes: &[u8]) -> Result<Vec<String>, ExtendError> {
    let instructions = read(file, bytes)?;
    let error = |line: usize, problem: &'static str| {
        Err(ExtendError::Dockerfile { file: file.to_owned(), line, problem })
    };
    let (from, rest) = stage(file, &instructions)?;
    let args = &instructions[..instructions.len() - rest.len() - 1];
    let is_base = |arg: &Instruction<'_>| {
        let name = arg.rest.split('=').next().unwrap_or_default();
        arg.name == "ARG" && name.trim() == "base_image"
    };
    match args {
        [arg] if is_base(arg) => {}
        _ => return error(1, "must begin with the one instruction ARG base_image"),
    }
    if image(from) != BASE_IMAGE {
        return error(from.line, "must be FROM ${base_image}");
    }
    Ok(warnings(file, rest))
}

/// Checks a `run.Dockerfile`.
///
/// # Errors
/// It has more than one stage, or no `FROM`.
pub fn check_run_dockerfile(file: &str, bytes: &[u8]) -> Result<RunDockerfile, ExtendError> {
    let instructions = read(file, bytes)?;
    let (from, rest) = stage(file, &instructions)?;
    let image = image(from);
    let switches = image != BASE_IMAGE;
    if image.is_empty() || (switches && image.contains(['$', '"', '\''])) {
        let problem = "FROM must name ${base_image} or an image without variables";
        return Err(ExtendError::Dockerfile { file: file.to_owned(), line: from.line, problem });
    }
    let extends = !rest.is_empty();
    let switch_to = switches.then(|| image.to_owned());
    Ok(RunDockerfile { switch_to, extends, warnings: warnings(file, rest) })
}

/// Which of the run Dockerfiles count, in group order: the last that switches, and those after it.
#[must_use]
pub fn run_change(dockerfiles: &[RunDockerfile]) -> RunChange {
    let switch = dockerfiles.iter().rposition(|dockerfile| dockerfile.switch_to.is_some());
    let first = switch.unwrap_or(0);
    let counts = dockerfiles.iter().enumerate().skip(first);
    let execute = counts.filter(|(_, dockerfile)| dockerfile.extends).map(|(at, _)| at).collect();
    RunChange { switch_to: switch.and_then(|at| dockerfiles[at].switch_to.clone()), execute }
}

/// The one `FROM`, and what follows it.
fn stage<'a, 'b>(
    file: &str,
    instructions: &'b [Instruction<'a>],
) -> Result<(&'b Instruction<'a>, &'b [Instruction<'a>]), ExtendError> {
    let error = |line, problem| ExtendError::Dockerfile { file: file.to_owned(), line, problem };
    let is_from = |instruction: &Instruction<'_>| instruction.name == "FROM";
    let at = instructions.iter().position(is_from).ok_or_else(|| error(1, "has no FROM"))?;
    if let Some(early) = instructions[..at].iter().find(|instruction| instruction.name != "ARG") {
        return Err(error(early.line, "only ARG may come before FROM"));
    }
    let rest = &instructions[at + 1..];
    if let Some(second) = rest.iter().find(|instruction| is_from(instruction)) {
        return Err(error(second.line, "a second stage is not allowed"));
    }
    Ok((&instructions[at], rest))
}

/// The image of a `FROM`, without flags and name of the stage.
fn image<'a>(from: &Instruction<'a>) -> &'a str {
    from.rest.split_whitespace().find(|word| !word.starts_with("--")).unwrap_or_default()
}

fn warnings(file: &str, instructions: &[Instruction<'_>]) -> Vec<String> {
    let odd = |instruction: &&Instruction<'_>| !RECOMMENDED.contains(&instruction.name.as_str());
    let warning = |Instruction { line, name, .. }: &Instruction<'_>| {
        let name: String = name.escape_debug().take(40).collect();
        format!("{file}: line {line}: {name} is not recommended")
    };
    instructions.iter().filter(odd).map(warning).take(100).collect()
}
