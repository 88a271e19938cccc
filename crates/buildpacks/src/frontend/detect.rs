//! Detection: `bin/detect` of each module, in a sandbox without network.
//!
//! In the untrusted flow every program has a fresh root. In the trusted flow they share one, and run
//! one after the other. The exit code comes out through a file, next to the plan: a program can lie
//! about itself alone.

use std::sync::Arc;

use async_trait::async_trait;
use cofferdam_cnb::{Descriptor, Env, Kind, MAX_FILE};
use cofferdam_lifecycle::{
    Attempt, DetectError, DetectRequest, Detector, EnvRequest, LookupError, Phase, detect,
    module_env,
};
use cofferdam_wire::pb;
use tokio::sync::Mutex;

use super::bench::Bench;
use super::error::BuildErrorKind;
use super::graph::{Access, Change, Step, StepMount, Tree};
use super::prepare::Prepared;
use super::session::{ATTEMPT, Analysis, Group, PLAN, PLATFORM, Setting, program};
use crate::client::{ClientError, EntryKind};

/// Largest exit code file that is read.
const MAX_CODE: usize = 16;

/// Runs programs of modules.
struct Sandboxes<'a, 'b> {
    bench: &'a Bench<'b>,
    setting: &'a Setting,
    analysis: &'a Analysis,
    /// The root that the programs of a trusted build share, as the last one left it.
    root: Mutex<Tree>,
}

impl Bench<'_> {
    /// Finds the group that builds. `root` is the root afterwards.
    pub(crate) async fn detect(
        &self,
        prepared: &Prepared,
        analysis: &Analysis,
        root: &mut Tree,
    ) -> Result<Group, BuildErrorKind> {
        let setting = &prepared.setting;
        let request = DetectRequest {
            order: prepared.order.clone(),
            order_extensions: prepared.order_extensions.clone(),
            system: match self.request.is("disable-system-buildpacks") {
                true => Default::default(),
                false => setting.builder.system.clone(),
            },
            modules: setting.modules.clone(),
            target: analysis.target.clone(),
            exec_env: self.request.exec_env.clone(),
            platform_api: setting.platform_api,
        };
        let sandboxes = Sandboxes { bench: self, setting, analysis, root: Mutex::new(*root) };
        let result = detect(&request, &sandboxes).await;
        *root = *sandboxes.root.lock().await;
        let step = self.client.step(&setting.title("detect", "choose a group"));
        match result {
            Ok(detected) => {
                detected.report.iter().for_each(|line| step.log(line));
                step.done();
                Ok(Group {
                    buildpacks: detected.buildpacks,
                    extensions: detected.extensions,
                    plan: detected.plan,
                })
            }
            Err(error) => {
                error.report().iter().for_each(|line| step.log(line));
                let error = explained(error, setting);
                step.failed(&error.to_string());
                Err(error)
            }
        }
    }
}

/// What the order names and cannot be used is said to be so, not to be missing.
fn explained(error: DetectError<ClientError>, setting: &Setting) -> BuildErrorKind {
    if let DetectError::Lookup(LookupError::Unknown { kind, id, .. }) = &error
        && let Some(reason) = setting.unusable.get(&(*kind, id.clone()))
    {
        return BuildErrorKind::Unusable(reason.clone());
    }
    error.into()
}

#[async_trait]
impl Detector for Sandboxes<'_, '_> {
    type Error = ClientError;

    async fn detect(&self, module: &Arc<Descriptor>) -> Result<Attempt, ClientError> {
        if module.kind == Kind::Extension && !self.has_program(module, "detect").await? {
            let plan = format!("{}/detect/plan.toml", module.module().directory());
            let plan = self.bench.read(self.setting.build_tree, &plan).await?.unwrap_or_default();
            return Ok(Attempt { code: 0, plan: plan.to_vec() });
        }
        match self.setting.flow() {
            crate::Flow::Untrusted => {
                let (attempt, _) = self.run(module, self.setting.build_tree).await?;
                Ok(attempt)
            }
            crate::Flow::Trusted => {
                let mut root = self.root.lock().await;
                let (attempt, left) = self.run(module, *root).await?;
                *root = left;
                Ok(attempt)
            }
        }
    }
}

