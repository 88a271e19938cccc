//! Export: layers, config and labels of the app image, and the cache.
//!
//! The builder's own code; what it reads from trees of buildpacks is hostile input. The run image is
//! the one that analysis chose: nothing that a buildpack wrote can change it.

use std::collections::{BTreeMap, BTreeSet};

use cofferdam_cnb::{
    CACHE_METADATA, GitSource, Launcher, LauncherSource, LayerTar, LayerTarError, MetadataFile,
    ModuleRef, RunImageMetadata,
};
use cofferdam_lifecycle::{
    AppImage, ExportLayer, ExportRequest, LAUNCHER, LAUNCHER_PATH, LaunchSource, LayerKind,
    PROCESS_DIR, assemble, cache_metadata, cached_layers, image_config, launch_layers,
    metadata_toml, process_types, slice_paths,
};

use super::analyze::{CACHE_FLOW, SavedCache, SavedLayer, ended};
use super::bench::Bench;
use super::error::BuildErrorKind;
use super::extend::Extended;
use super::graph::{Change, Copying, Tree};
use super::session::{Analysis, BuiltApp, Group, LAYERS, Setting};
use crate::client::{ImageLayer, Pack, Progress, Selection};

/// Layers that were packed, by buildpack and name.
type Packed = BTreeMap<(ModuleRef, String), ImageLayer>;

/// A finished app image.
pub(crate) struct Exported {
    pub(crate) image: AppImage,
    pub(crate) tree: Tree,
    pub(crate) sbom: Tree,
}

