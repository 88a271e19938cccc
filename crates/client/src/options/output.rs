//! `--output`.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal as _};
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cofferdam_session::{ContentStore, ContentStoreError, FileTarget, OutputTarget, Services};

use super::{OptionError, csv};
use crate::cache_dir::{self, CacheDirError};
use crate::solve::Exporter;

const OPTION: &str = "--output";

/// Store of an image layout written blob by blob (`tar=false`); one for the whole build.
const EXPORT_STORE: &str = "export";

/// Response entry with the descriptor of the exported image, in base64.
const DESCRIPTOR_KEY: &str = "containerimage.descriptor";

/// An output that cannot be taken here.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    /// Binary data would go to the user's screen.
    #[error("type={kind} requires dest=<file>: refusing to write to a terminal")]
    Terminal {
        /// The output type.
        kind: String,
    },
    /// The layout directory cannot be made.
    #[error(transparent)]
    Store(#[from] ContentStoreError),
    /// The layout's index cannot be written.
    #[error(transparent)]
    Index(#[from] CacheDirError),
}

/// Where an output goes at the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// Nothing arrives here: the daemon keeps or pushes it.
    None,
    /// A directory.
    Directory(PathBuf),
    /// A file.
    File(PathBuf),
    /// Standard output.
    Stdout,
}

/// One output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// What the daemon is asked for.
    pub exporter: Exporter,
    /// Where it goes.
    pub destination: Destination,
}

impl Output {
    /// Takes this output, the `index`th of the build, through `services`.
    ///
    /// # Errors
    /// A terminal as standard output, or a layout directory that cannot be made.
    pub fn offer(&self, index: usize, services: Services) -> Result<Services, OutputError> {
        let target = match &self.destination {
            Destination::None => return Ok(services),
            Destination::Directory(path) if self.is_layout() => {
                return Ok(services.content_store(EXPORT_STORE, ContentStore::create(path)?));
            }
            Destination::Directory(path) => {
                let mirror = self.exporter.attrs.get("mode").is_some_and(|mode| mode == "delete");
                OutputTarget::Directory { path: path.clone(), mirror }
            }
            Destination::File(path) => OutputTarget::File(FileTarget::Path(path.clone())),
            Destination::Stdout if io::stdout().is_terminal() => {
                return Err(OutputError::Terminal { kind: self.exporter.kind.clone() });
            }
            Destination::Stdout => OutputTarget::File(FileTarget::writer(tokio::io::stdout())),
        };
        Ok(services.output(index, target))
    }

    /// Completes an image layout after the build, from the build's response.
    ///
    /// # Errors
    /// A malformed response or an index that cannot be written.
    pub fn finish(&self, response: &BTreeMap<String, String>) -> Result<(), OutputError> {
        let (Destination::Directory(path), true) = (&self.destination, self.is_layout()) else {
            return Ok(());
        };
        let Some(descriptor) = response.get(DESCRIPTOR_KEY) else { return Ok(()) };
        let malformed = || CacheDirError::Malformed { what: format!("response {DESCRIPTOR_KEY}") };
        let descriptor = STANDARD.decode(descriptor).map_err(|_| malformed())?;
        let descriptor = serde_json::from_slice(&descriptor).map_err(|_| malformed())?;
        let tag = self.exporter.attrs.get("name").and_then(|name| name.rsplit_once(':'));
        let tag = tag.map(|(_, tag)| tag).filter(|tag| !tag.contains('/')).unwrap_or("latest");
        Ok(cache_dir::put(path, tag, descriptor)?)
    }

    fn is_layout(&self) -> bool {
        self.exporter.kind != "local"
    }
}

/// Parses `type=local,dest=out`, or a bare destination: a directory, or `-` for a tar.
///
/// # Errors
/// Malformed or contradictory fields.
pub fn parse_output(value: &str) -> Result<Output, OptionError> {
    let bare = csv::fields(value).map_err(|source| OptionError::Csv { option: OPTION, source })?;
    if let [only] = bare.as_slice()
        && !only.contains('=')
    {
        let (kind, destination) = match only.as_str() {
            "-" => ("tar", Destination::Stdout),
            path => ("local", Destination::Directory(PathBuf::from(path))),
        };
        let exporter = Exporter { kind: kind.to_string(), ..Exporter::default() };
        return Ok(Output { exporter, destination });
    }
    let pairs = csv::pairs(value).map_err(|source| OptionError::Csv { option: OPTION, source })?;
    let mut exporter = Exporter::default();
    let mut dest = None;
    for (key, value) in pairs {
        match key.as_str() {
            "type" => exporter.kind = value,
            "dest" => dest = Some(value).filter(|dest| !dest.is_empty()),
            "output" => {
                let suggestion = Some("dest");
                return Err(OptionError::UnexpectedKey { option: OPTION, key, suggestion });
            }
            _ => {
                exporter.attrs.insert(key, value);
            }
        }
    }
    if exporter.kind.is_empty() {
        return Err(OptionError::Missing { option: OPTION, key: "type" });
    }
    if exporter.kind == "registry" {
        exporter.kind = "image".to_string();
        exporter.attrs.insert("push".to_string(), "true".to_string());
    }
    let destination = destination(&exporter, dest)?;
    Ok(Output { exporter, destination })
}

fn destination(exporter: &Exporter, dest: Option<String>) -> Result<Destination, OptionError> {
    let tar = exporter.attrs.get("tar").is_none_or(|tar| !matches!(tar.as_str(), "false" | "0"));
    match (exporter.kind.as_str(), dest) {
        ("local", None) => Err(OptionError::Missing { option: OPTION, key: "dest" }),
        ("local", Some(dest)) => Ok(Destination::Directory(PathBuf::from(dest))),
        ("oci" | "docker", None) if !tar => {
            Err(OptionError::Missing { option: OPTION, key: "dest" })
        }
        ("oci" | "docker", Some(dest)) if !tar => Ok(Destination::Directory(PathBuf::from(dest))),
        ("tar" | "oci", None) => Ok(Destination::Stdout),
        ("tar" | "oci" | "docker", Some(dest)) if dest == "-" => Ok(Destination::Stdout),
        ("tar" | "oci" | "docker", Some(dest)) => Ok(Destination::File(PathBuf::from(dest))),
        (_, None) => Ok(Destination::None),
        (kind, Some(dest)) => {
            Err(OptionError::NoDestination { kind: kind.to_string(), dest: PathBuf::from(dest) })
        }
    }
}
