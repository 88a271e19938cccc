//! `--ssh`.

use std::path::PathBuf;

use super::OptionError;

const OPTION: &str = "--ssh";

/// One forwarded agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agent {
    /// Its name in the build.
    pub id: String,
    /// Its socket; the environment's agent when missing.
    pub socket: Option<PathBuf>,
}

/// Parses `default`, `id`, `id=/path/to/socket`.
///
/// # Errors
/// An empty id or several paths: keys are forwarded through an agent that holds them.
pub fn parse_ssh(value: &str) -> Result<Agent, OptionError> {
    let (id, path) = match value.split_once('=') {
        Some((id, path)) => (id, Some(path)),
        None => (value, None),
    };
    if id.is_empty() {
        return Err(OptionError::Missing { option: OPTION, key: "id" });
    }
    let socket = match path {
        None | Some("") => None,
        Some(path) if path.contains(',') => {
            return Err(OptionError::InvalidValue {
                option: OPTION,
                key: "path",
                value: path.to_string(),
            });
        }
        Some(path) => Some(PathBuf::from(path)),
    };
    Ok(Agent { id: id.to_string(), socket })
}
