//! The built-in Dockerfile frontend's view of its builder.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use cofferdam_digest::Digest;
use cofferdam_dockerfile::{Client, ClientError, ResolvedImage, Warning};
use cofferdam_graph::{Assembler, Output, default_platform};
use cofferdam_image::Reference as ImageReference;
use cofferdam_provenance::ImageSource;
use cofferdam_wire::pb;
use cofferdam_wire::pb::__buffa::oneof::op::Op;

use super::bridge::{Answer, Bridge};
use super::files;
use crate::failure::Failure;
use crate::source::image::{platform_of, resolve_layout};

/// What a frontend may ask of the bridge.
pub(super) struct FrontendClient {
    bridge: Arc<Bridge>,
    /// The answer of the frontend that this one handed the request to.
    forwarded: Mutex<Option<Answer>>,
}

impl FrontendClient {
    /// The bridge of this request.
    pub(super) const fn new(bridge: Arc<Bridge>) -> Self {
        Self { bridge, forwarded: Mutex::new(None) }
    }

    /// The answer to be given in place of this frontend's own.
    pub(super) fn forwarded(&self) -> Option<Answer> {
        self.forwarded.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// A graph that is one source.
fn single(source: pb::SourceOp, name: &str) -> pb::Definition {
    let op = pb::Op { op: Some(source.into()), ..Default::default() };
    let mut metadata = pb::OpMetadata::default();
    metadata.description.insert("llb.customname".to_owned(), name.to_owned());
    let mut assembler = Assembler::new();
    let digest = assembler.add(op, metadata, None);
    assembler.finish(&Output::new(digest, 0))
}

fn client_error(failure: Failure) -> ClientError {
    ClientError::with_source(failure.message().to_owned(), failure)
}

impl Bridge {
    /// Finds the image to use where `reference` is named: its name, and what it says.
    pub(crate) async fn resolve_image(
        &self,
        reference: &str,
        platform: Option<&pb::Platform>,
        log_name: &str,
    ) -> Result<(String, crate::source::image::ResolvedImage), Failure> {
        let reference = self.govern_image(reference, platform).await?;
        let found = self.look_up_image(&reference, platform, log_name).await?;
        Ok((reference, found))
    }

    /// Looks an image up on a vertex of its own. Whether it may be used is for others to ask.
    pub(crate) async fn look_up_image(
        &self,
        reference: &str,
        platform: Option<&pb::Platform>,
        log_name: &str,
    ) -> Result<crate::source::image::ResolvedImage, Failure> {
        let name = match log_name {
            "" => format!("resolve image config for {reference}"),
            name => name.to_owned(),
        };
        let platform = platform.cloned().unwrap_or_else(default_platform);
        let log = self.job.vertex(Digest::of(format!("{}:{name}", self.job.id())), &name);
        let resolve = async {
            let parsed = ImageReference::parse(reference).map_err(Failure::of)?;
            let sessions = self.sessions.clone();
            let cancelled = self.job.cancellation();
            let platform = platform_of(&platform);
            tokio::select! {
                resolved = self.context.resolve_image(&parsed, &platform, sessions) => {
                    resolved.map_err(|failure| failure.during(&format!(
                        "failed to resolve source metadata for {reference}"
                    )))
                }
                () = cancelled.cancelled() => Err(Failure::canceled()),
            }
        };
        let found = log.track(self.context.online.during(&log, reference, resolve)).await?;
        self.note_image(reference, &platform, found.root, false);
        Ok(found)
    }

    /// Keeps in mind, for the provenance, that an image was looked up.
    fn note_image(&self, reference: &str, platform: &pb::Platform, root: Digest, local: bool) {
        let reference = ImageReference::parse(reference)
            .map_or_else(|_| reference.to_owned(), |parsed| parsed.to_string());
        let (platform, digest) = (Some(platform_of(platform)), Some(root));
        self.asked.looked_up(ImageSource { reference, platform, digest, local });
    }
}

#[async_trait]
impl Client for FrontendClient {
    async fn resolve_image_config(
        &self,
        reference: &str,
        platform: Option<&pb::Platform>,
        _mode: &str,
        log_name: &str,
    ) -> Result<ResolvedImage, ClientError> {
        let governed = self.bridge.govern_reference(reference, platform).await;
        let used = governed.map_err(client_error)?.map_err(|identifier| {
            let message = format!("policy converts image {reference} to {identifier}");
            client_error(Failure::invalid(message)).converted_to(identifier)
        })?;
        let resolved = self.bridge.look_up_image(&used, platform, log_name).await;
        let resolved = resolved.map_err(client_error)?;
        Ok(ResolvedImage { reference: used, digest: resolved.root, config: resolved.config })
    }

    async fn resolve_layout_config(
        &self,
        reference: &str,
        store: &str,
        platform: Option<&pb::Platform>,
        log_name: &str,
    ) -> Result<ResolvedImage, ClientError> {
        let mut source = pb::SourceOp {
            identifier: format!("oci-layout://{reference}"),
            attrs: [("oci.store".to_owned(), store.to_owned())].into_iter().collect(),
            ..Default::default()
        };
        let wanted = platform.cloned().unwrap_or_else(default_platform);
        if self.bridge.govern(&mut source, &wanted).await.map_err(client_error)? {
            let message = format!("policy converts oci-layout://{reference}");
            return Err(client_error(Failure::invalid(message)));
        }
        let name = format!("{}:{log_name}", self.bridge.job.id());
        let log = self.bridge.job.vertex(Digest::of(name), log_name);
        let sessions = &self.bridge.sessions;
        let context = &self.bridge.context;
        let platform = platform_of(&wanted);
        let resolve = resolve_layout(context, reference, store, &platform, sessions);
        let (_, resolved) = log.track(resolve).await.map_err(client_error)?;
        self.bridge.note_image(reference, &wanted, resolved.root, true);
        Ok(ResolvedImage {
            reference: reference.to_owned(),
            digest: resolved.root,
            config: resolved.config,
        })
    }

    async fn read_file(
        &self,
        definition: &pb::Definition,
        path: &str,
        max: usize,
    ) -> Result<Option<Bytes>, ClientError> {
        let read = async {
            let reference = self.bridge.reference(definition.clone()).await?;
            let snapshot = self.bridge.evaluate(&reference).await?;
            files::read_optional(&snapshot, path, max).await
        };
        read.await.map_err(client_error)
    }

    async fn source_time(
        &self,
        source: &pb::SourceOp,
        log_name: &str,
    ) -> Result<Option<i64>, ClientError> {
        let mut source = source.clone();
        if source.identifier.starts_with("git://") {
            // The time is read off the checkout.
            source.attrs.insert("git.mtime".to_owned(), "commit".to_owned());
        }
        let find = async {
            let reference = self.bridge.reference(single(source, log_name)).await?;
            let files = self.bridge.evaluate(&reference).await?;
            // The source that is used, which need not be the one that was asked for.
            let target = reference.graph().target();
            let Some(Op::Source(used)) = target.and_then(|edge| edge.vertex.op.op.as_ref()) else {
                return Ok(None);
            };
            crate::source::time(&self.bridge.context, used, &files).await
        };
        find.await.map_err(client_error)
    }

    fn inputs(&self) -> &HashMap<String, pb::Definition> {
        &self.bridge.inputs
    }

    fn session_id(&self) -> &str {
        &self.bridge.session
    }

    fn worker_platforms(&self) -> &[pb::Platform] {
        &self.bridge.platforms
    }

    async fn warn(&self, warning: Warning) {
        let shown = cofferdam_solver::Warning {
            level: warning.level,
            short: Bytes::from(warning.short),
            detail: warning.detail.into_iter().map(Bytes::from).collect(),
            url: warning.url,
            info: Some(Arc::new(warning.source)),
            ranges: warning.ranges,
        };
        self.bridge.warn(warning.vertex, shown);
    }

    async fn solve_frontend(
        &self,
        source: &str,
        attrs: &BTreeMap<String, String>,
    ) -> Result<cofferdam_dockerfile::Built, ClientError> {
        let mut attrs = attrs.clone();
        attrs.insert("source".to_owned(), source.to_owned());
        let inputs = (*self.bridge.inputs).clone();
        let answer = self.bridge.frontend("gateway.v0", attrs, inputs).await;
        let answer = answer.map_err(client_error)?;
        *self.forwarded.lock().unwrap_or_else(PoisonError::into_inner) = Some(answer);
        // Nobody looks at it: the answer counts, with everything that is in no definition.
        Ok(cofferdam_dockerfile::Built::default())
    }
}
