//! Builder images and buildpackages: `builder.toml` and `package.toml` to images.
//!
//! Modules are fetched and packed by the builder daemon; none of their programs runs.

use std::collections::BTreeMap;

use cofferdam_cnb::{
    ApiRange, ApiRanges, BUILDER_METADATA, BUILDPACK_APIS, BUILDPACK_LAYERS, BUILDPACK_ORDER,
    BUILDPACKAGE_METADATA, BuilderMetadata, BuildpackageMetadata, CreatedBy, Descriptor,
    EXTENSION_LAYERS, Kind, LayerTar, LayerTarError, LifecycleApis, LifecycleInfo, ModuleInfo,
    ModuleLayer, ModuleLayers, ORDER_EXTENSIONS, Order, OrderFile, PLATFORM_APIS, RunImage,
    STACK_ID, SYSTEM, StackMetadata,
};
use cofferdam_lifecycle::{LAUNCHER, LAUNCHER_PATH, rfc3339};
use serde_json::{Value, json};

use super::Built;
use super::bench::{Bench, Wanted};
use super::error::BuildErrorKind;
use super::modules::{Added, Asking, Resolved};
use crate::client::{Image, ImageLayer, Pack, Selection};
use crate::order::OrderItem;
use crate::project::GroupModule;
use crate::{BuilderToml, ModuleSource, PackageToml};

/// Where the app lies unless a build says otherwise.
const WORKSPACE: &str = "/workspace";

/// Layers of an image under way, with what made them.
#[derive(Default)]
struct Stack {
    layers: Vec<ImageLayer>,
    history: Vec<String>,
}

impl Stack {
    fn push(&mut self, layer: ImageLayer, what: impl Into<String>) {
        self.layers.push(layer);
        self.history.push(what.into());
    }
}

/// A file of a layer that the frontend writes.
struct Written<'a> {
    path: &'a str,
    mode: u32,
    bytes: &'a [u8],
}

