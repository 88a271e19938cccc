//! One stage of a Dockerfile on its way to a graph.
//!
//! Plain data that the instruction modules change. Stages refer to each other by index. An image that
//! only `--from` names is a stage too, with no instructions.

use std::collections::BTreeSet;

use cofferdam_wire::pb;

use super::env::Env;
use super::outline::Capture;
use super::plan::Root;
use crate::frontend::named::NamedContext;
use crate::image::Image;
use crate::instructions::{ArgPair, Instruction};
use crate::lines::Lines;

/// Index of a stage.
pub(crate) type StageId = usize;

/// Index of a set of paths that is shared by a stage and the stages built on it.
pub(crate) type PathsId = usize;

/// A stage.
#[derive(Debug, Default)]
pub(crate) struct Stage {
    pub(super) from: From,
    /// For display: the given name or `stage-<n>`; empty when there is only one stage.
    pub(super) name: String,
    pub(super) base: Option<StageId>,
    pub(super) named: Option<NamedContext>,
    pub(super) platform: Option<pb::Platform>,
    pub(super) state: State,
    pub(super) image: Image,
    /// As it was pulled.
    pub(super) base_image: Option<Image>,
    pub(super) commands: Vec<Planned>,
    /// Stages whose files it uses, with the line that says so.
    pub(super) needs: Vec<(StageId, Lines)>,
    pub(super) args: Vec<ArgPair>,
    pub(super) used: Used,
    pub(super) status: Status,
    pub(super) ignore_cache: bool,
    pub(super) counter: Counter,
    pub(super) seen: Seen,
    pub(super) outline: Capture,
}

/// The `FROM` line.
#[derive(Debug, Clone, Default)]
pub(crate) struct From {
    /// Given with `AS`.
    pub(super) name: Option<String>,
    /// What it starts from, expanded; normalised once it is resolved.
    pub(super) base: String,
    /// The instruction's text.
    pub(super) text: String,
    pub(super) description: String,
    pub(super) lines: Option<Lines>,
    pub(super) comments: Vec<String>,
    /// Not a `FROM` at all, but an image named by `--from`.
    pub(super) implicit: bool,
}

/// What instructions change step by step.
#[derive(Debug, Clone, Default)]
pub(crate) struct State {
    pub(super) root: Root,
    pub(super) env: Env,
    pub(super) dir: String,
    pub(super) user: String,
}

/// An instruction with the stages its `--from` options mean.
#[derive(Debug, Clone)]
pub(crate) struct Planned {
    pub(super) instruction: Instruction,
    /// One for `COPY --from`, one per mount for `RUN`.
    pub(super) sources: Vec<Option<StageId>>,
    pub(super) onbuild: bool,
}

/// Which paths a stage reads.
#[derive(Debug, Default)]
pub(crate) struct Used {
    /// Of the build context.
    pub(super) context: BTreeSet<String>,
    /// Of the stage itself, by others or its own commands.
    pub(super) own: PathsId,
}

/// How far a stage got.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Status {
    /// Its base is known.
    pub(super) resolved: bool,
    /// Its instructions are planned.
    pub(super) dispatched: bool,
    /// The triggers of the stage it is built on were added.
    pub(super) triggered: bool,
}

/// Numbers in vertex names.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Counter {
    pub(super) index: usize,
    pub(super) total: usize,
    /// The current instruction is a trigger.
    pub(super) onbuild: bool,
}

/// Instructions that should stand only once.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Seen {
    pub(super) cmd: Option<Lines>,
    pub(super) entrypoint: Option<Lines>,
    pub(super) healthcheck: Option<Lines>,
    pub(super) workdir: bool,
}

impl Stage {
    /// The platform its steps run on; known once the base is resolved.
    pub(super) fn platform(&self) -> pb::Platform {
        self.platform.clone().unwrap_or_else(cofferdam_graph::default_platform)
    }

    pub(super) fn lines(&self) -> Lines {
        self.from.lines.unwrap_or(Lines { start: 1, end: 1 })
    }
}
