//! The algorithm: from a vertex to its keys, and from its keys to its result.
//!
//! Why it is right is argued in the documentation of the crate. Nothing here knows about jobs;
//! work that nobody wants any more is dropped from outside.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cofferdam_digest::Digest;
use cofferdam_graph::output_count;
use futures::future::try_join_all;

use crate::error::{ErrorCode, SolveError, StepError};
use crate::key::{self, Part};
use crate::runtime::{CacheInput, CacheMap, RecordMeta, Runtime, Step};
use crate::shared::{Lead, Shared};

/// What a vertex is called before its inputs are there.
pub(crate) struct Keyed {
    map: CacheMap,
    /// Absent below something volatile.
    definition: Option<Digest>,
    /// Whether this vertex or any below ignores the cache, so that definitions prove nothing.
    forced: bool,
}

/// What a vertex is called by where it comes from, as far as that can be said without its result.
#[derive(Default)]
pub(crate) struct Lineage {
    /// Absent when something volatile takes part otherwise than by content.
    name: Option<Digest>,
    /// Digests of inputs that had to be read, by index: nobody should read them again.
    contents: Vec<Option<Digest>>,
}

impl Keyed {
    pub(crate) fn definition(&self) -> Option<Digest> {
        self.definition
    }

    pub(crate) fn note(&self) -> Option<Arc<str>> {
        self.map.note.clone()
    }

    pub(crate) const fn map(&self) -> &CacheMap {
        &self.map
    }
}

impl Lineage {
    pub(crate) fn name(&self) -> Option<Digest> {
        self.name
    }
}

/// A vertex's result.
pub(crate) struct Resolved<T> {
    pub(crate) identity: Digest,
    /// Absent where a cache holds only some of the outputs; see [`Shared::with_output`].
    pub(crate) outputs: Vec<Option<T>>,
    /// Whether another build can come to the same identity.
    durable: bool,
    /// Whether results made from an older result of the same identity may be stale.
    forced: bool,
}

/// How much of a result is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Extent {
    /// Whatever a cache has of it.
    Part,
    /// Every output.
    Whole,
}

/// A result that was found.
struct Hit<T> {
    resolved: Resolved<T>,
    duration: Option<Duration>,
}

/// What is known about a vertex's result once its inputs are there.
struct Plan {
    key: Digest,
    durable: bool,
    /// Whether an input that is named by identity was forced.
    forced: bool,
}

/// Works out what `shared` is called.
pub(crate) async fn keys<R: Runtime>(shared: &Arc<Shared<R>>) -> Result<Keyed, SolveError> {
    let below = try_join_all(shared.inputs.iter().map(|input| input.shared.keyed()));
    let (mut map, below) = tokio::try_join!(cache_map(shared), below)?;
    map.inputs.resize(shared.inputs.len(), CacheInput::default());
    let forced = shared.vertex.ignore_cache() || below.iter().any(|input| input.forced);
    let parts: Option<Vec<Part>> = below
        .iter()
        .zip(&shared.inputs)
        .zip(&map.inputs)
        .map(|((below, input), use_of)| {
            let name = below.definition?;
            Some(Part::Named { name, output: input.output, selector: use_of.selector })
        })
        .collect();
    let definition = parts.filter(|_| !map.volatile).map(|parts| key::key(map.digest, parts));
    Ok(Keyed { map, definition, forced })
}

async fn cache_map<R: Runtime>(shared: &Arc<Shared<R>>) -> Result<CacheMap, SolveError> {
    let step = shared.step();
    // Naming a source may mean asking a registry, which is worth showing. Naming anything else is
    // instantaneous, and showing it would show its inputs as not needed.
    let visible = shared.inputs.is_empty();
    if visible {
        step.progress.start();
    }
    let map = shared.core.runtime.cache_map(&shared.vertex, &step).await;
    let map = map.map_err(|error| shared.fail(error))?;
    if visible {
        step.progress.complete();
    }
    Ok(map)
}

