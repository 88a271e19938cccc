//! A runtime over in-memory data, and graphs for it.
//!
//! An output is a text. Sources `text://name` and `local://name` yield the file of that name; the
//! latter is volatile. Exec ops do what their first argument says: `join` concatenates inputs and
//! arguments, `unique` yields something new every time, `wait` stops at a gate, `fail`, `panic`,
//! `print`, `nest` do what they are called. Records are kept as the store does: identity and
//! aliases.
#![allow(dead_code, missing_docs, clippy::unwrap_used, unreachable_pub)]

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use buffa::{EnumValue, MessageField};
use cofferdam_digest::{Digest, Digester};
use cofferdam_graph::{Assembler, Edge, Limits, Output, Vertex, load, output_count};
use cofferdam_solver::{
    CacheInput, CacheMap, Cached, ErrorCode, LogStream, Options, RecordMeta, Runtime, Solver, Step,
    StepError,
};
use cofferdam_wire::pb;
use pb::__buffa::oneof::op::Op as Kind;
use tokio::sync::Semaphore;

type Text = Arc<str>;

#[derive(Default)]
pub struct World {
    pub files: Mutex<HashMap<String, String>>,
    pub executed: Mutex<Vec<String>>,
    pub digested: AtomicUsize,
    pub lookups: AtomicUsize,
    pub stored: AtomicUsize,
    pub running: AtomicUsize,
    pub peak: AtomicUsize,
    pub dropped: AtomicUsize,
    pub jobs_seen: Mutex<Vec<Arc<str>>>,
    records: Mutex<HashMap<Digest, Record>>,
    gates: Mutex<HashMap<String, Arc<Gate>>>,
}

/// Stands for an output that is not kept.
const FORGOTTEN: &str = "forgotten";

/// Identity, outputs, time it took.
type Record = (Digest, Vec<Text>, Duration);

pub struct Gate {
    pub entered: Semaphore,
    pub open: Semaphore,
}

impl Gate {
    /// Waits until one more execution stands at the gate.
    pub async fn reached(&self) {
        self.entered.acquire().await.unwrap().forget();
    }

    pub fn open(&self) {
        self.open.add_permits(1000);
    }
}

struct Running<'a> {
    world: &'a World,
    finished: bool,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.world.running.fetch_sub(1, Ordering::SeqCst);
        if !self.finished {
            self.world.dropped.fetch_add(1, Ordering::SeqCst);
        }
    }
}

impl World {
    pub fn new(files: &[(&str, &str)]) -> Arc<Self> {
        let world = Self::default();
        for (name, text) in files {
            world.write(name, text);
        }
        Arc::new(world)
    }

    pub fn solver(self: &Arc<Self>) -> Arc<Solver<Self>> {
        Solver::new(Arc::clone(self), Options::default())
    }

    pub fn write(&self, name: &str, text: &str) {
        self.files.lock().unwrap().insert(name.to_owned(), text.to_owned());
    }

    pub fn gate(&self, name: &str) -> Arc<Gate> {
        let gate = || Arc::new(Gate { entered: Semaphore::new(0), open: Semaphore::new(0) });
        Arc::clone(self.gates.lock().unwrap().entry(name.to_owned()).or_insert_with(gate))
    }

    pub fn forget_records(&self) {
        self.records.lock().unwrap().clear();
    }

    /// Keeps nothing but results with this text.
    pub fn forget_records_but(&self, text: &str) {
        self.records
            .lock()
            .unwrap()
            .retain(|_, (_, outputs, _)| outputs.iter().any(|one| &**one == text));
    }

    /// Keeps of all results only outputs with this text, as a cache does that was made for one image.
    pub fn forget_outputs_but(&self, text: &str) {
        for (_, outputs, _) in self.records.lock().unwrap().values_mut() {
            for output in outputs.iter_mut().filter(|one| &***one != text) {
                *output = FORGOTTEN.into();
            }
        }
    }

    /// How often something whose name contains `part` was executed.
    pub fn runs(&self, part: &str) -> usize {
        self.executed.lock().unwrap().iter().filter(|name| name.contains(part)).count()
    }

    fn file(&self, name: &str) -> Result<String, StepError> {
        self.files
            .lock()
            .unwrap()
            .get(name)
            .cloned()
            .ok_or_else(|| StepError::new(ErrorCode::NotFound, format!("{name:?}: not found")))
    }

