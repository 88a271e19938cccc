//! Image extensions: Dockerfiles that modules generate, executed by the Dockerfile frontend.
//!
//! `bin/generate` runs as a step without network; its output is hostile text, checked before any of it
//! is executed. Instructions run as ordinary steps of the graph: in a sandbox, without a secret.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use base64::Engine as _;
use cofferdam_cnb::{Descriptor, Env, REBASABLE, RunImage};
use cofferdam_lifecycle::{
    BuildArg, ExtendConfig, Phase, check_build_dockerfile, check_run_dockerfile, extend_config,
    plan_for, run_change,
};
use cofferdam_wire::pb;
use serde_json::{Value, json};

use super::bench::Bench;
use super::confine;
use super::error::BuildErrorKind;
use super::graph::{Access, Change, Copying, Step, StepMount, Tree};
use super::session::{Analysis, Group, PLAN, PLATFORM, Setting, program};
use crate::client::{DockerfileRequest, EntryKind, ImageLayer};

/// Where a module leaves what it generates.
const GENERATED: &str = "/cnb-generated";
/// What Dockerfiles of extensions call their base.
const BASE: &str = "cnb-extension-base";

/// The run image after extensions.
pub(crate) struct Extended {
    /// Its config, JSON.
    pub(crate) run_config: Vec<u8>,
    /// Its layers.
    pub(crate) run_layers: Vec<ImageLayer>,
    /// How many of them extensions made.
    pub(crate) run_extension_layers: usize,
}

/// What one extension generated.
struct Generated {
    module: Arc<Descriptor>,
    tree: Tree,
    directory: String,
    build: Option<Vec<u8>>,
    run: Option<Vec<u8>>,
    config: ExtendConfig,
    contexts: Vec<String>,
}

/// A tree with its image config.
struct Extending {
    tree: Tree,
    config: Vec<u8>,
}

