//! `RUN --mount`: its options and their rules.
//!
//! Follows the `--mount` section of the
//! [Dockerfile reference](https://docs.docker.com/reference/dockerfile/#run---mount). Only
//! checks what is written; whether a source exists is not known here.

use crate::expand::ExpandError;
use crate::scalar::{CsvError, csv_fields, parse_bool, parse_size, parse_u32};
use crate::suggest::{DidYouMean, suggest};

const KEYS: [&str; 19] = [
    "type",
    "from",
    "source",
    "target",
    "readonly",
    "id",
    "sharing",
    "required",
    "size",
    "mode",
    "uid",
    "gid",
    "src",
    "dst",
    "destination",
    "ro",
    "rw",
    "readwrite",
    "env",
];
const KINDS: [(&str, MountKind); 5] = [
    ("bind", MountKind::Bind),
    ("cache", MountKind::Cache),
    ("tmpfs", MountKind::Tmpfs),
    ("secret", MountKind::Secret),
    ("ssh", MountKind::Ssh),
];
const SHARINGS: [(&str, MountSharing); 3] = [
    ("shared", MountSharing::Shared),
    ("private", MountSharing::Private),
    ("locked", MountSharing::Locked),
];

/// One `RUN --mount`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Mount {
    /// `type`
    pub kind: MountKind,
    /// `from`; empty when absent.
    pub from: String,
    /// `source`; empty when absent.
    pub source: String,
    /// `target`; empty when absent.
    pub target: String,
    /// Read-only, given or by the default of the type.
    pub readonly: bool,
    /// `size` in bytes, tmpfs only; zero when absent.
    pub size: i64,
    /// `id`; empty when absent.
    pub id: String,
    /// `sharing`, cache only.
    pub sharing: Option<MountSharing>,
    /// `required`, secret and ssh only.
    pub required: bool,
    /// `env`: name of the variable a secret goes to; empty means the default name.
    pub env: Option<String>,
    /// `mode`
    pub mode: Option<u32>,
    /// `uid`
    pub uid: Option<u32>,
    /// `gid`
    pub gid: Option<u32>,
}

/// `type` of a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MountKind {
    /// Files of the context, a stage or an image.
    #[default]
    Bind,
    /// A directory kept between builds.
    Cache,
    /// A temporary file system.
    Tmpfs,
    /// A secret as a file or variable.
    Secret,
    /// A forwarded SSH agent.
    Ssh,
}

/// `sharing` of a cache mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MountSharing {
    /// Several steps at once.
    Shared,
    /// Another directory for every concurrent step.
    Private,
    /// One step at a time.
    Locked,
}

impl MountKind {
    /// The name in a Dockerfile.
    #[must_use]
    pub fn name(self) -> &'static str {
        KINDS.iter().find(|(_, kind)| *kind == self).map_or("bind", |(name, _)| name)
    }
}

