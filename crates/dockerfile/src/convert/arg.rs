//! `ARG`: build arguments and where they are known.
//!
//! Arguments before the first `FROM` are known to `FROM` lines; a stage that declares one by name
//! takes over its value. From its declaration on, an argument is a variable of the stage's steps.

use std::collections::BTreeMap;

use cofferdam_graph::platform_id;

use super::dispatch::{Step, report_undefined};
use super::env::Env;
use super::error::{ConvertError, Located};
use super::outline::{ArgInfo, Capture};
use super::stage::Stage;
use super::{Converter, Platforms, budget, validate};
use crate::expand::Expander;
use crate::instructions::{ArgPair, Command, Dockerfile, Instruction};

/// Arguments that tell the builder what to scan. They are no variables of any step.
const SCAN_SWITCHES: [&str; 2] = ["BUILDKIT_SBOM_SCAN_CONTEXT", "BUILDKIT_SBOM_SCAN_STAGE"];

pub(super) fn is_scan_switch(name: &str) -> bool {
    SCAN_SWITCHES.contains(&name)
}

/// What every Dockerfile knows without declaring it globally.
pub(super) fn builtin(
    platforms: &Platforms,
    target: &str,
    dockerfile: &Dockerfile,
    build_args: &BTreeMap<String, String>,
) -> Env {
    let (build, wanted) = (&platforms.build, &platforms.target);
    let last = dockerfile.stages.last().and_then(|stage| stage.name.as_deref());
    let stage = if target.is_empty() { last.unwrap_or("default") } else { target };
    let mut env = Env::default();
    for (name, value) in [
        ("BUILDPLATFORM", platform_id(build).as_str()),
        ("BUILDOS", &build.OS),
        ("BUILDOSVERSION", &build.OSVersion),
        ("BUILDARCH", &build.Architecture),
        ("BUILDVARIANT", &build.Variant),
        ("TARGETPLATFORM", &platform_id(wanted)),
        ("TARGETOS", &wanted.OS),
        ("TARGETOSVERSION", &wanted.OSVersion),
        ("TARGETARCH", &wanted.Architecture),
        ("TARGETVARIANT", &wanted.Variant),
        ("TARGETSTAGE", stage),
    ] {
        env.set(name, build_args.get(name).map_or(value, String::as_str));
    }
    env
}

/// Adds the global `ARG` instructions to `env`.
pub(super) fn globals(
    mut env: Env,
    instructions: &[Instruction],
    build_args: &BTreeMap<String, String>,
    expander: &Expander,
) -> Result<(Env, Capture), Located> {
    let mut capture = Capture::default();
    for instruction in instructions {
        let Command::Arg(pairs) = &instruction.command else { continue };
        for pair in pairs {
            let mut info = ArgInfo::new(pair, instruction.lines);
            let value = match (build_args.get(&pair.key), &pair.value) {
                (Some(given), _) => Some(given.clone()),
                (None, None) => None,
                (None, Some(default)) => {
                    let expanded = expander
                        .expand(default, &env)
                        .map_err(|error| Located::new(error, instruction.lines))?;
                    info.needs = expanded.matched;
                    Some(expanded.text)
                }
            };
            let full = budget::check_count(env.len().max(capture.len()));
            full.map_err(|error| Located::new(error, instruction.lines))?;
            if let Some(value) = &value {
                env.set(&pair.key, value);
                info.value.clone_from(value);
            }
            capture.declare(info);
        }
    }
    Ok((env, capture.share()))
}

impl Converter<'_> {
    pub(super) fn arg(
        &self,
        stage: &mut Stage,
        pairs: &[ArgPair],
        step: &mut Step<'_>,
    ) -> Result<(), ConvertError> {
        let mut texts = Vec::with_capacity(pairs.len());
        for pair in pairs {
            validate::secret_name("ARG", &pair.key, step);
            let (value, inherited) = self.arg_value(stage, pair, step)?;
            if let Some(value) = value.as_deref().filter(|_| !is_scan_switch(&pair.key)) {
                stage.state.env.set(&pair.key, value);
            }
            let mut info = ArgInfo::new(pair, step.instruction.lines);
            info.value = value.clone().unwrap_or_default();
            if !inherited {
                stage.outline.declare(info);
            }
            stage.outline.use_arg(&pair.key);
            texts.push(match &value {
                Some(value) => format!("{}={value}", pair.key),
                None => pair.key.clone(),
            });
            stage.args.push(ArgPair { value, ..pair.clone() });
            budget::check_variables(stage)?;
        }
        self.commit(stage, &format!("ARG {}", texts.join(" ")), false);
        Ok(())
    }

    /// The value of an argument, and whether it is that of a global one.
    fn arg_value(
        &self,
        stage: &Stage,
        pair: &ArgPair,
        step: &mut Step<'_>,
    ) -> Result<(Option<String>, bool), ConvertError> {
        if let Some(given) = self.build_args.get(&pair.key) {
            return Ok((Some(given.clone()), false));
        }
        let Some(default) = &pair.value else {
            let global = self.globals.value(&pair.key).map(str::to_owned);
            let inherited = global.is_some();
            return Ok((global, inherited));
        };
        let expanded = self.expander.expand(default, &stage.state.env)?;
        report_undefined(stage, step.instruction, &expanded.unmatched, step.warnings);
        Ok((Some(expanded.text), false))
    }
}
