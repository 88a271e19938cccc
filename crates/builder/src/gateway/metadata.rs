//! `ResolveSourceMeta`: what can be found out about a source without using it.

use std::sync::Arc;

use cofferdam_digest::Digest;
use cofferdam_graph::default_platform;
use cofferdam_image::Reference;
use cofferdam_wire::moby::buildkit::v1::frontend as wire;
use cofferdam_wire::pb;

use super::attestations::{self, Home};
use super::bridge::Bridge;
use crate::failure::Failure;
use crate::source::image::{ResolvedImage, SessionBlobs, platform_of, resolve_layout};
use crate::source::{cancellable, git, http};

/// Value of `ResolverType` for images in a client's store.
const LAYOUT_RESOLVER: i32 = 1;
/// Attribute that names the client's content store of an image.
const LAYOUT_STORE: &str = "oci.store";
/// Scheme of images in a client's store.
const LAYOUT: &str = "oci-layout://";
/// Scheme of images in registries.
const REGISTRY: &str = "docker-image://";

impl Bridge {
    /// The source that is used for the one asked about, and what is known of it.
    pub(super) async fn resolve_source(
        self: &Arc<Self>,
        mut request: wire::ResolveSourceMetaRequest,
    ) -> Result<wire::ResolveSourceMetaResponse, Failure> {
        let bridge = self.governed_by(std::mem::take(&mut request.SourcePolicies)).await?;
        let mut source = request.Source.as_option().cloned().unwrap_or_default();
        let platform = request.Platform.as_option().cloned().unwrap_or_else(default_platform);
        bridge.govern(&mut source, &platform).await?;
        request.Source = buffa::MessageField::some(source);
        bridge.source_metadata(request).await
    }

    /// An image's configuration by name: what older frontends ask for.
    pub(super) async fn resolve_config(
        self: &Arc<Self>,
        request: wire::ResolveImageConfigRequest,
    ) -> Result<wire::ResolveImageConfigResponse, Failure> {
        let bridge = self.governed_by(request.SourcePolicies).await?;
        let platform = request.Platform.as_option();
        let (reference, found) = if request.ResolverType == LAYOUT_RESOLVER {
            let source = layout(&request.Ref, request.StoreID);
            bridge.resolve_stored(source, platform, &request.LogName).await?
        } else {
            bridge.resolve_image(&request.Ref, platform, &request.LogName).await?
        };
        Ok(wire::ResolveImageConfigResponse {
            Digest: found.root.to_string(),
            Config: found.config.to_vec(),
            Ref: reference,
            ..Default::default()
        })
    }

    /// Finds an image in a client's store, or what is to be used in its place: its name, and what it says.
    async fn resolve_stored(
        &self,
        mut source: pb::SourceOp,
        platform: Option<&pb::Platform>,
        log_name: &str,
    ) -> Result<(String, ResolvedImage), Failure> {
        let wanted = platform.cloned().unwrap_or_else(default_platform);
        self.govern(&mut source, &wanted).await?;
        if let Some(reference) = source.identifier.strip_prefix(LAYOUT) {
            let (_, found) = self.layout_image(reference, &source, platform, log_name).await?;
            return Ok((reference.to_owned(), found));
        }
        let reference = source.identifier.strip_prefix(REGISTRY).ok_or_else(|| {
            Failure::invalid(format!("policy converts an image to {}", source.identifier))
        })?;
        let found = self.look_up_image(reference, platform, log_name).await?;
        Ok((reference.to_owned(), found))
    }

    /// What is known of a source, by itself: whoever asks has asked about its use.
    pub(super) async fn source_metadata(
        &self,
        request: wire::ResolveSourceMetaRequest,
    ) -> Result<wire::ResolveSourceMetaResponse, Failure> {
        let source = request.Source.as_option().cloned().unwrap_or_default();
        let platform = request.Platform.as_option();
        let mut response = wire::ResolveSourceMetaResponse {
            Source: request.Source.clone(),
            ..Default::default()
        };
        let wanted = request.Image.as_option();
        if let Some(reference) = source.identifier.strip_prefix(REGISTRY) {
            let found = self.look_up_image(reference, platform, &request.LogName).await?;
            let mut told = image(&found, wanted.is_some_and(|image| image.NoConfig));
            if let Some(wanted) = wanted.filter(|image| wants_attestations(image)) {
                let named = Reference::parse(reference).map_err(Failure::of)?;
                let home = self.context.repository(&named, self.sessions.clone());
                let kinds = &wanted.ResolveAttestations;
                let chain = self.chain(&source, Home::Registry(home), &found, kinds).await?;
                told.AttestationChain =
                    chain.map_or_else(Default::default, buffa::MessageField::some);
            }
            response.Image = buffa::MessageField::some(told);
        } else if let Some(reference) = source.identifier.strip_prefix(LAYOUT) {
            let log_name = &request.LogName;
            let (home, found) = self.layout_image(reference, &source, platform, log_name).await?;
            let mut told = image(&found, wanted.is_some_and(|image| image.NoConfig));
            if let Some(wanted) = wanted.filter(|image| wants_attestations(image)) {
                let kinds = &wanted.ResolveAttestations;
                let chain = self.chain(&source, Home::Layout(home), &found, kinds).await?;
                told.AttestationChain =
                    chain.map_or_else(Default::default, buffa::MessageField::some);
            }
            response.Image = buffa::MessageField::some(told);
        } else if let Some(remote) = source.identifier.strip_prefix("git://") {
            let objects = request.Git.as_option().is_some_and(|git| git.ReturnObject);
            let found = self.repository(remote, &source, objects).await?;
            response.Git = buffa::MessageField::some(found);
        } else if is_url(&source.identifier) {
            response.HTTP = buffa::MessageField::some(self.download(&source).await?);
        }
        Ok(response)
    }

