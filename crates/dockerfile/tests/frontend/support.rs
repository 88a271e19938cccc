//! A builder made of a few texts: what the frontend reads, and how to look at what it wrote.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use cofferdam_digest::Digest;
use cofferdam_dockerfile::{
    BuildError, Built, Client, ClientError, Image, ResolvedImage, Warning, build,
};
use cofferdam_graph::{Graph, Limits, Vertex, load, parse_platform};
use cofferdam_wire::pb;
use pb::__buffa::oneof::file_action::Action;
use pb::__buffa::oneof::op::Op;

/// What a build can see.
pub(crate) struct Memory {
    /// `<local name>/<path>`, or `<source address>/<path>`, to content.
    pub(crate) files: HashMap<String, Vec<u8>>,
    /// Normalised reference to configuration.
    pub(crate) images: HashMap<String, String>,
    /// Normalised reference to the source that rules put in its place.
    pub(crate) converted: HashMap<String, String>,
    pub(crate) inputs: HashMap<String, pb::Definition>,
    pub(crate) platforms: Vec<pb::Platform>,
    pub(crate) epoch: Option<i64>,
    pub(crate) attrs: BTreeMap<String, String>,
    pub(crate) warnings: Mutex<Vec<Warning>>,
    /// Names of the vertices of look-ups.
    pub(crate) looked_up: Mutex<Vec<String>>,
}

/// A build of a Dockerfile with busybox and alpine at hand.
pub(crate) fn dockerfile(text: &str) -> Memory {
    let config = r#"{"architecture":"amd64","os":"linux","created":"2020-01-01T00:00:00Z","config":
        {"Env":["PATH=/bin"],"Cmd":["sh"],"Labels":null},"rootfs":{"type":"layers","diff_ids":
        ["sha256:aa"]},"history":[{"created_by":"base"}]}"#;
    let mut memory = Memory {
        files: HashMap::new(),
        images: HashMap::new(),
        converted: HashMap::new(),
        inputs: HashMap::new(),
        platforms: vec![parse_platform("linux/amd64").unwrap()],
        epoch: None,
        attrs: BTreeMap::new(),
        warnings: Mutex::default(),
        looked_up: Mutex::default(),
    };
    memory.files.insert("dockerfile/Dockerfile".to_owned(), text.as_bytes().to_vec());
    memory = memory.image("docker.io/library/busybox:latest", config);
    memory.image("docker.io/library/alpine:latest", config)
}

impl Memory {
    pub(crate) fn file(mut self, path: &str, text: &str) -> Self {
        self.files.insert(path.to_owned(), text.as_bytes().to_vec());
        self
    }

    pub(crate) fn image(mut self, reference: &str, config: &str) -> Self {
        self.images.insert(reference.to_owned(), config.to_owned());
        self
    }

    pub(crate) fn attr(mut self, key: &str, value: &str) -> Self {
        self.attrs.insert(key.to_owned(), value.to_owned());
        self
    }

    pub(crate) fn run(&self) -> Result<Built, BuildError> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(build(self, &self.attrs))
    }

    pub(crate) fn error(&self) -> BuildError {
        self.run().expect_err("the build should fail")
    }

    /// The graph and image of a build for one platform.
    pub(crate) fn result(&self) -> Output {
        Output::new(self.run().unwrap_or_else(|error| panic!("{error}")), 0)
    }

    pub(crate) fn warnings(&self) -> Vec<String> {
        self.warnings.lock().unwrap().iter().map(|warning| warning.short.clone()).collect()
    }

    fn resolve(&self, reference: &str, log_name: &str) -> Result<ResolvedImage, ClientError> {
        self.looked_up.lock().unwrap().push(log_name.to_owned());
        if let Some(identifier) = self.converted.get(reference) {
            return Err(ClientError::new("converted").converted_to(identifier));
        }
        let config = self
            .images
            .get(reference)
            .ok_or_else(|| ClientError::new(format!("{reference}: not found")))?;
        Ok(ResolvedImage {
            reference: reference.to_owned(),
            digest: Digest::of(reference),
            config: Bytes::from(config.clone()),
        })
    }
}

#[async_trait]
impl Client for Memory {
    async fn resolve_image_config(
        &self,
        reference: &str,
        _platform: Option<&pb::Platform>,
        _mode: &str,
        log_name: &str,
    ) -> Result<ResolvedImage, ClientError> {
        self.resolve(reference, log_name)
    }

