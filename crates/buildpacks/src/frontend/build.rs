//! Build: `bin/build` of each buildpack of the group, in group order.
//!
//! Each runs in a sandbox of its own, which can write to its own layers, the app and temporary
//! files; `/cnb`, `/platform` and the layers of others are mounted read-only. What it left is read
//! as hostile input.

use std::collections::BTreeMap;
use std::sync::Arc;

use cofferdam_cnb::{Descriptor, PlanFile, SbomFormat};
use cofferdam_lifecycle::{
    BuildOutput, LayerOutput, Phase, apply_build_env, plan_for, read_build, start_env,
};

use super::bench::{Allowance, Bench};
use super::error::BuildErrorKind;
use super::graph::{Access, Change, Step, StepMount, Tree};
use super::session::{
    Analysis, BuiltApp, Group, LAYERS, Outcome, PLAN, PLATFORM, Setting, program,
};
use crate::Flow;
use crate::client::EntryKind;

/// Directories of a layer that change the environment of later buildpacks.
const ROOTS: [&str; 4] = ["bin", "lib", "include", "pkgconfig"];
/// Layers one buildpack may have.
const MAX_LAYERS: usize = 10_000;

/// What one call has to know.
struct Call<'a> {
    module: &'a Arc<Descriptor>,
    given: &'a PlanFile,
    layers_env: &'a cofferdam_cnb::Env,
    restored: Tree,
    skeleton: Tree,
    app: Tree,
    before: &'a [Outcome],
}

