//! What a request asks to be attested: its `attest:…` attributes.

use std::collections::BTreeMap;

use crate::csv;
use crate::predicate::is_builtin_key;

/// The scanner that is used when a request names none.
const DEFAULT_GENERATOR: &str = "docker/buildkit-syft-scanner:stable-1";

/// How much a provenance tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Sources and request, without arguments that may be private.
    Min,
    /// The request whole, the graph, where it comes from and the layers it made.
    Max,
}

/// Which edition of SLSA.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Version {
    /// v0.2.
    V02,
    /// v1.
    #[default]
    V1,
}

impl Version {
    /// The predicate type of this edition.
    #[must_use]
    pub const fn predicate_type(self) -> &'static str {
        match self {
            Self::V02 => "https://slsa.dev/provenance/v0.2",
            Self::V1 => "https://slsa.dev/provenance/v1",
        }
    }
}

/// What is wanted of provenance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProvenanceOptions {
    /// How much it tells.
    pub mode: Mode,
    /// Which edition.
    pub version: Version,
    /// Who the client says builds.
    pub builder_id: String,
    /// Only in images, never beside files.
    pub inline_only: bool,
    /// The client says that the build is reproducible.
    pub reproducible: bool,
    /// Name of the file beside files.
    pub filename: String,
    /// Fail unless every source is known.
    pub complete_materials: bool,
}

impl Default for ProvenanceOptions {
    fn default() -> Self {
        Self {
            mode: Mode::Max,
            version: Version::V1,
            builder_id: String::new(),
            inline_only: false,
            reproducible: false,
            filename: "provenance.json".to_owned(),
            complete_materials: false,
        }
    }
}

/// What is wanted of a software bill of materials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SbomOptions {
    /// Image of the scanner.
    pub generator: String,
    /// What the scanner is told.
    pub parameters: BTreeMap<String, String>,
}

/// Everything a request asks to be attested.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Requested {
    /// Provenance.
    pub provenance: Option<ProvenanceOptions>,
    /// A bill of materials.
    pub sbom: Option<SbomOptions>,
}

/// Attributes that ask for something that there is not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OptionsError {
    /// `attest:x`.
    #[error("unknown attestation type {0:?}")]
    UnknownType(String),
    /// Not comma-separated values.
    #[error("failed to parse {0}")]
    Fields(String),
    /// A word that is not true or false.
    #[error("failed to parse {key} flag {value:?}")]
    Flag {
        /// Its key.
        key: &'static str,
        /// Its value.
        value: String,
    },
    /// Neither `min` nor `max`.
    #[error("invalid mode {0:?}")]
    Mode(String),
    /// An edition of SLSA that is not written here.
    #[error("invalid provenance SLSA version: {0}")]
    Version(String),
    /// A scanner without a name.
    #[error("sbom generator cannot be empty")]
    Generator,
    /// An operator's addition that would replace what the builder says.
    #[error("key {0:?} is builtin and not allowed to be modified in provenance config")]
    BuiltinKey(String),
}

impl Requested {
    /// Reads the attributes of a frontend.
    ///
    /// # Errors
    /// See [`OptionsError`].
    pub fn parse(attrs: &BTreeMap<String, String>) -> Result<Self, OptionsError> {
        let mut requested = Self::default();
        for (key, value) in attrs {
            let kind = key
                .strip_prefix("attest:")
                .or_else(|| key.strip_prefix("build-arg:BUILDKIT_ATTEST_"))
                .map(str::to_ascii_lowercase);
            let Some(kind) = kind else { continue };
            let options = options(&kind, value)?;
            match kind.as_str() {
                "provenance" => requested.provenance = Some(provenance(options)?),
                "sbom" => requested.sbom = Some(sbom(options)?),
                _ => return Err(OptionsError::UnknownType(kind)),
            }
        }
        Ok(requested)
    }
}

