//! The modules of a builder, by what its labels call them.

use cofferdam_cnb::{BUILDPACK_LAYERS, EXTENSION_LAYERS, Id, Kind, ModuleRef, Version};

use super::{BuilderImage, BuilderImageError, LabelError};
use crate::text::short;

pub(super) fn find(
    image: &BuilderImage,
    kind: Kind,
    id: &str,
    version: Option<&str>,
) -> Result<ModuleRef, BuilderImageError> {
    let version = version.filter(|version| !version.is_empty());
    let missing = || {
        let module = version.map_or_else(|| id.to_owned(), |version| format!("{id}@{version}"));
        BuilderImageError::NoModule { kind, module: short(&module) }
    };
    let versions = image.layers_of(kind).get(id).ok_or_else(missing)?;
    let mut names = versions.keys();
    let version = match version {
        Some(version) => {
            versions.get_key_value(version).map(|(name, _)| name).ok_or_else(missing)?
        }
        None => {
            let only = names.next().ok_or_else(missing)?;
            if names.next().is_some() {
                let versions = versions.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
                return Err(BuilderImageError::Ambiguous { kind, id: id.to_owned(), versions });
            }
            only
        }
    };
    reference(kind, id, version)
}

fn reference(kind: Kind, id: &str, version: &str) -> Result<ModuleRef, BuilderImageError> {
    let label = label(kind);
    let wrong = |source| LabelError::Id { label, source };
    let (id, version) = (Id::parse(id).map_err(wrong)?, Version::parse(version).map_err(wrong)?);
    Ok(ModuleRef { kind, id, version })
}

fn label(kind: Kind) -> &'static str {
    match kind {
        Kind::Buildpack => BUILDPACK_LAYERS,
        Kind::Extension => EXTENSION_LAYERS,
    }
}
