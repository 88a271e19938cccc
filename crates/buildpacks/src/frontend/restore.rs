//! Restore: what a buildpack gets back from earlier builds.
//!
//! The builder's own code. A restored directory is a tree of layers that the store has: cached
//! contents as they were packed, and one small layer of metadata on top.

use std::collections::BTreeMap;

use cofferdam_cnb::{LayerTar, LayerTarError, SbomFormat, escape};
use cofferdam_lifecycle::{RestoreOptions, RestoredBuildpack, restore};

use super::analyze::{Cached, ended};
use super::bench::{Allowance, Bench};
use super::error::BuildErrorKind;
use super::graph::Tree;
use super::session::{Analysis, Group, LAYERS, Setting};
use crate::client::{ImageLayer, Progress};

/// Files of one restored layer's SBOM.
type Sboms = BTreeMap<String, Vec<u8>>;

impl Bench<'_> {
    /// A tree for each buildpack that gets something back, by id; its directory is at `/layers/<id>`.
    pub(crate) async fn restore(
        &self,
        setting: &Setting,
        group: &Group,
        analysis: &Analysis,
        cached: &Cached,
    ) -> Result<BTreeMap<String, Tree>, BuildErrorKind> {
        let step = self.client.step(&setting.title("restore", "layers of earlier builds"));
        let trees = self.restored(setting, group, analysis, cached, &*step).await;
        ended(step, trees)
    }

    async fn restored(
        &self,
        setting: &Setting,
        group: &Group,
        analysis: &Analysis,
        cached: &Cached,
        step: &dyn Progress,
    ) -> Result<BTreeMap<String, Tree>, BuildErrorKind> {
        let app = analysis.previous.as_ref().map(|previous| &previous.metadata);
        let skip_layers = self.request.is("clear-cache");
        let options = RestoreOptions { skip_layers, platform_api: setting.platform_api };
        let mut restored = restore(&group.buildpacks, app, Some(&cached.metadata), options);
        let mut trees = BTreeMap::new();
        for buildpack in &mut restored {
            // Contents that are gone are not restored, and neither is what is said of them.
            buildpack.layers.retain(|layer| {
                layer.contents.as_ref().is_none_or(|sha| cached.layers.contains_key(sha))
            });
            let sboms = self.restored_sboms(buildpack, analysis, cached).await?;
            for layer in &buildpack.layers {
                let what = if layer.contents.is_some() { "contents" } else { "metadata" };
                step.log(&format!("{}:{} ({what})", buildpack.id, layer.name));
            }
            if !buildpack.layers.is_empty() || buildpack.store.is_some() {
                let tree = self.restored_tree(setting, buildpack, cached, &sboms).await?;
                trees.insert(buildpack.id.to_string(), tree);
            }
        }
        Ok(trees)
    }

    async fn restored_tree(
        &self,
        setting: &Setting,
        buildpack: &RestoredBuildpack,
        cached: &Cached,
        sboms: &Sboms,
    ) -> Result<Tree, BuildErrorKind> {
        let directory = format!("{LAYERS}/{}", buildpack.id.escaped());
        let contents = buildpack.layers.iter().filter_map(|layer| layer.contents.as_ref());
        let mut layers: Vec<ImageLayer> =
            contents.filter_map(|sha| cached.layers.get(sha).cloned()).collect();
        let tar = metadata_tar(&directory, setting.owner, buildpack, sboms)?;
        layers.push(self.client.keep(tar).await?);
        let source = self.client.compose(layers).await?;
        let title = setting.title("restore", &buildpack.id.to_string());
        Ok(self.graph.source(&title, source, None))
    }

    /// SBOMs of restored layers: those of the image win over those of the cache.
    async fn restored_sboms(
        &self,
        buildpack: &RestoredBuildpack,
        analysis: &Analysis,
        cached: &Cached,
    ) -> Result<Sboms, BuildErrorKind> {
        let mut sboms = Sboms::new();
        let mut allowance = Allowance::default();
        let sha = cached.metadata.sbom.as_ref().map(|sbom| sbom.sha.clone());
        let cache = sha.and_then(|sha| cached.layers.get(&sha).cloned());
        let image = analysis.previous.as_ref().and_then(|previous| {
            let sha = &previous.metadata.sbom.as_ref()?.sha;
            previous.image.layers.iter().find(|layer| layer.diff_id.to_string() == *sha).cloned()
        });
        for (kind, layer) in [("cache", cache), ("launch", image)] {
            let Some(layer) = layer.filter(|_| !buildpack.layers.is_empty()) else { continue };
            let source = self.client.compose(vec![layer]).await?;
            let tree = self.graph.source("[restore] SBOMs", source, None);
            for restored in &buildpack.layers {
                let directory = format!(
                    "{LAYERS}/sbom/{kind}/{}/{}",
                    escape(buildpack.id.as_str()),
                    restored.name
                );
                for (name, bytes) in self.files(tree, &directory, &mut allowance).await? {
                    if SbomFormat::from_file_name(&name).is_some() {
                        sboms.insert(format!("{}.{name}", restored.name), bytes);
                    }
                }
            }
        }
        Ok(sboms)
    }
}

/// The layer of what is said of restored layers: `<layer>.toml`, `store.toml`, SBOMs.
fn metadata_tar(
    directory: &str,
    (uid, gid): (u32, u32),
    buildpack: &RestoredBuildpack,
    sboms: &Sboms,
) -> Result<Vec<u8>, LayerTarError> {
    let mut tar = LayerTar::new(Vec::new());
    tar.directory(LAYERS, uid, gid, 0o755)?;
    tar.directory(directory, uid, gid, 0o755)?;
    let mut file = |name: &str, bytes: &[u8]| {
        let path = format!("{directory}/{name}");
        tar.file(path, uid, gid, 0o644, bytes.len() as u64, &mut &*bytes)
    };
    for layer in &buildpack.layers {
        file(&format!("{}.toml", layer.name), &layer.toml)?;
    }
    if let Some(store) = &buildpack.store {
        file("store.toml", store)?;
    }
    for (name, bytes) in sboms {
        file(name, bytes)?;
    }
    tar.finish()
}
