//! The frontend: attributes and an app to an image.
//!
//! Phases in the order of the specification. What decides and what reads is the builder's own code;
//! programs of buildpacks run only as steps of the graph, each in a sandbox. Must never hand a
//! sandbox a credential, and never take from one what the builder already knows.

mod analyze;
mod attrs;
mod bench;
mod build;
mod confine;
mod detect;
mod error;
mod export;
mod extend;
mod graph;
mod modules;
mod packaging;
mod prepare;
mod rebase;
mod registry_index;
mod restore;
mod session;

use std::collections::BTreeMap;

use base64::Engine as _;
use cofferdam_cnb::LayerTar;
use cofferdam_lifecycle::report_toml;
use cofferdam_wire::pb;

pub use error::BuildError;

use attrs::{Operation, Request};
use bench::Bench;
use error::BuildErrorKind;
use export::Exported;
use graph::{Graph, Tree};
use session::{BuiltApp, LAYERS, Setting};

use crate::client::Client;

/// Bytes of SBOMs that travel in a response.
const MAX_SBOM: usize = 8 << 20;

/// What a build gives.
#[derive(Debug, Clone)]
pub struct Built {
    /// The tree of the image.
    pub definition: pb::Definition,
    /// The image's configuration and what clients are told, by the names exporters know them by.
    pub metadata: BTreeMap<String, Vec<u8>>,
}

/// Answers a build request.
///
/// # Errors
/// The error says what and where, and ends with the exit code of the phase where there is one.
pub async fn build(
    client: &dyn Client,
    attrs: &BTreeMap<String, String>,
) -> Result<Built, BuildError> {
    let request = Request::parse(attrs)?;
    let bench = Bench { client, graph: Graph::default(), request };
    Ok(match bench.request.operation {
        Operation::Build => bench.build_app().await?,
        Operation::BuilderImage => bench.builder_image().await?,
        Operation::Buildpackage => bench.buildpackage().await?,
        Operation::Rebase => bench.rebase().await?,
    })
}

impl Bench<'_> {
    async fn build_app(&self) -> Result<Built, BuildErrorKind> {
        let mut prepared = self.prepare().await?;
        let decision = &prepared.setting.decision;
        let phases = decision.flow.phases();
        let shown =
            format!("[flow] {} ({}): {}", decision.flow.name(), phases.join(", "), decision.reason);
        let step = self.client.step(&shown);
        prepared.warnings.iter().for_each(|warning| step.log(&format!("warning: {warning}")));
        step.done();

        let mut analysis = self.analyze(&prepared.setting).await?;
        let cached = self.cached(&prepared.setting).await?;
        let mut root = prepared.setting.build_tree;
        let group = self.detect(&prepared, &analysis, &mut root).await?;
        let extended = self.extend(&mut prepared.setting, &group, &mut analysis, &mut root).await?;
        let setting = &prepared.setting;
        let restored = self.restore(setting, &group, &analysis, &cached).await?;
        let built = self.build(setting, &group, &analysis, &restored, &mut root).await?;
        let exported = self.export(setting, &group, &analysis, &built, &extended).await?;
        self.answer(setting, &built, exported).await
    }

    async fn answer(
        &self,
        setting: &Setting,
        built: &BuiltApp,
        exported: Exported,
    ) -> Result<Built, BuildErrorKind> {
        let decision = &setting.decision;
        let flow = serde_json::json!({
            "flow": decision.flow.name(),
            "phases": decision.flow.phases(),
            "reason": decision.reason,
            "modules": decision.modules,
            "builder": format!("{}@{}", setting.builder_name, setting.builder_digest),
        });
        let mut tags: Vec<String> =
            self.request.get("image").map(str::to_owned).into_iter().collect();
        tags.extend(
            self.request.tags.iter().filter(|tag| !tags.contains(tag)).cloned().collect::<Vec<_>>(),
        );
        let mut config: serde_json::Value = serde_json::from_slice(&exported.image.config)?;
        for (name, value) in &self.request.labels {
            config["config"]["Labels"][name] = value.clone().into();
        }
        let mut built_image = self.finished(exported.tree, serde_json::to_vec(&config)?);
        let metadata = &mut built_image.metadata;
        metadata.insert("frontend.buildpacks.flow".to_owned(), flow.to_string().into_bytes());
        let report = report_toml(&tags, None, None).into_bytes();
        metadata.insert("frontend.buildpacks.report".to_owned(), report);
        if self.request.is("sbom") {
            let sboms = [exported.sbom, self.sbom_tree(setting, built, "build")];
            let tar = self.sbom_tar(&sboms).await?;
            let text = base64::engine::general_purpose::STANDARD.encode(tar);
            metadata.insert("frontend.buildpacks.sbom".to_owned(), text.into_bytes());
        }
        Ok(built_image)
    }

    /// An answer that is one image.
    fn finished(&self, tree: Tree, config: Vec<u8>) -> Built {
        let platform = &self.request.platform;
        let id = cofferdam_graph::platform_string(platform);
        let mut listed = serde_json::json!({
            "architecture": platform.Architecture,
            "os": platform.OS,
        });
        if !platform.Variant.is_empty() {
            listed["variant"] = platform.Variant.clone().into();
        }
        let platforms = serde_json::json!({ "Platforms": [{ "ID": id, "Platform": listed }] });
        let metadata = BTreeMap::from([
            ("containerimage.config".to_owned(), config),
            ("refs.platforms".to_owned(), platforms.to_string().into_bytes()),
        ]);
        Built { definition: self.graph.definition(tree), metadata }
    }

    /// The SBOM files as a tar, named from `layers/sbom` on.
    async fn sbom_tar(&self, trees: &[Tree]) -> Result<Vec<u8>, BuildErrorKind> {
        let mut tar = LayerTar::new(Vec::new());
        let mut total = 0;
        for tree in trees.iter().filter(|tree| tree.is_some()) {
            let definition = self.graph.definition(*tree);
            let root = format!("{LAYERS}/sbom");
            for path in self.client.walk(&definition, &root).await? {
                if path.ends_with('/') {
                    continue;
                }
                let path = format!("{root}/{path}");
                let Some(bytes) = self.client.read_file(&definition, &path, MAX_SBOM).await? else {
                    continue;
                };
                total += bytes.len();
                if total > MAX_SBOM {
                    let problem =
                        format!("more than {MAX_SBOM} bytes; use `cofferdam sbom download`");
                    return Err(BuildErrorKind::attribute("sbom", problem));
                }
                tar.file(&path, 0, 0, 0o644, bytes.len() as u64, &mut &*bytes)?;
            }
        }
        Ok(tar.finish()?)
    }
}
