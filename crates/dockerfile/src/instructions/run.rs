//! `RUN`, and the command lines it shares with `CMD` and `ENTRYPOINT`.

use super::flags::{Flags, Known, Takes};
use super::mount::declared;
use super::{CommandLine, Device, InlineFile, InstructionError, Network, Run, Security};
use crate::parser::Node;
use crate::scalar::{CsvError, csv_fields, parse_bool};
use crate::suggest::{DidYouMean, suggest};

const FLAGS: &Known = &[
    ("mount", Takes::Values),
    ("network", Takes::Value),
    ("security", Takes::Value),
    ("device", Takes::Values),
];

/// A flag of `RUN` with a value that means nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RunError {
    /// `--network`
    #[error("invalid network mode {0:?}")]
    Network(String),
    /// `--security`
    #[error("security {0:?} is not valid")]
    Security(String),
    /// `--device` is not comma-separated fields.
    #[error("failed to parse csv devices: {0}")]
    DeviceFields(#[source] CsvError),
    /// `--device` has two names.
    #[error("device name already set to {0}")]
    DeviceName(String),
    /// An option of `--device` that needs a value.
    #[error("invalid field '{0}' must be a key=value pair")]
    DevicePair(String),
    /// A boolean option of `--device`.
    #[error("invalid value for required: {0}")]
    DeviceRequired(String),
    /// `--device` has no such option.
    #[error("unexpected key '{key}' in '{field}'{hint}")]
    DeviceKey {
        /// The option.
        key: String,
        /// The whole field.
        field: String,
        /// A similar option.
        hint: DidYouMean,
    },
}

pub(super) fn run(node: &Node) -> Result<Run, InstructionError> {
    let flags = Flags::read(&node.flags, FLAGS)?;
    let devices =
        flags.values("device").iter().map(|text| device(text)).collect::<Result<_, _>>()?;
    let mount_flags = flags.values("mount");
    let mounts = mount_flags.iter().map(|text| declared(text)).collect::<Result<_, _>>()?;
    let network = match flags.find("network") {
        None | Some("default") => Network::Default,
        Some("none") => Network::None,
        Some("host") => Network::Host,
        Some(other) => return Err(RunError::Network(other.to_owned()).into()),
    };
    let security = match flags.find("security") {
        None | Some("sandbox") => Security::Sandbox,
        Some("insecure") => Security::Insecure,
        Some(other) => return Err(RunError::Security(other.to_owned()).into()),
    };
    let flags_used = flags.names();
    Ok(Run {
        command: command_line(node),
        mount_flags,
        mounts,
        network,
        security,
        devices,
        flags_used,
    })
}

pub(super) fn command_line(node: &Node) -> CommandLine {
    let files = node.heredocs.iter().map(|heredoc| InlineFile {
        name: heredoc.name.clone(),
        data: heredoc.content.clone(),
        strip_tabs: heredoc.strip_tabs,
    });
    CommandLine {
        words: shell_words(&node.arguments, node.json),
        shell: !node.json,
        files: files.collect(),
    }
}

/// Exec form: the arguments. Shell form: one text.
pub(super) fn shell_words(arguments: &[String], json: bool) -> Vec<String> {
    if json || arguments.is_empty() { arguments.to_vec() } else { vec![arguments.join(" ")] }
}

/// A name first, in any field that is no known option.
fn device(text: &str) -> Result<Device, RunError> {
    let mut device = Device::default();
    for field in csv_fields(text).map_err(RunError::DeviceFields)? {
        let (key, value) = match field.split_once('=') {
            Some((key, value)) => (key.to_lowercase(), Some(value)),
            None => (field.to_lowercase(), None),
        };
        match (key.as_str(), value) {
            ("required", None) => device.required = true,
            ("required", Some(value)) => {
                device.required =
                    parse_bool(value).ok_or_else(|| RunError::DeviceRequired(value.to_owned()))?;
            }
            ("name", Some(_)) if !device.name.is_empty() => {
                return Err(RunError::DeviceName(device.name));
            }
            ("name", Some(value)) => value.clone_into(&mut device.name),
            _ if device.name.is_empty() => device.name = field,
            (_, None) => return Err(RunError::DevicePair(field)),
            (_, Some(_)) => {
                let hint = DidYouMean(suggest(&key, ["name", "required"]));
                return Err(RunError::DeviceKey { key, field, hint });
            }
        }
    }
    Ok(device)
}
