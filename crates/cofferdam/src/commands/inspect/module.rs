//! A buildpackage, or the directory of a buildpack.

use std::io::Read;
use std::path::Path;

use anyhow::Context;
use cofferdam_cnb::{
    BUILDPACK_LAYERS, BUILDPACKAGE_METADATA, BuildpackageMetadata, Descriptor, EXTENSION_LAYERS,
    Kind, MAX_FILE, ModuleInfo, ModuleLayers, Stack, Target, parse_json,
};
use serde_json::json;

use super::Shown;
use super::page::Page;
use crate::artifact::Artifact;

/// What the labels of a buildpackage say.
pub(super) fn describe(image: &Artifact) -> anyhow::Result<Shown> {
    let label = image.label(BUILDPACKAGE_METADATA);
    let label = label.with_context(|| {
        format!("the image is no buildpackage: it has no label {BUILDPACKAGE_METADATA}")
    })?;
    let metadata: BuildpackageMetadata = parse_json(BUILDPACKAGE_METADATA, label)?;
    let layers = |label: &str| -> anyhow::Result<ModuleLayers> {
        let text = image.label(label);
        Ok(text.map(|text| parse_json(label, text)).transpose()?.unwrap_or_default())
    };
    let (buildpacks, extensions) = (layers(BUILDPACK_LAYERS)?, layers(EXTENSION_LAYERS)?);
    let platform = image.config.platform.to_string();
    let json = json!({
        "image": image.name,
        "digest": image.digest,
        "platform": platform,
        "module": metadata.module,
        "stacks": metadata.stacks,
        "buildpacks": buildpacks,
        "extensions": extensions,
    });
    let mut page = Page::default();
    page.field("Image", &image.name);
    page.field("Digest", &image.digest);
    page.field("Platform", &platform);
    about(&mut page, &metadata.module);
    stacks(&mut page, &metadata.stacks);
    page.modules("Buildpacks", &buildpacks);
    page.modules("Extensions", &extensions);
    let of_root = |layers: &ModuleLayers| {
        layers.get(&metadata.module.id)?.get(&metadata.module.version).cloned()
    };
    if let Some(root) = of_root(&buildpacks).or_else(|| of_root(&extensions)) {
        targets(&mut page, &root.targets);
        page.order("Detection order", &root.order);
    }
    Ok(Shown { json, text: page.text() })
}

/// What a buildpack's directory says; nothing when `path` is none.
pub(super) fn of_directory(path: &Path) -> anyhow::Result<Option<Shown>> {
    for (kind, name) in [(Kind::Buildpack, "buildpack.toml"), (Kind::Extension, "extension.toml")] {
        let file = path.join(name);
        if !file.is_file() {
            continue;
        }
        let failed = || format!("read {}", file.display());
        let mut bytes = Vec::new();
        let opened = std::fs::File::open(&file).with_context(failed)?;
        opened.take(MAX_FILE as u64 + 1).read_to_end(&mut bytes).with_context(failed)?;
        let descriptor = Descriptor::parse(kind, &file.display().to_string(), &bytes)?;
        return Ok(Some(of_descriptor(&descriptor)));
    }
    Ok(None)
}

fn of_descriptor(descriptor: &Descriptor) -> Shown {
    let info = &descriptor.info;
    let module = ModuleInfo {
        id: info.id.to_string(),
        version: info.version.to_string(),
        name: info.name.clone(),
        description: info.description.clone(),
        homepage: info.homepage.clone(),
        keywords: info.keywords.clone(),
        licenses: info.licenses.clone(),
    };
    let json = json!({
        "kind": descriptor.kind.to_string(),
        "api": descriptor.api.to_string(),
        "module": module,
        "stacks": descriptor.stacks,
        "targets": descriptor.targets,
        "order": descriptor.order,
    });
    let mut page = Page::default();
    page.field("Kind", &descriptor.kind.to_string());
    about(&mut page, &module);
    page.field("API", &descriptor.api.to_string());
    stacks(&mut page, &descriptor.stacks);
    targets(&mut page, &descriptor.targets);
    page.order("Detection order", &descriptor.order);
    Shown { json, text: page.text() }
}

fn about(page: &mut Page, module: &ModuleInfo) {
    page.field("ID", &module.id);
    page.field("Version", &module.version);
    page.field("Name", &module.name);
    page.field("Description", &module.description);
    page.field("Homepage", &module.homepage);
    page.field("Keywords", &module.keywords.join(", "));
    let licenses = module.licenses.iter();
    let licenses = licenses.map(|one| if one.kind.is_empty() { &one.uri } else { &one.kind });
    page.field("Licenses", &licenses.cloned().collect::<Vec<_>>().join(", "));
}

fn stacks(page: &mut Page, stacks: &[Stack]) {
    let rows = stacks.iter().map(|stack| vec![stack.id.clone(), stack.mixins.join(", ")]);
    page.table("Stacks", &["ID", "MIXINS"], rows.collect());
}

fn targets(page: &mut Page, targets: &[Target]) {
    let rows = targets.iter().map(|target| {
        let distros = target.distros.iter();
        let distros: Vec<String> =
            distros.map(|distro| format!("{} {}", distro.name, distro.version)).collect();
        let any = |text: &str| if text.is_empty() { "any".to_owned() } else { text.to_owned() };
        vec![any(&target.os), any(&target.arch), target.variant.clone(), distros.join(", ")]
    });
    page.table("Targets", &["OS", "ARCH", "VARIANT", "DISTRIBUTIONS"], rows.collect());
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use cofferdam_image::Platform;

    use super::*;
    use crate::artifact::tests::layout;

    #[tokio::test]
    async fn packages_are_shown() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("x.cnb");
        let labels = [
            (BUILDPACKAGE_METADATA, r#"{"id":"acme/all","version":"1.0.0","stacks":[{"id":"*"}]}"#),
            (
                BUILDPACK_LAYERS,
                r#"{"acme/all":{"1.0.0":{"api":"0.10","order":[{"group":[{"id":"acme/a","version":"2.0.0"}]}]}},"acme/a":{"2.0.0":{"api":"0.10"}}}"#,
            ),
        ];
        std::fs::write(&file, layout(&labels, b"")).unwrap();
        let image = Artifact::open(file.to_str().unwrap(), &Platform::host()).await.unwrap();
        let shown = describe(&image).unwrap();
        for part in ["ID: acme/all", "acme/a@2.0.0", "Stacks:"] {
            assert!(shown.text.contains(part), "{part}: {}", shown.text);
        }
        assert_eq!(shown.json["module"]["id"], "acme/all");
        std::fs::write(&file, layout(&[], b"")).unwrap();
        let image = Artifact::open(file.to_str().unwrap(), &Platform::host()).await.unwrap();
        assert!(describe(&image).is_err());
    }

    #[test]
    fn directories_are_shown() {
        let dir = tempfile::tempdir().unwrap();
        assert!(of_directory(dir.path()).unwrap().is_none());
        let file = dir.path().join("buildpack.toml");
        std::fs::write(&file, "api = \"0.10\"\n[buildpack]\nid = \"acme/a\"\nversion = \"1.0.0\"\n[[targets]]\nos = \"linux\"\n").unwrap();
        let shown = of_directory(dir.path()).unwrap().unwrap();
        assert!(
            shown.text.contains("ID: acme/a\n") && shown.text.contains("any"),
            "{}",
            shown.text
        );
        std::fs::write(&file, "api = \"0.99\"\n").unwrap();
        let error = of_directory(dir.path()).err().unwrap().to_string();
        assert!(error.contains("buildpack.toml") && error.contains("0.99"), "{error}");
    }
}