impl Bench<'_> {
    async fn config_file(&self) -> Result<(String, Vec<u8>), BuildErrorKind> {
        let name = self.request.need("config-file")?;
        let wanted = Wanted { follow: &[name], ..Wanted::default() };
        let tree = self.context(&format!("load {name}"), &wanted)?;
        match self.read(tree, name).await? {
            Some(bytes) => Ok((name.to_owned(), bytes.to_vec())),
            None => {
                Err(BuildErrorKind::attribute("config-file", format!("there is no file {name:?}")))
            }
        }
    }

    /// Makes a builder image.
    pub(crate) async fn builder_image(&self) -> Result<Built, BuildErrorKind> {
        let (name, bytes) = self.config_file().await?;
        let (builder, warnings) = BuilderToml::parse(&name, &bytes)?;
        let step = self.client.step(&format!("read {name}"));
        warnings.iter().for_each(|warning| step.log(&format!("warning: {warning}")));
        step.done();
        let base = self
            .need_image(&builder.build_image, &format!("look up {}", builder.build_image))
            .await?;
        let mut config: Value = serde_json::from_slice(&base.config)?;
        let owner = user(&config, &builder.build_image)?;
        let mut resolved = Resolved::default();
        self.sources(&builder.buildpacks, Kind::Buildpack, &name, &mut resolved).await?;
        self.sources(&builder.extensions, Kind::Extension, &name, &mut resolved).await?;
        check_order(&builder, &resolved.added, &name)?;

        let step = self.client.step("pack the builder");
        let mut stack = Stack::default();
        stack.push(self.client.keep(directories_tar(owner)?).await?, "directories");
        stack.push(self.client.keep(lifecycle_tar()?).await?, "lifecycle");
        let (buildpacks, extensions) = self.module_layers(&resolved.added, &mut stack).await?;
        self.settings(&builder, &mut stack).await?;
        step.done();
        let metadata = metadata(&builder, &resolved.added);
        let mut labels = BTreeMap::from([
            (BUILDER_METADATA, serde_json::to_string(&metadata)?),
            (BUILDPACK_LAYERS, serde_json::to_string(&buildpacks)?),
            (EXTENSION_LAYERS, serde_json::to_string(&extensions)?),
            (BUILDPACK_ORDER, serde_json::to_string(&builder.order)?),
            (ORDER_EXTENSIONS, serde_json::to_string(&builder.order_extensions)?),
        ]);
        if builder.system != Default::default() {
            labels.insert(SYSTEM, serde_json::to_string(&builder.system)?);
        }
        if let Some(stack) = &builder.stack_id {
            labels.insert(STACK_ID, stack.clone());
        }
        config["config"]["WorkingDir"] = "/layers".into();
        config["config"]["User"] = format!("{}:{}", owner.0, owner.1).into();
        self.image_of(Some(&base), config, stack, labels).await
    }

    /// Makes a buildpackage.
    pub(crate) async fn buildpackage(&self) -> Result<Built, BuildErrorKind> {
        let (name, bytes) = self.config_file().await?;
        let (package, warnings) = PackageToml::parse(&name, &bytes)?;
        let step = self.client.step(&format!("read {name}"));
        warnings.iter().for_each(|warning| step.log(&format!("warning: {warning}")));
        step.done();
        let mut resolved = Resolved::default();
        let source = |uri: &String| ModuleSource { id: None, version: None, uri: uri.clone() };
        self.sources(&[source(&package.uri)], package.kind, &name, &mut resolved).await?;
        let root = resolved.added.first().map(|added| added.descriptor.clone());
        let root = root.ok_or_else(|| BuildErrorKind::attribute(&name, "names no module"))?;
        let dependencies: Vec<ModuleSource> = package.dependencies.iter().map(source).collect();
        self.sources(&dependencies, Kind::Buildpack, &name, &mut resolved).await?;
        for group in &root.order {
            for element in &group.group {
                let has = resolved
                    .added
                    .iter()
                    .any(|added| names(&added.descriptor, &element.id, &element.version));
                if !has {
                    let problem = format!(
                        "{}@{} is in the order of {} and among no dependencies",
                        element.id,
                        element.version,
                        root.module()
                    );
                    return Err(BuildErrorKind::attribute(&name, problem));
                }
            }
        }
        let step = self.client.step("pack the buildpackage");
        let mut stack = Stack::default();
        let (buildpacks, extensions) = self.module_layers(&resolved.added, &mut stack).await?;
        step.done();
        let metadata = BuildpackageMetadata { module: info(&root), stacks: root.stacks.clone() };
        let mut labels =
            BTreeMap::from([(BUILDPACKAGE_METADATA, serde_json::to_string(&metadata)?)]);
        if !buildpacks.is_empty() {
            labels.insert(BUILDPACK_LAYERS, serde_json::to_string(&buildpacks)?);
        }
        if !extensions.is_empty() {
            labels.insert(EXTENSION_LAYERS, serde_json::to_string(&extensions)?);
        }
        let platform = &self.request.platform;
        let config =
            json!({ "os": platform.OS, "architecture": platform.Architecture, "config": {} });
        self.image_of(None, config, stack, labels).await
    }

    /// Fetches what a list of a file names.
    async fn sources(
        &self,
        sources: &[ModuleSource],
        kind: Kind,
        file: &str,
        resolved: &mut Resolved,
    ) -> Result<(), BuildErrorKind> {
        for source in sources {
            let modules = vec![GroupModule::Locator(source.uri.clone())];
            let asking = Asking { option: file, kind, modules };
            let items = self.resolve(None, asking, resolved).await?;
            let Some(OrderItem::Module(found)) = items.first() else { continue };
            let said = [
                ("id", source.id.as_deref(), found.id.as_str()),
                ("version", source.version.as_deref(), found.version.as_str()),
            ];
            for (key, said, is) in said {
                if let Some(said) = said.filter(|said| *said != is) {
                    let problem = format!("{key} = {said:?} of {:?}: it is {found}", source.uri);
                    return Err(BuildErrorKind::attribute(file, problem));
                }
            }
        }
        // A module that several packages bring is there once.
        let mut seen = std::collections::HashSet::new();
        resolved.added.retain(|added| seen.insert(added.descriptor.module()));
        Ok(())
    }

    async fn module_layers(
        &self,
        added: &[Added],
        stack: &mut Stack,
    ) -> Result<(ModuleLayers, ModuleLayers), BuildErrorKind> {
        let mut sorted: Vec<&Added> = added.iter().collect();
        sorted.sort_by_key(|added| added.descriptor.module());
        let (mut buildpacks, mut extensions) = (ModuleLayers::new(), ModuleLayers::new());
        for added in sorted {
            let module = added.descriptor.module();
            let place = module.directory();
            let above = place.rsplit_once('/').map_or("", |(above, _)| above).to_owned();
            let kinds = above.rsplit_once('/').map_or("", |(kinds, _)| kinds).to_owned();
            let parents = ["/cnb".to_owned(), kinds, above];
            let layer = self.client.pack(Pack {
                definition: self.graph.definition(added.tree()),
                path: added.path().to_owned(),
                name: place,
                parents: parents.into_iter().map(|name| (name, (0, 0), 0o755)).collect(),
                owner: Some((0, 0)),
                selection: Selection::All,
            });
            let layer = layer.await?;
            let value = module_layer(&added.descriptor, &layer);
            let layers = match module.kind {
                Kind::Buildpack => &mut buildpacks,
                Kind::Extension => &mut extensions,
            };
            let versions = layers.entry(module.id.to_string()).or_default();
            versions.insert(module.version.to_string(), value);
            stack.push(layer, format!("{} {module}", module.kind));
        }
        Ok((buildpacks, extensions))
    }

    /// The layer of what a lifecycle reads in a builder: order, run images, variables.
    async fn settings(
        &self,
        builder: &BuilderToml,
        stack: &mut Stack,
    ) -> Result<(), BuildErrorKind> {
        let order = OrderFile {
            order: builder.order.clone(),
            order_extensions: builder.order_extensions.clone(),
        };
        let text = |value: &Value| {
            toml::to_string(value)
                .map_err(|error| BuildErrorKind::attribute("builder.toml", error.to_string()))
        };
        let run = text(&json!({ "images": builder.run_images }))?;
        let order = toml::to_string(&order)
            .map_err(|error| BuildErrorKind::attribute("order", error.to_string()))?;
        let first = builder.run_images.first().cloned().unwrap_or_default();
        let old = text(&json!({ "run-image": first }))?;
        let mut files = vec![("/cnb/order.toml".to_owned(), order)];
        if builder.system != Default::default() {
            files
                .push(("/cnb/system.toml".to_owned(), text(&json!({ "system": builder.system }))?));
        }
        files.push(("/cnb/stack.toml".to_owned(), old));
        files.push(("/cnb/run.toml".to_owned(), run));
        for env in &builder.build_env {
            for (name, value) in env.files() {
                files.push((format!("/cnb/build-config/env/{name}"), value));
            }
        }
        for (path, text) in files {
            let written = [Written { path: &path, mode: 0o644, bytes: text.as_bytes() }];
            stack.push(self.client.keep(files_tar(&written)?).await?, path.clone());
        }
        Ok(())
    }

    /// An image of layers on a base.
    async fn image_of(
        &self,
        base: Option<&Image>,
        mut config: Value,
        stack: Stack,
        labels: BTreeMap<&str, String>,
    ) -> Result<Built, BuildErrorKind> {
        for (name, value) in labels {
            config["config"]["Labels"][name] = value.into();
        }
        for (name, value) in &self.request.labels {
            config["config"]["Labels"][name] = value.clone().into();
        }
        let created = rfc3339(self.request.created);
        let mut layers = base.map(|base| base.layers.clone()).unwrap_or_default();
        let mut history =
            config.get("history").and_then(Value::as_array).cloned().unwrap_or_default();
        history.retain(|entry| entry.get("empty_layer") != Some(&Value::Bool(true)));
        history.resize(layers.len(), json!({}));
        for entry in &mut history {
            // Equal builders have equal histories: no time is made up for what has none.
            if entry.get("created").is_none() {
                entry["created"] = created.clone().into();
            }
        }
        history.extend(
            stack.history.iter().map(|what| json!({ "created": created, "created_by": what })),
        );
        config["history"] = history.into();
        config["created"] = created.into();
        layers.extend(stack.layers);
        let diff_ids: Vec<String> = layers.iter().map(|layer| layer.diff_id.to_string()).collect();
        config["rootfs"] = json!({ "type": "layers", "diff_ids": diff_ids });
        let source = self.client.compose(layers).await?;
        let tree = self.graph.source("compose the image", source, None);
        Ok(self.finished(tree, serde_json::to_vec(&config)?))
    }
}