    async fn act(&self, args: &[String], joined: String, step: &Step) -> Result<String, StepError> {
        let rest = args[1..].join(" ");
        match args[0].as_str() {
            "join" => Ok(format!("{joined}[{rest}]")),
            "unique" => Ok(format!("{joined}#{}", self.executed.lock().unwrap().len())),
            "fail" => Err(StepError::unknown(format!("process {rest:?} failed: exit code: 1"))),
            "panic" => panic!("as asked"),
            "print" => {
                step.progress.log(LogStream::Stdout, rest.clone().into_bytes());
                Ok(rest)
            }
            "wait" => {
                step.progress.log(LogStream::Stdout, "waiting\n");
                let gate = self.gate(&args[1]);
                gate.entered.add_permits(1);
                gate.open.acquire().await.unwrap().forget();
                Ok(format!("{joined}({rest})"))
            }
            "yield" => {
                step.release_slot();
                self.gate(&args[1]).open.acquire().await.unwrap().forget();
                Ok(joined)
            }
            "open" => {
                self.gate(&args[1]).open();
                Ok(joined)
            }
            other => Err(StepError::unknown(format!("no such verb {other:?}"))),
        }
    }
}

#[async_trait]
impl Runtime for World {
    type Output = Text;

    async fn cache_map(&self, vertex: &Arc<Vertex>, _: &Step) -> Result<CacheMap, StepError> {
        let (digest, inputs, volatile) = match &vertex.op.op {
            Some(Kind::Source(source)) => {
                let volatile = source.identifier.starts_with("local://");
                if volatile {
                    (vertex.digest, Vec::new(), true)
                } else {
                    (Digest::of(self.file(path(&source.identifier))?), Vec::new(), false)
                }
            }
            Some(Kind::Exec(exec)) => {
                let mut inputs = vec![CacheInput::default(); vertex.inputs.len()];
                for mount in exec.mounts.iter().filter(|mount| mount.input >= 0) {
                    inputs[usize::try_from(mount.input).unwrap()] = CacheInput {
                        selector: (!mount.selector.is_empty()).then(|| Digest::of(&mount.selector)),
                        by_content: mount.contentCache
                            == EnumValue::Known(pb::MountContentCache::ON),
                    };
                }
                let mut digester = Digester::new();
                exec.meta.args.iter().for_each(|arg| digester.field(arg));
                (digester.finish(), inputs, false)
            }
            _ => return Err(StepError::unknown("not a kind of this world")),
        };
        let note = volatile.then(|| "volatile".into());
        Ok(CacheMap { digest, inputs, volatile, note })
    }

    async fn content_digest(
        &self,
        _: &Arc<Vertex>,
        _: usize,
        output: &Text,
        _: &Step,
    ) -> Result<Digest, StepError> {
        self.digested.fetch_add(1, Ordering::SeqCst);
        if output.contains("missing") {
            return Err(StepError::unknown("\"/missing\": not found"));
        }
        Ok(Digest::of(&**output))
    }

    async fn execute(
        &self,
        vertex: &Arc<Vertex>,
        inputs: Vec<Text>,
        step: &Step,
    ) -> Result<Vec<Text>, StepError> {
        self.executed.lock().unwrap().push(vertex.name());
        let named = step.named.as_ref().unwrap();
        assert_eq!(named.note.is_some(), named.volatile, "a step knows what it was named");
        self.jobs_seen.lock().unwrap().extend(step.jobs());
        let now = self.running.fetch_add(1, Ordering::SeqCst) + 1;
        self.peak.fetch_max(now, Ordering::SeqCst);
        let mut running = Running { world: self, finished: false };
        let result = match &vertex.op.op {
            Some(Kind::Source(source)) => self.file(path(&source.identifier))?,
            Some(Kind::Exec(exec)) => {
                tokio::task::yield_now().await;
                let joined = inputs.join("+");
                self.act(&exec.meta.args, joined, step).await?
            }
            _ => return Err(StepError::unknown("not a kind of this world")),
        };
        running.finished = true;
        let outputs = output_count(&vertex.op);
        let text = |index| if outputs == 1 { result.clone() } else { format!("{result}@{index}") };
        Ok((0..outputs).map(|index| text(index).into()).collect())
    }

    async fn lookup(&self, key: &Digest, output: usize, _: &Step) -> Option<Cached<Text>> {
        self.lookups.fetch_add(1, Ordering::SeqCst);
        let records = self.records.lock().unwrap();
        let (identity, outputs, duration) = records.get(key)?;
        let output = outputs.get(output).filter(|one| &***one != FORGOTTEN)?.clone();
        Some(Cached { output, identity: *identity, duration: Some(*duration) })
    }

