//! Buildpacks that are scripts of a project descriptor.
//!
//! A script becomes the files of a buildpack whose detection always passes. Both programs are run by
//! the script's own shell: the detection is an empty script, which ends with 0 in every language.

use cofferdam_cnb::{ApiError, ApiVersion, Id, IdError, Kind, ModuleRef, Version};
use cofferdam_digest::Digest;

use crate::text::short;

/// Longest first line that Linux reads for an interpreter, with `#!`.
const MAX_SHELL: usize = 250;
/// What runs a script that does not say.
const DEFAULT_SHELL: &str = "/bin/sh";
/// The version of a script that does not say.
const DEFAULT_VERSION: &str = "0.0.0";

/// A script of a project descriptor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Script {
    /// The Buildpack API it is written for.
    pub api: String,
    /// Its text.
    pub inline: String,
    /// What runs it, an absolute path and possibly one argument; `/bin/sh` when missing.
    pub shell: Option<String>,
}

/// The buildpack that a script becomes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InlineBuildpack {
    /// What names it.
    pub module: ModuleRef,
    /// Its files; directories are implied.
    pub files: Vec<InlineFile>,
}

/// A file of a buildpack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InlineFile {
    /// Path below the buildpack's directory.
    pub path: &'static str,
    /// Permissions.
    pub mode: u32,
    /// Content.
    pub bytes: Vec<u8>,
}

/// A script that cannot become a buildpack.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InlineError {
    /// Its API.
    #[error("script.api: {0}")]
    Api(#[from] ApiError),
    /// Its shell.
    #[error("script.shell: {0:?} is not an absolute path on one line")]
    Shell(String),
    /// Its text.
    #[error("script.inline: the text has a NUL")]
    Text,
    /// Its id or version.
    #[error(transparent)]
    Id(#[from] IdError),
}

/// The buildpack that a script becomes.
///
/// Without an id it is called `inline/<digest>`, after what the script is; without a version it is
/// `0.0.0`.
///
/// # Errors
/// See [`InlineError`].
pub fn inline_buildpack(
    id: Option<&str>,
    version: Option<&str>,
    script: &Script,
) -> Result<InlineBuildpack, InlineError> {
    let api = script.api.parse::<ApiVersion>().and_then(ApiVersion::buildpack)?;
    let shell = script.shell.as_deref().filter(|shell| !shell.is_empty()).unwrap_or(DEFAULT_SHELL);
    let plain = |char: char| char == ' ' || (!char.is_control() && !char.is_whitespace());
    if !shell.starts_with('/') || shell.len() > MAX_SHELL || !shell.chars().all(plain) {
        return Err(InlineError::Shell(short(shell)));
    }
    if script.inline.contains('\0') {
        return Err(InlineError::Text);
    }
    let id = match id.filter(|id| !id.is_empty()) {
        Some(id) => Id::parse(id)?,
        None => {
            let digest = Digest::of(format!("{shell}\0{}", script.inline)).hex();
            Id::parse(&format!("inline/{}", &digest[..16]))?
        }
    };
    let version = version.filter(|version| !version.is_empty()).unwrap_or(DEFAULT_VERSION);
    let version = Version::parse(version)?;
    // Ids, versions and APIs have no character that TOML would read differently. The wildcard stack
    // is the one form that every API reads as "anywhere".
    let descriptor = format!(
        "api = \"{api}\"\n\n[buildpack]\nid = \"{id}\"\nversion = \"{version}\"\n\n\
         [[stacks]]\nid = \"*\"\n"
    );
    let file = |path, mode, text: String| InlineFile { path, mode, bytes: text.into_bytes() };
    let files = vec![
        file("buildpack.toml", 0o644, descriptor),
        file("bin/detect", 0o755, format!("#!{shell}\n")),
        file("bin/build", 0o755, format!("#!{shell}\n\n{}\n", script.inline)),
    ];
    Ok(InlineBuildpack { module: ModuleRef { kind: Kind::Buildpack, id, version }, files })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use cofferdam_cnb::Descriptor;

    use super::*;

    fn script(api: &str, inline: &str, shell: Option<&str>) -> Script {
        Script { api: api.to_owned(), inline: inline.to_owned(), shell: shell.map(str::to_owned) }
    }

    #[test]
    fn a_script_becomes_a_buildpack_that_is_read_back() {
        let made = inline_buildpack(Some("me/x"), None, &script("0.7", "echo hi", None)).unwrap();
        assert_eq!(made.module.to_string(), "me/x@0.0.0");
        let [descriptor, detect, build] = made.files.as_slice() else { panic!("three files") };
        let read = Descriptor::parse(Kind::Buildpack, descriptor.path, &descriptor.bytes).unwrap();
        assert_eq!(read.module(), made.module);
        assert_eq!(
            (detect.path, detect.mode, &*detect.bytes),
            ("bin/detect", 0o755, &b"#!/bin/sh\n"[..])
        );
        assert_eq!(&*build.bytes, b"#!/bin/sh\n\necho hi\n");
    }

    #[test]
    fn a_script_without_id_is_named_after_what_it_is() {
        let name = |inline: &str, shell| {
            inline_buildpack(None, Some("1.0.0"), &script("0.12", inline, shell)).unwrap().module
        };
        let first = name("echo hi", None);
        assert!(first.id.as_str().starts_with("inline/"));
        assert_eq!(first, name("echo hi", Some("/bin/sh")));
        assert_ne!(first, name("echo ho", None));
        assert_ne!(first, name("echo hi", Some("/usr/bin/env bash")));
    }

    #[test]
    fn hostile_scripts_are_refused() {
        for (id, version, script) in [
            ("a", "1", script("", "x", None)),
            ("a", "1", script("0.6", "x", None)),
            ("a", "1", script("\u{1b}", "x", None)),
            ("a", "1", script("0.10", "x\0", None)),
            ("a", "1", script("0.10", "x", Some("sh"))),
            ("a", "1", script("0.10", "x", Some("/bin/sh\nevil"))),
            ("a", "1", script("0.10", "x", Some("/bin/\u{1b}[2J"))),
            ("a", "1", script("0.10", "x", Some(&"/x".repeat(200)))),
            ("../a", "1", script("0.10", "x", None)),
            ("app", "1", script("0.10", "x", None)),
            ("a", "../1", script("0.10", "x", None)),
            ("a\"\n[x]", "1", script("0.10", "x", None)),
        ] {
            let error = inline_buildpack(Some(id), Some(version), &script).unwrap_err();
            assert!(!error.to_string().contains('\u{1b}'), "{error}");
        }
    }
}