/// Checks what an operator adds to every provenance.
///
/// # Errors
/// A key that the builder itself writes.
pub fn check_environment<'a>(keys: impl Iterator<Item = &'a String>) -> Result<(), OptionsError> {
    for key in keys {
        if is_builtin_key(key) {
            return Err(OptionsError::BuiltinKey(key.clone()));
        }
    }
    Ok(())
}

fn options(kind: &str, value: &str) -> Result<BTreeMap<String, String>, OptionsError> {
    if value.is_empty() {
        return Ok(BTreeMap::new());
    }
    let fields = csv::fields(value).ok_or_else(|| OptionsError::Fields(kind.to_owned()))?;
    let pairs = fields.into_iter().map(|field| match field.split_once('=') {
        Some((key, value)) => (key.to_owned(), value.to_owned()),
        None => (field, String::new()),
    });
    Ok(pairs.collect())
}

fn provenance(options: BTreeMap<String, String>) -> Result<ProvenanceOptions, OptionsError> {
    let mut wanted = ProvenanceOptions::default();
    for (key, value) in options {
        match key.as_str() {
            "mode" => {
                wanted.mode = match value.as_str() {
                    "min" => Mode::Min,
                    "max" | "full" => Mode::Max,
                    _ => return Err(OptionsError::Mode(value)),
                };
            }
            "version" => {
                wanted.version = match value.as_str() {
                    "v1" => Version::V1,
                    "v0.2" => Version::V02,
                    _ => return Err(OptionsError::Version(value)),
                };
            }
            "builder-id" => wanted.builder_id = value,
            // As with the client's own tools, a word that is no boolean means no.
            "inline-only" => wanted.inline_only = boolean(&value).unwrap_or(false),
            "reproducible" => wanted.reproducible = flag("reproducible", value)?,
            "complete-materials" => wanted.complete_materials = flag("complete-materials", value)?,
            "filename" => wanted.filename = value,
            _ => {}
        }
    }
    Ok(wanted)
}

fn sbom(mut options: BTreeMap<String, String>) -> Result<SbomOptions, OptionsError> {
    let generator = options.remove("generator").unwrap_or_else(|| DEFAULT_GENERATOR.to_owned());
    if generator.is_empty() {
        return Err(OptionsError::Generator);
    }
    Ok(SbomOptions { generator, parameters: options })
}

fn flag(key: &'static str, value: String) -> Result<bool, OptionsError> {
    boolean(&value).ok_or(OptionsError::Flag { key, value })
}

fn boolean(value: &str) -> Option<bool> {
    match value {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn parse(key: &str, value: &str) -> Result<Requested, OptionsError> {
        Requested::parse(&BTreeMap::from([(key.to_owned(), value.to_owned())]))
    }

    #[test]
    fn options_are_read() {
        assert_eq!(parse("target", "x").unwrap(), Requested::default());
        let most = parse("attest:provenance", "").unwrap().provenance.unwrap();
        assert_eq!(most, ProvenanceOptions::default());
        let text = "mode=min,version=v0.2,builder-id=b,inline-only=true,reproducible=1,filename=p";
        let some = parse("attest:provenance", text).unwrap().provenance.unwrap();
        assert_eq!((some.mode, some.version), (Mode::Min, Version::V02));
        assert!(some.inline_only && some.reproducible && some.filename == "p");
        let sbom = parse("build-arg:BUILDKIT_ATTEST_SBOM", "generator=g,x=y").unwrap();
        let sbom = sbom.sbom.unwrap();
        assert_eq!((sbom.generator.as_str(), sbom.parameters["x"].as_str()), ("g", "y"));
        let sbom = parse("attest:sbom", "").unwrap().sbom.unwrap();
        assert_eq!(sbom.generator, DEFAULT_GENERATOR);
    }

    #[test]
    fn nonsense_is_refused() {
        for (key, value) in [
            ("attest:x", ""),
            ("attest:provenance", "mode=all"),
            ("attest:provenance", "version=v2"),
            ("attest:provenance", "reproducible=maybe"),
            ("attest:provenance", "\"mode"),
            ("attest:sbom", "generator="),
        ] {
            assert!(parse(key, value).is_err(), "{key}={value}");
        }
    }
}
