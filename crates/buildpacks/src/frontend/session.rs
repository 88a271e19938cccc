//! One build from request to image: the state that its phases hand on.
//!
//! Everything that a lifecycle keeps in files (group, plan, analysis) is kept here, in the builder's
//! memory, where no sandbox reaches it.

use std::collections::BTreeMap;
use std::sync::Arc;

use cofferdam_cnb::{ApiVersion, Descriptor, Env, Kind, LifecycleMetadata, PlanEntry, RunImage};
use cofferdam_digest::Digest;
use cofferdam_lifecycle::{BuiltModule, ImageTarget, Modules};

use super::bench::Bench;
use super::graph::{Access, StepMount, Tree};
use crate::client::{Image, ImageLayer};
use crate::flow::{Decision, Flow};
use crate::{BuilderImage, ProjectDescriptor};

/// Where layers lie in sandboxes and in the image.
pub(crate) const LAYERS: &str = "/layers";
/// Where modules find users' variables.
pub(crate) const PLATFORM: &str = "/platform";
/// Where a program finds or leaves its plan. Not below what a builder image or an app owns.
pub(crate) const PLAN: &str = "/cnb-plan";
/// Where the program that notes exit codes is mounted.
pub(crate) const ATTEMPT: &str = "/cnb-attempt";

/// What is known before anything runs.
pub(crate) struct Setting {
    pub(crate) project: ProjectDescriptor,
    /// The builder's reference as it was asked for.
    pub(crate) builder_name: String,
    pub(crate) builder_digest: Digest,
    pub(crate) builder: BuilderImage,
    /// The builder with what was added.
    pub(crate) build_tree: Tree,
    pub(crate) decision: Decision,
    pub(crate) modules: Modules,
    /// Modules that cannot be used, and why.
    pub(crate) unusable: BTreeMap<(Kind, String), String>,
    pub(crate) owner: (u32, u32),
    /// Variables of the builder image.
    pub(crate) image_env: Env,
    /// Those that extensions changed: buildpacks see them whatever they are called.
    pub(crate) extended_env: Env,
    /// Variables of user and project.
    pub(crate) platform_env: BTreeMap<String, String>,
    pub(crate) platform_api: ApiVersion,
    /// The operator's variables, by file name.
    pub(crate) build_config: BTreeMap<String, Vec<u8>>,
    pub(crate) platform_tree: Tree,
    pub(crate) attempt_tree: Tree,
    pub(crate) app: Tree,
}

/// What analysis found.
pub(crate) struct Analysis {
    /// The run image's name and mirrors.
    pub(crate) run_image: RunImage,
    pub(crate) run: Image,
    pub(crate) target: ImageTarget,
    pub(crate) previous: Option<Previous>,
}

/// The image of an earlier build.
pub(crate) struct Previous {
    pub(crate) image: Image,
    pub(crate) metadata: LifecycleMetadata,
}

/// The group that builds.
pub(crate) struct Group {
    pub(crate) buildpacks: Vec<Arc<Descriptor>>,
    pub(crate) extensions: Vec<Arc<Descriptor>>,
    pub(crate) plan: Vec<PlanEntry>,
}

/// A buildpack that built.
pub(crate) struct Outcome {
    pub(crate) built: BuiltModule,
    /// What is at `/layers/<id>` in it is what it left.
    pub(crate) layers: Tree,
}

/// What all buildpacks made.
pub(crate) struct BuiltApp {
    pub(crate) outcomes: Vec<Outcome>,
    pub(crate) app: Tree,
}

/// Layers by the digest of their uncompressed tar.
pub(crate) type LayersBySha = BTreeMap<String, ImageLayer>;

impl Setting {
    pub(crate) fn flow(&self) -> Flow {
        self.decision.flow
    }

    /// The name of a step, with the phase it belongs to.
    pub(crate) fn title(&self, step: &str, what: &str) -> String {
        phase_title(self.flow(), step, what)
    }

    /// The mounts every module's program has beside its own.
    pub(crate) fn mounts(&self, bench: &Bench<'_>, root: Tree) -> Vec<StepMount> {
        let mount = |tree, selector: &str, dest: &str, access| StepMount {
            tree,
            selector: selector.to_owned(),
            dest: dest.to_owned(),
            access,
        };
        let root_access = match self.flow() {
            // One root for the whole phase: what a program left in /tmp is there for the next.
            Flow::Trusted => Access::Write,
            Flow::Untrusted => Access::Discard,
        };
        let mut mounts = vec![
            mount(root, "", "/", root_access),
            mount(self.build_tree, "/cnb", "/cnb", Access::Read),
            mount(self.platform_tree, PLATFORM, PLATFORM, Access::Read),
        ];
        for volume in &bench.request.volumes {
            if !volume.cache.is_empty() {
                let id = format!("{}/volume/{}", self.flow().name(), volume.cache);
                let access = if volume.readonly { Access::ReadCache } else { Access::Cache };
                mounts.push(mount(None, &id, &volume.target, access));
            } else if !volume.local.is_empty() {
                let title = format!("load volume {}", volume.target);
                let tree = bench.local(&volume.local, &title, &super::bench::Wanted::default());
                mounts.push(mount(tree, "", &volume.target, Access::Read));
            }
        }
        mounts
    }

    pub(crate) fn user(&self) -> String {
        format!("{}:{}", self.owner.0, self.owner.1)
    }
}

/// The name of a step: `[prepare] analyze …` in the trusted flow, `[analyze] …` in the other.
pub(crate) fn phase_title(flow: Flow, step: &str, what: &str) -> String {
    let phase = match (flow, step) {
        (Flow::Trusted, "analyze") => "prepare",
        (Flow::Trusted, "detect" | "restore" | "build" | "generate" | "extend") => "build",
        (_, "generate") => "detect",
        (_, "extend") => "build",
        (_, step) => step,
    };
    if phase == step { format!("[{phase}] {what}") } else { format!("[{phase}] {step} {what}") }
}

/// Where a program of a module is.
pub(crate) fn program(module: &Descriptor, name: &str) -> String {
    format!("{}/bin/{name}", module.module().directory())
}