/// Who builds, as the build image's variables say.
fn user(config: &Value, image: &str) -> Result<(u32, u32), BuildErrorKind> {
    let env = config.pointer("/config/Env").and_then(Value::as_array);
    let find = |name: &str| {
        let prefix = format!("{name}=");
        let entries = env.into_iter().flatten().filter_map(Value::as_str);
        let value = entries.filter_map(|entry| entry.strip_prefix(&prefix)).next_back();
        let id =
            value.and_then(|value| value.parse::<u32>().ok()).filter(|id| (1..65_536).contains(id));
        id.ok_or_else(|| {
            let problem =
                format!("the build image {image} must set it to a number from 1 to 65535");
            BuildErrorKind::attribute(name, problem)
        })
    };
    Ok((find("CNB_USER_ID")?, find("CNB_GROUP_ID")?))
}

fn names(descriptor: &Descriptor, id: &str, version: &str) -> bool {
    let info = &descriptor.info;
    info.id.as_str() == id && (version.is_empty() || info.version.as_str() == version)
}

/// Every element of the orders is a module of the builder.
fn check_order(builder: &BuilderToml, added: &[Added], file: &str) -> Result<(), BuildErrorKind> {
    let check = |order: &Order, kind: Kind, key: &str| {
        for element in order.iter().flat_map(|group| &group.group) {
            let mut known = added.iter().filter(|added| added.descriptor.kind == kind);
            if !known.any(|added| names(&added.descriptor, &element.id, &element.version)) {
                let version = if element.version.is_empty() { "(any)" } else { &element.version };
                let problem =
                    format!("{key}: {kind} {}@{version} is not among the builder's", element.id);
                return Err(BuildErrorKind::attribute(file, problem));
            }
        }
        Ok(())
    };
    check(&builder.order, Kind::Buildpack, "order")?;
    check(&builder.order_extensions, Kind::Extension, "order-extensions")
}

