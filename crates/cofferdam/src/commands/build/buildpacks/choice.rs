//! Whether a build goes by a Dockerfile or by buildpacks. What is said with the command goes before what is found.

use std::path::Path;

use anyhow::{bail, ensure};

use super::super::arguments::BuildArgs;
use super::super::context::is_remote;
use super::project::Project;

/// Names the builder image that is used when nobody names another.
pub(crate) const BUILDER_IMAGE: &str = "COFFERDAM_BUILDER_IMAGE";

/// Names that the Dockerfile frontend looks for.
const DOCKERFILES: [&str; 2] = ["Dockerfile", "dockerfile"];

/// How a build goes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    /// By a Dockerfile. `missing` says that there is none where it is looked for, and no builder either.
    Dockerfile { missing: bool },
    /// By buildpacks of this builder image.
    Buildpacks { builder: String, project: Project },
}

/// What the user has configured.
#[derive(Debug, Default)]
pub(crate) struct Surroundings {
    /// Of the environment.
    pub(crate) variable: Option<String>,
    /// Of the configuration file.
    pub(crate) configured: Option<String>,
}

impl Surroundings {
    /// Of this process.
    pub(crate) fn of_this_user() -> anyhow::Result<Self> {
        let accounts = crate::accounts::Accounts::of_this_user()?;
        Ok(Self {
            variable: crate::remote::variable(BUILDER_IMAGE),
            configured: accounts.default_builder().map(str::to_owned),
        })
    }
}

/// Chooses.
pub(crate) fn choose(
    args: &BuildArgs,
    surroundings: impl FnOnce() -> anyhow::Result<Surroundings>,
) -> anyhow::Result<Choice> {
    let used = args.buildpacks.used();
    let foreign = dockerfile_flags(args);
    if let Some(builder) = &args.buildpacks.builder {
        ensure!(
            foreign.is_empty(),
            "--builder builds with buildpacks, and these flags are about a Dockerfile: {}",
            foreign.join(", ")
        );
        let project = Project::find(args)?;
        return Ok(Choice::Buildpacks { builder: builder.clone(), project });
    }
    if args.file.is_some() {
        ensure!(
            used.is_empty(),
            "--file builds a Dockerfile, and these flags are about buildpacks: {}",
            used.join(", ")
        );
        return Ok(Choice::Dockerfile { missing: false });
    }
    if used.is_empty() && (!foreign.is_empty() || !lacks_dockerfile(&args.context)) {
        return Ok(Choice::Dockerfile { missing: false });
    }
    ensure!(
        foreign.is_empty(),
        "some flags are about a Dockerfile ({}), others about buildpacks ({})",
        foreign.join(", "),
        used.join(", ")
    );
    let project = Project::find(args)?;
    let Surroundings { variable, configured } = surroundings()?;
    match project.builder.clone().or(variable).or(configured) {
        Some(builder) => Ok(Choice::Buildpacks { builder, project }),
        None if used.is_empty() => Ok(Choice::Dockerfile { missing: true }),
        None => bail!("{} needs a builder image: {HOW}", used.join(", ")),
    }
}

/// How to name a builder image.
pub(crate) const HOW: &str = "name one with --builder IMAGE, COFFERDAM_BUILDER_IMAGE, \
    `builder` in project.toml or `default-builder` in the configuration file";

/// Whether `context` is a directory here that has no Dockerfile.
fn lacks_dockerfile(context: &str) -> bool {
    let path = Path::new(context);
    // A link that leads nowhere is somebody's Dockerfile, too: the build says what is wrong with it.
    let has = |name: &str| std::fs::symlink_metadata(path.join(name)).is_ok();
    context != "-" && !is_remote(context) && path.is_dir() && !DOCKERFILES.into_iter().any(has)
}