impl Bench<'_> {
    /// Makes the app image.
    pub(crate) async fn export(
        &self,
        setting: &Setting,
        group: &Group,
        analysis: &Analysis,
        built: &BuiltApp,
        extended: &Extended,
    ) -> Result<Exported, BuildErrorKind> {
        let step = self.client.step(&setting.title("export", "layers of the app"));
        let result = self.exported(setting, group, analysis, built, extended, &*step).await;
        ended(step, result)
    }

    async fn exported(
        &self,
        setting: &Setting,
        group: &Group,
        analysis: &Analysis,
        built: &BuiltApp,
        extended: &Extended,
        step: &dyn Progress,
    ) -> Result<Exported, BuildErrorKind> {
        let modules: Vec<_> = built.outcomes.iter().map(|outcome| outcome.built.clone()).collect();
        let (metadata, warnings) =
            assemble(&modules, &group.buildpacks, &group.extensions, setting.platform_api);
        warnings.iter().for_each(|warning| step.log(&format!("warning: {warning}")));
        let mut packed = Packed::new();
        let mut layers =
            self.launch_layers(setting, analysis, built, &modules, &mut packed, step).await?;
        let sbom = self.sbom_tree(setting, built, "launch");
        if sbom.is_some() {
            let pack =
                self.below_layers(setting, sbom, &format!("{LAYERS}/sbom/launch"), Some("sbom"));
            layers.push((LayerKind::Sbom, self.client.pack(pack).await?));
        }
        layers.extend(self.app_layers(setting, &metadata, built.app).await?);
        layers.push((LayerKind::Launcher, self.client.keep(launcher_tar()?).await?));
        let config = metadata_toml(&metadata)?;
        layers.push((
            LayerKind::Config,
            self.client.keep(config_tar(setting.owner, &config)?).await?,
        ));
        let types = process_types(&metadata);
        if !types.is_empty() {
            layers.push((LayerKind::ProcessTypes, self.client.keep(process_tar(&types)?).await?));
        }
        let image = self.config(setting, analysis, extended, &modules, &metadata, &layers)?;
        image.warnings.iter().for_each(|warning| step.log(&format!("warning: {warning}")));
        let tree = self.composed(setting, extended, layers).await?;
        self.save_cache(setting, built, &modules, packed, step).await?;
        Ok(Exported { image, tree, sbom })
    }

    /// Launch layers, packed or taken from the previous image.
    async fn launch_layers(
        &self,
        setting: &Setting,
        analysis: &Analysis,
        built: &BuiltApp,
        modules: &[cofferdam_lifecycle::BuiltModule],
        packed: &mut Packed,
        step: &dyn Progress,
    ) -> Result<Vec<(LayerKind, ImageLayer)>, BuildErrorKind> {
        let mut layers: Vec<(LayerKind, ImageLayer)> = Vec::new();
        let previous = analysis.previous.as_ref();
        for launch in launch_layers(modules, previous.map(|previous| &previous.metadata))? {
            let layer = match &launch.source {
                LaunchSource::Contents => {
                    let name = (launch.module.clone(), launch.name.clone());
                    let layer = self.pack_layer(setting, built, &name).await?;
                    packed.insert(name, layer.clone());
                    layer
                }
                LaunchSource::Previous(sha) => {
                    let layers = previous.map(|previous| &previous.image.layers);
                    let found = layers
                        .into_iter()
                        .flatten()
                        .find(|layer| layer.diff_id.to_string() == *sha);
                    found.cloned().ok_or_else(|| {
                        let name = format!("{}:{}", launch.module, launch.name);
                        BuildErrorKind::attribute(
                            &name,
                            "the previous image has no layer of its digest",
                        )
                    })?
                }
            };
            let reused = launch.previous.as_deref() == Some(layer.diff_id.to_string().as_str());
            let verb = if reused { "reusing" } else { "adding" };
            step.log(&format!("{verb} layer {}:{}", launch.module.id, launch.name));
            layers.push((LayerKind::Launch { module: launch.module, name: launch.name }, layer));
        }
        Ok(layers)
    }

    async fn composed(
        &self,
        setting: &Setting,
        extended: &Extended,
        layers: Vec<(LayerKind, ImageLayer)>,
    ) -> Result<Tree, BuildErrorKind> {
        let mut all = extended.run_layers.clone();
        all.extend(layers.into_iter().map(|(_, layer)| layer));
        let source = self.client.compose(all).await?;
        Ok(self.graph.source(&setting.title("export", "the image"), source, None))
    }

    fn config(
        &self,
        setting: &Setting,
        analysis: &Analysis,
        extended: &Extended,
        modules: &[cofferdam_lifecycle::BuiltModule],
        metadata: &MetadataFile,
        layers: &[(LayerKind, ImageLayer)],
    ) -> Result<AppImage, BuildErrorKind> {
        let export: Vec<ExportLayer> = layers
            .iter()
            .map(|(kind, layer)| ExportLayer {
                kind: kind.clone(),
                diff_id: layer.diff_id.to_string(),
            })
            .collect();
        let run_config: serde_json::Value = serde_json::from_slice(&extended.run_config)?;
        let run_image = RunImageMetadata {
            top_layer: String::new(),
            reference: analysis.run.pinned.clone(),
            image: analysis.run_image.image.clone(),
            mirrors: analysis.run_image.mirrors.clone(),
        };
        Ok(image_config(&ExportRequest {
            run_config: &run_config,
            extension_layers: extended.run_extension_layers,
            layers: &export,
            modules,
            metadata,
            run_image: &run_image,
            project: &setting.project.label().unwrap_or(serde_json::Value::Null),
            process_type: self.request.get("default-process"),
            exec_env: &self.request.exec_env,
            app_dir: &self.request.workspace,
            layers_dir: LAYERS,
            launcher: &launcher(),
            created: self.request.created,
            platform_api: setting.platform_api,
        })?)
    }

    /// A directory below `/layers`; `below` is one more directory between the two.
    fn below_layers(&self, setting: &Setting, tree: Tree, path: &str, below: Option<&str>) -> Pack {
        let mut parents = vec![(LAYERS.to_owned(), setting.owner, 0o755)];
        parents.extend(below.map(|below| (format!("{LAYERS}/{below}"), setting.owner, 0o755)));
        Pack {
            definition: self.graph.definition(tree),
            path: path.to_owned(),
            name: path.to_owned(),
            parents,
            owner: Some(setting.owner),
            selection: Selection::All,
        }
    }

    async fn pack_layer(
        &self,
        setting: &Setting,
        built: &BuiltApp,
        (module, name): &(ModuleRef, String),
    ) -> Result<ImageLayer, BuildErrorKind> {
        let outcome = built.outcomes.iter().find(|outcome| outcome.built.module == *module);
        let tree = outcome.and_then(|outcome| outcome.layers);
        let id = module.id.escaped();
        let pack = self.below_layers(setting, tree, &format!("{LAYERS}/{id}/{name}"), Some(&id));
        Ok(self.client.pack(pack).await?)
    }

    /// SBOM files of one kind (`launch`, `build`, `cache`) where the image has them; none without any.
    pub(crate) fn sbom_tree(&self, setting: &Setting, built: &BuiltApp, kind: &str) -> Tree {
        let mut copies = Vec::new();
        for outcome in &built.outcomes {
            let directory = format!("{LAYERS}/{}", outcome.built.module.id.escaped());
            for sbom in &outcome.built.sboms {
                if sbom.to.starts_with(&format!("{kind}/")) {
                    let from = format!("{directory}/{}", sbom.from);
                    copies.push((outcome.layers, from, format!("{LAYERS}/sbom/{}", sbom.to)));
                }
            }
        }
        let changes: Vec<Change<'_>> = copies
            .iter()
            .map(|(source, path, dest)| Change::Copy {
                source: *source,
                path,
                dest,
                owner: Some(setting.owner),
                options: Copying::default(),
            })
            .collect();
        self.graph.files(&setting.title("export", &format!("SBOMs of {kind}")), None, &changes)
    }

    async fn app_layers(
        &self,
        setting: &Setting,
        metadata: &MetadataFile,
        app: Tree,
    ) -> Result<Vec<(LayerKind, ImageLayer)>, BuildErrorKind> {
        let workspace = &self.request.workspace;
        let above: Vec<_> =
            workspace.match_indices('/').skip(1).map(|(at, _)| &workspace[..at]).collect();
        let pack = |selection| Pack {
            definition: self.graph.definition(app),
            path: workspace.clone(),
            name: workspace.clone(),
            parents: above.iter().map(|name| ((*name).to_owned(), (0, 0), 0o755)).collect(),
            owner: Some(setting.owner),
            selection,
        };
        if metadata.slices.is_empty() {
            let layer = self.client.pack(pack(Selection::All)).await?;
            return Ok(vec![(LayerKind::Application, layer)]);
        }
        let mut paths = vec![String::new()];
        let walked = self.client.walk(&self.graph.definition(app), workspace).await?;
        paths.extend(walked.into_iter().map(|path| path.trim_end_matches('/').to_owned()));
        let mut layers = Vec::new();
        for (index, slice) in slice_paths(&metadata.slices, &paths)?.into_iter().enumerate() {
            let chosen: BTreeSet<String> = slice.into_iter().map(|at| paths[at].clone()).collect();
            let layer = self.client.pack(pack(Selection::Only(chosen))).await?;
            layers.push((LayerKind::Slice(index + 1), layer));
        }
        Ok(layers)
    }

    /// Keeps what the next build gets back. A cache that cannot be kept is no reason to fail.
    async fn save_cache(
        &self,
        setting: &Setting,
        built: &BuiltApp,
        modules: &[cofferdam_lifecycle::BuiltModule],
        mut packed: Packed,
        step: &dyn Progress,
    ) -> Result<(), BuildErrorKind> {
        let mut digests = BTreeMap::new();
        let mut layers = Vec::new();
        for name in cached_layers(modules) {
            let layer = match packed.remove(&name) {
                Some(layer) => layer,
                None => self.pack_layer(setting, built, &name).await?,
            };
            digests.insert(name, layer.diff_id.to_string());
            layers.push(layer);
        }
        let sbom = self.sbom_tree(setting, built, "cache");
        let mut sbom_sha = None;
        if sbom.is_some() {
            let pack =
                self.below_layers(setting, sbom, &format!("{LAYERS}/sbom/cache"), Some("sbom"));
            let layer = self.client.pack(pack).await?;
            sbom_sha = Some(layer.diff_id.to_string());
            layers.push(layer);
        }
        let metadata = cache_metadata(modules, &digests, sbom_sha.as_deref());
        let saved = match self.request.get("cache-image") {
            Some(name) => self.push_cache(setting, name, &metadata, layers).await,
            None => {
                let saved = layers.iter().map(SavedLayer::of).collect();
                let value = serde_json::to_vec(&SavedCache { metadata, layers: saved })?;
                let key = self.cache_key(setting);
                self.client.save(&key, value, &layers).await.map_err(BuildErrorKind::from)
            }
        };
        if let Err(error) = saved {
            step.log(&format!("warning: the cache could not be kept: {error}"));
        }
        Ok(())
    }

    async fn push_cache(
        &self,
        setting: &Setting,
        name: &str,
        metadata: &cofferdam_cnb::CacheMetadata,
        mut layers: Vec<ImageLayer>,
    ) -> Result<(), BuildErrorKind> {
        if layers.is_empty() {
            // Registries refuse images without layers.
            layers.push(self.client.keep(LayerTar::new(Vec::new()).finish()?).await?);
        }
        let text = serde_json::to_string(metadata)?;
        let platform = &self.request.platform;
        let diff_ids: Vec<String> = layers.iter().map(|layer| layer.diff_id.to_string()).collect();
        let config = serde_json::json!({
            "os": platform.OS,
            "architecture": platform.Architecture,
            "created": cofferdam_lifecycle::rfc3339(self.request.created),
            "config": { "Labels": { CACHE_METADATA: text, CACHE_FLOW: setting.flow().name() } },
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        });
        self.client.push(name, layers, serde_json::to_vec(&config)?).await?;
        Ok(())
    }
}

