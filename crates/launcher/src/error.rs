//! What can keep a process from being launched, and with which exit code the launcher ends then.

use std::fmt;
use std::io::{self, Write};
use std::path::PathBuf;

use cofferdam_cnb::{ApiError, FileError, IdError, exit};

#[derive(Debug, thiserror::Error)]
pub(crate) enum LaunchError {
    #[error("CNB_PLATFORM_API is not set; set it to the Platform API of the image, such as 0.15")]
    NoPlatformApi,
    #[error("CNB_PLATFORM_API: {0}")]
    PlatformApi(ApiError),
    #[error("buildpack {id:?}: {source}")]
    BuildpackApi { id: String, source: ApiError },
    #[error(transparent)]
    Metadata(#[from] FileError),
    #[error("metadata.toml: {0}")]
    Id(#[from] IdError),
    #[error("process {kind:?} is not for execution environment {exec_env:?}")]
    ExecEnv { kind: String, exec_env: String },
    #[error("process {0:?} has no command")]
    NoCommand(String),
    #[error("there is no process {0:?} in this image, and no command was given")]
    Nothing(String),
    #[error("read {path:?}: {source}")]
    Read { path: PathBuf, source: io::Error },
    #[error("{path:?} has more than {limit} {what}")]
    Limit { path: PathBuf, limit: usize, what: &'static str },
    #[error("change into {what} {path:?}: {source}")]
    Directory { what: &'static str, path: PathBuf, source: io::Error },
    #[error("run {path:?}: {source}")]
    ExecD { path: PathBuf, source: io::Error },
    #[error("{path:?} failed: {status}")]
    ExecDFailed { path: PathBuf, status: std::process::ExitStatus },
    #[error("{path:?} wrote to descriptor 3: {problem}")]
    ExecDOutput { path: PathBuf, problem: String },
    #[error("{0:?} was not found in PATH")]
    NotFound(String),
    #[error("path {0:?} is not UTF-8, which a shell command needs")]
    Text(PathBuf),
    #[error("start {program:?}: {source}")]
    Exec { program: String, source: io::Error },
}

impl LaunchError {
    /// The launcher's exit code.
    pub(crate) fn code(&self) -> u8 {
        match self {
            Self::NoPlatformApi | Self::PlatformApi(_) => exit::PLATFORM_API,
            Self::BuildpackApi { .. } => exit::BUILDPACK_API,
            _ => exit::LAUNCH,
        }
    }
}

/// Says one line on standard error. Unlike `eprintln`, a reader that has gone away changes nothing.
pub(crate) fn say(line: fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr(), "{line}");
}