/// Flags that were given and mean nothing to buildpacks.
fn dockerfile_flags(args: &BuildArgs) -> Vec<&'static str> {
    let flags = [
        ("--file", args.file.is_some()),
        ("--target", args.target.is_some()),
        ("--build-arg", !args.inputs.build_arg.is_empty()),
        ("--build-context", !args.inputs.build_context.is_empty()),
        ("--secret", !args.inputs.secret.is_empty()),
        ("--ssh", !args.inputs.ssh.is_empty()),
        ("--add-host", !args.steps.add_host.is_empty()),
        ("--shm-size", args.steps.shm_size.is_some()),
        ("--ulimit", !args.steps.ulimit.is_empty()),
        ("--cgroup-parent", args.steps.cgroup_parent.is_some()),
        ("--no-cache-filter", !args.caches.no_cache_filter.is_empty()),
    ];
    flags.into_iter().filter(|(_, used)| *used).map(|(flag, _)| flag).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn both() -> anyhow::Result<Surroundings> {
        Ok(Surroundings { variable: Some("variable".into()), configured: Some("file".into()) })
    }

    fn file() -> anyhow::Result<Surroundings> {
        Ok(Surroundings { variable: None, configured: Some("file".into()) })
    }

    fn none() -> anyhow::Result<Surroundings> {
        Ok(Surroundings::default())
    }

    fn of(directory: &Path, change: impl FnOnce(&mut BuildArgs)) -> BuildArgs {
        let mut args =
            BuildArgs { context: directory.to_str().unwrap().to_owned(), ..BuildArgs::default() };
        change(&mut args);
        args
    }

    fn builder(choice: anyhow::Result<Choice>) -> Option<String> {
        match choice.unwrap() {
            Choice::Buildpacks { builder, .. } => Some(builder),
            Choice::Dockerfile { .. } => None,
        }
    }

    #[test]
    fn without_a_dockerfile_the_nearest_builder_counts() {
        let dir = tempfile::tempdir().unwrap();
        let args = of(dir.path(), |_| ());
        assert_eq!(choose(&args, none).unwrap(), Choice::Dockerfile { missing: true });
        assert_eq!(builder(choose(&args, file)).as_deref(), Some("file"));
        assert_eq!(builder(choose(&args, both)).as_deref(), Some("variable"));
        let text = "[_]\nschema-version = \"0.2\"\n[io.buildpacks]\nbuilder = \"project\"\n";
        std::fs::write(dir.path().join("project.toml"), text).unwrap();
        assert_eq!(builder(choose(&args, both)).as_deref(), Some("project"));
        let named = of(dir.path(), |args| args.buildpacks.builder = Some("named".into()));
        assert_eq!(builder(choose(&named, both)).as_deref(), Some("named"));
    }

    #[test]
    fn a_dockerfile_goes_before_a_builder_nobody_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("Dockerfile"), "FROM scratch\n").unwrap();
        let unasked = of(dir.path(), |_| ());
        assert_eq!(choose(&unasked, both).unwrap(), Choice::Dockerfile { missing: false });
        let asked = of(dir.path(), |args| args.buildpacks.buildpack = vec!["a/b".into()]);
        assert_eq!(builder(choose(&asked, both)).as_deref(), Some("variable"));
        let named = of(dir.path(), |args| args.buildpacks.builder = Some("named".into()));
        assert_eq!(builder(choose(&named, none)).as_deref(), Some("named"));
        let elsewhere = of(Path::new("https://example.com/x.git"), |_| ());
        assert_eq!(choose(&elsewhere, both).unwrap(), Choice::Dockerfile { missing: false });
    }

    #[test]
    fn what_contradicts_itself_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let said = |change: fn(&mut BuildArgs)| {
            choose(&of(dir.path(), change), none).unwrap_err().to_string()
        };
        let text = said(|args| {
            args.buildpacks.builder = Some("b".into());
            args.file = Some("Dockerfile".into());
            args.inputs.build_arg = vec!["A=1".into()];
        });
        assert!(text.contains("--builder") && text.contains("--file, --build-arg"), "{text}");
        let text = said(|args| {
            args.file = Some("Dockerfile".into());
            args.buildpacks.env = vec!["A=1".into()];
        });
        assert!(text.contains("--file") && text.ends_with("--env"), "{text}");
        let text = said(|args| args.buildpacks.clear_cache = true);
        assert!(text.contains("--clear-cache") && text.contains(BUILDER_IMAGE), "{text}");
        let text = said(|args| {
            args.buildpacks.clear_cache = true;
            args.target = Some("x".into());
        });
        assert!(text.contains("(--target)") && text.contains("(--clear-cache)"), "{text}");
    }
}
