//! Instructions to LLB.
//!
//! In order: expand the `FROM` lines and find out which stage needs which ([`stages`]), look up base
//! images of the stages that the target needs ([`resolve`]), turn instructions into nodes of a plan
//! (one module per family of instructions), decide what the context has to transfer, write the plan
//! as LLB ([`lower`]). Behaviour follows BuildKit's Dockerfile frontend, because cache keys, vertex
//! names and image configurations of the two must agree. It never runs or reads anything itself.

mod arg;
mod budget;
mod copy;
mod copy_remote;
mod dispatch;
mod env;
mod epoch;
mod error;
mod expose;
mod go_format;
mod history;
mod ignore;
pub(crate) mod lower;
mod mounts;
mod naming;
mod outline;
pub(crate) mod plan;
mod resolve;
mod run;
mod scan;
mod settings;
mod signal;
mod stage;
mod stages;
mod triggers;
mod validate;
mod workdir;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use cofferdam_graph::{default_platform, normalize_platform};
use cofferdam_wire::pb;

pub use copy::CopyError;
pub use epoch::EpochError;
pub(crate) use error::Located;
pub use error::{ConvertError, StageError};
pub use expose::ExposeError;
pub(crate) use outline::{Asked, Outline};
pub use run::RunStepError;
pub use scan::Scan;
pub use signal::SignalError;

use budget::Budget;
use env::Env;
use ignore::IgnoreMatcher;
use plan::{NodeId, Plan};
use stage::{PathsId, Stage, StageId};

use crate::expand::Expander;
use crate::frontend::context::{ContextError, Contexts};
use crate::frontend::sources::Local;
use crate::image::Image;
use crate::instructions::{Dockerfile, parse};
use crate::lint::Warnings;

/// What to convert.
#[derive(Clone, Copy)]
pub(crate) struct Request<'a> {
    pub(crate) contexts: &'a Contexts<'a>,
    /// The Dockerfile.
    pub(crate) text: &'a [u8],
    /// The same as it is quoted.
    pub(crate) info: &'a pb::SourceInfo,
    /// `None`: whatever fits this builder.
    pub(crate) platform: Option<&'a pb::Platform>,
    /// Look at stages that the target does not need, too.
    pub(crate) all_stages: bool,
}

/// A Dockerfile as a graph.
#[derive(Debug)]
pub(crate) struct Converted {
    /// `None` is scratch.
    pub(crate) definition: Option<pb::Definition>,
    pub(crate) image: Image,
    pub(crate) base_image: Option<Image>,
    /// `SOURCE_DATE_EPOCH`, Unix seconds.
    pub(crate) epoch: Option<i64>,
    pub(crate) outline: Outline,
    pub(crate) scan: Scan,
}

/// Everything that is known while converting.
struct Converter<'a> {
    request: Request<'a>,
    platforms: Platforms,
    build_args: BTreeMap<String, String>,
    globals: Env,
    /// What an outline knows of global arguments.
    global_outline: outline::Capture,
    expander: Expander,
    epoch: Option<i64>,
    plan: Plan,
    /// Stands for the build context until it is known what it has to hold.
    context: NodeId,
    /// Stages of the file in order, then images named by `--from`.
    stages: Vec<Stage>,
    /// How many of them are in the file.
    declared: usize,
    by_name: HashMap<String, StageId>,
    /// Images named by `--from`.
    implicit: HashMap<String, StageId>,
    /// Some mount or `--from` made a stage that is not in the file.
    has_unnamed_sources: bool,
    paths: Vec<BTreeSet<String>>,
    /// Named local contexts, each with the paths that are used of it.
    locals: Vec<LateLocal>,
    ignore: Arc<Vec<String>>,
    /// Why the ignore file cannot be read. A build that takes nothing from the context, which may
    /// not even be there, does not care.
    unread_ignore: Option<ContextError>,
    matcher: Option<IgnoreMatcher>,
    /// How many ports the file may still expose.
    ports_left: usize,
    budget: Budget,
}

struct LateLocal {
    node: NodeId,
    local: Local,
    name: String,
    paths: PathsId,
}

/// Platforms of a build.
struct Platforms {
    target: pb::Platform,
    build: pb::Platform,
    supported: Vec<pb::Platform>,
    /// Nobody asked for the target platform.
    implicit: bool,
}

impl Platforms {
    fn new(request: &Request<'_>) -> Self {
        let supported = request.contexts.client.worker_platforms().to_vec();
        let build = supported.first().cloned().unwrap_or_else(default_platform);
        Self {
            target: request.platform.cloned().unwrap_or_else(|| build.clone()),
            implicit: request.platform.is_none(),
            build,
            supported,
        }
    }
}

