//! Which process is meant: by the name the launcher was called with, or the user's own command.
//! Values in, values out.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use cofferdam_cnb::{ApiVersion, MetadataFile, Process};

use crate::error::LaunchError;

/// What to start.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Selected {
    /// The process type; `None` for the user's own command.
    pub(crate) kind: Option<String>,
    /// The program, or with a shell and without arguments, a script.
    pub(crate) command: OsString,
    pub(crate) args: Vec<OsString>,
    /// Without a shell.
    pub(crate) direct: bool,
    /// Relative to the app, or absolute; the app itself when empty.
    pub(crate) working_dir: String,
}

/// What the launcher goes by.
pub(crate) struct Request<'a> {
    /// The name it was called with.
    pub(crate) called: &'a OsStr,
    /// The user's arguments.
    pub(crate) user: &'a [OsString],
    pub(crate) metadata: &'a MetadataFile,
    pub(crate) platform: ApiVersion,
    /// The execution environment.
    pub(crate) exec_env: &'a str,
}

impl Request<'_> {
    pub(crate) fn select(&self) -> Result<Selected, LaunchError> {
        let name = Path::new(self.called).file_name().unwrap_or_default();
        let named = |process: &&Process| OsStr::new(&process.kind) == name;
        let eligible =
            |process: &&Process| !self.platform.at_least(15) || process.runs_in(self.exec_env);
        let processes = &self.metadata.processes;
        if let Some(process) = processes.iter().filter(named).find(eligible) {
            return self.typed(process);
        }
        match processes.iter().find(named) {
            Some(process) => Err(LaunchError::ExecEnv {
                kind: process.kind.clone(),
                exec_env: self.exec_env.to_owned(),
            }),
            None => self.own(name),
        }
    }

    fn typed(&self, process: &Process) -> Result<Selected, LaunchError> {
        let no_command = || LaunchError::NoCommand(process.kind.clone());
        let (command, fixed) = process.command.split_first().ok_or_else(no_command)?;
        if command.is_empty() {
            return Err(no_command());
        }
        let since_9 = self.buildpack_api(process).is_none_or(|api| api.at_least(9));
        let replaces = self.platform.at_least(10) && (since_9 || !fixed.is_empty());
        let mut args: Vec<OsString> = fixed.iter().map(OsString::from).collect();
        if self.user.is_empty() || !replaces {
            args.extend(process.args.iter().map(OsString::from));
        }
        args.extend_from_slice(self.user);
        Ok(Selected {
            kind: Some(process.kind.clone()),
            command: command.into(),
            args,
            direct: process.direct.unwrap_or(since_9),
            working_dir: process.working_dir.clone(),
        })
    }

    fn own(&self, name: &OsStr) -> Result<Selected, LaunchError> {
        let (direct, words) = match self.user {
            [dashes, words @ ..] if dashes == "--" => (true, words),
            words => (false, words),
        };
        let nothing = || LaunchError::Nothing(name.to_string_lossy().into_owned());
        let (command, args) = words.split_first().ok_or_else(nothing)?;
        Ok(Selected {
            kind: None,
            command: command.clone(),
            args: args.to_vec(),
            direct,
            working_dir: String::new(),
        })
    }

    /// The API of the buildpack a process comes from, when metadata say so.
    fn buildpack_api(&self, process: &Process) -> Option<ApiVersion> {
        let from = |id: &str| id == process.buildpack_id;
        let buildpack = self.metadata.buildpacks.iter().find(|buildpack| from(&buildpack.id))?;
        buildpack.api.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use cofferdam_cnb::parse_toml;

    const METADATA: &str = r#"
        [[buildpacks]]
        id = "new"
        version = "1"
        api = "0.9"
        [[buildpacks]]
        id = "old"
        version = "1"
        api = "0.8"
        [[processes]]
        type = "web"
        command = ["srv"]
        args = ["-p", "80"]
        direct = true
        buildpack-id = "new"
        [[processes]]
        type = "fixed"
        command = ["srv", "--base"]
        args = ["-p", "80"]
        direct = true
        buildpack-id = "new"
        [[processes]]
        type = "old"
        command = "srv"
        args = ["-p", "80"]
        direct = true
        buildpack-id = "old"
        [[processes]]
        type = "shell"
        command = "srv $X"
        direct = false
        buildpack-id = "old"
        working-dir = "sub"
        [[processes]]
        type = "test"
        command = ["first"]
        exec-env = ["test"]
        [[processes]]
        type = "test"
        command = ["second"]
        exec-env = ["production", "other"]
        [[processes]]
        type = "any"
        command = ["any"]
        exec-env = ["*"]
        [[processes]]
        type = "only-test"
        command = ["x"]
        exec-env = ["test"]
        [[processes]]
        type = "empty"
    "#;

    fn select(
        called: &str,
        user: &[&str],
        platform: u32,
        exec_env: &str,
    ) -> Result<Selected, LaunchError> {
        let metadata = parse_toml("metadata.toml", METADATA.as_bytes()).unwrap();
        let user: Vec<OsString> = user.iter().map(OsString::from).collect();
        let platform = ApiVersion::minor(platform);
        let called = OsStr::new(called);
        Request { called, user: &user, metadata: &metadata, platform, exec_env }.select()
    }

    fn words(called: &str, user: &[&str], platform: u32) -> String {
        let selected = select(called, user, platform, "production").unwrap();
        let words = std::iter::once(&selected.command).chain(&selected.args);
        words.map(|word| word.to_str().unwrap()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn users_arguments_replace_or_follow() {
        assert_eq!(words("/cnb/process/web", &[], 15), "srv -p 80");
        assert_eq!(words("/cnb/process/web", &["-p", "90"], 15), "srv -p 90");
        assert_eq!(words("web", &["-p", "90"], 10), "srv -p 90");
        assert_eq!(words("web", &["-x"], 9), "srv -p 80 -x");
        assert_eq!(words("fixed", &[], 15), "srv --base -p 80");
        assert_eq!(words("fixed", &["-p", "90"], 15), "srv --base -p 90");
        assert_eq!(words("fixed", &["-x"], 9), "srv --base -p 80 -x");
        assert_eq!(words("old", &[], 15), "srv -p 80");
        assert_eq!(words("old", &["-x"], 15), "srv -p 80 -x");
        assert_eq!(words("web", &["--", "ls"], 15), "srv -- ls");
    }

    #[test]
    fn without_a_type_the_user_says_what() {
        let selected =
            select("/cnb/lifecycle/launcher", &["--", "ls", "-l"], 15, "production").unwrap();
        assert!(selected.direct && selected.kind.is_none());
        assert_eq!((selected.command, selected.args), ("ls".into(), vec!["-l".into()]));
        let selected = select("launcher", &["echo", "$HOME"], 15, "production").unwrap();
        assert!(!selected.direct && selected.args == ["$HOME"]);
        for user in [&[][..], &["--"]] {
            let error = select("launcher", user, 15, "production").unwrap_err();
            assert!(matches!(error, LaunchError::Nothing(_)), "{error}");
        }
    }

    #[test]
    fn shells_and_directories_are_the_process_s() {
        let selected = select("shell", &[], 15, "production").unwrap();
        assert!(!selected.direct);
        assert_eq!((selected.command, selected.working_dir), ("srv $X".into(), "sub".into()));
        assert!(select("any", &[], 15, "production").unwrap().direct);
        assert!(matches!(select("empty", &[], 15, "x"), Err(LaunchError::NoCommand(_))));
    }

    #[test]
    fn execution_environments_choose() {
        let command =
            |kind, platform, env| select(kind, &[], platform, env).map(|found| found.command);
        assert_eq!(command("test", 15, "test").unwrap(), "first");
        assert_eq!(command("test", 15, "production").unwrap(), "second");
        assert_eq!(command("test", 14, "production").unwrap(), "first");
        assert_eq!(command("any", 15, "whatever").unwrap(), "any");
        let error = command("only-test", 15, "production").unwrap_err();
        assert!(matches!(error, LaunchError::ExecEnv { .. }), "{error}");
    }
}
