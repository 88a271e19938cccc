//! Modules on this machine: what locators name is offered to the build, each directory and each file alone.
//!
//! A file is offered in a directory of its own: what lies next to it is nobody's business.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use cofferdam_buildpacks::{is_archive_name, possible_local_path};

use super::super::own::PrivateDir;

/// Directories to offer and the attributes that name them.
#[derive(Debug, Default)]
pub(crate) struct Modules {
    /// Attributes: `local:<path>` and `local-file:<path>`, with the paths as they were written.
    pub(crate) attrs: BTreeMap<String, String>,
    /// Directories by the names they are offered under.
    pub(crate) directories: Vec<(String, PathBuf)>,
    /// Hold files that were set apart; until the build ends.
    pub(crate) held: Vec<PrivateDir>,
    /// What each path that was written means.
    meant: BTreeMap<String, PathBuf>,
}

impl Modules {
    /// Offers what `locator` names, if it names something on this machine; relative paths start at `base`.
    pub(crate) fn add(&mut self, locator: &str, base: &Path) -> anyhow::Result<()> {
        let Some((written, path)) = find(locator, base)? else { return Ok(()) };
        if let Some(other) = self.meant.get(written) {
            ensure!(
                *other == path,
                "{written:?} means {} in one place and {} in another: write one of them as an absolute path",
                other.display(),
                path.display()
            );
            return Ok(());
        }
        let name = format!("module-{}", self.meant.len());
        if path.is_dir() {
            self.attrs.insert(format!("local:{written}"), name.clone());
            self.directories.push((name, path.clone()));
        } else {
            let (file, directory) = self.set_apart(&path)?;
            self.attrs.insert(format!("local-file:{written}"), format!("{name}/{file}"));
            self.directories.push((name, directory));
        }
        self.meant.insert(written.to_owned(), path);
        Ok(())
    }

    /// Offers what `locator` names, unless it lies in the app in `app`, which is offered anyway.
    pub(crate) fn add_outside(
        &mut self,
        locator: &str,
        base: &Path,
        app: &Path,
    ) -> anyhow::Result<()> {
        let Some((written, path)) = find(locator, base)? else { return Ok(()) };
        let app = canonical(app)?;
        let within = !written.starts_with('/') && path.starts_with(&app);
        // The frontend reads such a path from the app's root on.
        if within && canonical(base)? == app { Ok(()) } else { self.add(locator, base) }
    }

    /// The file in a directory of its own: its name and the directory.
    pub(crate) fn set_apart(&mut self, path: &Path) -> anyhow::Result<(String, PathBuf)> {
        let failed = || format!("offer {}", path.display());
        ensure!(path.is_file(), "{} is neither a file nor a directory", path.display());
        let name = path.file_name().and_then(|name| name.to_str()).with_context(failed)?;
        let dir = PrivateDir::new()?;
        let apart = dir.path().join(name);
        let path = &canonical(path)?;
        // A second name costs nothing; it cannot be had across file systems.
        if std::fs::hard_link(path, &apart).is_err() {
            std::fs::copy(path, &apart).with_context(failed)?;
        }
        let directory = dir.path().to_owned();
        self.held.push(dir);
        Ok((name.to_owned(), directory))
    }
}

/// The path as it was written and where it leads, when `locator` is a path to something.
fn find<'a>(locator: &'a str, base: &Path) -> anyhow::Result<Option<(&'a str, PathBuf)>> {
    let Some(written) = possible_local_path(locator) else { return Ok(None) };
    let path = base.join(written);
    if path.exists() {
        return Ok(Some((written, canonical(&path)?)));
    }
    let is_path = locator.starts_with("file:") || written.starts_with(['.', '/']);
    if is_path || is_archive_name(written) {
        bail!("{locator:?}: there is nothing at {}", path.display());
    }
    // A name of something else: the builder knows.
    Ok(None)
}