/// A `--mount` that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MountError {
    /// Not comma-separated fields.
    #[error("failed to parse csv mounts: {0}")]
    Fields(#[source] CsvError),
    /// A value does not expand.
    #[error(transparent)]
    Expand(#[from] ExpandError),
    /// `from` holds a variable.
    #[error("'{0}' doesn't support variable expansion, define alias stage instead")]
    FromVariable(&'static str),
    /// An option that needs a value.
    #[error("invalid field '{0}' must be a key=value pair")]
    NotPair(String),
    /// No such option.
    #[error("unexpected key '{key}' in '{field}'{hint}")]
    UnknownKey {
        /// The option.
        key: String,
        /// The whole field.
        field: String,
        /// A similar option.
        hint: DidYouMean,
    },
    /// An option of another type of mount.
    #[error("unexpected key '{key}' for mount type '{kind}'")]
    ForeignKey {
        /// The option.
        key: String,
        /// The type of this mount.
        kind: &'static str,
    },
    /// No such type.
    #[error("unsupported mount type {value:?}{hint}")]
    UnknownKind {
        /// The type.
        value: String,
        /// A similar one.
        hint: DidYouMean,
    },
    /// No such sharing mode.
    #[error("unsupported sharing value {value:?}{hint}")]
    UnknownSharing {
        /// The mode.
        value: String,
        /// A similar one.
        hint: DidYouMean,
    },
    /// A boolean or size that is none.
    #[error("invalid value for {key}: {value}")]
    Value {
        /// The option.
        key: String,
        /// Its value.
        value: String,
    },
    /// A mode or id that is no number.
    #[error("invalid value {value} for {key}")]
    Number {
        /// The option.
        key: String,
        /// Its value.
        value: String,
    },
    /// Owner or mode on a mount that keeps those of its files.
    #[error("{key} not allowed for {kind:?} type mounts")]
    NoOwner {
        /// The option.
        key: &'static str,
        /// The type of this mount.
        kind: &'static str,
    },
    /// A secret with an option that means nothing for it, or without a name.
    #[error("{0}")]
    Secret(&'static str),
    /// `sharing` on something else than a cache.
    #[error("invalid cache sharing set for {0} mount")]
    Sharing(&'static str),
}

/// The `from` of a mount, which is needed before variables are known.
pub(super) fn declared(text: &str) -> Result<Mount, MountError> {
    let mut mount = Mount { readonly: true, ..Mount::default() };
    for field in csv_fields(text).map_err(MountError::Fields)? {
        let Some((key, value)) = field.split_once('=') else { continue };
        if !key.eq_ignore_ascii_case("from") {
            continue;
        }
        // A `$` at the very end is no variable.
        if value.find('$').is_some_and(|position| position + 1 != value.len()) {
            return Err(MountError::FromVariable("from"));
        }
        value.clone_into(&mut mount.from);
    }
    Ok(mount)
}

/// The whole mount, each value expanded by `expand`.
pub(super) fn expanded(
    text: &str,
    expand: &mut dyn FnMut(&str) -> Result<String, ExpandError>,
) -> Result<Mount, MountError> {
    let mut mount = Mount::default();
    let mut readonly = None;
    for field in csv_fields(text).map_err(MountError::Fields)? {
        match field.split_once('=') {
            None => switch(&mut mount, &mut readonly, &field)?,
            Some((key, value)) => {
                let value = expand(value)?;
                option(&mut mount, &mut readonly, &field, &key.to_lowercase(), value)?;
            }
        }
    }
    mount.readonly = readonly.unwrap_or(!matches!(mount.kind, MountKind::Cache | MountKind::Tmpfs));
    check(&mount)?;
    Ok(mount)
}

/// An option without a value.
fn switch(mount: &mut Mount, readonly: &mut Option<bool>, field: &str) -> Result<(), MountError> {
    match field.to_lowercase().as_str() {
        "readonly" | "ro" => *readonly = Some(true),
        "readwrite" | "rw" => *readonly = Some(false),
        key @ "required" => {
            only(mount, key, &[MountKind::Secret, MountKind::Ssh])?;
            mount.required = true;
        }
        _ => return Err(MountError::NotPair(field.to_owned())),
    }
    Ok(())
}

fn option(
    mount: &mut Mount,
    readonly: &mut Option<bool>,
    field: &str,
    key: &str,
    value: String,
) -> Result<(), MountError> {
    match key {
        "type" => mount.kind = kind(value)?,
        "from" => mount.from = value,
        "source" | "src" => mount.source = value,
        "target" | "dst" | "destination" => mount.target = value,
        "readonly" | "ro" => *readonly = Some(boolean(key, value)?),
        "readwrite" | "rw" => *readonly = Some(!boolean(key, value)?),
        "required" => {
            only(mount, key, &[MountKind::Secret, MountKind::Ssh])?;
            mount.required = boolean(key, value)?;
        }
        "size" => {
            only(mount, key, &[MountKind::Tmpfs])?;
            mount.size = parse_size(&value)
                .ok_or_else(|| MountError::Value { key: key.to_owned(), value })?;
        }
        "id" => mount.id = value,
        "sharing" => mount.sharing = Some(sharing(value)?),
        "mode" => mount.mode = Some(number(key, value, 8)?),
        "uid" => mount.uid = Some(number(key, value, 10)?),
        "gid" => mount.gid = Some(number(key, value, 10)?),
        "env" => mount.env = Some(value),
        _ => {
            let hint = DidYouMean(suggest(key, KEYS));
            return Err(MountError::UnknownKey {
                key: key.to_owned(),
                field: field.to_owned(),
                hint,
            });
        }
    }
    Ok(())
}

fn only(mount: &Mount, key: &str, kinds: &[MountKind]) -> Result<(), MountError> {
    if kinds.contains(&mount.kind) {
        return Ok(());
    }
    Err(MountError::ForeignKey { key: key.to_owned(), kind: mount.kind.name() })
}

fn kind(value: String) -> Result<MountKind, MountError> {
    match KINDS.iter().find(|(name, _)| name.eq_ignore_ascii_case(&value)) {
        Some((_, kind)) => Ok(*kind),
        None => {
            let hint = DidYouMean(suggest(&value, KINDS.map(|(name, _)| name)));
            Err(MountError::UnknownKind { value, hint })
        }
    }
}

fn sharing(value: String) -> Result<MountSharing, MountError> {
    match SHARINGS.iter().find(|(name, _)| name.eq_ignore_ascii_case(&value)) {
        Some((_, sharing)) => Ok(*sharing),
        None => {
            let hint = DidYouMean(suggest(&value, SHARINGS.map(|(name, _)| name)));
            Err(MountError::UnknownSharing { value, hint })
        }
    }
}

fn boolean(key: &str, value: String) -> Result<bool, MountError> {
    parse_bool(&value).ok_or_else(|| MountError::Value { key: key.to_owned(), value })
}

fn number(key: &str, value: String, radix: u32) -> Result<u32, MountError> {
    parse_u32(&value, radix).ok_or_else(|| MountError::Number { key: key.to_owned(), value })
}

/// Rules about options together.
fn check(mount: &Mount) -> Result<(), MountError> {
    let kind = mount.kind.name();
    if matches!(mount.kind, MountKind::Bind | MountKind::Tmpfs) {
        for (key, value) in [("mode", mount.mode), ("uid", mount.uid), ("gid", mount.gid)] {
            if value.is_some() {
                return Err(MountError::NoOwner { key, kind });
            }
        }
    }
    if mount.kind == MountKind::Secret {
        let problems = [
            (!mount.from.is_empty(), "secret mount should not have a from"),
            (mount.sharing.is_some(), "secret mount should not define sharing"),
            (
                mount.source.is_empty() && mount.target.is_empty() && mount.id.is_empty(),
                "invalid secret mount. one of source, target required",
            ),
            (!mount.source.is_empty() && !mount.id.is_empty(), "both source and id can't be set"),
        ];
        if let Some((_, problem)) = problems.into_iter().find(|(applies, _)| *applies) {
            return Err(MountError::Secret(problem));
        }
    }
    if mount.sharing.is_some() && mount.kind != MountKind::Cache {
        return Err(MountError::Sharing(kind));
    }
    Ok(())
}