impl Bench<'_> {
    /// Lets the extensions of the group generate, and applies what they did to build and run image.
    pub(crate) async fn extend(
        &self,
        setting: &mut Setting,
        group: &Group,
        analysis: &mut Analysis,
        root: &mut Tree,
    ) -> Result<Extended, BuildErrorKind> {
        let mut generated = Vec::with_capacity(group.extensions.len());
        for module in &group.extensions {
            generated.push(self.generate(setting, group, analysis, module).await?);
        }
        self.extend_build(setting, &generated, root).await?;
        self.extend_run(setting, &generated, analysis).await
    }

    async fn generate(
        &self,
        setting: &Setting,
        group: &Group,
        analysis: &Analysis,
        module: &Arc<Descriptor>,
    ) -> Result<Generated, BuildErrorKind> {
        let name = module.module();
        let place = name.directory();
        let programs = self.list(setting.build_tree, &format!("{place}/bin")).await?;
        let has_program = programs.iter().any(|entry| entry.name == "generate");
        let (tree, directory) = match has_program {
            false => (setting.build_tree, format!("{place}/generate")),
            true => {
                (self.run_generate(setting, group, analysis, module).await?, GENERATED.to_owned())
            }
        };
        let file = |file: &str| format!("{directory}/{file}");
        let config = self.read(tree, &file("extend-config.toml")).await?.unwrap_or_default();
        let entries = self.list(tree, &directory).await?;
        let contexts = entries
            .into_iter()
            .filter(|entry| entry.kind == EntryKind::Directory)
            .map(|entry| entry.name)
            .filter(|name| matches!(name.as_str(), "context" | "context.build" | "context.run"))
            .collect::<Vec<_>>();
        if contexts.len() > 1 && contexts.iter().any(|name| name == "context") {
            let problem =
                "has both a shared context and one of its own for build or run".to_owned();
            return Err(BuildErrorKind::Generated { module: name.to_string(), problem });
        }
        Ok(Generated {
            config: extend_config(&format!("{name}: extend-config.toml"), &config)?,
            build: self.read(tree, &file("build.Dockerfile")).await?.map(|bytes| bytes.to_vec()),
            run: self.read(tree, &file("run.Dockerfile")).await?.map(|bytes| bytes.to_vec()),
            module: Arc::clone(module),
            tree,
            directory,
            contexts,
        })
    }

    async fn run_generate(
        &self,
        setting: &Setting,
        group: &Group,
        analysis: &Analysis,
        module: &Arc<Descriptor>,
    ) -> Result<Tree, BuildErrorKind> {
        let name = module.module();
        let plan_path = format!("{PLAN}/plan.toml");
        let given = plan_for(&group.plan, &name, &[]);
        let text = toml::to_string(&given)
            .map_err(|error| BuildErrorKind::attribute("plan.toml", error.to_string()))?;
        let plan = self.plan_tree(setting, "generate", &name.to_string(), &text);
        let make = Change::Directory { path: GENERATED, mode: 0o755, owner: setting.owner };
        let room = self.graph.files(
            &setting.title("generate", &format!("make room for {name}")),
            None,
            &[make],
        );
        let mount = |tree, path: &str, access| StepMount {
            tree,
            selector: path.to_owned(),
            dest: path.to_owned(),
            access,
        };
        let workspace = &self.request.workspace;
        let mut mounts = setting.mounts(self, setting.build_tree);
        mounts.push(mount(plan, PLAN, Access::Read));
        mounts.push(mount(setting.app, workspace, Access::Discard));
        mounts.push(mount(room, GENERATED, Access::Write));
        let phase = Phase::Generate { output_dir: GENERATED, plan_path: &plan_path };
        let env = self.module_env(setting, &analysis.target, module, phase, &Env::new());
        let mut outputs = self.graph.step(Step {
            name: setting.title("generate", &name.to_string()),
            args: vec![
                program(module, "generate"),
                GENERATED.to_owned(),
                PLATFORM.to_owned(),
                plan_path.clone(),
            ],
            env: env.pairs().collect(),
            cwd: workspace.clone(),
            user: setting.user(),
            network: pb::NetMode::NONE,
            platform: self.request.platform.clone(),
            mounts,
            ignore_cache: self.request.no_cache,
        });
        let tree = outputs.pop().flatten();
        match self.client.solve(&self.graph.definition(tree)).await {
            Ok(()) => Ok(tree),
            Err(source) => Err(match source.exit_code {
                Some(code) => {
                    BuildErrorKind::GenerateFailed { module: name.to_string(), code, source }
                }
                None => source.into(),
            }),
        }
    }

    async fn extend_build(
        &self,
        setting: &mut Setting,
        generated: &[Generated],
        root: &mut Tree,
    ) -> Result<(), BuildErrorKind> {
        let env: Vec<String> = setting.image_env.pairs().collect();
        let platform = &self.request.platform;
        let config = json!({
            "os": platform.OS, "architecture": platform.Architecture, "config": { "Env": env },
        });
        let mut state = Extending { tree: *root, config: serde_json::to_vec(&config)? };
        let mut changed = false;
        for extension in generated {
            let Some(text) = &extension.build else { continue };
            let file = format!("{}: build.Dockerfile", extension.module.module());
            self.warn(setting, check_build_dockerfile(&file, text)?);
            state = self
                .apply(setting, extension, "build", text, &extension.config.build, state)
                .await?;
            changed = true;
        }
        if changed {
            *root = state.tree;
            setting.build_tree = state.tree;
            let config: Value = serde_json::from_slice(&state.config)?;
            let variables = config.pointer("/config/Env").and_then(Value::as_array);
            for pair in variables.into_iter().flatten().filter_map(Value::as_str) {
                if let Some((name, value)) = pair.split_once('=')
                    && setting.image_env.get(name) != Some(value)
                {
                    setting.image_env.set(name, value);
                    setting.extended_env.set(name, value);
                }
            }
        }
        Ok(())
    }

    async fn extend_run(
        &self,
        setting: &Setting,
        generated: &[Generated],
        analysis: &mut Analysis,
    ) -> Result<Extended, BuildErrorKind> {
        let with_run: Vec<&Generated> =
            generated.iter().filter(|extension| extension.run.is_some()).collect();
        let mut checked = Vec::with_capacity(with_run.len());
        for extension in &with_run {
            let file = format!("{}: run.Dockerfile", extension.module.module());
            let text = extension.run.as_deref().unwrap_or_default();
            let dockerfile = check_run_dockerfile(&file, text)?;
            self.warn(setting, dockerfile.warnings.clone());
            checked.push(dockerfile);
        }
        let change = run_change(&checked);
        if let Some(name) = &change.switch_to {
            let known = |image: &RunImage| image.image == *name || image.mirrors.contains(name);
            if !setting.builder.run_images.iter().any(known) {
                let text = format!("the new run image {name} is not one that the builder names");
                self.warn(setting, vec![text]);
            }
            analysis.run = self
                .need_image(name, &setting.title("analyze", &format!("switched run image {name}")))
                .await?;
            analysis.target = self.target(&analysis.run).await?;
            analysis.run_image = RunImage { image: name.clone(), mirrors: Vec::new() };
        }
        let base_layers = analysis.run.layers.clone();
        if change.execute.is_empty() {
            let run_config = analysis.run.config.to_vec();
            return Ok(Extended { run_config, run_layers: base_layers, run_extension_layers: 0 });
        }
        let tree = self.image(&analysis.run, &setting.title("extend", "pull the run image"));
        let mut state = Extending { tree, config: analysis.run.config.to_vec() };
        let mut rebasable = true;
        let mut last = None;
        for index in change.execute {
            let extension = with_run[index];
            last = Some(format!("{}: run.Dockerfile", extension.module.module()));
            let text = extension.run.as_deref().unwrap_or_default();
            state.config = without_label(&state.config, REBASABLE)?;
            state =
                self.apply(setting, extension, "run", text, &extension.config.run, state).await?;
            rebasable &= super::analyze::label(&state.config, REBASABLE).as_deref() == Some("true");
        }
        let mut config: Value = serde_json::from_slice(&state.config)?;
        if let (Some(user), Some(last)) = (root_user(&config), last) {
            let problem =
                format!("leaves the user {user:?}; end it with USER of the run image's user");
            return Err(BuildErrorKind::Extended { module: last, problem });
        }
        config["config"]["Labels"][REBASABLE] = rebasable.to_string().into();
        let layers = self.client.layers(&self.graph.definition(state.tree)).await?;
        let made = layers.len().saturating_sub(base_layers.len());
        let mut run_layers = base_layers;
        run_layers.extend(layers.into_iter().skip(run_layers.len()));
        let diff_ids: Vec<String> =
            run_layers.iter().map(|layer| layer.diff_id.to_string()).collect();
        config["rootfs"] = json!({ "type": "layers", "diff_ids": diff_ids });
        Ok(Extended {
            run_config: serde_json::to_vec(&config)?,
            run_layers,
            run_extension_layers: made,
        })
    }

    /// Executes one Dockerfile upon `state`.
    async fn apply(
        &self,
        setting: &Setting,
        extension: &Generated,
        kind: &str,
        text: &[u8],
        args: &[BuildArg],
        state: Extending,
    ) -> Result<Extending, BuildErrorKind> {
        let name = extension.module.module();
        let file = Change::File { path: "/Dockerfile", mode: 0o644, data: text, owner: (0, 0) };
        let title = setting.title("extend", &format!("{kind}.Dockerfile of {name}"));
        let dockerfile = self.graph.files(&title, None, &[file]);
        let own = format!("context.{kind}");
        let chosen = [own.as_str(), "context"]
            .into_iter()
            .find(|wanted| extension.contexts.iter().any(|has| has == wanted));
        let (source, path) = match chosen {
            Some(context) => (extension.tree, format!("{}/{context}", extension.directory)),
            None => (setting.app, self.request.workspace.clone()),
        };
        let options = Copying { contents: true, ..Copying::default() };
        let copy = Change::Copy { source, path: &path, dest: "/", owner: None, options };
        let context = self.graph.files(&format!("{title}: context"), None, &[copy]);
        let attrs = self.dockerfile_attrs(setting, args, &state.config);
        let inputs = HashMap::from([
            ("base".to_owned(), self.graph.definition(state.tree)),
            ("context".to_owned(), self.graph.definition(context)),
            ("dockerfile".to_owned(), self.graph.definition(dockerfile)),
        ]);
        let failed = |source| BuildErrorKind::ExtensionFailed {
            module: format!("{name}: {kind}.Dockerfile"),
            source,
        };
        let request = DockerfileRequest { attrs, inputs: inputs.clone() };
        let result = self.client.dockerfile(request).await.map_err(failed)?;
        let tree = match &result.definition {
            Some(definition) => {
                if let Some(problem) = confine::refusal(definition, inputs.values()) {
                    let module = format!("{name}: {kind}.Dockerfile");
                    return Err(BuildErrorKind::Generated { module, problem });
                }
                self.graph.import(definition)?
            }
            None => None,
        };
        // Now, so that what fails in it is not laid at the door of whoever runs on top of it.
        self.client.solve(&self.graph.definition(tree)).await.map_err(failed)?;
        Ok(Extending { tree, config: result.config })
    }

    /// What the Dockerfile frontend is told: the base and its config, arguments.
    fn dockerfile_attrs(
        &self,
        setting: &Setting,
        args: &[BuildArg],
        config: &[u8],
    ) -> BTreeMap<String, String> {
        let metadata = json!({
            "containerimage.config": base64::engine::general_purpose::STANDARD.encode(config),
        });
        let mut attrs = BTreeMap::from([
            (format!("context:{BASE}"), "input:base".to_owned()),
            ("input-metadata:base".to_owned(), metadata.to_string()),
            ("platform".to_owned(), cofferdam_graph::platform_string(&self.request.platform)),
        ]);
        let mut arg = |name: &str, value: String| attrs.insert(format!("build-arg:{name}"), value);
        for given in args {
            arg(&given.name, given.value.clone());
        }
        // Findings are for whoever wrote the extension, not for whoever uses it.
        arg("BUILDKIT_DOCKERFILE_CHECK", "skip=all".to_owned());
        arg("base_image", BASE.to_owned());
        arg("user_id", setting.owner.0.to_string());
        arg("group_id", setting.owner.1.to_string());
        // Meant to defeat caching where it is used: equal for equal Dockerfiles would be stale.
        arg("build_id", build_id());
        attrs
    }

    fn warn(&self, setting: &Setting, warnings: Vec<String>) {
        if warnings.is_empty() {
            return;
        }
        let step = self.client.step(&setting.title("extend", "warnings"));
        warnings.iter().for_each(|warning| step.log(&format!("warning: {warning}")));
        step.done();
    }
}

fn without_label(config: &[u8], name: &str) -> Result<Vec<u8>, BuildErrorKind> {
    let mut config: Value = serde_json::from_slice(config)?;
    if let Some(labels) = config.pointer_mut("/config/Labels").and_then(Value::as_object_mut) {
        labels.remove(name);
    }
    Ok(serde_json::to_vec(&config)?)
}

/// The user of a config, when it is root: an app image must not start as root because an extension
/// forgot to say who runs it.
fn root_user(config: &Value) -> Option<String> {
    let user = config.pointer("/config/User").and_then(Value::as_str).unwrap_or_default();
    let name = user.split(':').next().unwrap_or_default();
    matches!(name, "" | "0" | "root").then(|| name.to_owned())
}

fn build_id() -> String {
    let now =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let digest =
        cofferdam_digest::Digest::of(format!("{}:{}", std::process::id(), now.as_nanos())).hex();
    let part = |range: std::ops::Range<usize>| digest.get(range).unwrap_or_default().to_owned();
    format!("{}-{}-4{}-8{}-{}", part(0..8), part(8..12), part(12..15), part(15..18), part(18..30))
}
