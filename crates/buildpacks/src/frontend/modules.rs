//! Modules of a build: those of the builder, and those that are added.
//!
//! A locator becomes a tree and a directory in it; its descriptor is read from there. Descriptors are
//! hostile text; ids and versions become names of directories only after they were checked.

use std::collections::BTreeMap;
use std::sync::Arc;

use cofferdam_cnb::{
    BUILDPACK_LAYERS, BUILDPACKAGE_METADATA, BuildpackageMetadata, Descriptor, EXTENSION_LAYERS,
    Kind, ModuleLayers, ModuleRef, parse_json,
};

use super::bench::{Bench, Wanted};
use super::error::BuildErrorKind;
use super::graph::{Change, Copying, Tree};
use crate::locator::{Located, Locator, parse_module};
use crate::order::OrderItem;
use crate::project::GroupModule;
use crate::{BuilderImage, LocalKind, ModuleOrigin, Source, Surroundings, inline_buildpack};

/// Modules one locator may bring.
const MAX_MODULES: usize = 1_000;

/// A module that is added to the builder's.
pub(crate) struct Added {
    pub(crate) descriptor: Arc<Descriptor>,
    tree: Tree,
    path: String,
}

impl Added {
    /// The tree that has it.
    pub(crate) fn tree(&self) -> Tree {
        self.tree
    }

    /// Its directory there.
    pub(crate) fn path(&self) -> &str {
        if self.path.is_empty() { "/" } else { &self.path }
    }
}

/// What locators came to.
#[derive(Default)]
pub(crate) struct Resolved {
    pub(crate) added: Vec<Added>,
    pub(crate) origins: Vec<ModuleOrigin>,
    pub(crate) warnings: Vec<String>,
}

/// A list of modules in a request.
pub(crate) struct Asking<'a> {
    /// The option or file that has it, for people.
    pub(crate) option: &'a str,
    pub(crate) kind: Kind,
    pub(crate) modules: Vec<GroupModule>,
}