fn info(descriptor: &Descriptor) -> ModuleInfo {
    let info = &descriptor.info;
    ModuleInfo {
        id: info.id.to_string(),
        version: info.version.to_string(),
        name: info.name.clone(),
        description: info.description.clone(),
        homepage: info.homepage.clone(),
        keywords: info.keywords.clone(),
        licenses: info.licenses.clone(),
    }
}

fn module_layer(descriptor: &Descriptor, layer: &ImageLayer) -> ModuleLayer {
    ModuleLayer {
        api: descriptor.api.to_string(),
        stacks: descriptor.stacks.clone(),
        targets: descriptor.targets.clone(),
        order: descriptor.order.clone(),
        layer_diff_id: layer.diff_id.to_string(),
        homepage: descriptor.info.homepage.clone(),
        name: descriptor.info.name.clone(),
    }
}

fn versions(range: &std::ops::RangeInclusive<u32>) -> ApiRange {
    let supported = range.clone().map(|minor| format!("0.{minor}")).collect();
    ApiRange { deprecated: None, supported: Some(supported) }
}

fn metadata(builder: &BuilderToml, added: &[Added]) -> BuilderMetadata {
    let of = |kind: Kind| {
        let mut infos: Vec<ModuleInfo> = added
            .iter()
            .filter(|added| added.descriptor.kind == kind)
            .map(|added| info(&added.descriptor))
            .collect();
        infos.sort_by(|one, other| (&one.id, &one.version).cmp(&(&other.id, &other.version)));
        infos
    };
    let run: RunImage = builder.run_images.first().cloned().unwrap_or_default();
    BuilderMetadata {
        description: builder.description.clone(),
        buildpacks: of(Kind::Buildpack),
        extensions: of(Kind::Extension),
        stack: StackMetadata { run_image: run },
        lifecycle: LifecycleInfo {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            api: LifecycleApis { buildpack: "0.7".to_owned(), platform: "0.7".to_owned() },
            apis: ApiRanges {
                buildpack: versions(&BUILDPACK_APIS),
                platform: versions(&PLATFORM_APIS),
            },
        },
        created_by: CreatedBy {
            name: "Cofferdam".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        },
        images: builder.run_images.clone(),
    }
}

/// The directories every builder has.
fn directories_tar((uid, gid): (u32, u32)) -> Result<Vec<u8>, LayerTarError> {
    let mut tar = LayerTar::new(Vec::new());
    for path in [WORKSPACE, "/layers"] {
        tar.directory(path, uid, gid, 0o755)?;
    }
    let own = [
        "/cnb",
        "/cnb/buildpacks",
        "/cnb/extensions",
        "/cnb/build-config",
        "/cnb/build-config/env",
        "/platform",
        "/platform/env",
    ];
    for path in own {
        tar.directory(path, 0, 0, 0o755)?;
    }
    tar.finish()
}

/// The launcher, and what says which lifecycle this is.
fn lifecycle_tar() -> Result<Vec<u8>, LayerTarError> {
    let list = |range: &std::ops::RangeInclusive<u32>| {
        range.clone().map(|minor| format!("\"0.{minor}\"")).collect::<Vec<_>>().join(", ")
    };
    let text = format!(
        "[apis]\n[apis.buildpack]\ndeprecated = []\nsupported = [{}]\n[apis.platform]\ndeprecated = []\n\
         supported = [{}]\n\n[lifecycle]\nversion = \"{}\"\n",
        list(&BUILDPACK_APIS),
        list(&PLATFORM_APIS),
        env!("CARGO_PKG_VERSION")
    );
    files_tar(&[
        Written { path: LAUNCHER_PATH, mode: 0o755, bytes: LAUNCHER },
        Written { path: "/cnb/lifecycle/lifecycle.toml", mode: 0o644, bytes: text.as_bytes() },
    ])
}

/// Files of root, with the directories above them.
fn files_tar(files: &[Written<'_>]) -> Result<Vec<u8>, LayerTarError> {
    let mut tar = LayerTar::new(Vec::new());
    let mut made: Vec<&str> = Vec::new();
    for file in files {
        for (at, _) in file.path.match_indices('/').skip(1) {
            let above = &file.path[..at];
            if !made.contains(&above) {
                tar.directory(above, 0, 0, 0o755)?;
                made.push(above);
            }
        }
        tar.file(file.path, 0, 0, file.mode, file.bytes.len() as u64, &mut &*file.bytes)?;
    }
    tar.finish()
}