impl Bench<'_> {
    /// Runs every buildpack. `root` is the root before and after.
    pub(crate) async fn build(
        &self,
        setting: &Setting,
        group: &Group,
        analysis: &Analysis,
        restored: &BTreeMap<String, Tree>,
        root: &mut Tree,
    ) -> Result<BuiltApp, BuildErrorKind> {
        let mut layers_env = start_env(&setting.image_env);
        setting.extended_env.iter().for_each(|(name, value)| layers_env.set(name, value));
        let mut met = Vec::new();
        let mut built = BuiltApp { outcomes: Vec::new(), app: setting.app };
        let skeleton = self.skeleton(setting, group);
        for module in &group.buildpacks {
            let given = plan_for(&group.plan, &module.module(), &met);
            let call = Call {
                module,
                given: &given,
                layers_env: &layers_env,
                restored: restored.get(module.info.id.as_str()).copied().unwrap_or(skeleton),
                skeleton,
                app: built.app,
                before: &built.outcomes,
            };
            let (layers, app) = self.run_build(setting, analysis, call, root).await?;
            let output = self.output(module, layers).await?;
            let outcome = read_build(module, &output, &given)?;
            for warning in &outcome.warnings {
                self.client.step(&setting.title("build", &format!("warning: {warning}"))).done();
            }
            let own = format!("{LAYERS}/{}", module.info.id.escaped());
            apply_build_env(&mut layers_env, &outcome, &own);
            met.extend(outcome.met.iter().cloned());
            built.outcomes.push(Outcome { built: outcome, layers });
            built.app = app;
        }
        Ok(built)
    }

    /// `/layers` with room for each buildpack's directory and nothing else.
    fn skeleton(&self, setting: &Setting, group: &Group) -> Tree {
        let paths: Vec<String> = group
            .buildpacks
            .iter()
            .map(|module| format!("{LAYERS}/{}", module.info.id.escaped()))
            .collect();
        let changes: Vec<Change<'_>> = paths
            .iter()
            .map(|path| Change::Directory { path, mode: 0o755, owner: setting.owner })
            .collect();
        self.graph.files(&setting.title("build", "make room for layers"), None, &changes)
    }

    /// What a build sees: its plan, layers of those before it, its own, the app.
    fn build_mounts(
        &self,
        setting: &Setting,
        call: &Call<'_>,
        plan: Tree,
        root: Tree,
    ) -> Vec<StepMount> {
        let own = format!("{LAYERS}/{}", call.module.info.id.escaped());
        let mount = |tree, path: &str, access| StepMount {
            tree,
            selector: path.to_owned(),
            dest: path.to_owned(),
            access,
        };
        let workspace = &self.request.workspace;
        let mut mounts = setting.mounts(self, root);
        mounts.push(mount(plan, PLAN, Access::Read));
        mounts.push(mount(call.skeleton, LAYERS, Access::Read));
        for other in call.before {
            let path = format!("{LAYERS}/{}", other.built.module.id.escaped());
            mounts.push(mount(other.layers, &path, Access::Read));
        }
        mounts.push(mount(call.restored, &own, Access::Write));
        mounts.push(mount(call.app, workspace, Access::Write));
        mounts
    }

    async fn run_build(
        &self,
        setting: &Setting,
        analysis: &Analysis,
        call: Call<'_>,
        root: &mut Tree,
    ) -> Result<(Tree, Tree), BuildErrorKind> {
        let Call { module, given, layers_env, .. } = call;
        let name = module.module();
        let own = format!("{LAYERS}/{}", name.id.escaped());
        let plan_path = format!("{PLAN}/plan.toml");
        let plan_text = toml::to_string(given)
            .map_err(|error| BuildErrorKind::attribute("plan.toml", error.to_string()))?;
        let plan = self.plan_tree(setting, "build", &name.to_string(), &plan_text);
        let mounts = self.build_mounts(setting, &call, plan, *root);
        let phase = Phase::Build { layers_dir: &own, plan_path: &plan_path };
        let env = self.module_env(setting, &analysis.target, module, phase, layers_env);
        let workspace = &self.request.workspace;
        let mut outputs = self.graph.step(Step {
            name: setting.title("build", &name.to_string()),
            args: vec![
                program(module, "build"),
                own.clone(),
                PLATFORM.to_owned(),
                plan_path.clone(),
            ],
            env: env.pairs().collect(),
            cwd: workspace.clone(),
            user: setting.user(),
            network: self.request.network,
            platform: self.request.platform.clone(),
            mounts,
            ignore_cache: self.request.no_cache,
        });
        let app = outputs.pop().flatten();
        let layers = outputs.pop().flatten();
        let left = outputs.pop().flatten();
        if let Err(source) = self.client.solve(&self.graph.definition(layers)).await {
            return Err(match source.exit_code {
                Some(code) => {
                    BuildErrorKind::BuildpackFailed { module: name.to_string(), code, source }
                }
                // Not its program: what it was to get back, or the sandbox.
                None => BuildErrorKind::During { attempt: name.to_string(), source },
            });
        }
        if setting.flow() == Flow::Trusted {
            *root = left;
        }
        Ok((layers, app))
    }

    /// What a buildpack left in its directory.
    async fn output(&self, module: &Descriptor, tree: Tree) -> Result<BuildOutput, BuildErrorKind> {
        let directory = format!("{LAYERS}/{}", module.info.id.escaped());
        let entries = self.list(tree, &directory).await?;
        if entries.len() > MAX_LAYERS {
            let problem = format!("has more than {MAX_LAYERS} entries");
            return Err(BuildErrorKind::attribute(&directory, problem));
        }
        let mut output = BuildOutput::default();
        let mut allowance = Allowance::default();
        for entry in entries {
            let path = format!("{directory}/{}", entry.name);
            match entry.kind {
                EntryKind::Directory => {
                    let layer = output.layers.entry(entry.name).or_default();
                    self.layer(tree, &path, layer, &mut allowance).await?;
                }
                EntryKind::File if SbomFormat::from_file_name(&entry.name).is_some() => {
                    output.sboms.push(entry.name);
                }
                EntryKind::File if entry.name.ends_with(".toml") => {
                    let bytes = self.read_some(tree, &path, &mut allowance).await?;
                    match entry.name.as_str() {
                        "launch.toml" => output.launch = bytes,
                        "build.toml" => output.build = bytes,
                        "store.toml" => output.store = bytes,
                        name => {
                            let layer = name.strip_suffix(".toml").unwrap_or(name).to_owned();
                            output.layers.entry(layer).or_default().toml = bytes;
                        }
                    }
                }
                _ => {}
            }
        }
        Ok(output)
    }

    async fn layer(
        &self,
        tree: Tree,
        path: &str,
        layer: &mut LayerOutput,
        allowance: &mut Allowance,
    ) -> Result<(), BuildErrorKind> {
        layer.exists = true;
        for entry in self.list(tree, path).await? {
            let is_root = ROOTS.contains(&entry.name.as_str());
            match entry.name.as_str() {
                _ if entry.kind != EntryKind::Directory => {}
                "env" => layer.env = self.files(tree, &format!("{path}/env"), allowance).await?,
                "env.build" => {
                    layer.env_build =
                        self.files(tree, &format!("{path}/env.build"), allowance).await?;
                }
                _ if is_root => layer.roots.push(entry.name),
                _ => {}
            }
        }
        Ok(())
    }
}
