//! What the solver drives: the meaning of each vertex, and where results are kept.
//!
//! Connects the solver's questions (what is it called, is it known, do it, keep it) with
//! sources, operations and the store. Holds no state of its own.

mod dependencies;

use std::sync::Arc;

use async_trait::async_trait;
use cofferdam_digest::{Digest, Digester};
use cofferdam_graph::Vertex;
use cofferdam_solver::{CacheInput, CacheMap, Cached, RecordMeta, Runtime, Step, StepError};
use cofferdam_store::{Record, Tree};
use cofferdam_wire::pb::__buffa::oneof::op::Op;
use tracing::{Instrument, Span};

use crate::blocking::blocking;
use crate::content_digest::{self, Selector};
use crate::context::Context;
use crate::failure::Failure;
use crate::remains::{Remains, Subject};
use crate::serving::Scope;
use crate::snapshot::Snapshot;
use crate::{op, source};

/// The builder as the solver sees it.
pub(crate) struct OpRuntime {
    context: Arc<Context>,
}

impl OpRuntime {
    /// A runtime over the builder's parts.
    pub(crate) const fn new(context: Arc<Context>) -> Self {
        Self { context }
    }

    /// What messages about a step say: which one it is, and of which build. One that several builds want is of the first.
    fn span(step: &Step) -> Span {
        let jobs = step.jobs();
        let build = jobs.first().map(|job| Scope::build_of(job));
        tracing::error_span!("step", build, step = %step.digest)
    }

    async fn map(&self, vertex: &Arc<Vertex>, step: &Step) -> Result<CacheMap, Failure> {
        if let Some(Op::Source(source)) = &vertex.op.op {
            let key = source::key(&self.context, vertex, source, step);
            let key = self.context.online.during(&step.progress, &source.identifier, key).await?;
            let (digest, volatile) = (key.digest, key.volatile);
            return Ok(CacheMap { digest, inputs: Vec::new(), volatile, note: key.pin });
        }
        let mut digester = Digester::new();
        // What one level built is not reused at another.
        digester.field(self.context.config.isolation.level.name());
        digester.field(dependencies::operation_digest(vertex).as_bytes());
        let inputs = dependencies::dependencies(vertex)
            .into_iter()
            .map(|dependency| CacheInput {
                selector: dependency.selector_digest(),
                by_content: dependency.by_content,
            })
            .collect();
        // Nothing here says what a graph is that comes out of a file, or who may have its result. Its own steps are remembered.
        let volatile = matches!(vertex.op.op, Some(Op::Build(_)));
        Ok(CacheMap { digest: digester.finish(), inputs, volatile, note: None })
    }

    async fn content(
        &self,
        vertex: &Arc<Vertex>,
        index: usize,
        output: &Snapshot,
    ) -> Result<Digest, Failure> {
        let dependency = dependencies::dependencies(vertex).into_iter().nth(index);
        let mut selectors = dependency.map(|found| found.selectors).unwrap_or_default();
        if selectors.is_empty() {
            selectors.push(Selector::whole());
        }
        let mut digester = Digester::new();
        for selector in &selectors {
            digester.field(selector.digest().as_bytes());
        }
        let name = digester.finish();
        let store = Arc::clone(&self.context.store);
        let tree = output.known_tree();
        if tree.as_ref().is_some_and(Tree::is_empty) {
            // Nothing is in it, and whoever wants something of it says so when the step runs.
            return Ok(name);
        }
        if let Some(known) = tree.as_ref().and_then(|tree| store.content_digest(tree, &name)) {
            return Ok(known);
        }
        let known = output.known_files();
        if let Some(digest) = known.as_ref().and_then(|known| known.whole(&name)) {
            return Ok(digest);
        }
        let view = output.view().await?;
        let ids = store.ids();
        let files = known.clone();
        let digest = blocking(move || content_digest::digest(&view, ids, &selectors, files))
            .await?
            .map_err(|error| {
                let name = vertex.inputs.get(index).map_or_else(String::new, |input| {
                    format!("{}::{}", &input.vertex.digest.hex()[..12], input.output)
                });
                let failure = Failure::of(error).during(&format!(
                    "failed to compute cache key: failed to calculate checksum of ref {name}"
                ));
                failure.leaving(Remains {
                    inputs: vec![Some(output.clone())],
                    mounts: Vec::new(),
                    subject: Subject::Input(index),
                })
            })?;
        if let Some(known) = known {
            known.remember_whole(name, digest);
        }
        // Only what cannot change any more may be remembered for good: a client's mirror can.
        if let Some(tree) = output.known_tree().filter(|_| output.is_immutable()) {
            store.put_content_digest(&tree, &name, digest);
        }
        Ok(digest)
    }

