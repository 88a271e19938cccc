//! The environment of a process: the container's, what layers make of it, and nothing that is only
//! for the launcher.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use cofferdam_cnb::{Env, EnvDefault, Phase, apply_env_dir, apply_layer_roots};

use crate::error::LaunchError;
use crate::layers::variables;

/// Variables for the launcher.
const OWN: [&str; 5] = [
    "CNB_LAYERS_DIR",
    "CNB_APP_DIR",
    "CNB_PROCESS_TYPE",
    "CNB_PLATFORM_API",
    "CNB_DEPRECATION_MODE",
];
/// Directories of the launcher, in which no program of the app is.
const OWN_PATHS: [&str; 2] = ["/cnb/process", "/cnb/lifecycle"];

/// Variables of a process.
#[derive(Debug, Default)]
pub(crate) struct Environment {
    pub(crate) env: Env,
    /// Variables that are not UTF-8: passed on as they are, unless a layer has one of that name.
    other: Vec<(OsString, OsString)>,
}

impl Environment {
    /// What the container has, without what is for the launcher.
    pub(crate) fn new(variables: impl Iterator<Item = (OsString, OsString)>) -> Self {
        let mut environment = Self::default();
        for (name, value) in variables {
            match (name.to_str(), value.to_str()) {
                (Some(name), Some(value)) => environment.env.set(name, value),
                _ => environment.other.push((name, value)),
            }
        }
        OWN.iter().for_each(|name| _ = environment.env.remove(name));
        if let Some(path) = environment.env.get("PATH") {
            let kept = path.split(':').filter(|entry| !OWN_PATHS.contains(entry));
            let kept: Vec<&str> = kept.collect();
            let path = kept.join(":");
            environment.env.set("PATH", path);
        }
        environment
    }

    /// Applies the layers of one buildpack.
    pub(crate) fn add_layers(
        &mut self,
        layers: &[PathBuf],
        kind: Option<&str>,
    ) -> Result<(), LaunchError> {
        for layer in layers {
            let present: Vec<&str> =
                ["bin", "lib"].into_iter().filter(|part| layer.join(part).is_dir()).collect();
            apply_layer_roots(&mut self.env, &layer.to_string_lossy(), &present, Phase::Launch);
        }
        for layer in layers {
            self.add_directory(&layer.join("env"))?;
            self.add_directory(&layer.join("env.launch"))?;
            if let Some(kind) = kind {
                self.add_directory(&layer.join("env.launch").join(kind))?;
            }
        }
        Ok(())
    }

    /// Makes this the whole environment of a command.
    pub(crate) fn give(&self, command: &mut Command) {
        command.env_clear().envs(self.other.iter().map(|(name, value)| (name, value)));
        command.envs(self.env.iter());
    }

    fn add_directory(&mut self, directory: &Path) -> Result<(), LaunchError> {
        apply_env_dir(&mut self.env, &variables(directory)?, EnvDefault::Override);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::os::unix::ffi::OsStringExt;

    fn start(pairs: &[(&str, &str)]) -> Environment {
        Environment::new(pairs.iter().map(|(name, value)| (name.into(), value.into())))
    }

    #[test]
    fn nothing_of_the_launcher_remains() {
        let path = "/cnb/process:/cnb/lifecycle:/usr/bin:/cnb/process:/cnb/process/x";
        let environment = start(&[
            ("PATH", path),
            ("CNB_LAYERS_DIR", "/layers"),
            ("CNB_APP_DIR", "/workspace"),
            ("CNB_PROCESS_TYPE", "web"),
            ("CNB_PLATFORM_API", "0.15"),
            ("CNB_DEPRECATION_MODE", "quiet"),
            ("CNB_EXEC_ENV", "test"),
            ("HOME", "/h"),
        ]);
        let expected = ["CNB_EXEC_ENV=test", "HOME=/h", "PATH=/usr/bin:/cnb/process/x"];
        assert!(environment.env.pairs().eq(expected));
    }

    #[test]
    fn bytes_pass_through() {
        let bytes = OsString::from_vec(vec![b'a', 0xff]);
        let environment = Environment::new([("X".into(), bytes.clone())].into_iter());
        let mut command = Command::new("x");
        environment.give(&mut command);
        assert!(command.get_envs().eq([("X".as_ref(), Some(bytes.as_os_str()))]));
    }

    #[test]
    fn layers_in_order_with_the_type_last() {
        let dir = tempfile::tempdir().unwrap();
        let file = |path: &str, text: &str| {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        file("a/bin/x", "");
        file("b/bin/x", "");
        file("b/lib/x", "");
        file("a/env/ORDER.append", "1");
        file("a/env.launch/ORDER.append", "2");
        file("a/env.launch/web/ORDER.append", "3");
        file("a/env.launch/other/ORDER.append", "no");
        file("a/env.build/ORDER.append", "no");
        file("b/env/ORDER.append", "4");
        file("b/env/PATH.append", ":/last");
        let layers = crate::layers::layers(dir.path()).unwrap();
        let mut environment = start(&[("PATH", "/bin")]);
        environment.add_layers(&layers, Some("web")).unwrap();
        let at = dir.path().display();
        assert_eq!(environment.env.get("ORDER"), Some("1234"));
        assert_eq!(
            environment.env.get("PATH"),
            Some(&*format!("{at}/b/bin:{at}/a/bin:/bin:/last"))
        );
        assert_eq!(environment.env.get("LD_LIBRARY_PATH"), Some(&*format!("{at}/b/lib")));
        let mut environment = start(&[]);
        environment.add_layers(&layers, None).unwrap();
        assert_eq!(environment.env.get("ORDER"), Some("124"));
    }
}
