//! The image of an app.

use anyhow::Context;
use cofferdam_cnb::{
    BUILD_METADATA, BuildMetadata, EXEC_ENV, ImageBuildpack, LIFECYCLE_METADATA, LifecycleMetadata,
    REBASABLE, RunImage, STACK_ID, parse_json,
};
use serde_json::json;

use super::Shown;
use super::page::Page;
use crate::artifact::Artifact;

/// What the lifecycle wrote down.
pub(super) fn describe(image: &Artifact) -> anyhow::Result<Shown> {
    let label = image.label(LIFECYCLE_METADATA);
    let label =
        label.context("the image was not built by buildpacks: it has no label of a lifecycle")?;
    let lifecycle: LifecycleMetadata = parse_json(LIFECYCLE_METADATA, label)?;
    let build = image.label(BUILD_METADATA);
    let build: BuildMetadata =
        build.map(|text| parse_json(BUILD_METADATA, text)).transpose()?.unwrap_or_default();
    let run = run_images(&lifecycle);
    let default = default_process(image, &build);
    let rebasable = image.label(REBASABLE) != Some("false");
    let platform = image.config.platform.to_string();
    let stack = image.label(STACK_ID).unwrap_or_default();
    let exec_env = image.label(EXEC_ENV).unwrap_or_default();
    let base = &lifecycle.run_image;
    let json = json!({
        "image": image.name,
        "digest": image.digest,
        "platform": platform,
        "created": image.config.created,
        "stack": stack,
        "exec_env": exec_env,
        "rebasable": rebasable,
        "base_image": { "top_layer": base.top_layer, "reference": base.reference },
        "run_images": run,
        "buildpacks": build.buildpacks,
        "extensions": build.extensions,
        "processes": build.processes,
        "default_process": default,
        "launcher": build.launcher.version,
        "has_sbom": lifecycle.sbom.is_some(),
    });
    let mut page = Page::default();
    page.field("Image", &image.name);
    page.field("Digest", &image.digest);
    page.field("Platform", &platform);
    page.field("Created", image.config.created.as_deref().unwrap_or_default());
    page.field("Stack", stack);
    page.field("Execution environment", exec_env);
    page.field("Rebasable", if rebasable { "yes" } else { "no" });
    page.field("SBOMs", if lifecycle.sbom.is_some() { "yes" } else { "no" });
    page.heading("Base image");
    page.line(2, &format!("Reference: {}", base.reference));
    page.line(2, &format!("Top layer: {}", base.top_layer));
    page.run_images(&run);
    page.table("Buildpacks", &["ID", "VERSION", "HOMEPAGE"], rows(&build.buildpacks));
    page.table("Extensions", &["ID", "VERSION", "HOMEPAGE"], rows(&build.extensions));
    let processes = build.processes.iter().map(|process| {
        let is_default = if process.kind == default { "yes" } else { "" };
        let words = process.command.iter().chain(&process.args).map(String::as_str);
        let command: Vec<&str> = words.collect();
        vec![
            process.kind.clone(),
            is_default.to_owned(),
            process.working_dir.clone(),
            command.join(" "),
        ]
    });
    page.table("Processes", &["TYPE", "DEFAULT", "DIRECTORY", "COMMAND"], processes.collect());
    Ok(Shown { json, text: page.text() })
}

fn run_images(lifecycle: &LifecycleMetadata) -> Vec<RunImage> {
    let base = &lifecycle.run_image;
    if !base.image.is_empty() {
        return vec![RunImage { image: base.image.clone(), mirrors: base.mirrors.clone() }];
    }
    // Images of older lifecycles.
    let stack = &lifecycle.stack.run_image;
    if stack.image.is_empty() { vec![] } else { vec![stack.clone()] }
}

/// What the image starts counts, not what a buildpack proposed.
fn default_process(image: &Artifact, build: &BuildMetadata) -> String {
    let entrypoint = image.config.config.entrypoint.as_deref().unwrap_or_default();
    let started = entrypoint.first().and_then(|path| path.strip_prefix("/cnb/process/"));
    started.map_or_else(|| build.default_process.clone(), str::to_owned)
}

fn rows(modules: &[ImageBuildpack]) -> Vec<Vec<String>> {
    let row = |module: &ImageBuildpack| {
        vec![module.id.clone(), module.version.clone(), module.homepage.clone()]
    };
    modules.iter().map(row).collect()
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
        describe(&Artifact::open(file.to_str().unwrap(), &Platform::host()).await.unwrap())
    }

    #[tokio::test]
    async fn labels_are_shown() {
        let lifecycle = r#"{"app":[{"sha":"sha256:a"}],"runImage":{"topLayer":"sha256:t","reference":"r.example/run@sha256:x","image":"r.example/run","mirrors":["m.example/run"]},"sbom":{"sha":"sha256:s"}}"#;
        let build = r#"{"buildpacks":[{"id":"acme/a","version":"1.0.0"}],"processes":[{"type":"web","command":"node","args":["x\u001b[2J"],"direct":true,"buildpackID":"acme/a"}],"buildpack-default-process-type":"web"}"#;
        let labels =
            [(LIFECYCLE_METADATA, lifecycle), (BUILD_METADATA, build), (REBASABLE, "false")];
        let shown = described(&labels).await.unwrap();
        assert_eq!(shown.json["default_process"], "web");
        assert_eq!(shown.json["run_images"][0]["mirrors"][0], "m.example/run");
        assert_eq!(
            (&shown.json["rebasable"], &shown.json["has_sbom"]),
            (&false.into(), &true.into())
        );
        for part in ["Rebasable: no", "acme/a", "web", "yes", "node x[2J", "m.example/run"] {
            assert!(shown.text.contains(part), "{part}: {}", shown.text);
        }
        assert!(!shown.text.contains('\x1b'));
    }

    #[tokio::test]
    async fn other_images_are_no_apps() {
        assert!(described(&[]).await.is_err());
        let error = described(&[(LIFECYCLE_METADATA, "[")]).await.err().unwrap();
        assert!(format!("{error:#}").contains(LIFECYCLE_METADATA));
    }
}