impl Sandboxes<'_, '_> {
    async fn has_program(&self, module: &Descriptor, name: &str) -> Result<bool, ClientError> {
        let directory = format!("{}/bin", module.module().directory());
        let entries = self.bench.list(self.setting.build_tree, &directory).await?;
        Ok(entries.iter().any(|entry| {
            entry.name == name && matches!(entry.kind, EntryKind::File | EntryKind::Link)
        }))
    }

    async fn run(
        &self,
        module: &Arc<Descriptor>,
        root: Tree,
    ) -> Result<(Attempt, Tree), ClientError> {
        let (setting, bench) = (self.setting, self.bench);
        let name = module.module();
        // Its own directory for a plan: an output of this step alone.
        let plan = setting.attempt_tree;
        let mount = |tree, selector: &str, dest: &str, access| StepMount {
            tree,
            selector: selector.to_owned(),
            dest: dest.to_owned(),
            access,
        };
        let workspace = &bench.request.workspace;
        let mut mounts = setting.mounts(bench, root);
        mounts.push(mount(setting.attempt_tree, ATTEMPT, ATTEMPT, Access::Read));
        mounts.push(mount(plan, PLAN, PLAN, Access::Write));
        // Detection must not change the app; what it writes there all the same is nobody's.
        mounts.push(mount(setting.app, workspace, workspace, Access::Discard));
        let plan_path = format!("{PLAN}/plan.toml");
        let network = match bench.request.is("detect-network") {
            true => bench.request.network,
            false => pb::NetMode::NONE,
        };
        let outputs = bench.graph.step(Step {
            name: setting.title("detect", &name.to_string()),
            args: vec![
                format!("{ATTEMPT}/attempt"),
                format!("{PLAN}/result"),
                program(module, "detect"),
                PLATFORM.to_owned(),
                plan_path.clone(),
            ],
            env: self.env(module, Phase::Detect { plan_path: &plan_path }).pairs().collect(),
            cwd: workspace.clone(),
            user: setting.user(),
            network,
            platform: bench.request.platform.clone(),
            mounts,
            ignore_cache: bench.request.no_cache,
        });
        let (left, plan) = match outputs.as_slice() {
            [plan] => (root, *plan),
            [left, plan] => (*left, *plan),
            _ => (root, None),
        };
        let definition = bench.graph.definition(plan);
        let read = |file: &str, max| {
            let path = format!("{PLAN}/{file}");
            let definition = &definition;
            async move { bench.client.read_file(definition, &path, max).await }
        };
        let code = read("result", MAX_CODE).await?.unwrap_or_default();
        let code = std::str::from_utf8(&code).ok().and_then(|text| text.trim().parse().ok());
        let plan = read("plan.toml", MAX_FILE + 1).await?.unwrap_or_default();
        Ok((Attempt { code: code.unwrap_or(-1), plan: plan.to_vec() }, left))
    }

    fn env(&self, module: &Descriptor, phase: Phase<'_>) -> Env {
        self.bench.module_env(self.setting, &self.analysis.target, module, phase, &Env::new())
    }
}

impl Bench<'_> {
    /// The environment of a module's program.
    pub(crate) fn module_env(
        &self,
        setting: &Setting,
        target: &cofferdam_lifecycle::ImageTarget,
        module: &Descriptor,
        phase: Phase<'_>,
        layers_env: &Env,
    ) -> Env {
        module_env(&EnvRequest {
            image_env: &setting.image_env,
            layers_env,
            platform_env: &setting.platform_env,
            build_config: &setting.build_config,
            descriptor: module,
            phase,
            platform_dir: PLATFORM,
            module_dir: &module.module().directory(),
            target,
            exec_env: &self.request.exec_env,
        })
    }

    /// The plan that a module is given, where its program finds it.
    pub(crate) fn plan_tree(&self, setting: &Setting, step: &str, name: &str, plan: &str) -> Tree {
        let path = format!("{PLAN}/plan.toml");
        let changes = [
            Change::Directory { path: PLAN, mode: 0o755, owner: setting.owner },
            Change::File { path: &path, mode: 0o644, data: plan.as_bytes(), owner: setting.owner },
        ];
        let title = setting.title(step, &format!("write the plan of {name}"));
        self.graph.files(&title, None, &changes)
    }
}
