//! From a result's graphs to what they were made of.
//!
//! Only steps that the build really looked at count, with what their sources turned out to be: the
//! solver kept that when it named them.

use std::sync::Arc;

use cofferdam_digest::Digest;
use cofferdam_graph::Vertex;
use cofferdam_image::Platform;
use cofferdam_provenance::{BlobSource, Capture, GitSource, HttpSource, ImageSource};
use cofferdam_wire::pb;
use cofferdam_wire::pb::__buffa::oneof::op::Op;

use crate::gateway::bridge::{Bridge, Reference};
use crate::source::git_bundle::Bundle;
use crate::source::image::platform_of;

/// What the result `reference` was made of. `results` are all of the build's; each of them tells
/// of itself. `None` for a graph that nobody solved.
pub(crate) fn gather(
    bridge: &Bridge,
    reference: &Arc<Reference>,
    results: &[Arc<Reference>],
    platforms: &[Platform],
    platform: Option<&Platform>,
) -> Option<Capture> {
    let asked = bridge.asked.maker(reference)?;
    let mut capture = of_reference(bridge, reference)?;
    let parameters = asked.parameters(&capture.sources);
    capture.request.frontend = parameters.frontend;
    capture.request.args = parameters.args;
    capture.request.inputs = parameters.inputs;
    capture.request.root = parameters.root;
    capture.request.incomplete |= parameters.incomplete;
    capture.incomplete |= asked.is_incomplete();
    // Also of frontends that did not make this result: they may have told others what to make.
    capture.network |= bridge.asked.had_network();
    for other in asked.references() {
        let is_result = results.iter().any(|result| Arc::ptr_eq(result, &other));
        if !is_result && let Some(more) = of_reference(bridge, &other) {
            capture.merge(more);
        }
    }
    let mut images = asked.images();
    if let Some(platform) = platform {
        images = for_platform(images, platforms, platform);
    }
    images.into_iter().for_each(|image| capture.add_image(image));
    capture.finish();
    Some(capture)
}

/// Leaves out images that were looked up for each platform and are another platform's.
fn for_platform(
    images: Vec<ImageSource>,
    platforms: &[Platform],
    platform: &Platform,
) -> Vec<ImageSource> {
    let is_of_all = |reference: &str| {
        platforms.iter().all(|wanted| {
            images.iter().any(|image| {
                let found = image.platform.as_ref().map(Platform::normalized);
                image.reference == reference && found == Some(wanted.normalized())
            })
        })
    };
    let fits = |image: &&ImageSource| match &image.platform {
        Some(own) if is_of_all(&image.reference) => {
            own.os == platform.os && own.architecture == platform.architecture
        }
        _ => true,
    };
    images.iter().filter(fits).cloned().collect()
}

fn of_reference(bridge: &Bridge, reference: &Reference) -> Option<Capture> {
    if !reference.is_solved() {
        return None;
    }
    let mut capture = Capture::default();
    for vertex in reference.graph().vertices() {
        // Nobody needed to know what this is.
        let Some(note) = bridge.job.note(&vertex.digest) else { continue };
        match &vertex.op.op {
            Some(Op::Source(source)) => add_source(&mut capture, vertex, source, note.as_deref()),
            Some(Op::Exec(exec)) => add_exec(&mut capture, exec),
            // What is inside was not looked at.
            Some(Op::Build(_)) => capture.incomplete = true,
            _ => {}
        }
    }
    Some(capture)
}

fn add_exec(capture: &mut Capture, exec: &pb::ExecOp) {
    for mount in &exec.mounts {
        if mount.mountType == pb::MountType::SECRET {
            capture.add_secret(&mount.secretOpt.ID, mount.secretOpt.optional);
        }
        if mount.mountType == pb::MountType::SSH {
            capture.add_ssh(&mount.SSHOpt.ID, mount.SSHOpt.optional);
        }
    }
    for secret in &exec.secretenv {
        capture.add_secret(&secret.ID, secret.optional);
    }
    if exec.network != pb::NetMode::NONE {
        capture.network = true;
    }
}

