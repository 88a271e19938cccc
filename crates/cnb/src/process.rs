//! Processes: `launch.toml` of a buildpack, `metadata.toml` of an image.

use std::fmt;

use serde::de::value::SeqAccessDeserializer;
use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::api::ApiVersion;
use crate::text::{FileError, parse_toml};

/// Longest process type: it becomes the name of a file.
const MAX_TYPE: usize = 200;

/// `launch.toml`, as Buildpack API 0.9 and later have it; see the notes on older forms.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
pub struct LaunchFile {
    /// Labels of the image.
    #[serde(default)]
    pub labels: Vec<Label>,
    /// Processes of the image. Here `direct` is `None` unless the file has the key, which is an error
    /// from 0.9 on; a `command` that is a string (before 0.9) is a list of one.
    #[serde(default)]
    pub processes: Vec<Process>,
    /// Parts of the app that become layers of their own.
    #[serde(default)]
    pub slices: Vec<Slice>,
}

/// One label.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Label {
    /// Name.
    pub key: String,
    /// Value.
    pub value: String,
}

/// Globs relative to the app.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slice {
    /// Globs; `*` never matches `/`.
    #[serde(default)]
    pub paths: Vec<String>,
}

/// A process type.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Raw")]
pub struct Process {
    /// Its name.
    #[serde(rename = "type")]
    pub kind: String,
    /// Program and arguments that users cannot replace.
    pub command: Vec<String>,
    /// Whether the file has `command` as one text, the form before Buildpack API 0.9. Never written.
    #[serde(skip)]
    pub text_command: bool,
    /// Arguments that users can replace.
    pub args: Vec<String>,
    /// Whether it runs without a shell; `None` where the file does not say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub direct: Option<bool>,
    /// Whether the image starts it by default. Only in `launch.toml`.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub default: bool,
    /// The buildpack it comes from. Only in `metadata.toml`.
    #[serde(rename = "buildpack-id", skip_serializing_if = "String::is_empty")]
    pub buildpack_id: String,
    /// Where it starts, relative to the app; the app itself when empty.
    #[serde(rename = "working-dir", skip_serializing_if = "String::is_empty")]
    pub working_dir: String,
    /// Execution environments it is for; all, when empty.
    #[serde(rename = "exec-env", skip_serializing_if = "Vec::is_empty")]
    pub exec_env: Vec<String>,
}

/// A process as a file has it, with either form of `command`.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Raw {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    command: Command,
    #[serde(default)]
    args: Vec<String>,
    direct: Option<bool>,
    #[serde(default)]
    default: bool,
    #[serde(default)]
    buildpack_id: String,
    #[serde(default)]
    working_dir: String,
    #[serde(default)]
    exec_env: Vec<String>,
}

impl From<Raw> for Process {
    fn from(raw: Raw) -> Self {
        let Raw { kind, command, args, direct, default, buildpack_id, working_dir, exec_env } = raw;
        let (command, text_command) = match command {
            Command::Text(text) => (vec![text], true),
            Command::List(list) => (list, false),
        };
        Self {
            kind,
            command,
            text_command,
            args,
            direct,
            default,
            buildpack_id,
            working_dir,
            exec_env,
        }
    }
}

/// `config/metadata.toml`: what the launcher reads.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct MetadataFile {
    /// Buildpacks that took part, in order.
    #[serde(default)]
    pub buildpacks: Vec<MetadataModule>,
    /// Extensions that took part.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub extensions: Vec<MetadataModule>,
    /// Processes, ordered by type.
    #[serde(default)]
    pub processes: Vec<Process>,
    /// The process that a buildpack made the default.
    #[serde(
        default,
        rename = "buildpack-default-process-type",
        skip_serializing_if = "String::is_empty"
    )]
    pub default_process: String,
    /// Labels.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<Label>,
    /// Slices.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub slices: Vec<Slice>,
}

/// A module in `metadata.toml` and `group.toml`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MetadataModule {
    /// Its id.
    pub id: String,
    /// Its version.
    pub version: String,
    /// Its Buildpack API.
    #[serde(default)]
    pub api: String,
    /// Where to read about it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub homepage: String,
}

