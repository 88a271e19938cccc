//! Bases of stages: images, named contexts, or nothing.
//!
//! Only stages that the target needs are looked up, all at once. `ONBUILD` triggers of what was found
//! may bring in further stages, so this repeats until nothing new appears.

use cofferdam_graph::platform_string;
use cofferdam_wire::pb;
use futures::future::try_join_all;

use super::env::Env;
use super::error::{Located, StageError, hint};
use super::plan::{Info, Root};
use super::stage::{Stage, StageId};
use super::{Converter, LateLocal, validate};
use crate::frontend::named::{ContextTree, LoadedContext};
use crate::frontend::reference::Reference;
use crate::frontend::sources;
use crate::image::Image;
use crate::lint::Warnings;

const SCRATCH: &str = "scratch";

/// Images that a misspelt name probably means.
const COMMON_IMAGES: &[&str] =
    &["alpine", "busybox", "centos", "debian", "golang", "ubuntu", "fedora"];

/// What the base of a stage turned out to be.
enum Base {
    Scratch,
    /// A context with the name of the stage itself.
    StageContext(LoadedContext),
    /// A context with the name of the base image.
    ImageContext {
        loaded: LoadedContext,
        platform: pb::Platform,
        name: String,
    },
    Image {
        image: Box<Image>,
        reference: Reference,
        platform: pb::Platform,
        asked: String,
    },
    /// Nobody needs it, but its name was checked.
    Unneeded,
}