    async fn run(
        &self,
        vertex: &Arc<Vertex>,
        inputs: Vec<Snapshot>,
        step: &Step,
    ) -> Result<Vec<Snapshot>, Failure> {
        let context = &self.context;
        match &vertex.op.op {
            Some(Op::Source(source)) => {
                let files = source::snapshot(context, vertex, source, step);
                Ok(vec![context.online.during(&step.progress, &source.identifier, files).await?])
            }
            Some(Op::Exec(exec)) => op::exec::execute(context, vertex, exec, inputs, step).await,
            Some(Op::File(file)) => op::file_op::execute(context, vertex, file, inputs, step).await,
            Some(Op::Merge(merge)) => op::merge::merge(&context.store, merge, &inputs).await,
            Some(Op::Diff(diff)) => op::merge::diff(&context.store, diff, &inputs).await,
            Some(Op::Passthrough(passthrough)) => passthrough
                .outputs
                .iter()
                .map(|index| usize::try_from(*index).ok().and_then(|at| inputs.get(at)).cloned())
                .collect::<Option<_>>()
                .ok_or_else(|| Failure::invalid("invalid passthrough op output")),
            // Boxed: it solves a graph, which may come through here again.
            Some(Op::Build(build)) => {
                let solve = op::build::execute(context, build, &inputs, step);
                futures::FutureExt::boxed(solve).await
            }
            None => Err(Failure::invalid("invalid op with no kind")),
        }
    }
}

#[async_trait]
impl Runtime for OpRuntime {
    type Output = Snapshot;

    async fn cache_map(&self, vertex: &Arc<Vertex>, step: &Step) -> Result<CacheMap, StepError> {
        Ok(self.map(vertex, step).instrument(Self::span(step)).await?)
    }

    async fn content_digest(
        &self,
        vertex: &Arc<Vertex>,
        index: usize,
        output: &Snapshot,
        _step: &Step,
    ) -> Result<Digest, StepError> {
        Ok(self.content(vertex, index, output).await?)
    }

    async fn execute(
        &self,
        vertex: &Arc<Vertex>,
        inputs: Vec<Snapshot>,
        step: &Step,
    ) -> Result<Vec<Snapshot>, StepError> {
        Ok(self.run(vertex, inputs, step).instrument(Self::span(step)).await?)
    }

    async fn lookup(&self, key: &Digest, output: usize, step: &Step) -> Option<Cached<Snapshot>> {
        if let Some((record, mut trees)) = self.context.store.record(key)
            && output < trees.len()
        {
            return Some(Cached {
                output: Snapshot::committed(trees.swap_remove(output)),
                identity: record.identity,
                duration: Some(record.duration),
            });
        }
        for build in self.context.builds_of(step) {
            let found = build.imports.find_whole(&self.context, key, output, &step.progress).await;
            if let Some((identity, layers)) = found {
                return Some(Cached { output: layers.into(), identity, duration: None });
            }
        }
        None
    }

    async fn store(&self, keys: &[Digest], outputs: &[Snapshot], meta: RecordMeta) {
        let Some((identity, aliases)) = keys.split_first() else { return };
        if !outputs.iter().all(Snapshot::is_recordable) {
            return;
        }
        let Some(trees) = outputs.iter().map(Snapshot::known_tree).collect::<Option<Vec<_>>>()
        else {
            return;
        };
        let mut record = Record::new(*identity, &trees);
        record.aliases = aliases.to_vec();
        record.description = meta.name;
        record.duration = meta.duration;
        let store = Arc::clone(&self.context.store);
        match blocking(move || store.put_record(record)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "a result could not be remembered"),
            Err(error) => tracing::warn!(%error, "a result could not be remembered"),
        }
    }

    async fn link(&self, identity: &Digest, aliases: &[Digest]) {
        for alias in aliases {
            if let Err(error) = self.context.store.add_alias(identity, *alias) {
                tracing::debug!(%error, "an alias could not be remembered");
            }
        }
    }
}