impl LaunchFile {
    /// Reads `launch.toml` of a buildpack of this API; `file` is named in errors. Returns it with
    /// warnings for the user. What the API does not have is not in it: `working_dir` before 0.8.
    /// `direct` is always there: false unless the file says otherwise, true from 0.9 on.
    ///
    /// # Errors
    /// See [`LaunchFile::check`]; also when it is not TOML of that form.
    pub fn read(
        api: ApiVersion,
        file: &str,
        bytes: &[u8],
    ) -> Result<(Self, Vec<String>), FileError> {
        let mut launch: Self = parse_toml(file, bytes)?;
        let warnings = launch.check(api, file)?;
        for process in &mut launch.processes {
            process.direct = Some(process.direct.unwrap_or(api.at_least(9)));
            if !api.at_least(8) {
                process.working_dir.clear();
            }
        }
        Ok((launch, warnings))
    }

    /// Checks it against the rules of a Buildpack API and returns warnings for the user.
    ///
    /// # Errors
    /// A type that is no file name, no command, a `direct` or a `command` that is text from 0.9 on,
    /// more than one default process, a label without name.
    pub fn check(&self, api: ApiVersion, file: &str) -> Result<Vec<String>, FileError> {
        let mut warnings = Vec::new();
        for process in &self.processes {
            process.check(api, file)?;
            if !process.working_dir.is_empty() && !api.at_least(8) {
                let kind = &process.kind;
                warnings.push(format!(
                    "{file}: working-dir of process {kind} is ignored: it needs Buildpack API 0.8, this is {api}"
                ));
            }
        }
        let mut defaults = self.processes.iter().filter(|process| process.default);
        if let (Some(first), Some(second)) = (defaults.next(), defaults.next()) {
            let problem = format!("both {} and {} are the default", first.kind, second.kind);
            return Err(FileError::value(file, "processes.default", problem));
        }
        if self.labels.iter().any(|label| label.key.is_empty()) {
            return Err(FileError::value(file, "labels.key", "is empty"));
        }
        Ok(warnings)
    }
}

impl Process {
    /// Whether it takes part in an execution environment.
    #[must_use]
    pub fn runs_in(&self, exec_env: &str) -> bool {
        self.exec_env.is_empty() || self.exec_env.iter().any(|env| env == "*" || env == exec_env)
    }

    fn check(&self, api: ApiVersion, file: &str) -> Result<(), FileError> {
        let error = |key: &str, problem: String| {
            Err(FileError::value(file, format!("processes.{key}"), problem))
        };
        let kind: String = self.kind.chars().take(80).collect();
        if !is_process_type(&self.kind) {
            let problem = format!("{kind:?} may only have letters, digits, '.', '_' and '-'");
            return error("type", problem);
        }
        if self.command.first().is_none_or(String::is_empty) {
            return error("command", format!("of process {kind} is empty"));
        }
        let strings = self.command.iter().chain(&self.args).chain([&self.working_dir]);
        if strings.into_iter().any(|string| string.contains('\0')) {
            return error("command", format!("of process {kind} has a NUL"));
        }
        if api.at_least(9) && self.direct.is_some() {
            let problem = format!("of process {kind} does not exist since Buildpack API 0.9");
            return error("direct", problem);
        }
        if api.at_least(9) && self.text_command {
            let problem = format!("of process {kind} must be an array since Buildpack API 0.9");
            return error("command", problem);
        }
        if !api.at_least(9) && !self.text_command {
            let problem = format!("of process {kind} must be a string before Buildpack API 0.9");
            return error("command", problem);
        }
        Ok(())
    }
}

/// Whether a process may be called so: it becomes a file in a directory of programs.
fn is_process_type(kind: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    let dots = kind == "." || kind == "..";
    !kind.is_empty() && kind.len() <= MAX_TYPE && !dots && kind.bytes().all(allowed)
}

/// `command` in either form.
enum Command {
    Text(String),
    List(Vec<String>),
}

impl Default for Command {
    fn default() -> Self {
        Self::List(Vec::new())
    }
}