    async fn resolve_layout_config(
        &self,
        _reference: &str,
        store: &str,
        _platform: Option<&pb::Platform>,
        log_name: &str,
    ) -> Result<ResolvedImage, ClientError> {
        self.resolve(store, log_name)
    }

    async fn read_file(
        &self,
        definition: &pb::Definition,
        path: &str,
        max: usize,
    ) -> Result<Option<Bytes>, ClientError> {
        let graph = load(definition, &Limits::default()).unwrap();
        let source = graph.vertices().next().unwrap();
        let identifier = source_op(source).identifier.clone();
        let place = identifier.strip_prefix("local://").unwrap_or(&identifier);
        let found = self.files.get(&format!("{place}/{path}"));
        Ok(found.map(|text| Bytes::from(text[..text.len().min(max)].to_vec())))
    }

    async fn source_time(
        &self,
        _source: &pb::SourceOp,
        log_name: &str,
    ) -> Result<Option<i64>, ClientError> {
        self.looked_up.lock().unwrap().push(log_name.to_owned());
        Ok(self.epoch)
    }

    fn inputs(&self) -> &HashMap<String, pb::Definition> {
        &self.inputs
    }

    fn session_id(&self) -> &str {
        "session"
    }

    fn worker_platforms(&self) -> &[pb::Platform] {
        &self.platforms
    }

    async fn warn(&self, warning: Warning) {
        self.warnings.lock().unwrap().push(warning);
    }
}

/// One result of a build.
pub(crate) struct Output {
    pub(crate) built: Built,
    pub(crate) graph: Graph,
    pub(crate) image: Image,
}

impl Output {
    pub(crate) fn new(built: Built, index: usize) -> Self {
        let reference = &built.refs[index];
        let key = if built.single {
            "containerimage.config".to_owned()
        } else {
            format!("containerimage.config/{}", reference.platform)
        };
        let image = Image::parse(&built.metadata[&key]).unwrap();
        let graph = match &reference.definition {
            Some(definition) => load(definition, &Limits::default()).unwrap(),
            None => Graph::scratch(),
        };
        Self { built, graph, image }
    }

    pub(crate) fn vertex(&self, part: &str) -> &Arc<Vertex> {
        let found = self.graph.vertices().find(|vertex| vertex.name().contains(part));
        found.unwrap_or_else(|| panic!("no vertex {part:?} in {:?}", self.names()))
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.graph.vertices().map(|vertex| vertex.name()).collect()
    }

    pub(crate) fn exec(&self, part: &str) -> &pb::ExecOp {
        exec_op(self.vertex(part))
    }

    pub(crate) fn copy(&self, part: &str) -> &pb::FileActionCopy {
        let files = self.graph.vertices().filter(|vertex| vertex.name().contains(part));
        let file = files.filter_map(|vertex| match &vertex.op.op {
            Some(Op::File(file)) => Some(file),
            _ => None,
        });
        let Some(file) = file.last() else { panic!("no file op {part:?} in {:?}", self.names()) };
        match &file.actions[0].action {
            Some(Action::Copy(copy)) => copy,
            other => panic!("{part} is {other:?}"),
        }
    }

    /// Attributes of the source op with that identifier.
    pub(crate) fn source(&self, identifier: &str) -> &pb::SourceOp {
        let sources =
            self.graph.vertices().filter(|vertex| matches!(vertex.op.op, Some(Op::Source(_))));
        let found = sources
            .map(|vertex| source_op(vertex))
            .find(|source| source.identifier.starts_with(identifier));
        found.unwrap_or_else(|| panic!("no source {identifier:?} in {:?}", self.names()))
    }

    pub(crate) fn created_by(&self) -> Vec<&str> {
        self.image.history.iter().map(|entry| entry.created_by.as_str()).collect()
    }
}

pub(crate) fn exec_op(vertex: &Vertex) -> &pb::ExecOp {
    match &vertex.op.op {
        Some(Op::Exec(exec)) => exec,
        other => panic!("{} is {other:?}", vertex.name()),
    }
}

pub(crate) fn source_op(vertex: &Vertex) -> &pb::SourceOp {
    match &vertex.op.op {
        Some(Op::Source(source)) => source,
        other => panic!("{} is {other:?}", vertex.name()),
    }
}