/// What labels say of the launcher.
pub(crate) fn launcher() -> Launcher {
    Launcher {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        source: LauncherSource {
            git: GitSource { repository: "cofferdam".to_owned(), commit: String::new() },
        },
    }
}

/// The layer of the launcher.
pub(crate) fn launcher_tar() -> Result<Vec<u8>, LayerTarError> {
    let mut tar = LayerTar::new(Vec::new());
    tar.directory("/cnb", 0, 0, 0o755)?;
    tar.directory("/cnb/lifecycle", 0, 0, 0o755)?;
    tar.file(LAUNCHER_PATH, 0, 0, 0o755, LAUNCHER.len() as u64, &mut &*LAUNCHER)?;
    tar.finish()
}

fn config_tar((uid, gid): (u32, u32), metadata: &[u8]) -> Result<Vec<u8>, LayerTarError> {
    let mut tar = LayerTar::new(Vec::new());
    tar.directory(LAYERS, uid, gid, 0o755)?;
    tar.directory(format!("{LAYERS}/config"), uid, gid, 0o755)?;
    let path = format!("{LAYERS}/config/metadata.toml");
    tar.file(path, uid, gid, 0o644, metadata.len() as u64, &mut &*metadata)?;
    tar.finish()
}

fn process_tar(types: &[String]) -> Result<Vec<u8>, LayerTarError> {
    let mut tar = LayerTar::new(Vec::new());
    tar.directory("/cnb", 0, 0, 0o755)?;
    tar.directory(PROCESS_DIR, 0, 0, 0o755)?;
    for kind in types {
        tar.symlink(format!("{PROCESS_DIR}/{kind}"), LAUNCHER_PATH, 0, 0, 0o755)?;
    }
    tar.finish()
}
