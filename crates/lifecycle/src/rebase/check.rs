//! Whether an app image may lie on a new run image.
//!
//! What the app image was built with decides the rules: stacks before Platform API 0.12, targets
//! from then on. Must never let force pass a stack.

use std::collections::BTreeSet;

use cofferdam_cnb::{
    ApiVersion, DISTRO_NAME, DISTRO_VERSION, LifecycleMetadata, REBASABLE, STACK_ID, STACK_MIXINS,
    parse_json,
};

use crate::rebase::{Config, RebaseError};
use crate::target::same;

/// Checks that the images fit.
pub(super) fn images(
    app: &Config,
    run: &Config,
    force: bool,
    warnings: &mut Vec<String>,
) -> Result<(), RebaseError> {
    let built_with = app.env("CNB_PLATFORM_API").and_then(|text| text.parse::<ApiVersion>().ok());
    if !built_with.is_some_and(|api| api.at_least(12)) {
        return stack(app, run);
    }
    match target(app, run) {
        Err(error) if force => {
            warnings.push(error.to_string());
            Ok(())
        }
        result => result,
    }
}

fn stack(app: &Config, run: &Config) -> Result<(), RebaseError> {
    let of = |config: &Config| config.label(STACK_ID).unwrap_or_default().to_owned();
    let (app_stack, run_stack) = (of(app), of(run));
    if app_stack.is_empty() || app_stack != run_stack {
        return Err(RebaseError::Stack { app: app_stack, new: run_stack });
    }
    let there = mixins(run)?;
    let missing: Vec<String> =
        mixins(app)?.into_iter().filter(|mixin| !there.contains(mixin)).collect();
    if missing.is_empty() { Ok(()) } else { Err(RebaseError::Mixins(missing.join(", "))) }
}

/// Packages of a stack image, without the prefixes of phases.
fn mixins(config: &Config) -> Result<BTreeSet<String>, RebaseError> {
    let Some(text) = config.label(STACK_MIXINS) else { return Ok(BTreeSet::new()) };
    let mixins: Option<Vec<String>> = parse_json(STACK_MIXINS, text)?;
    let plain = |mixin: String| {
        let plain = mixin.strip_prefix("build:").or_else(|| mixin.strip_prefix("run:"));
        plain.map(str::to_owned).unwrap_or(mixin)
    };
    Ok(mixins.unwrap_or_default().into_iter().map(plain).collect())
}

fn target(app: &Config, run: &Config) -> Result<(), RebaseError> {
    if app.label(REBASABLE) == Some("false") {
        return Err(RebaseError::Forbidden);
    }
    let differs = |key: &'static str, app: &str, new: &str| {
        Err(RebaseError::Target { key, app: app.to_owned(), new: new.to_owned() })
    };
    for key in ["os", "architecture"] {
        if app.text(key) != run.text(key) {
            return differs(key, app.text(key), run.text(key));
        }
    }
    if !same(app.text("variant"), run.text("variant")) {
        return differs("variant", app.text("variant"), run.text("variant"));
    }
    let keys = [DISTRO_NAME, DISTRO_VERSION];
    let declares = |config: &Config| keys.iter().any(|key| config.label(key).is_some());
    if !declares(run) {
        return Ok(());
    }
    for key in keys {
        let (old, new) = (app.label(key).unwrap_or_default(), run.label(key).unwrap_or_default());
        if !declares(app) || !same(old, new) {
            return differs(key, old, new);
        }
    }
    Ok(())
}

/// Whether the app image was built for a run image of this name.
pub(super) fn is_named(metadata: &LifecycleMetadata, name: &str) -> bool {
    let (run, stack) = (&metadata.run_image, &metadata.stack.run_image);
    let names = std::iter::once(&run.image).chain(&run.mirrors);
    let mut names = names.chain(std::iter::once(&stack.image)).chain(&stack.mirrors);
    let wanted = normalised(name);
    names.any(|known| !known.is_empty() && normalised(known) == wanted)
}

/// A reference without digest, with the registry and tag that short ones mean.
fn normalised(reference: &str) -> String {
    let name = reference.split('@').next().unwrap_or_default();
    let (path, tag) = match name.rsplit_once(':') {
        Some((path, tag)) if !tag.contains('/') => (path, tag),
        _ => (name, "latest"),
    };
    let is_registry =
        |part: &str| part.contains(['.', ':']) || part == "localhost" || part.is_empty();
    let (registry, repository) = match path.split_once('/') {
        Some((registry, repository)) if is_registry(registry) => (registry, repository.to_owned()),
        _ => ("docker.io", path.to_owned()),
    };
    let hub = ["docker.io", "index.docker.io", "registry-1.docker.io"].contains(&registry);
    match (hub, repository.contains('/')) {
        (true, false) => format!("docker.io/library/{repository}:{tag}"),
        (true, true) => format!("docker.io/{repository}:{tag}"),
        (false, _) => format!("{registry}/{repository}:{tag}"),
    }
}