fn canonical(path: &Path) -> anyhow::Result<PathBuf> {
    path.canonicalize().with_context(|| format!("look for {}", path.display()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn tree() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for name in ["app/in", "out"] {
            std::fs::create_dir_all(dir.path().join(name)).unwrap();
        }
        for name in ["bp.tgz", "secret"] {
            std::fs::write(dir.path().join(name), name).unwrap();
        }
        dir
    }

    #[test]
    fn directories_and_files_are_offered_alone() {
        let dir = tree();
        let mut modules = Modules::default();
        let absolute = format!("file://{}/out", dir.path().display());
        for locator in ["./out", "bp.tgz", "./out", &absolute] {
            modules.add(locator, dir.path()).unwrap();
        }
        let out = dir.path().canonicalize().unwrap().join("out");
        assert_eq!(modules.attrs["local:./out"], "module-0");
        assert_eq!(modules.attrs["local-file:bp.tgz"], "module-1/bp.tgz");
        assert_eq!(modules.attrs[&format!("local:{}/out", dir.path().display())], "module-2");
        assert_eq!(modules.directories[0], ("module-0".to_owned(), out));
        let apart = &modules.directories[1].1;
        assert_eq!(std::fs::read_dir(apart).unwrap().count(), 1, "nothing else of its directory");
        assert_eq!(std::fs::read_to_string(apart.join("bp.tgz")).unwrap(), "bp.tgz");
        let apart = apart.clone();
        drop(modules);
        assert!(!apart.exists() && dir.path().join("bp.tgz").exists());
    }

    #[test]
    fn what_is_elsewhere_is_left_to_the_builder() {
        let dir = tree();
        let mut modules = Modules::default();
        for locator in [
            "samples/java",
            "samples/java@1.2.3",
            "urn:cnb:builder:a",
            "docker://r.example/x",
            "https://h/x.tgz",
            "from=builder",
        ] {
            modules.add(locator, dir.path()).unwrap();
        }
        assert!(modules.attrs.is_empty() && modules.directories.is_empty());
        for locator in ["./nothing", "/no/such", "file:///no/such", "nothing.tgz", "x.cnb"] {
            let error = modules.add(locator, dir.path()).unwrap_err().to_string();
            assert!(error.contains(locator), "{error}");
        }
    }

    #[test]
    fn links_are_what_they_lead_to() {
        let dir = tree();
        std::os::unix::fs::symlink("bp.tgz", dir.path().join("link.tgz")).unwrap();
        let (name, apart) = Modules::default().set_apart_for_test(&dir.path().join("link.tgz"));
        assert_eq!((name.as_str(), apart.as_str()), ("link.tgz", "bp.tgz"));
    }

    impl Modules {
        fn set_apart_for_test(mut self, path: &Path) -> (String, String) {
            let (name, directory) = self.set_apart(path).unwrap();
            let text = std::fs::read_to_string(directory.join(&name)).unwrap();
            (name, text)
        }
    }

    #[test]
    fn what_lies_in_the_app_comes_with_it() {
        let dir = tree();
        let app = dir.path().join("app");
        let mut modules = Modules::default();
        modules.add_outside("in", &app, &app).unwrap();
        assert!(modules.attrs.is_empty());
        modules.add_outside("../out", &app, &app).unwrap();
        modules.add_outside("app/in", dir.path(), &app).unwrap();
        let names: Vec<&String> = modules.attrs.keys().collect();
        assert_eq!(names, ["local:../out", "local:app/in"]);
        std::os::unix::fs::symlink(dir.path().join("out"), app.join("link")).unwrap();
        modules.add_outside("link", &app, &app).unwrap();
        assert_eq!(modules.attrs["local:link"], "module-2", "leads out of the app");
    }

    #[test]
    fn one_text_means_one_thing() {
        let dir = tree();
        std::fs::create_dir(dir.path().join("app/out")).unwrap();
        let mut modules = Modules::default();
        modules.add("./out", dir.path()).unwrap();
        assert!(modules.add("./out", &dir.path().join("app")).is_err());
    }
}
