//! The launcher from its first argument to the moment it becomes the process.
//!
//! The order of events is the specification's: app directory, layers' variables, `exec.d`, working
//! directory, process.

use std::env;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use cofferdam_cnb::{ApiVersion, Id, MetadataFile, parse_toml};

use crate::environment::Environment;
use crate::error::{LaunchError, say};
use crate::layers::{layers, read, scripts};
use crate::select::{Request, Selected};
use crate::{execd, shell};

/// The program `launcher`: becomes a process of the image, with the program's arguments and
/// environment. Returns only when that failed, after saying why on standard error.
#[must_use]
pub fn launch() -> ExitCode {
    let mut args = env::args_os();
    let called = args.next().unwrap_or_default();
    let user: Vec<OsString> = args.collect();
    let error = match prepare(&called, &user).and_then(|ready| ready.start(&called)) {
        Ok(never) => match never {},
        Err(error) => error,
    };
    say(format_args!("ERROR: launch: {error}"));
    ExitCode::from(error.code())
}

/// A process that only has to be started, in the app's directory.
struct Ready {
    selected: Selected,
    environment: Environment,
    app: PathBuf,
    /// Scripts that a shell reads first; empty without one.
    profiles: Vec<PathBuf>,
}

fn prepare(called: &OsStr, user: &[OsString]) -> Result<Ready, LaunchError> {
    let platform = platform_api()?;
    if env::var_os("CNB_PROCESS_TYPE").is_some_and(|kind| !kind.is_empty()) {
        say(format_args!(
            "Warning: CNB_PROCESS_TYPE has no effect; use the entrypoint /cnb/process/<type>"
        ));
    }
    let root = directory("CNB_LAYERS_DIR", "/layers");
    let app = directory("CNB_APP_DIR", "/workspace");
    let metadata: MetadataFile =
        parse_toml("metadata.toml", &read(&root.join("config").join("metadata.toml"))?)?;
    let exec_env = env::var("CNB_EXEC_ENV").ok().filter(|name| !name.is_empty());
    let exec_env = exec_env.as_deref().unwrap_or("production");
    let buildpacks = buildpacks(&metadata)?;
    let selected = Request { called, user, metadata: &metadata, platform, exec_env }.select()?;

    env::set_current_dir(&app).map_err(|source| LaunchError::Directory {
        what: "the app's directory",
        path: app.clone(),
        source,
    })?;
    let kind = selected.kind.as_deref();
    let mut environment = Environment::new(env::vars_os());
    let mut all = Vec::new();
    for id in &buildpacks {
        let layers = layers(&root.join(id.escaped()))?;
        environment.add_layers(&layers, kind)?;
        all.extend(layers);
    }
    for program in of_layers(&all, "exec.d", kind)? {
        execd::run(&program, &mut environment)?;
    }
    let profiles = if selected.direct { Vec::new() } else { profiles(&all, &app, kind)? };
    Ok(Ready { selected, environment, app, profiles })
}

fn platform_api() -> Result<ApiVersion, LaunchError> {
    let text = env::var("CNB_PLATFORM_API").ok().filter(|text| !text.is_empty());
    let api = text.ok_or(LaunchError::NoPlatformApi)?.parse::<ApiVersion>();
    api.and_then(ApiVersion::platform).map_err(LaunchError::PlatformApi)
}

fn directory(variable: &str, default: &str) -> PathBuf {
    let value = env::var_os(variable).filter(|value| !value.is_empty());
    value.unwrap_or_else(|| default.into()).into()
}

/// Ids of buildpacks that have layers, in order, when all have an API that is supported.
fn buildpacks(metadata: &MetadataFile) -> Result<Vec<Id>, LaunchError> {
    let mut ids = Vec::new();
    for buildpack in &metadata.buildpacks {
        let api = buildpack.api.parse::<ApiVersion>().and_then(ApiVersion::buildpack);
        api.map_err(|source| LaunchError::BuildpackApi { id: buildpack.id.clone(), source })?;
        ids.push(Id::parse(&buildpack.id)?);
    }
    Ok(ids)
}

/// Files of a directory of each layer, each followed by those for the process type.
fn of_layers(
    layers: &[PathBuf],
    name: &str,
    kind: Option<&str>,
) -> Result<Vec<PathBuf>, LaunchError> {
    let mut files = Vec::new();
    for layer in layers {
        files.extend(scripts(&layer.join(name))?);
        if let Some(kind) = kind {
            files.extend(scripts(&layer.join(name).join(kind))?);
        }
    }
    Ok(files)
}

fn profiles(
    layers: &[PathBuf],
    app: &Path,
    kind: Option<&str>,
) -> Result<Vec<PathBuf>, LaunchError> {
    let mut profiles = of_layers(layers, "profile.d", kind)?;
    profiles.extend(Some(app.join(".profile")).filter(|profile| profile.is_file()));
    Ok(profiles)
}

impl Ready {
    fn start(self, called: &OsStr) -> Result<std::convert::Infallible, LaunchError> {
        let working_dir = self.app.join(&self.selected.working_dir);
        if self.selected.direct {
            self.directly(&working_dir)
        } else {
            self.in_shell(called, &working_dir)
        }
    }

    fn directly(self, working_dir: &Path) -> Result<std::convert::Infallible, LaunchError> {
        let Selected { command: name, args, .. } = &self.selected;
        let program = find(name, self.environment.env.get("PATH").unwrap_or_default())?;
        env::set_current_dir(working_dir).map_err(|source| LaunchError::Directory {
            what: "the working directory",
            path: working_dir.to_owned(),
            source,
        })?;
        let mut command = Command::new(program);
        command.arg0(name).args(args);
        self.replace(command)
    }

    fn in_shell(
        self,
        called: &OsStr,
        working_dir: &Path,
    ) -> Result<std::convert::Infallible, LaunchError> {
        let text = |path: &Path| {
            path.to_str().map(str::to_owned).ok_or_else(|| LaunchError::Text(path.to_owned()))
        };
        let profiles: Vec<String> =
            self.profiles.iter().map(|path| text(path)).collect::<Result<_, _>>()?;
        let Selected { command: name, args, .. } = &self.selected;
        let script = shell::script(&profiles, &text(working_dir)?, args.len());
        let mut command = Command::new(shell::BASH);
        command.arg0("bash").arg("-c").arg(script).arg(called).arg(name).args(args);
        self.replace(command)
    }

    fn replace(&self, mut command: Command) -> Result<std::convert::Infallible, LaunchError> {
        self.environment.give(&mut command);
        let program = command.get_program().to_string_lossy().into_owned();
        Err(LaunchError::Exec { program, source: command.exec() })
    }
}

/// The file of a program: looked up in `path` unless its name has a slash. Empty elements of `path`
/// do not mean the current directory: that is never what an image's author wanted.
fn find(name: &OsStr, path: &str) -> Result<PathBuf, LaunchError> {
    if name.as_bytes().contains(&b'/') {
        return Ok(name.into());
    }
    let executable = |file: &PathBuf| {
        let metadata = file.metadata();
        metadata.is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
    };
    let directories = path.split(':').filter(|directory| !directory.is_empty() && !name.is_empty());
    let files = directories.map(|directory| Path::new(directory).join(name));
    // Absolute, because the working directory changes before it is started.
    let found = files.filter_map(|file| std::path::absolute(file).ok()).find(executable);
    found.ok_or_else(|| LaunchError::NotFound(name.to_string_lossy().into_owned()))
}
