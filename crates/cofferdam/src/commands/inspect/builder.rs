//! A builder image.

use anyhow::Context;
use cofferdam_buildpacks::Trust;
use cofferdam_cnb::{
    ApiRange, BUILDER_METADATA, BUILDPACK_LAYERS, BUILDPACK_ORDER, BuilderMetadata,
    EXTENSION_LAYERS, ModuleLayers, ORDER_EXTENSIONS, Order, STACK_ID, SYSTEM, SystemOrder,
    parse_json,
};
use serde::de::DeserializeOwned;
use serde_json::json;

use super::Shown;
use super::page::Page;
use crate::artifact::Artifact;

/// What its labels say, and whether it is trusted.
pub(super) fn describe(image: &Artifact, trust: &Trust) -> anyhow::Result<Shown> {
    let label = image.label(BUILDER_METADATA);
    let label = label
        .with_context(|| format!("the image is no builder: it has no label {BUILDER_METADATA}"))?;
    let metadata: BuilderMetadata = parse_json(BUILDER_METADATA, label)?;
    let buildpacks: ModuleLayers = optional(image, BUILDPACK_LAYERS)?;
    let extensions: ModuleLayers = optional(image, EXTENSION_LAYERS)?;
    let order: Order = optional(image, BUILDPACK_ORDER)?;
    let order_extensions: Order = optional(image, ORDER_EXTENSIONS)?;
    let system: SystemOrder = optional(image, SYSTEM)?;
    let stack = image.label(STACK_ID).unwrap_or_default();
    let mut run_images = metadata.images.clone();
    if run_images.is_empty() && !metadata.stack.run_image.image.is_empty() {
        run_images.push(metadata.stack.run_image.clone());
    }
    let (trusted, why) = judged(image, trust);
    let platform = image.config.platform.to_string();
    let json = json!({
        "image": image.name,
        "digest": image.digest,
        "platform": platform,
        "created": image.config.created,
        "description": metadata.description,
        "created_by": metadata.created_by,
        "trusted": trusted,
        "trust": why,
        "stack": stack,
        "lifecycle": metadata.lifecycle,
        "run_images": run_images,
        "buildpacks": buildpacks,
        "extensions": extensions,
        "order": order,
        "order_extensions": order_extensions,
        "system": system,
    });
    let mut page = Page::default();
    page.field("Image", &image.name);
    page.field("Digest", &image.digest);
    page.field("Platform", &platform);
    page.field("Created", image.config.created.as_deref().unwrap_or_default());
    page.field("Description", &metadata.description);
    let by = &metadata.created_by;
    page.field("Created by", format!("{} {}", by.name, by.version).trim());
    page.field("Trusted", &format!("{}: the builder {why}", if trusted { "yes" } else { "no" }));
    page.field("Stack", stack);
    page.field("Lifecycle", &metadata.lifecycle.version);
    page.field("Buildpack APIs", &versions(&metadata.lifecycle.apis.buildpack));
    page.field("Platform APIs", &versions(&metadata.lifecycle.apis.platform));
    page.run_images(&run_images);
    page.modules("Buildpacks", &buildpacks);
    page.modules("Extensions", &extensions);
    page.order("Detection order", &order);
    page.order("Detection order of extensions", &order_extensions);
    let places =
        [("System buildpacks before", system.pre), ("System buildpacks after", system.post)];
    for (name, modules) in places {
        let rows = modules.buildpacks.into_iter().map(|module| vec![module.id, module.version]);
        page.table(name, &["ID", "VERSION"], rows.collect());
    }
    Ok(Shown { json, text: page.text() })
}

fn optional<T: DeserializeOwned + Default>(image: &Artifact, label: &str) -> anyhow::Result<T> {
    let text = image.label(label);
    Ok(text.map(|text| parse_json(label, text)).transpose()?.unwrap_or_default())
}

fn judged(image: &Artifact, trust: &Trust) -> (bool, String) {
    let digest = cofferdam_buildpacks::ImageName::parse(&format!("x@{}", image.digest));
    let digest = digest.ok().and_then(|name| name.digest);
    let verdict = digest.and_then(|digest| trust.judge(&image.name, digest).ok());
    verdict.map_or_else(
        || (false, "has no name in a registry".to_owned()),
        |verdict| (verdict.trusted, verdict.why),
    )
}

fn versions(range: &ApiRange) -> String {
    let (supported, deprecated) = (range.supported.clone(), range.deprecated.clone());
    let mut text = supported.unwrap_or_default().join(", ");
    if let Some(deprecated) = deprecated.filter(|list| !list.is_empty()) {
        text.push_str(&format!(" (deprecated: {})", deprecated.join(", ")));
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use cofferdam_image::Platform;

    use super::*;
    use crate::artifact::tests::layout;

    async fn described(labels: &[(&str, &str)]) -> anyhow::Result<Shown> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("x.tar");
        std::fs::write(&file, layout(labels, b"")).unwrap();
        let image = Artifact::open(file.to_str().unwrap(), &Platform::host()).await.unwrap();
        describe(&image, &Trust::default())
    }

    #[tokio::test]
    async fn labels_are_shown() {
        let shown = described(&[
            (BUILDER_METADATA, r#"{"description":"for tests","createdBy":{"name":"cofferdam","version":"1"},"stack":{"runImage":{"image":"r.example/run"}},"lifecycle":{"version":"0.21.0","apis":{"buildpack":{"deprecated":null,"supported":["0.7","0.12"]}}}}"#),
            (BUILDPACK_LAYERS, r#"{"acme/a":{"1.0.0":{"api":"0.10","layerDiffID":"sha256:x"}}}"#),
            (BUILDPACK_ORDER, r#"[{"group":[{"id":"acme/a","version":"1.0.0","optional":true}]}]"#),
            (SYSTEM, r#"{"pre":{"buildpacks":[{"id":"acme/s","version":"2.0.0"}]}}"#),
        ])
        .await
        .unwrap();
        for part in [
            "for tests",
            "cofferdam 1",
            "0.7, 0.12",
            "r.example/run",
            "acme/a@1.0.0 (optional)",
            "acme/s",
            "Trusted: no",
        ] {
            assert!(shown.text.contains(part), "{part}: {}", shown.text);
        }
        assert_eq!(shown.json["buildpacks"]["acme/a"]["1.0.0"]["api"], "0.10");
        assert_eq!(shown.json["trusted"], false);
    }

    #[tokio::test]
    async fn other_images_are_no_builders() {
        assert!(described(&[]).await.is_err());
        let bad = [(BUILDER_METADATA, "{}"), (BUILDPACK_ORDER, "{")];
        let error = described(&bad).await.err().unwrap();
        assert!(format!("{error:#}").contains(BUILDPACK_ORDER));
    }
}
