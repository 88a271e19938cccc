//! The modules of a builder, from its labels and from the files in it.

use cofferdam_cnb::{
    ApiVersion, BUILDPACK_LAYERS, Descriptor, DescriptorError, EXTENSION_LAYERS, FileError, Id,
    Info, Kind, ModuleInfo, ModuleLayer, ModuleRef, Version,
};

use super::{BuilderImage, BuilderImageError, LabelError};
use crate::text::short;

/// The modules of a builder.
#[derive(Debug, Default)]
pub struct Descriptors {
    /// Those that can be used.
    pub usable: Vec<Descriptor>,
    /// Those that cannot, and why: an error for whoever uses one.
    pub refused: Vec<(ModuleRef, BuilderImageError)>,
}

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

pub(super) fn descriptor(
    image: &BuilderImage,
    module: &ModuleRef,
) -> Result<Descriptor, BuilderImageError> {
    let (id, version) = (module.id.as_str(), module.version.as_str());
    let layer = image.layers_of(module.kind).get(id).and_then(|versions| versions.get(version));
    let layer = layer.ok_or_else(|| BuilderImageError::NoModule {
        kind: module.kind,
        module: module.to_string(),
    })?;
    let listed = match module.kind {
        Kind::Buildpack => &image.metadata.buildpacks,
        Kind::Extension => &image.metadata.extensions,
    };
    let listed = listed.iter().find(|info| info.id == id && info.version == version);
    Ok(from_label(module, layer, listed)?)
}

fn from_label(
    module: &ModuleRef,
    layer: &ModuleLayer,
    listed: Option<&ModuleInfo>,
) -> Result<Descriptor, DescriptorError> {
    let file = format!("{}: {module}", label(module.kind));
    let api = layer.api.parse::<ApiVersion>().and_then(ApiVersion::buildpack);
    let api = api.map_err(|source| DescriptorError::Api { file: file.clone(), source })?;
    let composite = !layer.order.is_empty();
    if composite && module.kind == Kind::Extension {
        return Err(FileError::value(file, "order", "an extension has none").into());
    }
    let listed = listed.cloned().unwrap_or_default();
    let preferred =
        |first: &str, other: String| if first.is_empty() { other } else { first.to_owned() };
    Ok(Descriptor {
        kind: module.kind,
        api,
        info: Info {
            id: module.id.clone(),
            version: module.version.clone(),
            name: preferred(&layer.name, listed.name),
            homepage: preferred(&layer.homepage, listed.homepage),
            description: listed.description,
            keywords: listed.keywords,
            licenses: listed.licenses,
            clear_env: false,
            sbom_formats: Vec::new(),
            exec_env: Vec::new(),
        },
        targets: layer.targets.clone(),
        stacks: layer.stacks.clone(),
        order: layer.order.clone(),
    })
}

pub(super) fn descriptors(image: &BuilderImage) -> Descriptors {
    let mut found = Descriptors::default();
    for kind in [Kind::Buildpack, Kind::Extension] {
        for (id, versions) in image.layers_of(kind) {
            for version in versions.keys() {
                // Both were checked when the label was read.
                let Ok(module) = reference(kind, id, version) else { continue };
                match descriptor(image, &module) {
                    Ok(descriptor) => found.usable.push(descriptor),
                    Err(error) => found.refused.push((module, error)),
                }
            }
        }
    }
    found
}

/// The descriptor of a module from its label and its file; `file` is the file's path, for errors.
///
/// The file has everything and is what the module's own programs were written against, so it wins;
/// it has to be of the module that the label says.
///
/// # Errors
/// It is of another module.
pub fn merge(
    file: &str,
    from_label: &Descriptor,
    from_file: Descriptor,
) -> Result<Descriptor, BuilderImageError> {
    let (said, found) = (from_label.module(), from_file.module());
    if said != found {
        return Err(BuilderImageError::Mismatch {
            file: file.to_owned(),
            found: Box::new(found),
            said: Box::new(said),
        });
    }
    Ok(from_file)
}