impl Converter<'_> {
    /// Looks up the base of every stage that `target` needs.
    pub(super) async fn resolve(
        &mut self,
        target: StageId,
        warnings: &mut Warnings,
    ) -> Result<(), Located> {
        loop {
            let reachable = self.reachable(target);
            let open: Vec<StageId> = (0..self.stages.len())
                .filter(|id| {
                    let stage = &self.stages[*id];
                    stage.base.is_none() && !stage.status.dispatched && !stage.status.resolved
                })
                .collect();
            let this = &*self;
            let found = open.iter().map(|id| {
                let (id, needed) = (*id, reachable[*id]);
                async move {
                    let stage = &this.stages[id];
                    this.base(stage, needed).await.map_err(|error| error.or_at(stage.lines()))
                }
            });
            let found = try_join_all(found).await?;
            for (id, base) in open.into_iter().zip(found) {
                self.stages[id].status.resolved = reachable[id];
                self.apply(id, base, warnings);
            }
            if !self.add_triggers(&reachable)? {
                return Ok(());
            }
        }
    }

    async fn base(&self, stage: &Stage, needed: bool) -> Result<Base, Located> {
        if stage.from.base == SCRATCH && stage.named.is_none() {
            return Ok(Base::Scratch);
        }
        let name = &stage.from.base;
        let reference = Reference::parse(name)
            .map_err(|error| Located::nowhere(StageError::Name(name.clone(), error)))?
            .tagged();
        if !needed {
            return Ok(Base::Unneeded);
        }
        let contexts = self.request.contexts;
        if let Some(named) = &stage.named {
            return contexts.load(named).await.map(Base::StageContext).map_err(Located::nowhere);
        }
        let platform = stage.platform.clone().unwrap_or_else(|| self.platforms.target.clone());
        let full = reference.to_string();
        let named = contexts.named(&full, Some(&platform)).map_err(Located::nowhere)?;
        if let Some(named) = named {
            let loaded = contexts.load(&named).await.map_err(Located::nowhere)?;
            return Ok(Base::ImageContext { loaded, platform, name: full });
        }
        self.pull(stage, &reference, platform).await
    }

    async fn pull(
        &self,
        stage: &Stage,
        reference: &Reference,
        mut platform: pb::Platform,
    ) -> Result<Base, Located> {
        let options = self.request.contexts.options;
        let prefix = if options.multi_platform {
            format!("[{} internal]", platform_string(&platform))
        } else {
            "[internal]".to_owned()
        };
        let asked = stage.from.base.clone();
        let resolved = self
            .request
            .contexts
            .resolve_image(
                &reference.to_string(),
                Some(&platform),
                &format!("{prefix} load metadata for {reference}"),
            )
            .await
            .map_err(|source| {
                let names = self.stages.iter().map(|stage| stage.name.as_str());
                let hint = hint(&asked, names.chain(COMMON_IMAGES.iter().copied()));
                Located::nowhere(StageError::Image { name: asked.clone(), hint, source })
            })?;
        let image = Image::parse(&resolved.config)
            .map_err(|source| Located::nowhere(StageError::Config(source)))?;
        if stage.platform.is_none() && self.platforms.implicit {
            platform = self.detect(&image, platform);
        }
        let reference = Reference::parse(&resolved.reference)
            .map_err(|error| Located::nowhere(StageError::Name(resolved.reference.clone(), error)))?
            .tagged()
            .with_digest(resolved.digest);
        Ok(Base::Image { image: Box::new(image), reference, platform, asked })
    }

    /// An image that exists only for another platform of this builder is run as that.
    fn detect(&self, image: &Image, wanted: pb::Platform) -> pb::Platform {
        let fits = |platform: &pb::Platform| {
            platform.OS == image.os && platform.Architecture == image.architecture
        };
        if fits(&wanted) {
            return wanted;
        }
        self.platforms.supported.iter().find(|platform| fits(platform)).cloned().unwrap_or(wanted)
    }

    fn apply(&mut self, id: StageId, base: Base, warnings: &mut Warnings) {
        match base {
            Base::Unneeded => {}
            Base::Scratch => {
                let platform = self.platforms.target.clone();
                let stage = &mut self.stages[id];
                stage.image = Image::scratch(&platform);
                stage.platform = Some(platform);
            }
            Base::StageContext(loaded) => self.apply_stage_context(id, loaded),
            Base::ImageContext { loaded, platform, name } => {
                let root = self.context_root(id, loaded.tree);
                let stage = &mut self.stages[id];
                stage.from.base = name;
                let image = loaded.image.unwrap_or_else(|| Image::scratch(&platform));
                stage.base_image = Some(image.clone());
                stage.image = image;
                stage.image.created = None;
                stage.state.root = root;
                stage.platform = Some(platform);
            }
            Base::Image { image, reference, platform, asked } => {
                self.apply_image(id, *image, &reference, platform, &asked, warnings);
            }
        }
        let stage = &mut self.stages[id];
        stage.status.dispatched |= stage.from.implicit;
    }

    /// The context is the finished stage: its instructions are not run.
    fn apply_stage_context(&mut self, id: StageId, loaded: LoadedContext) {
        let root = self.context_root(id, loaded.tree);
        let stage = &mut self.stages[id];
        stage.status.dispatched = true;
        stage.state.root = root;
        if let Some(image) = loaded.image {
            if !image.architecture.is_empty() && !image.os.is_empty() {
                stage.platform = Some(image.platform());
            }
            let mut env = Env::default();
            for entry in &image.config.env {
                let (name, value) = super::env::split_entry(entry);
                env.set(name, value);
            }
            stage.state.env = env;
            stage.state.dir.clone_from(&image.config.working_dir);
            stage.image = image;
            stage.image.created = None;
        }
        if stage.platform.is_none() {
            stage.platform = Some(self.platforms.target.clone());
        }
    }

    fn apply_image(
        &mut self,
        id: StageId,
        image: Image,
        reference: &Reference,
        platform: pb::Platform,
        asked: &str,
        warnings: &mut Warnings,
    ) {
        let options = self.request.contexts.options;
        let stage = &mut self.stages[id];
        stage.base_image = Some(image.clone());
        stage.from.base = reference.to_string();
        if !image.is_empty() {
            let shown = options.multi_platform.then_some(&platform);
            let prefix = stage.next_prefix(shown, &Env::default());
            let info = Info {
                name: Some(format!("{prefix}FROM {reference}")),
                command: Some(stage.from.text.clone()),
                lines: stage.from.lines,
                ..Info::default()
            };
            let source = sources::image(reference, Some(&platform), options.resolve_mode);
            stage.state.root = Some(self.plan.source(source, info));
            validate::base_platform(stage, asked, &platform, &image, warnings);
        }
        stage.image = image;
        stage.image.created = None;
        stage.platform = Some(platform);
    }

    fn context_root(&mut self, id: StageId, tree: ContextTree) -> Root {
        match tree {
            ContextTree::Scratch => None,
            ContextTree::Tree(tree) => Some(tree.add_to(&mut self.plan)),
            ContextTree::Local { local, name } => {
                let node = self.plan.later();
                let paths = self.stages[id].used.own;
                self.locals.push(LateLocal { node, local, name, paths });
                Some(node)
            }
        }
    }

    /// Stages that use the files of the stage read these of them.
    pub(super) fn inherit(&mut self, id: StageId) -> Result<(), Located> {
        let Some(base) = self.stages[id].base else { return Ok(()) };
        let base = &self.stages[base];
        let charged = self.budget.inherit(base);
        charged.map_err(|error| Located::new(error, self.stages[id].lines()))?;
        let state = base.state.clone();
        let platform = base.platform.clone();
        let (image, base_image) = (base.image.clone(), base.base_image.clone());
        let (own, workdir, args) = (base.used.own, base.seen.workdir, base.args.clone());
        let stage = &mut self.stages[id];
        stage.state = state;
        stage.platform = platform;
        stage.image = image;
        stage.image.config.on_build.clear();
        stage.base_image = base_image;
        stage.used.own = own;
        stage.seen.workdir = workdir;
        stage.args = args;
        Ok(())
    }
}