/// Names `shared` where there is no definition: as the definition does, but with the content of
/// what is volatile below in place of its name. Only that content is read; results in between are
/// not asked for, so a result is found though those it was made from are gone.
pub(crate) async fn lineage<R: Runtime>(shared: &Arc<Shared<R>>) -> Result<Lineage, SolveError> {
    let keyed = shared.keyed().await?;
    if keyed.definition.is_some() {
        return Ok(Lineage { name: keyed.definition, contents: Vec::new() });
    }
    if keyed.map.volatile || keyed.forced {
        return Ok(Lineage::default());
    }
    let below = try_join_all(shared.inputs.iter().map(|input| input.shared.lineage())).await?;
    let mut uses = below.iter().zip(&keyed.map.inputs);
    if uses.any(|(below, use_of)| below.name.is_none() && !use_of.by_content) {
        return Ok(Lineage::default());
    }
    let step = shared.step();
    let contents = below.iter().enumerate().map(|(index, below)| {
        let step = &step;
        async move {
            if below.name.is_some() {
                return Ok(None);
            }
            let input = &shared.inputs[index];
            let input = input.shared.with_output(input.output).await?;
            // Not a start: what is found above may answer for this vertex and those below.
            let digest = content(shared, index, &input, step).await;
            digest.map(Some).map_err(|error| shared.fail(error))
        }
    });
    let contents = try_join_all(contents).await?;
    let parts = below.iter().zip(&contents).zip(&shared.inputs).zip(&keyed.map.inputs).filter_map(
        |(((below, content), input), use_of)| match (content, below.name) {
            (Some(content), _) => Some(Part::Content(*content)),
            (None, Some(name)) => {
                Some(Part::Named { name, output: input.output, selector: use_of.selector })
            }
            (None, None) => None,
        },
    );
    Ok(Lineage { name: Some(key::key(keyed.map.digest, parts)), contents })
}

/// Finds or makes the result of `shared`: any of its outputs, or every one.
pub(crate) async fn resolve<R: Runtime>(
    shared: &Arc<Shared<R>>,
    extent: Extent,
) -> Result<Resolved<R::Output>, SolveError> {
    let keyed = shared.keyed().await?;
    let step = shared.step();
    // Where there is a definition, that is the lineage.
    let lineage = shared.lineage().await?;
    if let Some(name) = lineage.name.filter(|_| !keyed.forced)
        && let Some(hit) = find(shared, &name, extent, &step).await
    {
        step.progress.cached(hit.duration);
        return Ok(hit.resolved);
    }
    let wanted = shared.inputs.iter().map(|input| input.shared.with_output(input.output));
    let inputs = try_join_all(wanted).await?;
    let plan = plan(shared, &keyed, &lineage, &inputs, &step).await?;
    if !plan.durable || plan.forced || shared.vertex.ignore_cache() {
        return execute(shared, &lineage, &inputs, &plan, &step).await;
    }
    // Looked up with the lead in hand, so that whoever made it meanwhile is noticed.
    let _lead = Lead::take(&shared.core.leads, plan.key).await;
    if let Some(hit) = find(shared, &plan.key, extent, &step).await {
        link(shared, &lineage, &plan, &hit.resolved.identity).await;
        step.progress.cached(hit.duration);
        return Ok(hit.resolved);
    }
    execute(shared, &lineage, &inputs, &plan, &step).await
}

/// The outputs stored under `key`: as many as there are, or nothing when `extent` asks for more.
async fn find<R: Runtime>(
    shared: &Shared<R>,
    key: &Digest,
    extent: Extent,
    step: &Step,
) -> Option<Hit<R::Output>> {
    let mut known: Option<(Digest, Option<Duration>)> = None;
    let mut outputs = Vec::new();
    for output in 0..output_count(&shared.vertex.op) {
        let found = shared.core.runtime.lookup(key, output, step).await;
        match (&known, &found) {
            // The record was replaced between two lookups.
            (Some((identity, _)), Some(found)) if found.identity != *identity => return None,
            (None, Some(found)) => known = Some((found.identity, found.duration)),
            (_, None) if extent == Extent::Whole => return None,
            _ => {}
        }
        outputs.push(found.map(|found| found.output));
    }
    let (identity, duration) = known?;
    Some(Hit { resolved: Resolved { identity, outputs, durable: true, forced: false }, duration })
}

/// Leads the vertex's other names to what was found under one of them.
async fn link<R: Runtime>(shared: &Shared<R>, lineage: &Lineage, plan: &Plan, identity: &Digest) {
    let names = [Some(plan.key), lineage.name];
    let aliases: Vec<Digest> =
        names.into_iter().flatten().filter(|name| name != identity).collect();
    if !aliases.is_empty() {
        shared.core.runtime.link(identity, &aliases).await;
    }
}

