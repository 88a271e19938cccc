//! The project descriptor of an app on this machine: the builder it wants, and modules that have to be offered with it.

use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use cofferdam_buildpacks::ProjectDescriptor;

use super::super::arguments::BuildArgs;
use super::super::context::is_remote;

/// Its name when nobody says otherwise.
const DESCRIPTOR: &str = "project.toml";

/// Longest descriptor; the frontend's own bound is the same.
const MAX_DESCRIPTOR: u64 = cofferdam_cnb::MAX_FILE as u64;

/// What the command line has to know of a descriptor.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Project {
    /// The builder it names.
    pub(crate) builder: Option<String>,
    /// What may be paths to its modules.
    pub(super) locals: Vec<String>,
    /// Where relative paths start.
    pub(super) base: PathBuf,
    /// Its place in the app, when that was said.
    pub(super) path: Option<String>,
    /// Its text, when it lies elsewhere.
    pub(super) text: Option<String>,
}

impl Project {
    /// The descriptor of the app that the arguments name; nothing where the builder has to find it.
    pub(crate) fn find(args: &BuildArgs) -> anyhow::Result<Self> {
        let named = args.buildpacks.descriptor.as_deref();
        if args.context == "-" || is_remote(&args.context) {
            // Named in words of the app, which is not here.
            return Ok(Self { path: named.map(str::to_owned), ..Self::default() });
        }
        let app = Path::new(&args.context);
        let path = named.map_or_else(|| app.join(DESCRIPTOR), PathBuf::from);
        if named.is_none() && !path.exists() {
            return Ok(Self::default());
        }
        let text = read(&path)?;
        let mut project = Self::parse(&path, &text)?;
        project.base = path.parent().unwrap_or(Path::new("")).to_owned();
        if project.base.as_os_str().is_empty() {
            project.base.push(".");
        }
        if named.is_some() {
            match within(&path, app) {
                Some(place) => project.path = Some(place),
                None => project.text = Some(text),
            }
        }
        Ok(project)
    }

    fn parse(path: &Path, text: &str) -> anyhow::Result<Self> {
        let name = path.display().to_string();
        // What is worth a warning is told by the builder, which reads it again.
        let (descriptor, _) = ProjectDescriptor::parse(&name, text.as_bytes())?;
        let locals = descriptor.local_paths().into_iter().map(str::to_owned).collect();
        Ok(Self { builder: descriptor.builder.clone(), locals, ..Self::default() })
    }
}

/// The path below `app`, when it lies there.
fn within(path: &Path, app: &Path) -> Option<String> {
    let (path, app) = (path.canonicalize().ok()?, app.canonicalize().ok()?);
    path.strip_prefix(app).ok()?.to_str().map(str::to_owned)
}

fn read(path: &Path) -> anyhow::Result<String> {
    let failed = || format!("read {}", path.display());
    let mut text = String::new();
    let file = std::fs::File::open(path).with_context(failed)?;
    let length = file.take(MAX_DESCRIPTOR + 1).read_to_string(&mut text).with_context(failed)?;
    ensure!(length as u64 <= MAX_DESCRIPTOR, "{} is too large for a descriptor", path.display());
    Ok(text)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const TEXT: &str = r#"
        [_]
        schema-version = "0.2"
        [io.buildpacks]
        builder = "r.example/b"
        [[io.buildpacks.group]]
        uri = "./bp"
        [[io.buildpacks.pre.group]]
        uri = "docker://r.example/x"
        [[io.buildpacks.post.group]]
        id = "in/builder"
    "#;

    fn find(app: &Path, descriptor: Option<&Path>) -> anyhow::Result<Project> {
        let mut args =
            BuildArgs { context: app.to_str().unwrap().to_owned(), ..BuildArgs::default() };
        args.buildpacks.descriptor = descriptor.map(|path| path.to_str().unwrap().to_owned());
        Project::find(&args)
    }

    #[test]
    fn descriptors_name_builders_and_modules() {
        let dir = tempfile::tempdir().unwrap();
        let app = dir.path().join("app");
        std::fs::create_dir(&app).unwrap();
        assert_eq!(find(&app, None).unwrap(), Project::default());
        std::fs::write(app.join("project.toml"), TEXT).unwrap();
        let project = find(&app, None).unwrap();
        assert_eq!(project.builder.as_deref(), Some("r.example/b"));
        assert_eq!((&project.path, &project.text, &project.base), (&None, &None, &app));
        assert!(project.locals.iter().any(|found| found == "./bp"), "{project:?}");
        assert!(!project.locals.iter().any(|found| found.contains("docker")), "{project:?}");
    }

    #[test]
    fn one_elsewhere_is_sent_along() {
        let dir = tempfile::tempdir().unwrap();
        let app = dir.path().join("app");
        std::fs::create_dir_all(app.join("ci")).unwrap();
        let inside = app.join("ci/other.toml");
        std::fs::write(&inside, TEXT).unwrap();
        let project = find(&app, Some(&inside)).unwrap();
        assert_eq!((project.path.as_deref(), project.text), (Some("ci/other.toml"), None));
        assert_eq!(project.base, app.join("ci"));
        let outside = dir.path().join("p.toml");
        std::fs::write(&outside, TEXT).unwrap();
        let project = find(&app, Some(&outside)).unwrap();
        assert_eq!((project.path, project.text.as_deref()), (None, Some(TEXT)));
        let remote = find(Path::new("https://h/x.git"), Some(Path::new("sub/p.toml"))).unwrap();
        assert_eq!(remote.path.as_deref(), Some("sub/p.toml"));
    }

    #[test]
    fn what_is_wrong_is_said_with_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("project.toml");
        std::fs::write(&path, "[io.buildpacks").unwrap();
        let error = format!("{:#}", find(dir.path(), None).unwrap_err());
        assert!(error.contains("project.toml"), "{error}");
        assert!(find(dir.path(), Some(&dir.path().join("none.toml"))).is_err());
    }
}
