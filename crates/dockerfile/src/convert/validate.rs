//! Lint rules that need more than the text: variables, base images, ignore files.
//!
//! They only report. Rules about the text alone are in [`crate::lint`].

use cofferdam_graph::{normalize_platform, parse_platform, platform_string};
use cofferdam_wire::pb;

use super::arg;
use super::budget::MAX_CHECKED_PATH;
use super::dispatch::Step;
use super::env::Env;
use super::ignore::IgnoreMatcher;
use super::stage::Stage;
use crate::expand::{Expanded, Expander};
use crate::frontend::reference::Reference;
use crate::image::Image;
use crate::instructions::{Dockerfile, Stage as Declared};
use crate::lint::{Finding, Warnings, looks_secret};
use crate::paths;

/// Base images must have usable names also when no build argument is given.
pub(super) fn default_bases(
    dockerfile: &Dockerfile,
    builtin: &Env,
    expander: &Expander,
    warnings: &mut Warnings,
) {
    let defaults =
        arg::globals(builtin.clone(), &dockerfile.global_args, &Default::default(), expander);
    // The conversion itself meets the same error and reports it.
    let Ok((env, _)) = defaults else { return };
    for stage in &dockerfile.stages {
        let Ok(expanded) = expander.expand(&stage.base, &env) else { return };
        if Reference::parse(&expanded.text).is_err() {
            let finding = Finding::InvalidDefaultArgInFrom { base: &stage.base };
            warnings.report(&finding, stage.lines, &stage.comments);
        }
    }
}

/// `FROM --platform` should say something, and should not say the same in every build.
pub(super) fn stage_platform(
    declared: &Declared,
    expanded: &Expanded,
    globals: &Env,
    warnings: &mut Warnings,
) {
    const TARGET: &str = "TARGETPLATFORM";
    let only_target = expanded.matched.len() == 1
        && expanded.matched.contains(TARGET)
        && expanded.unmatched.is_empty();
    if only_target && globals.value(TARGET) == Some(&expanded.text) {
        let finding = Finding::RedundantTargetPlatform { variable: &declared.platform };
        warnings.report(&finding, declared.lines, &declared.comments);
    }
    if !expanded.matched.is_empty() || !expanded.unmatched.is_empty() {
        return;
    }
    let Ok(platform) = parse_platform(&expanded.text) else { return };
    let name = declared.name.as_deref().unwrap_or_default();
    if !name.contains(&platform.OS) && !name.contains(&platform.Architecture) {
        let finding = Finding::FromPlatformFlagConstDisallowed { platform: &expanded.text };
        warnings.report(&finding, declared.lines, &declared.comments);
    }
}

/// The base image should be for the platform it is used on.
pub(super) fn base_platform(
    stage: &Stage,
    name: &str,
    expected: &pb::Platform,
    image: &Image,
    warnings: &mut Warnings,
) {
    if expected.OS == image.os && expected.Architecture == image.architecture {
        return;
    }
    let expected = platform_string(&normalize_platform(expected));
    let actual = platform_string(&normalize_platform(&image.platform()));
    let finding =
        Finding::InvalidBaseImagePlatform { image: name, expected: &expected, actual: &actual };
    warnings.report(&finding, stage.lines(), &stage.from.comments);
}

/// Secrets do not belong into variables, which end up in the image.
pub(super) fn secret_name(instruction: &str, key: &str, step: &mut Step<'_>) {
    if looks_secret(key) {
        step.report(&Finding::SecretsUsedInArgOrEnv { instruction, key });
    }
}

/// A source that the ignore file leaves out can never be copied.
pub(super) fn copy_source(
    source: &str,
    instruction: &str,
    matcher: &IgnoreMatcher,
    step: &mut Step<'_>,
) {
    if source.len() > MAX_CHECKED_PATH {
        return;
    }
    let file = paths::clean(source);
    let root = file == "." || file == "/";
    if (!root || matcher.excludes_everything()) && matcher.excludes(&file) {
        step.report(&Finding::CopyIgnoredFile { instruction, file: &file });
    }
}