impl<'de> Deserialize<'de> for Command {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(Either)
    }
}

struct Either;

impl<'de> Visitor<'de> for Either {
    type Value = Command;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a string or an array of strings")
    }

    fn visit_str<E>(self, text: &str) -> Result<Command, E> {
        Ok(Command::Text(text.to_owned()))
    }

    fn visit_unit<E>(self) -> Result<Command, E> {
        Ok(Command::default())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Command, A::Error> {
        Vec::deserialize(SeqAccessDeserializer::new(list)).map(Command::List)
    }
}

/// For labels, where both forms mean the same.
pub(crate) fn one_or_many<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    Command::deserialize(from).map(|command| match command {
        Command::Text(text) => vec![text],
        Command::List(list) => list,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn read(minor: u32, text: &str) -> Result<(LaunchFile, Vec<String>), String> {
        LaunchFile::read(ApiVersion::minor(minor), "launch.toml", text.as_bytes())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn both_forms_of_commands() {
        let new = "[[processes]]\ntype='web'\ncommand=['srv','--base']\nargs=['-p']\ndefault=true\nworking-dir='sub'\nexec-env=['test']";
        let (launch, warnings) = read(12, new).unwrap();
        let process = &launch.processes[0];
        assert_eq!(process.command, ["srv", "--base"]);
        assert!(process.default && process.direct == Some(true) && !process.text_command);
        assert!(process.runs_in("test") && !process.runs_in("production"));
        assert!(warnings.is_empty());
        assert!(read(8, new).unwrap_err().contains("must be a string"));

        let old = "[[processes]]\ntype='web'\ncommand='srv'\ndirect=true\nworking-dir='sub'";
        let (launch, warnings) = read(7, old).unwrap();
        assert_eq!(launch.processes[0].command, ["srv"]);
        assert_eq!(launch.processes[0].working_dir, "");
        assert!(warnings[0].contains("working-dir of process web"), "{warnings:?}");
        assert_eq!(read(8, old).unwrap().0.processes[0].working_dir, "sub");
        assert!(read(9, old).unwrap_err().contains("processes.direct"));
        let text = "[[processes]]\ntype='web'\ncommand='srv'";
        assert_eq!(read(8, text).unwrap().0.processes[0].direct, Some(false));
        assert!(read(9, text).unwrap_err().contains("must be an array"));
    }

    #[test]
    fn metadata_is_written_without_marks_of_its_source() {
        let (launch, _) = read(8, "[[processes]]\ntype='web'\ncommand='srv'").unwrap();
        let written = toml::to_string(&launch.processes[0]).unwrap();
        assert_eq!(written, "type = \"web\"\ncommand = [\"srv\"]\nargs = []\ndirect = false\n");
    }

    #[test]
    fn what_is_wrong_is_named() {
        let long = "x".repeat(MAX_TYPE + 1);
        let types =
            ["", ".", "..", "a/b", "a b", "a>b", "a|b", "a&b", "a\\\\b", "é", "a\\u001b[2J", &long];
        for kind in types {
            let text = format!("[[processes]]\ntype=\"{kind}\"\ncommand=['x']");
            let error = read(12, &text).unwrap_err();
            assert!(
                error.contains("processes.type") && !error.contains('\u{1b}'),
                "{kind}: {error}"
            );
        }
        let process = |more: &str| format!("[[processes]]\ntype='web'\n{more}\n");
        for more in [
            "",
            "command=[]",
            "command=['']",
            "command=[\"a\\u0000\"]",
            "command=['a']\nargs=[\"\\u0000\"]",
        ] {
            assert!(read(12, &process(more)).unwrap_err().contains("processes.command"), "{more}");
        }
        for more in ["command=1", "command=[1]", "command={a=1}", "command=true"] {
            assert!(read(12, &process(more)).unwrap_err().contains("expected"), "{more}");
        }
        let two = process("command=['a']\ndefault=true").repeat(2);
        assert!(read(12, &two).unwrap_err().contains("both web and web"));
        assert!(read(12, "[[labels]]\nkey=''\nvalue='x'").unwrap_err().contains("labels.key"));
    }
}
