//! Writes the graph of a build, op by op.
//!
//! Trees are outputs of one assembler, so that equal ops of a build collapse. Nothing here runs.

use std::sync::{Mutex, PoisonError};

use buffa::MessageField;
use cofferdam_graph::{Assembler, LoadError, Output};
use cofferdam_wire::pb;
use pb::__buffa::oneof::file_action::Action;
use pb::__buffa::oneof::user_opt::User;

/// Input number of nothing, output number of a thrown away result.
const NONE: i64 = -1;

/// A file tree: the output of an op; `None` is empty.
pub(crate) type Tree = Option<Output>;

/// An owner by numbers.
pub(crate) type Owner = (u32, u32);

/// The ops of one build.
#[derive(Default)]
pub(crate) struct Graph(Mutex<Assembler>);

/// One change of a file op.
pub(crate) enum Change<'a> {
    /// Copies what `source` has at `path` to `dest`.
    Copy { source: Tree, path: &'a str, dest: &'a str, owner: Option<Owner>, options: Copying },
    /// Writes a file.
    File { path: &'a str, mode: i32, data: &'a [u8], owner: Owner },
    /// Removes what is at a path, if there is anything.
    Remove { path: &'a str },
    /// Makes a directory and those above it.
    Directory { path: &'a str, mode: i32, owner: Owner },
}

/// How a copy is done.
#[derive(Debug, Clone, Default)]
pub(crate) struct Copying {
    /// The content of a directory instead of the directory.
    pub(crate) contents: bool,
    /// An archive is unpacked.
    pub(crate) unpack: bool,
    /// What is left out.
    pub(crate) exclude: Vec<String>,
    /// What is taken; everything, when empty.
    pub(crate) include: Vec<String>,
}

/// A mount of a step.
pub(crate) struct StepMount {
    pub(crate) tree: Tree,
    pub(crate) selector: String,
    pub(crate) dest: String,
    pub(crate) access: Access,
}

/// What a step may do with a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// Read.
    Read,
    /// Write; what it wrote is an output.
    Write,
    /// Write, and nobody sees it afterwards.
    Discard,
    /// A directory that stays from build to build.
    Cache,
    /// The same, to read.
    ReadCache,
}

/// One process in a sandbox of its own.
pub(crate) struct Step {
    pub(crate) name: String,
    pub(crate) args: Vec<String>,
    pub(crate) env: Vec<String>,
    pub(crate) cwd: String,
    pub(crate) user: String,
    pub(crate) network: pb::NetMode,
    pub(crate) platform: pb::Platform,
    pub(crate) mounts: Vec<StepMount>,
    pub(crate) ignore_cache: bool,
}

impl Graph {
    /// The graph of a tree; `None` for the empty one.
    pub(crate) fn definition(&self, tree: Tree) -> pb::Definition {
        match tree {
            Some(output) => self.lock().finish(&output),
            None => pb::Definition::default(),
        }
    }

    /// Takes in a graph that something else wrote.
    pub(crate) fn import(&self, definition: &pb::Definition) -> Result<Tree, LoadError> {
        self.lock().import(definition)
    }

    /// A source.
    pub(crate) fn source(
        &self,
        name: &str,
        source: pb::SourceOp,
        platform: Option<pb::Platform>,
    ) -> Tree {
        self.add(op(source, Vec::new(), platform), name)
    }