    /// What speaks about an image that was found, with the statements of the types `kinds`.
    async fn chain(
        &self,
        source: &pb::SourceOp,
        home: Home,
        found: &ResolvedImage,
        kinds: &[String],
    ) -> Result<Option<wire::AttestationChain>, Failure> {
        let identifier = &source.identifier;
        let name = format!("{}:attestations:{identifier}", self.job.id());
        let step = self.job.aside(Digest::of(name));
        let find = async {
            let root = match (self.context.document(found.root).await?, &home) {
                (Some(root), Home::Registry(_)) => root,
                _ => home.root(&found.root).await?,
            };
            attestations::chain(&home, found, root, kinds).await
        };
        let find = cancellable(&step, find);
        let chain = self.context.online.during_job(self.job.id(), identifier, find).await;
        chain.map_err(|failure| {
            failure.during(&format!("failed to resolve attestations for {identifier}"))
        })
    }

    async fn repository(
        &self,
        remote: &str,
        source: &pb::SourceOp,
        objects: bool,
    ) -> Result<wire::ResolveSourceGitResponse, Failure> {
        let step = self.job.aside(Digest::of(format!("{}:{}", self.job.id(), source.identifier)));
        let find = git::describe(&self.context, source, remote, objects, &step);
        let job = self.job.id();
        let found = self.context.online.during_job(job, &source.identifier, find).await?;
        Ok(wire::ResolveSourceGitResponse {
            Checksum: found.named.object,
            Ref: found.named.reference,
            CommitChecksum: found.named.tagged.unwrap_or_default(),
            CommitObject: found.commit,
            TagObject: found.tag,
            ..Default::default()
        })
    }

    async fn download(
        &self,
        source: &pb::SourceOp,
    ) -> Result<wire::ResolveSourceHTTPResponse, Failure> {
        let url = &source.identifier;
        let step = self.job.aside(Digest::of(format!("{}:{url}", self.job.id())));
        let find = http::describe(&self.context, source, url, &step);
        let found = self.context.online.during_job(self.job.id(), url, find).await?;
        let (name, digest, modified) = found;
        let modified = modified.map(|seconds| buffa_types::google::protobuf::Timestamp {
            seconds,
            ..Default::default()
        });
        Ok(wire::ResolveSourceHTTPResponse {
            Checksum: digest.to_string(),
            Filename: name,
            LastModified: modified.map_or_else(Default::default, buffa::MessageField::some),
            ..Default::default()
        })
    }

    async fn layout_image(
        &self,
        reference: &str,
        source: &pb::SourceOp,
        platform: Option<&pb::Platform>,
        log_name: &str,
    ) -> Result<(SessionBlobs, ResolvedImage), Failure> {
        let store = source.attrs.get(LAYOUT_STORE).map_or("", String::as_str);
        let name = match log_name {
            "" => format!("resolve image config for oci-layout://{reference}"),
            name => name.to_owned(),
        };
        let log = self.job.vertex(Digest::of(format!("{}:{name}", self.job.id())), &name);
        let platform = platform_of(&platform.cloned().unwrap_or_else(default_platform));
        let find = resolve_layout(&self.context, reference, store, &platform, &self.sessions);
        log.track(find).await
    }
}

/// An image in a client's store, as rules know it.
fn layout(reference: &str, store: String) -> pb::SourceOp {
    pb::SourceOp {
        identifier: format!("{LAYOUT}{reference}"),
        attrs: [(LAYOUT_STORE.to_owned(), store)].into_iter().collect(),
        ..Default::default()
    }
}

fn is_url(identifier: &str) -> bool {
    identifier.starts_with("http://") || identifier.starts_with("https://")
}

/// Whether a client asks who vouches for an image. Naming the statements that it wants says so as well.
fn wants_attestations(wanted: &wire::ResolveSourceImageRequest) -> bool {
    wanted.AttestationChain || !wanted.ResolveAttestations.is_empty()
}

fn image(found: &ResolvedImage, plain: bool) -> wire::ResolveSourceImageResponse {
    wire::ResolveSourceImageResponse {
        Digest: found.root.to_string(),
        Config: if plain { Vec::new() } else { found.config.to_vec() },
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_know_an_image_in_a_store_as_one() {
        let source = layout("app@sha256:0", "store".to_owned());
        assert_eq!(source.identifier, "oci-layout://app@sha256:0");
        assert_eq!(source.attrs[LAYOUT_STORE], "store");
    }

    #[test]
    fn naming_statements_asks_for_attestations() {
        let mut wanted = wire::ResolveSourceImageRequest::default();
        assert!(!wants_attestations(&wanted));
        wanted.ResolveAttestations.push("https://slsa.dev/provenance/v1".to_owned());
        assert!(wants_attestations(&wanted));
        wanted.ResolveAttestations.clear();
        wanted.AttestationChain = true;
        assert!(wants_attestations(&wanted));
    }
}