    async fn store(&self, keys: &[Digest], outputs: &[Text], meta: RecordMeta) {
        self.stored.fetch_add(1, Ordering::SeqCst);
        let mut records = self.records.lock().unwrap();
        for key in keys {
            records.insert(*key, (keys[0], outputs.to_vec(), meta.duration));
        }
    }

    async fn link(&self, identity: &Digest, aliases: &[Digest]) {
        let mut records = self.records.lock().unwrap();
        let Some(record) = records.get(identity).cloned() else { return };
        for alias in aliases {
            records.insert(*alias, record.clone());
        }
    }
}

fn path(identifier: &str) -> &str {
    identifier.split_once("://").unwrap().1
}

/// How an input is used.
#[derive(Clone, Copy)]
pub enum Use {
    Named,
    Content,
    Part(&'static str),
}
pub use Use::{Content, Named, Part};

/// A graph in the making.
#[derive(Default)]
pub struct Draft {
    assembler: Assembler,
}

impl Draft {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn source(&mut self, identifier: &str) -> Output {
        self.source_with(identifier, "")
    }

    /// A source whose digest depends on a nonce, as those of two sessions do.
    pub fn source_with(&mut self, identifier: &str, nonce: &str) -> Output {
        let attrs = std::iter::once(("nonce".to_owned(), nonce.to_owned()));
        let source = pb::SourceOp {
            identifier: identifier.into(),
            attrs: attrs.filter(|(_, nonce)| !nonce.is_empty()).collect(),
            ..Default::default()
        };
        let op = pb::Op { op: Some(source.into()), ..Default::default() };
        Output::new(self.assembler.add(op, pb::OpMetadata::default(), None), 0)
    }

    pub fn run(&mut self, command: &str, inputs: &[(Output, Use)]) -> Output {
        self.run_with(command, inputs, 1, pb::OpMetadata::default())
    }

    pub fn run_fresh(&mut self, command: &str, inputs: &[(Output, Use)]) -> Output {
        let metadata = pb::OpMetadata { ignore_cache: true, ..Default::default() };
        self.run_with(command, inputs, 1, metadata)
    }

    pub fn run_with(
        &mut self,
        command: &str,
        inputs: &[(Output, Use)],
        outputs: usize,
        metadata: pb::OpMetadata,
    ) -> Output {
        let mount = |index: usize| {
            let how = inputs.get(index).map_or(Named, |(_, how)| *how);
            let content = matches!(how, Content);
            pb::Mount {
                dest: if index == 0 { "/".into() } else { format!("/{index}") },
                input: if index < inputs.len() { i64::try_from(index).unwrap() } else { -1 },
                output: if index < outputs { i64::try_from(index).unwrap() } else { -1 },
                selector: if let Part(part) = how { part.into() } else { String::new() },
                contentCache: EnumValue::Known(if content {
                    pb::MountContentCache::ON
                } else {
                    pb::MountContentCache::DEFAULT
                }),
                ..Default::default()
            }
        };
        let args = command.split(' ').map(str::to_owned).collect();
        let exec = pb::ExecOp {
            meta: MessageField::some(pb::Meta { args, ..Default::default() }),
            mounts: (0..inputs.len().max(outputs)).map(mount).collect(),
            ..Default::default()
        };
        let op = pb::Op {
            inputs: inputs.iter().map(|(output, _)| output.input()).collect(),
            op: Some(exec.into()),
            ..Default::default()
        };
        let info = self.assembler.add_source_info(pb::SourceInfo {
            filename: "Dockerfile".into(),
            ..Default::default()
        });
        let range = pb::Range {
            start: MessageField::some(pb::Position { line: 7, ..Default::default() }),
            ..Default::default()
        };
        Output::new(self.assembler.add(op, metadata, Some((info, vec![range]))), 0)
    }

    pub fn edge(&self, target: Output) -> Edge {
        let definition = self.assembler.finish(&target);
        load(&definition, &Limits::default()).unwrap().target().unwrap().clone()
    }
}

/// The edge of a single command over sources.
pub fn edge(draw: impl FnOnce(&mut Draft) -> Output) -> Edge {
    let mut draft = Draft::new();
    let target = draw(&mut draft);
    draft.edge(target)
}