/// Converts a Dockerfile; `warnings` receives findings also when it fails.
pub(crate) async fn convert(
    request: Request<'_>,
    warnings: &mut Warnings,
) -> Result<Converted, Located> {
    if request.text.is_empty() {
        return Err(Located::nowhere(StageError::EmptyDockerfile));
    }
    let dockerfile = parse(request.text, warnings)?;
    let mut converter = Converter::prepare(request, &dockerfile, warnings).await?;
    converter.add_stages(&dockerfile, warnings)?;
    let target = converter.target()?;
    converter.link_stages()?;
    // The ignore file comes from the client while registries are asked. What went wrong with it is told when it is wanted.
    let contexts = request.contexts;
    let (resolved, _) =
        futures::future::join(converter.resolve(target, warnings), contexts.ignore_patterns())
            .await;
    resolved?;
    converter.load_ignore().await?;
    converter.dispatch_stages(target, warnings)?;
    if let Some(failure) = warnings.failure() {
        return Err(Located::nowhere(ConvertError::Lint(failure)));
    }
    converter.finish(target)
}

impl<'a> Converter<'a> {
    /// Global arguments and the epoch: what has to be known before the first stage.
    async fn prepare(
        request: Request<'a>,
        dockerfile: &Dockerfile,
        warnings: &mut Warnings,
    ) -> Result<Self, Located> {
        let platforms = Platforms::new(&request);
        let expander = Expander::new(dockerfile.escape);
        let mut build_args = request.contexts.options.build_args.clone();
        let builtin =
            arg::builtin(&platforms, &request.contexts.options.target, dockerfile, &build_args);
        validate::default_bases(dockerfile, &builtin, &expander, warnings);
        let (mut globals, global_outline) =
            arg::globals(builtin, &dockerfile.global_args, &build_args, &expander)?;
        let epoch =
            epoch::resolve(request, dockerfile, &mut globals, &mut build_args, &expander).await?;
        let mut plan = Plan::default();
        let context = plan.later();
        Ok(Self {
            request,
            platforms,
            build_args,
            globals,
            global_outline,
            expander,
            epoch,
            plan,
            context,
            stages: Vec::new(),
            declared: 0,
            by_name: HashMap::new(),
            implicit: HashMap::new(),
            has_unnamed_sources: false,
            paths: Vec::new(),
            locals: Vec::new(),
            ignore: Arc::default(),
            unread_ignore: None,
            matcher: None,
            ports_left: expose::MAX_PORTS,
            budget: Budget::default(),
        })
    }

    async fn load_ignore(&mut self) -> Result<(), Located> {
        let patterns = self.request.contexts.ignore_patterns().await;
        match patterns {
            Ok(patterns) => self.ignore = patterns,
            Err(error @ ContextError::Ignore(_)) => self.unread_ignore = Some(error),
            Err(error) => return Err(Located::nowhere(error)),
        }
        self.matcher = IgnoreMatcher::new(&self.ignore);
        Ok(())
    }

    /// Binds what waited for the end and writes the graph.
    fn finish(mut self, target: StageId) -> Result<Converted, Located> {
        let own = self.stages[target].used.own;
        self.paths[own].insert("/".to_owned());
        let mut used = BTreeSet::new();
        for stage in &self.stages {
            used.extend(stage.used.context.iter().cloned());
        }
        // Without the patterns, files would be taken that must not be.
        if let Some(error) = self.unread_ignore.take_if(|_| !used.is_empty()) {
            return Err(Located::nowhere(error));
        }
        let contexts = self.request.contexts;
        let main = contexts.add_main(&mut self.plan, &follow(&used), &self.ignore);
        self.plan.bind(self.context, Some(main));
        for late in std::mem::take(&mut self.locals) {
            let source = late.local.source(&follow(&self.paths[late.paths]));
            let node = self.plan.source(source, plan::Info::named(late.name));
            self.plan.bind(late.node, Some(node));
        }
        let outline = self.outline(target);
        let stage = &mut self.stages[target];
        let mut image = std::mem::take(&mut stage.image);
        image.config.labels.extend(contexts.options.labels.clone());
        self.platforms.stamp(&mut image);
        let definition = lower::lower(&self.plan, stage.state.root, Some(self.request.info))
            .map_err(|error| Located::nowhere(ConvertError::Definition(error)))?;
        let scan =
            self.scan(target).map_err(|error| Located::nowhere(ConvertError::Definition(error)))?;
        let stage = &mut self.stages[target];
        Ok(Converted {
            scan,
            definition,
            base_image: stage.base_image.take(),
            image,
            epoch: self.epoch,
            outline,
        })
    }
}

impl Platforms {
    /// An image built for a platform that was asked for says so.
    fn stamp(&self, image: &mut Image) {
        if !self.implicit {
            let target = &self.target;
            let same = target.OS == image.os && target.Architecture == image.architecture;
            image.os.clone_from(&target.OS);
            image.architecture.clone_from(&target.Architecture);
            if !target.Variant.is_empty() || !same {
                image.variant.clone_from(&target.Variant);
            }
            if !target.OSVersion.is_empty() || !same {
                image.os_version.clone_from(&target.OSVersion);
            }
            if !target.OSFeatures.is_empty() {
                image.os_features.clone_from(&target.OSFeatures);
            }
        }
        let normal = normalize_platform(&image.platform());
        image.set_platform(&normal);
    }
}

/// Paths in the form that local sources take; the root means everything, which is no limit.
fn follow(paths: &BTreeSet<String>) -> Vec<String> {
    if paths.contains("/") {
        return Vec::new();
    }
    paths.iter().map(|path| crate::paths::clean(path.trim_start_matches('/'))).collect()
}