    /// Changes files of `base`.
    pub(crate) fn files(&self, name: &str, base: Tree, changes: &[Change<'_>]) -> Tree {
        if changes.is_empty() {
            return base;
        }
        let mut inputs = Inputs::default();
        let base = inputs.number(base);
        let sources: Vec<i64> = changes
            .iter()
            .map(|change| match change {
                Change::Copy { source, .. } => inputs.number(*source),
                _ => NONE,
            })
            .collect();
        let count = inputs.count();
        let last = changes.len() - 1;
        let mut input = base;
        let mut actions = Vec::with_capacity(changes.len());
        for (index, (change, secondary)) in changes.iter().zip(sources).enumerate() {
            actions.push(pb::FileAction {
                input,
                secondaryInput: secondary,
                output: if index == last { 0 } else { NONE },
                action: Some(action(change)),
                ..Default::default()
            });
            input = count + i64::try_from(index).unwrap_or(i64::MAX);
        }
        let file = pb::FileOp { actions, ..Default::default() };
        self.add(op(file, inputs.list, None), name)
    }

    /// Runs a process; gives the trees of its writable mounts in the order of `step.mounts`.
    pub(crate) fn step(&self, step: Step) -> Vec<Tree> {
        let mut order: Vec<usize> = (0..step.mounts.len()).collect();
        order.sort_by(|one, other| step.mounts[*one].dest.cmp(&step.mounts[*other].dest));
        let mut inputs = Inputs::default();
        let mut outputs = vec![NONE; step.mounts.len()];
        let mut next = 0;
        let mut mounts = Vec::with_capacity(step.mounts.len());
        for index in order {
            let mount = &step.mounts[index];
            if mount.access == Access::Write {
                outputs[index] = next;
                next += 1;
            }
            mounts.push(written(mount, inputs.number(mount.tree), outputs[index]));
        }
        let meta = pb::Meta {
            args: step.args,
            env: step.env,
            cwd: step.cwd,
            user: step.user,
            ..Default::default()
        };
        let exec = pb::ExecOp {
            meta: MessageField::some(meta),
            mounts,
            network: step.network.into(),
            ..Default::default()
        };
        let op = op(exec, inputs.list, Some(step.platform));
        let mut metadata = named(&step.name);
        metadata.ignore_cache = step.ignore_cache;
        // Modules never need another user: a set-user-id program of the builder image gives them none.
        metadata.description.insert("cofferdam.no-new-privileges".to_owned(), "1".to_owned());
        let first = Some(Output::new(self.lock().add(op, metadata, None), 0));
        outputs
            .into_iter()
            .filter(|output| *output != NONE)
            .map(|output| first.map(|first| Output::new(first.digest, output)))
            .collect()
    }

    fn add(&self, op: pb::Op, name: &str) -> Tree {
        let digest = self.lock().add(op, named(name), None);
        Some(Output::new(digest, 0))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Assembler> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn named(name: &str) -> pb::OpMetadata {
    let mut metadata = pb::OpMetadata::default();
    metadata.description.insert("llb.customname".to_owned(), name.to_owned());
    metadata
}

fn op(
    kind: impl Into<pb::__buffa::oneof::op::Op>,
    inputs: Vec<pb::Input>,
    platform: Option<pb::Platform>,
) -> pb::Op {
    pb::Op {
        inputs,
        platform: platform.into(),
        constraints: MessageField::some(pb::WorkerConstraints::default()),
        op: Some(kind.into()),
        ..Default::default()
    }
}

fn written(mount: &StepMount, input: i64, output: i64) -> pb::Mount {
    let mut wire = pb::Mount {
        input,
        selector: mount.selector.clone(),
        dest: mount.dest.clone(),
        output,
        readonly: matches!(mount.access, Access::Read | Access::ReadCache),
        ..Default::default()
    };
    if matches!(mount.access, Access::Cache | Access::ReadCache) {
        wire.mountType = pb::MountType::CACHE.into();
        wire.cacheOpt = MessageField::some(pb::CacheOpt {
            ID: mount.selector.clone(),
            sharing: pb::CacheSharingOpt::SHARED.into(),
            ..Default::default()
        });
        wire.selector = String::new();
    }
    wire
}

fn owned(owner: Owner) -> pb::ChownOpt {
    let user = |id| pb::UserOpt { user: Some(User::ByID(id)), ..Default::default() };
    pb::ChownOpt {
        user: Some(user(owner.0)).into(),
        group: Some(user(owner.1)).into(),
        ..Default::default()
    }
}

/// Time of files that the frontend writes: the same in every build, as in layers.
const WRITTEN: i64 = 315_532_801_000_000_000;

fn action(change: &Change<'_>) -> Action {
    match change {
        Change::Copy { path, dest, owner, options, .. } => pb::FileActionCopy {
            src: (*path).to_owned(),
            dest: (*dest).to_owned(),
            owner: owner.map(owned).into(),
            mode: -1,
            dirCopyContents: options.contents,
            attemptUnpackDockerCompatibility: options.unpack,
            createDestPath: true,
            include_patterns: options.include.clone(),
            exclude_patterns: options.exclude.clone(),
            timestamp: -1,
            ..Default::default()
        }
        .into(),
        Change::File { path, mode, data, owner } => pb::FileActionMkFile {
            path: (*path).to_owned(),
            mode: *mode,
            data: data.to_vec(),
            owner: Some(owned(*owner)).into(),
            timestamp: WRITTEN,
            ..Default::default()
        }
        .into(),
        Change::Remove { path } => {
            pb::FileActionRm { path: (*path).to_owned(), allowNotFound: true, ..Default::default() }
                .into()
        }
        Change::Directory { path, mode, owner } => pb::FileActionMkDir {
            path: (*path).to_owned(),
            mode: *mode,
            makeParents: true,
            owner: Some(owned(*owner)).into(),
            timestamp: WRITTEN,
            ..Default::default()
        }
        .into(),
    }
}

/// The inputs of an op; equal ones share a number.
#[derive(Default)]
struct Inputs {
    list: Vec<pb::Input>,
    outputs: Vec<Output>,
}

impl Inputs {
    fn number(&mut self, tree: Tree) -> i64 {
        let Some(output) = tree else { return NONE };
        let found = self.outputs.iter().position(|known| *known == output);
        let index = found.unwrap_or_else(|| {
            self.outputs.push(output);
            self.list.push(output.input());
            self.outputs.len() - 1
        });
        i64::try_from(index).unwrap_or(i64::MAX)
    }

    fn count(&self) -> i64 {
        i64::try_from(self.list.len()).unwrap_or(i64::MAX)
    }
}