impl Bench<'_> {
    /// Resolves a list of modules.
    pub(crate) async fn resolve(
        &self,
        builder: Option<&BuilderImage>,
        asking: Asking<'_>,
        resolved: &mut Resolved,
    ) -> Result<Vec<OrderItem>, BuildErrorKind> {
        let mut items = Vec::new();
        for module in &asking.modules {
            match module {
                GroupModule::Inline { id, version, script } => {
                    let inline = inline_buildpack(id.as_deref(), version.as_deref(), script)?;
                    items.push(OrderItem::Module(inline.module.clone()));
                    resolved.origins.push(ModuleOrigin {
                        module: inline.module.to_string(),
                        source: Source::Inline,
                        kind: Kind::Buildpack,
                    });
                    let changes: Vec<Change<'_>> = inline
                        .files
                        .iter()
                        .map(|file| Change::File {
                            path: file.path,
                            mode: i32::try_from(file.mode).unwrap_or(0o644),
                            data: &file.bytes,
                            owner: (0, 0),
                        })
                        .collect();
                    let mut all =
                        vec![Change::Directory { path: "/bin", mode: 0o755, owner: (0, 0) }];
                    all.extend(changes);
                    let tree = self.graph.files(&format!("write {}", inline.module), None, &all);
                    let descriptor =
                        self.descriptor(tree, "", Kind::Buildpack, &inline.module).await?;
                    resolved.added.push(Added { descriptor, tree, path: String::new() });
                }
                GroupModule::Locator(text) => {
                    let item = self.locate(builder, text, &asking, resolved).await;
                    items.push(item.map_err(|source| BuildErrorKind::Module {
                        module: format!("{} {text:?}", asking.option),
                        source: Box::new(source),
                    })?);
                }
            }
        }
        Ok(items)
    }

    async fn locate(
        &self,
        builder: Option<&BuilderImage>,
        text: &str,
        asking: &Asking<'_>,
        resolved: &mut Resolved,
    ) -> Result<OrderItem, BuildErrorKind> {
        let Located { locator, warning } = self.parse(builder, text, asking.kind).await?;
        resolved.warnings.extend(warning);
        let (root, found) = match &locator {
            Locator::FromBuilder => return Ok(OrderItem::FromBuilder),
            Locator::Builder { id, version } => {
                let no_builder = || BuildErrorKind::attribute(text, "there is no builder here");
                let version = version.as_ref().map(|version| version.as_str());
                let found = builder.ok_or_else(no_builder)?.find(asking.kind, id.as_str(), version);
                let module =
                    found.map_err(|error| BuildErrorKind::attribute(text, error.to_string()))?;
                resolved.origins.push(ModuleOrigin {
                    module: module.to_string(),
                    source: Source::Builder,
                    kind: asking.kind,
                });
                return Ok(OrderItem::Module(module));
            }
            other => self.fetch(other, asking.kind).await?,
        };
        let source =
            Source::Fetched { locator: locator.to_string(), option: asking.option.to_owned() };
        for added in found {
            resolved.origins.push(ModuleOrigin {
                module: added.descriptor.module().to_string(),
                source: source.clone(),
                kind: added.descriptor.kind,
            });
            resolved.added.push(added);
        }
        Ok(OrderItem::Module(root))
    }

    async fn parse(
        &self,
        builder: Option<&BuilderImage>,
        text: &str,
        kind: Kind,
    ) -> Result<Located, BuildErrorKind> {
        if let Some(image) = self.registry_image(text).await? {
            return Ok(Locator::Image(image).into());
        }
        let path = text.strip_prefix("file://").unwrap_or(text);
        let mut local = None;
        if self.request.local(path).is_some() {
            local = Some(LocalKind::Directory);
        } else if self.request.local_file(path).is_some() {
            local = Some(LocalKind::File);
        } else if let Some(inside) = inside(path) {
            let descriptors =
                [format!("{inside}/buildpack.toml"), format!("{inside}/extension.toml")];
            let follow: Vec<&str> = descriptors.iter().map(String::as_str).collect();
            let wanted = Wanted { follow: &follow, ..Wanted::default() };
            let tree = self.context("look for local modules", &wanted)?;
            for descriptor in &descriptors {
                if self.read(tree, descriptor).await?.is_some() {
                    local = Some(LocalKind::Directory);
                }
            }
        }
        let in_builder = |id: &cofferdam_cnb::Id, version: Option<&cofferdam_cnb::Version>| {
            let version = version.map(cofferdam_cnb::Version::as_str);
            builder.is_some_and(|builder| builder.has(kind, id.as_str(), version))
        };
        let find = |asked: &str| if asked == path { local } else { None };
        Ok(Locator::parse(text, Surroundings { local: &find, in_builder: &in_builder })?)
    }

    /// Everything a locator has: its root module, and all modules.
    async fn fetch(
        &self,
        locator: &Locator,
        kind: Kind,
    ) -> Result<(ModuleRef, Vec<Added>), BuildErrorKind> {
        let (tree, path) = match locator {
            Locator::Local(path) => self.directory(path)?,
            Locator::Git(git) => (self.git(git), String::new()),
            Locator::Http(http) => {
                let file = self.http(http);
                return self.archive(file, "/file", kind).await;
            }
            Locator::LocalFile(path) => {
                let (local, file) = self.request.local_file(path).ok_or_else(|| {
                    BuildErrorKind::attribute(path, "the client did not offer this file")
                })?;
                let wanted = Wanted { follow: &[file], ..Wanted::default() };
                let tree = self.local(local, &format!("load {path}"), &wanted);
                return self.archive(tree, &format!("/{file}"), kind).await;
            }
            Locator::Image(name) => {
                let title = format!("look up {name}");
                let image = self.need_image(&name.to_string(), &title).await?;
                let tree = self.image(&image, &format!("pull {name}"));
                return self.package(tree, &image.config, kind).await;
            }
            Locator::Builder { .. } | Locator::FromBuilder => {
                return Err(BuildErrorKind::attribute(&locator.to_string(), "is in the builder"));
            }
        };
        self.module_directory(tree, &path, kind).await
    }

    fn directory(&self, path: &str) -> Result<(Tree, String), BuildErrorKind> {
        if let Some(local) = self.request.local(path) {
            return Ok((
                self.local(local, &format!("load {path}"), &Wanted::default()),
                String::new(),
            ));
        }
        let inside = inside(path).ok_or_else(|| {
            BuildErrorKind::attribute(path, "lies outside the app, and the client did not offer it")
        })?;
        let wanted = Wanted { follow: &[&inside], ..Wanted::default() };
        Ok((self.context(&format!("load {path}"), &wanted)?, inside))
    }

    /// A directory with a descriptor, at its top or below `<os>/<arch>`.
    async fn module_directory(
        &self,
        tree: Tree,
        path: &str,
        kind: Kind,
    ) -> Result<(ModuleRef, Vec<Added>), BuildErrorKind> {
        let platform = &self.request.platform;
        let base = if path.is_empty() { String::new() } else { format!("/{path}") };
        let places = [
            format!("{base}/{}/{}", platform.OS, platform.Architecture),
            format!("{base}/{}", platform.OS),
            base,
        ];
        for place in &places {
            let file = format!("{place}/{}", file_name(kind));
            if let Some(bytes) = self.read(tree, &file).await? {
                let descriptor = Arc::new(Descriptor::parse(kind, file_name(kind), &bytes)?);
                let module = descriptor.module();
                let added = Added { descriptor, tree, path: place.clone() };
                return Ok((module, vec![added]));
            }
        }
        Err(BuildErrorKind::attribute(file_name(kind), "is not in the directory"))
    }

    /// An archive: of a module's directory, or of a buildpackage.
    async fn archive(
        &self,
        tree: Tree,
        path: &str,
        kind: Kind,
    ) -> Result<(ModuleRef, Vec<Added>), BuildErrorKind> {
        let unpacked = self.unpacked(tree, path, "unpack modules");
        let Some(index) = self.read(unpacked, "/index.json").await? else {
            return self.module_directory(unpacked, "", kind).await;
        };
        let (config, layers) = self.layout(unpacked, &index).await?;
        let mut merged: Tree = None;
        for layer in layers {
            let options = Copying { unpack: true, ..Copying::default() };
            let copy =
                Change::Copy { source: unpacked, path: &layer, dest: "/", owner: None, options };
            merged = self.graph.files("unpack a buildpackage", merged, &[copy]);
        }
        self.package(merged, &config, kind).await
    }

    /// The config and the layers' files of the first image in an OCI layout.
    async fn layout(
        &self,
        tree: Tree,
        index: &[u8],
    ) -> Result<(Vec<u8>, Vec<String>), BuildErrorKind> {
        let malformed = |problem: &str| BuildErrorKind::attribute("index.json", problem);
        let digest_of =
            |value: &serde_json::Value| -> Result<cofferdam_digest::Digest, BuildErrorKind> {
                let text =
                    value.get("digest").and_then(serde_json::Value::as_str).unwrap_or_default();
                cofferdam_digest::Digest::parse(text)
                    .map_err(|_| malformed("a descriptor has no digest"))
            };
        let mut document: serde_json::Value = serde_json::from_slice(index)?;
        // An index may name an index, as archives of several tools do.
        for _ in 0..3 {
            let Some(first) = document.get("manifests").and_then(|list| list.get(0)) else { break };
            let digest = digest_of(first)?;
            document = serde_json::from_slice(&self.blob(tree, digest).await?)?;
        }
        let config = document.get("config").ok_or_else(|| malformed("there is no image"))?;
        let config = self.blob(tree, digest_of(config)?).await?;
        let layers = document.get("layers").and_then(serde_json::Value::as_array);
        let layers = layers.into_iter().flatten().take(MAX_MODULES);
        let layers = layers
            .map(|layer| Ok(format!("/blobs/sha256/{}", digest_of(layer)?.hex())))
            .collect::<Result<_, BuildErrorKind>>()?;
        Ok((config, layers))
    }

    async fn blob(
        &self,
        tree: Tree,
        digest: cofferdam_digest::Digest,
    ) -> Result<Vec<u8>, BuildErrorKind> {
        let path = format!("/blobs/sha256/{}", digest.hex());
        let bytes = self.read(tree, &path).await?.unwrap_or_default();
        if cofferdam_digest::Digest::of(&bytes) != digest {
            return Err(BuildErrorKind::attribute(&path, "does not match its digest"));
        }
        Ok(bytes.to_vec())
    }

    /// The modules of a buildpackage.
    async fn package(
        &self,
        tree: Tree,
        config: &[u8],
        kind: Kind,
    ) -> Result<(ModuleRef, Vec<Added>), BuildErrorKind> {
        let config: serde_json::Value = serde_json::from_slice(config)?;
        let label = |name: &str| {
            let labels = config.get("config").and_then(|config| config.get("Labels"));
            labels.and_then(|labels| labels.get(name)).and_then(serde_json::Value::as_str)
        };
        let metadata = label(BUILDPACKAGE_METADATA).ok_or_else(|| {
            BuildErrorKind::attribute(BUILDPACKAGE_METADATA, "the image is no buildpackage")
        })?;
        let metadata: BuildpackageMetadata = parse_json(BUILDPACKAGE_METADATA, metadata)?;
        let mut found = Vec::new();
        for (kind, name) in
            [(Kind::Buildpack, BUILDPACK_LAYERS), (Kind::Extension, EXTENSION_LAYERS)]
        {
            let layers: ModuleLayers = match label(name) {
                Some(text) => parse_json(name, text)?,
                None => BTreeMap::new(),
            };
            for (id, versions) in &layers {
                for version in versions.keys() {
                    if found.len() >= MAX_MODULES {
                        return Err(BuildErrorKind::attribute(name, "has too many modules"));
                    }
                    let module = module_ref(kind, id, version)?;
                    let path = module.directory();
                    let descriptor = self.descriptor(tree, &path, kind, &module).await?;
                    found.push(Added { descriptor, tree, path });
                }
            }
        }
        let root = module_ref(kind, &metadata.module.id, &metadata.module.version)?;
        if !found.iter().any(|added| added.descriptor.module() == root) {
            let problem = format!("{root} is not among the layers of the buildpackage");
            return Err(BuildErrorKind::attribute(BUILDPACKAGE_METADATA, problem));
        }
        Ok((root, found))
    }

    /// The descriptor of a module that must lie in `path`.
    pub(crate) async fn descriptor(
        &self,
        tree: Tree,
        path: &str,
        kind: Kind,
        module: &ModuleRef,
    ) -> Result<Arc<Descriptor>, BuildErrorKind> {
        let named = |source: BuildErrorKind| BuildErrorKind::Module {
            module: module.to_string(),
            source: Box::new(source),
        };
        let file = format!("{path}/{}", file_name(kind));
        let bytes = self.read(tree, &file).await?;
        let bytes =
            bytes.ok_or_else(|| named(BuildErrorKind::attribute(file_name(kind), "is missing")))?;
        let descriptor = Descriptor::parse(kind, file_name(kind), &bytes);
        let descriptor = descriptor.map_err(|error| named(error.into()))?;
        if descriptor.module() != *module {
            let problem = format!("describes {} instead", descriptor.module());
            return Err(named(BuildErrorKind::attribute(file_name(kind), problem)));
        }
        Ok(Arc::new(descriptor))
    }

    /// A builder's tree with modules added at their places.
    pub(crate) fn with_modules(&self, base: Tree, added: &[Added]) -> Tree {
        let mut tree = base;
        for module in added {
            let reference = module.descriptor.module();
            let place = reference.directory();
            let options = Copying { contents: true, ..Copying::default() };
            let changes = [
                Change::Remove { path: &place },
                Change::Directory { path: &place, mode: 0o755, owner: (0, 0) },
                Change::Copy {
                    source: module.tree,
                    path: module.path(),
                    dest: &place,
                    owner: Some((0, 0)),
                    options,
                },
            ];
            tree = self.graph.files(&format!("add {reference}"), tree, &changes);
        }
        tree
    }
}

/// The name of a kind's descriptor.
pub(crate) const fn file_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Buildpack => "buildpack.toml",
        Kind::Extension => "extension.toml",
    }
}

/// A module by the texts of a label.
pub(crate) fn module_ref(kind: Kind, id: &str, version: &str) -> Result<ModuleRef, BuildErrorKind> {
    let text = format!("{id}@{version}");
    let parsed =
        parse_module(&text).map_err(|error| BuildErrorKind::attribute(&text, error.to_string()))?;
    match parsed {
        (id, Some(version)) => Ok(ModuleRef { kind, id, version }),
        (id, None) => Err(BuildErrorKind::attribute(id.as_str(), "has no version")),
    }
}

/// A path relative to the app that stays in it.
fn inside(path: &str) -> Option<String> {
    if path.starts_with('/') {
        return None;
    }
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => return None,
            part => parts.push(part),
        }
    }
    (!parts.is_empty()).then(|| parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_paths_inside_the_app_are_taken_from_it() {
        assert_eq!(inside("./a//b/").as_deref(), Some("a/b"));
        for path in ["/a", "../a", "a/../../b", ".", ""] {
            assert_eq!(inside(path), None, "{path:?}");
        }
    }
}