async fn plan<R: Runtime>(
    shared: &Shared<R>,
    keyed: &Keyed,
    lineage: &Lineage,
    inputs: &[Arc<Resolved<R::Output>>],
    step: &Step,
) -> Result<Plan, SolveError> {
    let uses = &keyed.map.inputs;
    if uses.iter().any(|use_of| use_of.by_content) {
        // Content is read here, which takes time.
        step.progress.start();
    }
    let parts = try_join_all(inputs.iter().enumerate().map(|(index, input)| async move {
        match lineage.contents.get(index).copied().flatten() {
            Some(known) => Ok(Part::Content(known)),
            None => part(shared, keyed, index, input, step).await,
        }
    }));
    let parts = parts.await.map_err(|error| shared.fail(error))?;
    let key = key::key(keyed.map.digest, parts);
    let mut named =
        inputs.iter().zip(uses).filter(|(_, use_of)| !use_of.by_content).map(|(input, _)| input);
    let durable = !keyed.map.volatile && named.clone().all(|input| input.durable);
    let forced = named.any(|input| input.forced);
    let key = if keyed.map.volatile { key::volatile(key) } else { key };
    Ok(Plan { key, durable, forced })
}

async fn part<R: Runtime>(
    shared: &Shared<R>,
    keyed: &Keyed,
    index: usize,
    input: &Resolved<R::Output>,
    step: &Step,
) -> Result<Part, StepError> {
    let output = shared.inputs[index].output;
    let use_of = &keyed.map.inputs[index];
    if !use_of.by_content {
        return Ok(Part::Named { name: input.identity, output, selector: use_of.selector });
    }
    content(shared, index, input, step).await.map(Part::Content)
}

async fn content<R: Runtime>(
    shared: &Shared<R>,
    index: usize,
    input: &Resolved<R::Output>,
    step: &Step,
) -> Result<Digest, StepError> {
    let value = output_of(shared, index, input)?;
    shared.core.runtime.content_digest(&shared.vertex, index, value, step).await
}

fn output_of<'a, R: Runtime>(
    shared: &Shared<R>,
    index: usize,
    input: &'a Resolved<R::Output>,
) -> Result<&'a R::Output, StepError> {
    let output = shared.inputs[index].output;
    input.outputs.get(output).and_then(Option::as_ref).ok_or_else(|| {
        StepError::new(ErrorCode::Internal, format!("input {index} has no output {output}"))
    })
}

async fn execute<R: Runtime>(
    shared: &Arc<Shared<R>>,
    lineage: &Lineage,
    inputs: &[Arc<Resolved<R::Output>>],
    plan: &Plan,
    step: &Step,
) -> Result<Resolved<R::Output>, SolveError> {
    let values: Result<Vec<R::Output>, StepError> = inputs
        .iter()
        .enumerate()
        .map(|(index, input)| output_of(shared, index, input).cloned())
        .collect();
    let values = values.map_err(|error| shared.fail(error))?;
    step.take_slot(&shared.core.slots).await;
    if !step.progress.is_running() {
        step.progress.start();
    }
    let started = Instant::now();
    let outputs = shared.core.runtime.execute(&shared.vertex, values, step).await;
    step.release_slot();
    let outputs = outputs
        .and_then(|outputs| complete(shared, outputs))
        .map_err(|error| shared.fail(error))?;
    step.progress.complete();
    if plan.durable {
        let meta = RecordMeta {
            vertex: Arc::clone(&shared.vertex),
            name: shared.vertex.name(),
            duration: started.elapsed(),
        };
        let alias = lineage.name.filter(|name| *name != plan.key);
        let keys: Vec<Digest> = std::iter::once(plan.key).chain(alias).collect();
        shared.core.runtime.store(&keys, &outputs, meta).await;
    }
    let forced = plan.forced || shared.vertex.ignore_cache();
    let outputs = outputs.into_iter().map(Some).collect();
    Ok(Resolved { identity: plan.key, outputs, durable: plan.durable, forced })
}

fn complete<R: Runtime>(
    shared: &Shared<R>,
    outputs: Vec<R::Output>,
) -> Result<Vec<R::Output>, StepError> {
    let expected = output_count(&shared.vertex.op);
    if outputs.len() == expected {
        return Ok(outputs);
    }
    let message = format!("op yielded {} outputs instead of {expected}", outputs.len());
    Err(StepError::new(ErrorCode::Internal, message))
}