fn add_source(capture: &mut Capture, vertex: &Vertex, op: &pb::SourceOp, pin: Option<&str>) {
    let (scheme, rest) = op.identifier.split_once("://").unwrap_or((&op.identifier, ""));
    let digest = pin.and_then(|pin| Digest::parse(pin).ok());
    match (scheme, digest) {
        ("docker-image" | "oci-layout", _) => capture.add_image(ImageSource {
            reference: rest.to_owned(),
            platform: Some(platform_of(&vertex.effective_platform())),
            digest,
            local: scheme == "oci-layout",
        }),
        ("docker-image+blob" | "oci-layout+blob", Some(digest)) => capture.add_blob(BlobSource {
            reference: rest.to_owned(),
            digest,
            local: scheme == "oci-layout+blob",
        }),
        ("local", _) => capture.add_local(rest.to_owned()),
        ("git", _) => add_git(capture, op, rest, pin.unwrap_or_default()),
        ("http" | "https", Some(digest)) => {
            capture.add_http(HttpSource { url: op.identifier.clone(), digest });
            // Without it there is no download.
            add_secrets(capture, op, &["http.authheadersecret"], false);
        }
        _ => capture.incomplete = true,
    }
}

/// Secrets that a source names for its server.
fn add_secrets(capture: &mut Capture, op: &pb::SourceOp, attributes: &[&str], optional: bool) {
    let ids = attributes.iter().filter_map(|key| op.attrs.get(*key));
    ids.filter(|id| !id.is_empty()).for_each(|id| capture.add_secret(id, optional));
}

fn add_git(capture: &mut Capture, op: &pb::SourceOp, rest: &str, commit: &str) {
    let attr = |key: &str| op.attrs.get(key).filter(|value| !value.is_empty());
    let (plain, fragment) = rest.split_once('#').unwrap_or((rest, ""));
    let reference = fragment.split(':').next().unwrap_or_default();
    let mut url = attr("git.fullurl").cloned().unwrap_or_else(|| format!("https://{plain}"));
    if !reference.is_empty() {
        url = format!("{url}#{reference}");
    }
    // One that cannot be read was refused before the source had a key.
    let bundle = Bundle::of(op).ok().flatten().map(|bundle| BlobSource {
        local: bundle.is_local(),
        digest: bundle.digest,
        reference: bundle.reference,
    });
    capture.add_git(GitSource { url, commit: commit.to_owned(), bundle });
    add_secrets(capture, op, &["git.authtokensecret", "git.authheadersecret"], true);
    if let Some(id) = attr("git.mountsshsock") {
        capture.add_ssh(id, true);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn images_of_other_platforms_are_left_out_when_each_has_its_own() {
        let [amd, arm] = ["linux/amd64", "linux/arm64"].map(|text| Platform::parse(text).unwrap());
        let image = |reference: &str, platform: &Platform| ImageSource {
            reference: reference.to_owned(),
            platform: Some(platform.clone()),
            digest: None,
            local: false,
        };
        let images = vec![image("a", &amd), image("a", &arm), image("tool", &amd)];
        let kept = for_platform(images, &[amd.clone(), arm.clone()], &arm);
        assert_eq!(kept, [image("a", &arm), image("tool", &amd)]);
    }

    #[test]
    fn secrets_that_sources_name_are_told() {
        let mut op = pb::SourceOp::default();
        op.attrs.insert("http.authheadersecret".to_owned(), "token".to_owned());
        op.attrs.insert("git.authtokensecret".to_owned(), String::new());
        let mut capture = Capture::default();
        add_secrets(&mut capture, &op, &["http.authheadersecret"], false);
        add_secrets(&mut capture, &op, &["git.authtokensecret", "git.authheadersecret"], true);
        let told = capture.request.secrets;
        assert_eq!(told.len(), 1);
        assert!(told[0].id == "token" && !told[0].optional);
    }
}
