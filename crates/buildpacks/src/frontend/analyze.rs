//! Analysis: the run image, the image of the last build, the cache.
//!
//! The builder's own code, with the client's credentials; no sandbox takes part.

use cofferdam_cnb::{
    CACHE_METADATA, CacheMetadata, LIFECYCLE_METADATA, LifecycleMetadata, RunImage, parse_json,
};
use cofferdam_lifecycle::target_of;
use serde::{Deserialize, Serialize};

use super::bench::Bench;
use super::error::BuildErrorKind;
use super::session::{Analysis, LayersBySha, Previous, Setting};
use crate::client::{Image, ImageLayer, Progress};
use crate::{Flow, ImageName};

/// Ends a step as its work did.
pub(crate) fn ended<T>(
    step: Box<dyn Progress>,
    result: Result<T, BuildErrorKind>,
) -> Result<T, BuildErrorKind> {
    match &result {
        Ok(_) => step.done(),
        Err(error) => step.failed(&error.to_string()),
    }
    result
}

/// What earlier builds cached.
#[derive(Default)]
pub(crate) struct Cached {
    pub(crate) metadata: CacheMetadata,
    /// Blobs of its layers, by digest of the uncompressed tar.
    pub(crate) layers: LayersBySha,
}

/// A saved cache, as the store keeps it.
#[derive(Default, Serialize, Deserialize)]
pub(crate) struct SavedCache {
    pub(crate) metadata: CacheMetadata,
    pub(crate) layers: Vec<SavedLayer>,
}

/// A layer of a saved cache.
#[derive(Serialize, Deserialize)]
pub(crate) struct SavedLayer {
    diff_id: String,
    digest: String,
    size: u64,
    media_type: String,
}

impl SavedLayer {
    pub(crate) fn of(layer: &ImageLayer) -> Self {
        Self {
            diff_id: layer.diff_id.to_string(),
            digest: layer.digest.to_string(),
            size: layer.size,
            media_type: layer.media_type.clone(),
        }
    }

    fn layer(&self) -> Option<ImageLayer> {
        Some(ImageLayer {
            diff_id: cofferdam_digest::Digest::parse(&self.diff_id).ok()?,
            digest: cofferdam_digest::Digest::parse(&self.digest).ok()?,
            size: self.size,
            media_type: self.media_type.clone(),
            origin: None,
        })
    }
}

/// On a cache image: the flow that wrote it. What the untrusted flow cached never reaches a trusted
/// build; an image that does not say, such as another platform's, is taken for untrusted.
pub(crate) const CACHE_FLOW: &str = "io.cofferdam.buildpacks.flow";

/// One label of an image's config.
pub(crate) fn label(config: &[u8], name: &str) -> Option<String> {
    let config: serde_json::Value = serde_json::from_slice(config).ok()?;
    Some(config.get("config")?.get("Labels")?.get(name)?.as_str()?.to_owned())
}

