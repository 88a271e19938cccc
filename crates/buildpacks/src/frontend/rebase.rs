//! Rebase: an app image on another run image, without a build.
//!
//! Layers of the app stay where they are; only the config is written anew.

use cofferdam_cnb::{LIFECYCLE_METADATA, LifecycleMetadata, PLATFORM_API, parse_json};
use cofferdam_lifecycle::{RebaseRequest, rebase};

use super::Built;
use super::analyze::label;
use super::bench::Bench;
use super::error::BuildErrorKind;
use crate::ImageName;
use crate::client::Image;

impl Bench<'_> {
    /// Puts the app on another run image.
    pub(crate) async fn rebase(&self) -> Result<Built, BuildErrorKind> {
        let name = match self.request.get("previous-image") {
            Some(name) => name,
            None => self.request.need("image")?,
        };
        let app = self.need_image(name, &format!("look up {name}")).await?;
        let (run_name, run) = self.new_run_image(&app).await?;
        let step = self.client.step(&format!("[rebase] onto {run_name}"));
        let rebased = rebase(&RebaseRequest {
            app_config: &app.config,
            new_run_config: &run.config,
            new_run_reference: &run.pinned,
            new_run_image_name: &run_name,
            force: self.request.is("force"),
            platform_api: PLATFORM_API,
            created: self.request.created,
        });
        let rebased = match rebased {
            Ok(rebased) => rebased,
            Err(error) => {
                step.failed(&error.to_string());
                return Err(error.into());
            }
        };
        rebased.warnings.iter().for_each(|warning| step.log(&format!("warning: {warning}")));
        step.log(&format!("run image is {}", run.pinned));
        step.done();
        let mut layers = run.layers;
        layers.extend(app.layers.into_iter().skip(rebased.keep_layers_from));
        let source = self.client.compose(layers).await?;
        let tree = self.graph.source("[rebase] the image", source, None);
        Ok(self.finished(tree, rebased.config))
    }

    async fn new_run_image(&self, app: &Image) -> Result<(String, Image), BuildErrorKind> {
        if let Some(name) = self.request.get("run-image") {
            let image = self.need_image(name, &format!("look up {name}")).await?;
            return Ok((name.to_owned(), image));
        }
        let text = label(&app.config, LIFECYCLE_METADATA).ok_or_else(|| {
            BuildErrorKind::attribute(LIFECYCLE_METADATA, "the image was not made by a lifecycle")
        })?;
        let metadata: LifecycleMetadata = parse_json(LIFECYCLE_METADATA, &text)?;
        let old = &metadata.stack.run_image;
        let mut names = vec![metadata.run_image.image.clone()];
        names.extend(metadata.run_image.mirrors.iter().cloned());
        names.push(old.image.clone());
        names.extend(old.mirrors.iter().cloned());
        names.retain(|name| !name.is_empty());
        if let Some(output) = self.request.get("image").and_then(|name| ImageName::parse(name).ok())
        {
            names.sort_by_key(|name| {
                ImageName::parse(name).map_or(true, |name| name.domain != output.domain)
            });
        }
        for name in &names {
            if let Some(image) = self.client.image(name, &self.request.platform, "").await? {
                return Ok((name.clone(), image));
            }
        }
        let names = names.join(", ");
        Err(BuildErrorKind::RunImage(format!("none of [{names}] is there; give --run-image")))
    }
}
