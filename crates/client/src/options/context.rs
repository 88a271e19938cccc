//! `--build-context`.

use std::path::PathBuf;

use super::{CsvError, OptionError};

const OPTION: &str = "--build-context";

/// What a named context is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BuildContext {
    /// A local directory, sent through the session.
    Directory(PathBuf),
    /// An OCI layout directory, with a tag or digest.
    OciLayout {
        /// The directory.
        path: PathBuf,
        /// After the colon; `latest` when missing.
        tag: Option<String>,
        /// After the at sign.
        digest: Option<String>,
    },
    /// Anything the daemon fetches itself (`docker-image://…`, a URL, `target:…`).
    Remote(String),
}

/// Parses `name=value`.
///
/// # Errors
/// No name or no value.
pub fn parse_build_context(value: &str) -> Result<(String, BuildContext), OptionError> {
    let source = CsvError::Pair { position: 1 };
    let malformed = OptionError::Csv { option: OPTION, source };
    let (name, value) = value.split_once('=').ok_or(malformed.clone())?;
    if name.is_empty() || value.is_empty() {
        return Err(malformed);
    }
    Ok((name.to_string(), classify(value)))
}

fn classify(value: &str) -> BuildContext {
    if let Some(layout) = value.strip_prefix("oci-layout://") {
        let (rest, digest) = match layout.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.to_string())),
            None => (layout, None),
        };
        // A colon before the last slash belongs to the path.
        let name = rest.rfind('/').map_or(0, |slash| slash + 1);
        let (path, tag) = match rest[name..].rfind(':') {
            Some(colon) => (&rest[..name + colon], Some(rest[name + colon + 1..].to_string())),
            None => (rest, None),
        };
        return BuildContext::OciLayout { path: PathBuf::from(path), tag, digest };
    }
    let remote = value.contains("://")
        || value.starts_with("target:")
        || value.starts_with("git@")
        || value.starts_with("github.com/");
    if remote {
        BuildContext::Remote(value.to_string())
    } else {
        BuildContext::Directory(PathBuf::from(value))
    }
}