impl Bench<'_> {
    pub(crate) async fn analyze(&self, setting: &Setting) -> Result<Analysis, BuildErrorKind> {
        let step = self.client.step(&setting.title("analyze", "find run and previous image"));
        let found = self.analysis(setting, &*step).await;
        ended(step, found)
    }

    async fn analysis(
        &self,
        setting: &Setting,
        step: &dyn Progress,
    ) -> Result<Analysis, BuildErrorKind> {
        let (run_image, run_name, run) = self.run_image(setting).await?;
        step.log(&format!("run image {run_name} is {}", run.pinned));
        let target = self.target(&run).await?;
        let previous = self.previous(step).await?;
        Ok(Analysis { run_image, run, target, previous })
    }

    /// What an image runs on; its distribution is read from its files where its labels do not say.
    pub(crate) async fn target(
        &self,
        image: &Image,
    ) -> Result<cofferdam_lifecycle::ImageTarget, BuildErrorKind> {
        let config: serde_json::Value = serde_json::from_slice(&image.config)?;
        let mut target = target_of(&config, None)?;
        if target.distro_name.is_empty() {
            let tree = self.image(image, "pull the run image");
            let release = self.read(tree, "/etc/os-release").await?.unwrap_or_default();
            target = target_of(&config, Some(&String::from_utf8_lossy(&release)))?;
        }
        Ok(target)
    }

    async fn run_image(
        &self,
        setting: &Setting,
    ) -> Result<(RunImage, String, Image), BuildErrorKind> {
        let wanted = match self.request.get("run-image") {
            Some(name) => {
                let known = setting.builder.run_images.iter().find(|image| {
                    image.image == name || image.mirrors.iter().any(|mirror| mirror == name)
                });
                known
                    .cloned()
                    .unwrap_or_else(|| RunImage { image: name.to_owned(), mirrors: vec![] })
            }
            None => setting.builder.run_images.first().cloned().ok_or_else(|| {
                BuildErrorKind::RunImage("the builder names none; give --run-image".to_owned())
            })?,
        };
        let mut candidates: Vec<String> = match self.request.get("run-image") {
            Some(name) => vec![name.to_owned()],
            None => std::iter::once(&wanted.image).chain(&wanted.mirrors).cloned().collect(),
        };
        // One on the registry of the output needs no copying.
        if let Some(output) = self.request.get("image").and_then(|name| ImageName::parse(name).ok())
        {
            let elsewhere = |name: &String| {
                ImageName::parse(name).map_or(true, |name| name.domain != output.domain)
            };
            candidates.sort_by_key(elsewhere);
        }
        for name in &candidates {
            if let Some(image) = self.client.image(name, &self.request.platform, "").await? {
                return Ok((wanted, name.clone(), image));
            }
        }
        let names = candidates.join(", ");
        Err(BuildErrorKind::RunImage(format!(
            "none of {names} is there, or access to it is denied"
        )))
    }

    /// The image of the last build. One that cannot be read or understood gives nothing back.
    async fn previous(&self, step: &dyn Progress) -> Result<Option<Previous>, BuildErrorKind> {
        let name = self.request.get("previous-image").or_else(|| self.request.get("image"));
        let Some(name) = name else { return Ok(None) };
        let found = match self.client.image(name, &self.request.platform, "").await {
            Ok(found) => found,
            Err(error) => {
                step.log(&format!("previous image {name}: {error}"));
                None
            }
        };
        let Some(image) = found else {
            step.log(&format!("there is no previous image {name}"));
            return Ok(None);
        };
        let metadata = label(&image.config, LIFECYCLE_METADATA);
        let metadata =
            metadata.map(|text| parse_json::<LifecycleMetadata>(LIFECYCLE_METADATA, &text));
        match metadata {
            Some(Ok(metadata)) => {
                step.log(&format!("previous image is {}", image.pinned));
                Ok(Some(Previous { image, metadata }))
            }
            Some(Err(error)) => {
                step.log(&format!("previous image {name}: {error}"));
                Ok(None)
            }
            None => Ok(None),
        }
    }

    /// The name under which a build finds the cache of the one before. The flow is part of it: what an
    /// untrusted module wrote never reaches a trusted build.
    pub(crate) fn cache_key(&self, setting: &Setting) -> String {
        let names = ["cache-name", "image", "previous-image"];
        let name = names.into_iter().find_map(|name| self.request.get(name)).unwrap_or("");
        // By repository: tags are often as many as builds.
        let name =
            ImageName::parse(name).map_or_else(|_| name.to_owned(), |name| name.repository());
        let platform = cofferdam_graph::platform_string(&self.request.platform);
        format!("{}\n{platform}\n{}\n{name}", setting.flow().name(), self.request.workspace)
    }

    /// What earlier builds cached.
    pub(crate) async fn cached(&self, setting: &Setting) -> Result<Cached, BuildErrorKind> {
        if self.request.is("clear-cache") {
            return Ok(Cached::default());
        }
        if let Some(name) = self.request.get("cache-image") {
            return self.cache_image(setting, name).await;
        }
        let Some(bytes) = self.client.load(&self.cache_key(setting)).await? else {
            return Ok(Cached::default());
        };
        let saved: SavedCache = serde_json::from_slice(&bytes).unwrap_or_default();
        let mut cached = Cached { metadata: saved.metadata, layers: LayersBySha::new() };
        for layer in saved.layers.iter().filter_map(SavedLayer::layer) {
            if self.client.has(&layer).await {
                cached.layers.insert(layer.diff_id.to_string(), layer);
            }
        }
        Ok(cached)
    }

    /// A cache image. One that cannot be understood gives nothing back, and that is said.
    async fn cache_image(&self, setting: &Setting, name: &str) -> Result<Cached, BuildErrorKind> {
        let step = self.client.step(&setting.title("analyze", &format!("look up cache {name}")));
        let found = self.read_cache_image(setting, name, &*step).await;
        ended(step, found)
    }

    async fn read_cache_image(
        &self,
        setting: &Setting,
        name: &str,
        step: &dyn Progress,
    ) -> Result<Cached, BuildErrorKind> {
        let Some(image) = self.client.image(name, &self.request.platform, "").await? else {
            step.log("there is no such image yet");
            return Ok(Cached::default());
        };
        let written_by = label(&image.config, CACHE_FLOW);
        if setting.flow() == Flow::Trusted && written_by.as_deref() != Some(Flow::Trusted.name()) {
            step.log("it was not written by the trusted flow, so nothing of it is used");
            return Ok(Cached::default());
        }
        let text = label(&image.config, CACHE_METADATA);
        let Some(text) = text else {
            step.log(&format!("it has no label {CACHE_METADATA}"));
            return Ok(Cached::default());
        };
        let metadata = match parse_json(CACHE_METADATA, &text) {
            Ok(metadata) => metadata,
            Err(error) => {
                step.log(&error.to_string());
                return Ok(Cached::default());
            }
        };
        let layers = image.layers.into_iter().map(|layer| (layer.diff_id.to_string(), layer));
        Ok(Cached { metadata, layers: layers.collect() })
    }
}
