//! Which layers buildpacks give to the image and to the cache.
//!
//! Follows Platform API "Exporter": order of launch layers, reuse, cache. Must never trust the name
//! or digest in a previous image's label further than to look it up.

use std::collections::BTreeMap;

use cofferdam_cnb::{
    BuildpackLayers, CacheMetadata, LayerMetadata, LayerSha, LifecycleMetadata, ModuleRef,
    StoreMetadata,
};

use crate::build::{BuiltLayer, BuiltModule};
use crate::export::{ExportError, LaunchLayer, LaunchSource};
use crate::restore::is_digest;
use crate::value::{to_json, to_object};

/// Launch layers in the order they have in the image.
///
/// # Errors
/// A layer without contents is not in the previous image, or should be cached.
pub fn launch_layers(
    modules: &[BuiltModule],
    previous: Option<&LifecycleMetadata>,
) -> Result<Vec<LaunchLayer>, ExportError> {
    let mut all = Vec::new();
    for BuiltModule { module, layers, .. } in modules {
        for (name, layer) in layers.iter().filter(|(_, layer)| layer.types.launch) {
            let (module, name) = (module.clone(), name.clone());
            let previous = previous_sha(previous, &module, &name);
            let source = match (&previous, layer.exists) {
                (_, true) => LaunchSource::Contents,
                (_, false) if layer.types.cache => {
                    return Err(ExportError::NoContents { module, name });
                }
                (Some(sha), false) => LaunchSource::Previous(sha.clone()),
                (None, false) => return Err(ExportError::NoPrevious { module, name }),
            };
            all.push(LaunchLayer { module, name, source, previous });
        }
    }
    Ok(all)
}

fn previous_sha(
    previous: Option<&LifecycleMetadata>,
    module: &ModuleRef,
    name: &str,
) -> Option<String> {
    let buildpacks = &previous?.buildpacks;
    let buildpack = buildpacks.iter().find(|buildpack| buildpack.key == module.id.as_str())?;
    let sha = &buildpack.layers.get(name)?.sha;
    is_digest(sha).then(|| sha.clone())
}

/// Layers that go to the cache: those with contents and `cache`.
#[must_use]
pub fn cached_layers(modules: &[BuiltModule]) -> Vec<(ModuleRef, String)> {
    let cached = |layer: &BuiltLayer| layer.types.cache && layer.exists;
    let of = |module: &BuiltModule| {
        let names = module.layers.iter().filter(|(_, layer)| cached(layer)).map(|(name, _)| name);
        names.map(|name| (module.module.clone(), name.clone())).collect::<Vec<_>>()
    };
    modules.iter().flat_map(of).collect()
}

/// The cache's metadata; `digests` has the `sha256:…` of each of [`cached_layers`]. Those without
/// are not in it.
#[must_use]
pub fn cache_metadata(
    modules: &[BuiltModule],
    digests: &BTreeMap<(ModuleRef, String), String>,
    sbom: Option<&str>,
) -> CacheMetadata {
    let cached = cached_layers(modules);
    let digests = digests.iter().filter(|(key, _)| cached.contains(key));
    let digests = digests.map(|(key, sha)| (key.clone(), sha.clone())).collect();
    let sbom = sbom.map(|sha| LayerSha { sha: sha.to_owned() });
    let buildpacks = buildpack_layers(modules, &digests);
    let without_store = |layers: BuildpackLayers| BuildpackLayers { store: None, ..layers };
    CacheMetadata { sbom, buildpacks: buildpacks.into_iter().map(without_store).collect() }
}

/// Layers by buildpack as labels have them: those with a digest.
pub(crate) fn buildpack_layers(
    modules: &[BuiltModule],
    digests: &BTreeMap<(ModuleRef, String), String>,
) -> Vec<BuildpackLayers> {
    let of = |built: &BuiltModule| {
        let layer = |(name, layer): (&String, &BuiltLayer)| {
            let sha = digests.get(&(built.module.clone(), name.clone()))?.clone();
            Some((name.clone(), in_label(layer, sha)))
        };
        BuildpackLayers {
            key: built.module.id.to_string(),
            version: built.module.version.to_string(),
            layers: built.layers.iter().filter_map(layer).collect(),
            store: built.store.as_ref().map(|store| StoreMetadata { metadata: to_object(store) }),
        }
    };
    modules.iter().map(of).collect()
}

fn in_label(layer: &BuiltLayer, sha: String) -> LayerMetadata {
    let data = to_json(&toml::Value::Table(layer.metadata.clone()));
    let types = layer.types;
    LayerMetadata { sha, data, build: types.build, launch: types.launch, cache: types.cache }
}
